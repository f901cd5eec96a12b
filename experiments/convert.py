"""Converts checkpoints between this library and the published PyTorch code.

    python experiments/convert.py SOURCE TARGET --to published
    python experiments/convert.py SOURCE TARGET --to ours
    python experiments/convert.py SOURCE --verify
    python experiments/convert.py SOURCE --verify --published-code CLONE

SOURCE is a tokenizer or a diffusion transformer in either format: a folder, a file of
safetensors or of `torch.save`, of which nothing is executed, or a name on the hub.
TARGET is a folder. `--verify` converts there and back and prints the largest
difference of every tensor; with a clone of MiniMax-AI/VTP or hustvl/LightningDiT, also
that of every output. Without SOURCE it verifies small models made on the spot.
"""

import vtp_eqx.interrupts  # noqa: F401 - Ctrl-C while libraries load

import dataclasses
from pathlib import Path
import subprocess
import sys
import tempfile

import equinox as eqx
import numpy as np
from safetensors.numpy import save_file
import tyro

from vtp_eqx.config import require
from vtp_eqx.conversion import (
    differences,
    Format,
    Model,
    Published,
    read_model,
    small_models,
    Tensors,
    there_and_back,
    write_model,
)
from vtp_eqx.files import require_local_fields
from vtp_eqx.interop.lightningdit import dit_outputs, Part
from vtp_eqx.interop.vtp import tokenizer_outputs
from vtp_eqx.models.arrays import named_arrays
from vtp_eqx.tensor_files import read_tensors
from vtp_eqx.tokenizer import Tokenizer


# Where the published code has each kind of model.
CODE = {"tokenizer": "vtp", "dit": "models/lightningdit.py"}
RUNNER = Path(__file__).parent / "published_code" / "outputs.py"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What to convert, and whether to look at what it does."""

    source: tyro.conf.Positional[str | None] = None
    """The checkpoint: a folder, a file or a name on the hub."""
    target: tyro.conf.Positional[Path | None] = None
    """The folder to write."""
    to: Format = "published"
    """The format to write."""
    part: Part = "ema"
    """Of a LightningDiT training: its running average, or the model as trained."""
    tokenizer: str = ""
    """That of a generator of ours, where its file is too old to know it."""
    verify: bool = False
    """Convert there and back, and print what differs."""
    published_code: Path | None = None
    """A clone of the published code, to compare outputs with."""
    published_python: str = sys.executable
    """The Python that has torch and what the published code imports."""
    smoke: bool = False
    """Verify small models made on the spot."""


def main(options: Options) -> bool:
    """Does what the options say; whether nothing was lost."""
    require_local_fields(options)
    if options.source is None:
        require(
            options.smoke or options.verify,
            "There is something to convert; got no SOURCE: name one, or `--smoke`.",
        )
        models, clone = small_models(), options.published_code
        if clone is not None:
            models = {k: m for k, m in models.items() if (clone / CODE[k]).exists()}
        return all([verify(model, None, options) for model in models.values()])
    model, published = read_model(options.source, options.part, options.tokenizer)
    if options.target is not None:
        write_model(model, options.to, options.target)
    require(
        options.target is not None or options.verify,
        "A conversion has a TARGET; got none: name one, or `--verify`.",
    )
    return verify(model, published, options) if options.verify else True


def verify(model: Model, published: Published | None, options: Options) -> bool:
    """Whether a model survives both formats; prints how far each tensor is off."""
    with tempfile.TemporaryDirectory() as scratch:
        back, written = there_and_back(model, Path(scratch))
        before = published or written
        equal = report("published tensor", before[0], written[0])
        if before[1] != written[1]:
            print(f"settings {before[1]} became {written[1]}")
            equal = False
        arrays = (named_arrays(eqx.filter(m, eqx.is_array)) for m in (model, back))
        equal &= report("our array", *arrays)
        if options.published_code is not None:
            compare_outputs(model, Path(scratch), options)
    print("equal to the last bit" if equal else "NOT EQUAL")
    return equal


def report(kind: str, before: Tensors, after: Tensors) -> bool:
    """Prints how far tensors of the same names are apart; whether they are equal."""
    apart = differences(kind, before, after)
    for name, difference in apart.items():
        shape = " x ".join(map(str, before[name].shape)) or "1"
        print(f"{kind}  {name:58} {shape:>18}  {difference:.1e}")
    return not any(apart.values())


def compare_outputs(model: Model, checkpoint: Path, options: Options) -> None:
    """Prints how far our outputs are from those of the published code."""
    clone = options.published_code or Path()
    if isinstance(model, Tokenizer):
        kind, inputs, outputs = "tokenizer", *tokenizer_outputs(model)
    else:
        kind, inputs, outputs = "dit", *dit_outputs(model.dit)
    require(
        (clone / CODE[kind]).exists(),
        f"A clone of the published code of a {kind} has `{CODE[kind]}`; got {clone}: "
        "give the other repository.",
    )
    given, found = checkpoint / "inputs.safetensors", checkpoint / "outputs.safetensors"
    save_file({n: np.asarray(v, order="C") for n, v in inputs.items()}, given)
    command = [options.published_python, RUNNER, kind, clone, checkpoint, given, found]
    subprocess.run([str(word) for word in command], check=True)
    published = read_tensors(found)
    # One of ours answers to two of theirs, where they differ in their positions.
    ours = {name: outputs[name.partition(",")[0]] for name in published}
    report("output", published, ours)


if __name__ == "__main__":
    try:
        is_lossless = main(tyro.cli(Options, description=__doc__))
    except (ValueError, OSError, ImportError, subprocess.SubprocessError) as error:
        sys.exit(f"{error}")
    sys.exit(not is_lossless)
