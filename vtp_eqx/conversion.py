"""Tokenizers and diffusion transformers, in our formats and in the published ones."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Shaped
import numpy as np

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
from vtp_eqx.models.dit import DiT
from vtp_eqx.models.generator import Generator, load_generator, save_generator
from vtp_eqx.models.weights import read_notes
from vtp_eqx.tokenizer import is_ours, load, save, save_published, Tokenizer


GENERATOR_FILE = "generator.safetensors"

Model = Tokenizer | Generator
Format = Literal["ours", "published"]
Tensors = Mapping[str, Shaped[Any, "..."]]
Published = tuple[Tensors, dict[str, Any]]  # tensors and settings


def read_model(
    source: str | Path, part: Part = "ema", tokenizer: str = ""
) -> tuple[Model, Published | None]:
    """The model at `source`, and what lies there if that is a published checkpoint.

    `tokenizer` is where that of a generator is, which older files cannot do without.
    """
    path = Path(source)
    if isinstance(source, str) and not path.exists() and is_hub_name(source):
        path = download(source)
    generator = path / GENERATOR_FILE if path.is_dir() else path
    may_be_ours = generator.suffix == ".safetensors" and generator.is_file()
    if may_be_ours and read_notes(generator).keys() & {"latents_hash", "latents"}:
        return load_generator(generator, load(tokenizer) if tokenizer else None), None
    if is_ours(path):
        return load(path), None
    tensors, settings = read_published(path, part)
    if "hidden_size" in settings:
        return Generator(dit_from_published(tensors, settings), ""), (tensors, settings)
    return tokenizer_from_published(tensors, settings), (tensors, settings)


def write_model(model: Model, to: Format, folder: Path) -> None:
    """Writes a model in either format."""
    if isinstance(model, Tokenizer):
        (save if to == "ours" else save_published)(model, folder)
    elif to == "ours":
        save_generator(model, folder / GENERATOR_FILE)
    else:
        save_published_dit(model.dit, folder)


def there_and_back(model: Model, folder: Path) -> tuple[Model, Published]:
    """`model` out of our format and then the published one, and what was written there.

    The published checkpoint stays in `folder`.
    """
    write_model(model, "ours", folder / "ours")
    write_model(read_model(folder / "ours")[0], "published", folder)
    back, written = read_model(folder)
    assert written is not None  # a published format
    return back, written


def differences(kind: str, before: Tensors, after: Tensors) -> dict[str, float]:
    """How far tensors of the same names are apart at most; never 0 where a bit differs.

    A `ValueError` names tensors, which are a `kind`, that only one side has.
    """
    require(
        before.keys() == after.keys(),
        f"A conversion keeps every {kind}; got "
        f"{sorted(before.keys() ^ after.keys())} on one side only.",
    )
    return {name: _difference(before[name], after[name]) for name in sorted(before)}


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


def _difference(before: Any, after: Any) -> float:
    before, after = np.asarray(before, np.float32), np.asarray(after, np.float32)
    if before.tobytes() == after.tobytes():
        return 0.0
    return float(np.max(np.abs(before - after), initial=np.finfo(np.float32).tiny))


def _random(skeleton: Any) -> Any:
    shapes, structure = jax.tree.flatten(skeleton)
    draw = np.random.default_rng(2)  # JAX would compile once for each shape
    drawn = [
        jnp.asarray(0.3 * draw.standard_normal(leaf.shape), jnp.float32)
        for leaf in shapes
    ]
    return jax.tree.unflatten(structure, drawn)
