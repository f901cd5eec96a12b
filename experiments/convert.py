"""Converts checkpoints between this library and the published PyTorch code.

    python experiments/convert.py SOURCE TARGET --to published|ours|diffusers
    python experiments/convert.py SOURCE --verify [--published-code CLONE]

SOURCE is a tokenizer or a diffusion transformer in any of the formats: a folder, a file
of safetensors or of `torch.save`, of which nothing is executed, or a name on the hub.
TARGET is a folder, or a .pt of LightningDiT. `--verify` converts there and back and
prints the largest difference of every tensor; with a clone of MiniMax-AI/VTP or
hustvl/LightningDiT, or a folder with autoencoder_vtp.py, also that of every output.
"""

import vtp_eqx.interrupts  # noqa: F401 - Ctrl-C while libraries load

import dataclasses
from pathlib import Path
from subprocess import run, SubprocessError
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
    format_of,
    FORMATS,
    Model,
    outputs_of,
    Published,
    read_model,
    small_models,
    Tensors,
    there_and_back,
    write_model,
)
from vtp_eqx.files import require_local_fields
from vtp_eqx.interop.lightningdit import Part
from vtp_eqx.models.arrays import named_arrays
from vtp_eqx.runs.command import exit_with_message
from vtp_eqx.tensor_files import read_tensors


# What a clone of the published code has of each kind of model.
CODE = {"tokenizer": "vtp", "dit": "models/lightningdit.py"}
CODE["autoencoder"] = "autoencoder_vtp.py"  # ours
RUNNER = Path(__file__).parent / "published_code" / "outputs.py"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What to convert, and whether to look at what it does."""

    source: tyro.conf.Positional[str | None] = None
    """The checkpoint: a folder, a file or a name on the hub."""
    target: tyro.conf.Positional[Path | None] = None
    """The folder, or .pt, to write."""
    to: Format | None = None
    """The format to write; by default published, or that of a diffusers SOURCE."""
    part: Part = "ema"
    """Of a LightningDiT training: its running average, or the model as trained."""
    tokenizer: str = ""
    """That of a generator, where its file is too old or too foreign to know it."""
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
        tokenizer, generator = small_models()
        models = dict(tokenizer=tokenizer, dit=generator, autoencoder=tokenizer)
        if clone := options.published_code:
            models = {k: m for k, m in models.items() if (clone / CODE[k]).exists()}
        return all([verify(m, None, FORMATS[k], options) for k, m in models.items()])
    model, published = read_model(options.source, options.part, options.tokenizer)
    if options.target is not None:
        write_model(model, options.to or format_of(published), options.target)
    require(
        options.target is not None or options.verify,
        "A conversion has a TARGET; got none: name one, or `--verify`.",
    )
    to = format_of(published) if options.to in (None, "ours") else options.to
    return not options.verify or verify(model, published, to, options)


def verify(model: Model, was: Published | None, to: Format, options: Options) -> bool:
    """Whether a model survives our format and `to`; prints how far each tensor is."""
    with tempfile.TemporaryDirectory() as scratch:
        back, written = there_and_back(model, Path(scratch), to)
        before = was if was and format_of(was) == to else written
        equal = report("published tensor", before[0], written[0])
        if before[1] != written[1]:
            print(f"settings {before[1]} became {written[1]}")
            equal = False
        arrays = (named_arrays(eqx.filter(m, eqx.is_array)) for m in (model, back))
        equal &= report("our array", *arrays)
        if options.published_code is not None:
            compare_outputs(model, to, Path(scratch), options)
    print("equal to the last bit" if equal else "NOT EQUAL")
    return equal


def report(kind: str, before: Tensors, after: Tensors) -> bool:
    """Prints how far tensors of the same names are apart; whether they are equal."""
    apart = differences(kind, before, after)
    for name, difference in apart.items():
        shape = " x ".join(map(str, before[name].shape)) or "1"
        print(f"{kind}  {name:58} {shape:>18}  {difference:.1e}")
    return not any(apart.values())


def compare_outputs(model: Model, to: Format, folder: Path, options: Options) -> None:
    """Prints how far our outputs are from those of the published code."""
    clone = options.published_code or Path()
    kind, inputs, outputs = outputs_of(model, to)
    require(
        (clone / CODE[kind]).exists(),
        f"A clone of the published code of a {kind} has `{CODE[kind]}`; got {clone}: "
        "give the other repository.",
    )
    given, found = folder / "inputs.safetensors", folder / "outputs.safetensors"
    save_file({n: np.asarray(v, order="C") for n, v in inputs.items()}, given)
    command = [options.published_python, RUNNER, kind, clone, folder, given, found]
    run([str(word) for word in command], check=True)
    published = read_tensors(found)
    # One of ours answers to two of theirs, where they differ in their positions.
    ours = {name: outputs[name.partition(",")[0]] for name in published}
    report("output", published, ours)


if __name__ == "__main__":
    with exit_with_message(ValueError, OSError, ImportError, SubprocessError):
        sys.exit(not main(tyro.cli(Options, description=__doc__)))
