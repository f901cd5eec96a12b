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

from collections.abc import Mapping
import dataclasses
from pathlib import Path
import subprocess
import sys
import tempfile
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from safetensors.numpy import save_file
import tyro

from vtp_eqx.config import (
    decoder_like,
    DiTConfig,
    require,
    TextConfig,
    TokenizerConfig,
    TransformerConfig,
)
from vtp_eqx.interop.hub import download, is_hub_name
from vtp_eqx.interop.lightningdit import (
    dit_from_published,
    Part,
    read_published,
    save_published_dit,
)
from vtp_eqx.interop.vtp import tokenizer_from_published
from vtp_eqx.models.arrays import named_arrays
from vtp_eqx.models.dit import DiT
from vtp_eqx.models.generator import Generator, load_generator, save_generator
from vtp_eqx.runs.run_dir import is_run
from vtp_eqx.tensor_files import (
    CONFIG_FILE,
    read_notes,
    read_object,
    read_tensors,
)
from vtp_eqx.tokenizer import load, RUN_FOLDER, save, save_published, Tokenizer


GENERATOR_FILE = "generator.safetensors"
# Where the published code has each kind of model.
CODE = {"tokenizer": "vtp", "dit": "models/lightningdit.py"}
RUNNER = Path(__file__).parent / "published_code" / "outputs.py"

Model = Tokenizer | Generator
Format = Literal["ours", "published"]
Tensors = Mapping[str, Any]
Published = tuple[Tensors, dict[str, Any]]  # tensors and settings


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


def read(
    source: str | Path, part: Part = "ema", tokenizer: str = ""
) -> tuple[Model, Published | None]:
    """The model at `source`, and what lies there if that is a published checkpoint.

    `tokenizer` is where that of a generator is, which older files cannot do without.
    """
    path = Path(source)
    if isinstance(source, str) and not path.exists() and is_hub_name(source):
        path = download(source)
    generator = path / GENERATOR_FILE if path.is_dir() else path
    is_ours = generator.suffix == ".safetensors" and generator.is_file()
    if is_ours and read_notes(generator).keys() & {"latents_hash", "latents"}:
        return load_generator(generator, load(tokenizer) if tokenizer else None), None
    if _is_ours(path):
        return load(path), None
    tensors, settings = read_published(path, part)
    if "hidden_size" in settings:
        return Generator(dit_from_published(tensors, settings), ""), (tensors, settings)
    return tokenizer_from_published(tensors, settings), (tensors, settings)


def _is_ours(path: Path) -> bool:
    config = (path.parent if path.is_file() else path) / CONFIG_FILE
    holds_run = (path / RUN_FOLDER).is_dir() or is_run(path)
    return holds_run or (config.is_file() and "format" in read_object(config))


def write(model: Model, to: Format, folder: Path) -> None:
    """Writes a model in either format."""
    if isinstance(model, Tokenizer):
        (save if to == "ours" else save_published)(model, folder)
    elif to == "ours":
        save_generator(model, folder / GENERATOR_FILE)
    else:
        save_published_dit(model.dit, folder)


def verify(model: Model, published: Published | None, options: Options) -> bool:
    """Whether a model survives both formats; prints how far each tensor is off."""
    with tempfile.TemporaryDirectory() as scratch:
        ours, theirs = Path(scratch) / "ours", Path(scratch) / "published"
        write(model, "ours", ours)
        write(read(ours)[0], "published", theirs)
        back, written = read(theirs)
        assert written is not None  # a published format
        before = published or written
        equal = report("published tensor", before[0], written[0])
        if before[1] != written[1]:
            print(f"settings {before[1]} became {written[1]}")
            equal = False
        arrays = (named_arrays(eqx.filter(m, eqx.is_array)) for m in (model, back))
        equal &= report("our array", *arrays)
        if options.published_code is not None:
            compare_outputs(model, theirs, options)
    print("equal to the last bit" if equal else "NOT EQUAL")
    return equal


def report(kind: str, before: Tensors, after: Tensors) -> bool:
    """Prints how far tensors of the same names are apart; whether they are equal."""
    require(
        before.keys() == after.keys(),
        f"A conversion keeps every {kind}; got "
        f"{sorted(before.keys() ^ after.keys())} on one side only.",
    )
    differences = {
        name: _difference(before[name], after[name]) for name in sorted(before)
    }
    for name, difference in differences.items():
        shape = " x ".join(map(str, before[name].shape)) or "1"
        print(f"{kind}  {name:58} {shape:>18}  {difference:.1e}")
    return not any(differences.values())


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


