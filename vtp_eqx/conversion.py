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
from vtp_eqx.interop.diffusers import (
    autoencoder_outputs,
    describes_diffusers,
    is_diffusers,
    read_diffusers,
    tokenizer_from_diffusers,
)
from vtp_eqx.interop.hub import download, is_hub_name
from vtp_eqx.interop.lightningdit import (
    dit_from_published,
    dit_outputs,
    LATENTS_HASH,
    latents_hash_of,
    Part,
    read_published,
    save_published_dit,
    TORCH_SUFFIXES,
)
from vtp_eqx.interop.vtp import tokenizer_from_published, tokenizer_outputs
from vtp_eqx.models.dit import DiT
from vtp_eqx.models.generator import (
    Generator,
    GENERATOR_FILE as GENERATOR_FILE,
    load_generator,
    save_generator,
)
from vtp_eqx.models.weights import read_notes
from vtp_eqx.runs.run_dir import is_run
from vtp_eqx.tensor_files import CONFIG_FILE
from vtp_eqx.tokenizer import (
    is_ours,
    latents_hash,
    load,
    save,
    save_diffusers,
    save_published,
    Tokenizer,
)


Model = Tokenizer | Generator
# Published: of VTP and of LightningDiT. Diffusers: of its autoencoders.
Format = Literal["ours", "published", "diffusers"]
# Of the kinds of models, the format other than ours.
FORMATS: dict[str, Format] = {
    "tokenizer": "published", "dit": "published", "autoencoder": "diffusers"
}  # fmt: skip
Tensors = Mapping[str, Shaped[Any, "..."]]
Published = tuple[Tensors, dict[str, Any]]  # tensors and settings


def read_model(
    source: str | Path, part: Part = "ema", tokenizer: str = ""
) -> tuple[Model, Published | None]:
    """The model at `source`, and what lies there if that is a published checkpoint.

    `tokenizer` is where that of a generator is, to bind it to: older files cannot do
    without, and a published one does not say which it is.
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
    if is_diffusers(path):
        tensors, settings = read_diffusers(path)
        return tokenizer_from_diffusers(tensors, settings), (tensors, settings)
    tensors, settings = read_published(path, part)
    if "hidden_size" in settings:
        settings |= _bound(settings, tokenizer, path)
        dit = dit_from_published(tensors, settings)
        return Generator(dit, latents_hash_of(settings)), (tensors, settings)
    return tokenizer_from_published(tensors, settings), (tensors, settings)


def format_of(published: Published | None) -> Format:
    """The format of what `read_model` found, and for what is ours the published one."""
    settings = {} if published is None else published[1]
    return "diffusers" if describes_diffusers(settings) else "published"


def write_model(model: Model, to: Format, target: Path) -> None:
    """Writes a model in a format to a folder, or a published generator to a `.pt`."""
    is_file = target.suffix in TORCH_SUFFIXES
    if isinstance(model, Tokenizer):
        require(
            not is_file,
            f"`target` ({target}) must be a folder, for a tokenizer's files: name one.",
        )
        writers = dict(ours=save, published=save_published, diffusers=save_diffusers)
        writers[to](model, target)
        return
    require(
        to != "diffusers",
        "`to` ('diffusers') is a layout of tokenizers, and this is a generator: take "
        "'published', which is LightningDiT's.",
    )
    require(
        to == "published" or not is_file,
        f"`target` ({target}) must be a folder with `to` 'ours': name one.",
    )
    if to == "ours":
        save_generator(model, target / GENERATOR_FILE)
        return
    folder = target.parent if is_file else target
    require(
        not is_run(folder),
        f"`target` ({target}) would replace the {CONFIG_FILE} of the run in {folder}: "
        "name another folder.",
    )
    save_published_dit(model.dit, target, model.latents_hash)


def there_and_back(
    model: Model, folder: Path, to: Format = "published"
) -> tuple[Model, Published]:
    """`model` out of our format and then another one, and what was written there.

    The checkpoint in the other format stays in `folder`.
    """
    write_model(model, "ours", folder / "ours")
    write_model(read_model(folder / "ours")[0], to, folder)
    back, written = read_model(folder)
    assert written is not None  # not our format
    return back, written


def outputs_of(model: Model, to: Format) -> tuple[str, Tensors, Tensors]:
    """The kind of a model in a format; inputs, and what it makes of them, in that."""
    if isinstance(model, Generator):
        return "dit", *dit_outputs(model.dit)
    if to == "diffusers":
        return "autoencoder", *autoencoder_outputs(model)
    return "tokenizer", *tokenizer_outputs(model)


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


def small_models(vocabulary: int = 50, **dit: Any) -> tuple[Tokenizer, Generator]:
    """A tokenizer and a generator, random in every array; deviations are positive.

    - `vocabulary`: of the text tower, whose context and width are 8 and 24.
    - `dit`: further fields of the generator's config.
    """
    tower = TransformerConfig(width=32, depth=2, num_heads=2)
    text = TextConfig(context=8, vocabulary=vocabulary, width=24, depth=2, num_heads=2)
    shape = TokenizerConfig(
        encoder=tower, decoder=decoder_like(tower), text=text, image_size=64,
        latent_width=8, rope="bfloat16",
    )  # fmt: skip
    flow = DiTConfig(
        width=48, depth=2, num_heads=3, latent_width=8, latent_size=4, num_classes=5,
        **dit,
    )  # fmt: skip
    tokenizer = eqx.filter_eval_shape(Tokenizer, shape, key=jr.key(0))
    dit = eqx.filter_eval_shape(DiT, flow, key=jr.key(0))
    drawn = _random(tokenizer)
    measured = drawn.with_statistics(drawn.latent_mean, abs(drawn.latent_std))
    return measured, Generator(_random(dit), "")


def _bound(settings: dict[str, Any], tokenizer: str, path: Path) -> dict[str, str]:
    """The `latents_hash` that a published generator is bound to, as a setting."""
    known = latents_hash_of(settings)
    if tokenizer:
        digest = latents_hash(load(tokenizer))
        require(
            known in ("", digest),
            f"`tokenizer` ({tokenizer}, latents {digest}) must be the one that the "
            f"generator in {path} was trained with (latents {known}): name that one.",
        )
        known = digest
    return {LATENTS_HASH: known} if known else {}


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