def tokenizer_outputs(tokenizer: Tokenizer) -> tuple[Tensors, Tensors]:
    """Inputs in the published layout, and our outputs in it."""
    size = tokenizer.config.image_size
    images = jr.uniform(jr.key(0), (2, size, size, 3))
    features = jax.vmap(lambda image: tokenizer.features(image)[0])(images)
    latents = jax.vmap(tokenizer.encode)(images)
    decoded = tokenizer.normalize(jax.vmap(tokenizer.decode)(latents))
    inputs = {"pixels": jnp.moveaxis(tokenizer.normalize(images), -1, 1)}
    outputs = {
        "cls": features.cls,
        "patches": features.patches,
        "latents": jnp.moveaxis(latents, -1, 1),
        "decoded": jnp.moveaxis(decoded, -1, 1),
    }
    if tokenizer.config.text is not None:
        text = tokenizer.config.text
        ids = jr.randint(jr.key(1), (3, text.context), 0, text.vocabulary)
        inputs["text"] = ids
        outputs["image embedding"] = jax.vmap(tokenizer.embed_image)(images)
        outputs["text embedding"] = jax.vmap(tokenizer.embed_text)(ids)
    return inputs, outputs


def dit_outputs(dit: DiT) -> tuple[Tensors, Tensors]:
    """Inputs in the published layout, and our velocity in it."""
    config = dit.config
    side, channels = config.latent_size, config.latent_width
    latents = jr.normal(jr.key(0), (3, side, side, channels))
    times, labels = jnp.array([0.0, 0.4, 1.0]), jnp.arange(3) % config.num_classes
    velocity = eqx.filter_jit(dit.batch)(latents, times, labels)
    inputs = {"x": jnp.moveaxis(latents, -1, 1), "t": times, "y": labels}
    return inputs, {"velocity": jnp.moveaxis(velocity, -1, 1)}


def small_models() -> dict[str, Model]:
    """A tokenizer and a transformer, random in every array."""
    tower = TransformerConfig(width=32, depth=2, num_heads=2)
    text = TextConfig(context=8, vocabulary=50, width=24, depth=2, num_heads=2)
    shape = TokenizerConfig(
        encoder=tower, decoder=decoder_like(tower), text=text, image_size=64,
        latent_width=8, rope="bfloat16",
    )  # fmt: skip
    flow = DiTConfig(
        width=48, depth=2, num_heads=3, latent_width=8, latent_size=4, num_classes=5
    )
    tokenizer = eqx.filter_eval_shape(Tokenizer, shape, key=jr.key(0))
    dit = eqx.filter_eval_shape(DiT, flow, key=jr.key(0))
    return {"tokenizer": _random(tokenizer), "dit": Generator(_random(dit), "")}


def _random(skeleton: Any) -> Any:
    shapes, structure = jax.tree.flatten(skeleton)
    drawn = [
        0.3 * jr.normal(key, leaf.shape)
        for leaf, key in zip(shapes, jr.split(jr.key(2), len(shapes)), strict=True)
    ]
    return jax.tree.unflatten(structure, drawn)


def _difference(before: Any, after: Any) -> float:
    """The largest difference; never 0 where a bit differs."""
    before, after = np.asarray(before, np.float32), np.asarray(after, np.float32)
    if before.tobytes() == after.tobytes():
        return 0.0
    return float(np.max(np.abs(before - after), initial=np.finfo(np.float32).tiny))


def main(options: Options) -> bool:
    """Does what the options say; whether nothing was lost."""
    if options.source is None:
        require(
            options.smoke or options.verify,
            "There is something to convert; got no SOURCE: name one, or `--smoke`.",
        )
        models, clone = small_models(), options.published_code
        if clone is not None:
            models = {k: m for k, m in models.items() if (clone / CODE[k]).exists()}
        return all([verify(model, None, options) for model in models.values()])
    model, published = read(options.source, options.part, options.tokenizer)
    if options.target is not None:
        write(model, options.to, options.target)
    require(
        options.target is not None or options.verify,
        "A conversion has a TARGET; got none: name one, or `--verify`.",
    )
    return verify(model, published, options) if options.verify else True


if __name__ == "__main__":
    try:
        is_lossless = main(tyro.cli(Options, description=__doc__))
    except (ValueError, OSError, ImportError, subprocess.SubprocessError) as error:
        sys.exit(f"{error}")
    sys.exit(not is_lossless)
