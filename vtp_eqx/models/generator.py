"""A trained diffusion transformer, bound to the latents it was trained on."""

import json
from pathlib import Path

import equinox as eqx
from jax.core import Tracer
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray
import numpy as np

from vtp_eqx.config import as_json, DiTConfig, from_dict, require, SamplerConfig
from vtp_eqx.flow import euler, guided, heun, sample, time_grid, Velocity
from vtp_eqx.models.arrays import (
    arrays_hash,
    latents_hash,
    named_arrays,
    statistics_hash,
)
from vtp_eqx.models.dit import DiT
from vtp_eqx.models.tokenizer import Tokenizer
from vtp_eqx.models.weights import load_weights, read_notes, save_weights
from vtp_eqx.tensor_files import require_file


SOLVERS = {"euler": euler, "heun": heun}


class Generator(eqx.Module):
    """A diffusion transformer with the `latents_hash` of the tokenizer it learned with.

    The transformer works on normalized latents. With another encoder or other
    statistics they mean something else, and the images would be quietly worse: it is
    refused. The hash of a published transformer is not known, and is "".
    """

    dit: DiT
    latents_hash: str = eqx.field(static=True)

    def sample(
        self,
        labels: Int[Array, " batch"],
        sampler: SamplerConfig,
        *,
        latents_hash: str,
        key: PRNGKeyArray,
    ) -> Float[Array, "batch height width channels"]:
        """One normalized latent for each label.

        `latents_hash` is that of the tokenizer which will decode them. Compiles once
        per batch size and sampler, whatever the weights.
        """
        require(
            bool(latents_hash) and latents_hash == self.latents_hash,
            f"`latents_hash` ({latents_hash!r}) must be that of the latents which the "
            f"generator was trained on ({self.latents_hash!r}): load the tokenizer it "
            "was trained with, or train it again.",
        )
        config = self.dit.config
        shape = (config.latent_size, config.latent_size, config.latent_width)
        noise = jr.normal(key, (len(labels), *shape), jnp.float32)
        velocity = guided_velocity(self.dit, labels, sampler)
        times = time_grid(sampler.num_steps, sampler.time_shift)
        return sample(velocity, noise, times, SOLVERS[sampler.solver])


def generator_hash(generator: Generator) -> str:
    """Sixteen hexadecimal digits that name the weights of a generator."""
    return arrays_hash(named_arrays(generator.dit))


def save_generator(generator: Generator, path: str | Path) -> None:
    """Writes a generator as one safetensors file, its config in the header."""
    dit = generator.dit
    notes = {"config": as_json(dit.config), "latents_hash": generator.latents_hash}
    save_weights(
        dit, Path(path), notes | ({"origin": dit.origin} if dit.origin else {})
    )


def load_generator(path: str | Path, tokenizer: Tokenizer | None = None) -> Generator:
    """The generator that `save_generator` wrote, equal to the last bit.

    Where `tokenizer` is given, another one than the generator was trained with is a
    `ValueError`. Generators that were saved with a hash of the statistics alone need
    it: measured statistics tell tokenizers apart, so what matches is bound to the
    `latents_hash` of today.

    A missing file is a `FileNotFoundError`. A file that is cut short, and one of
    something else, are a `ValueError`.
    """
    path = Path(path)
    require_file(path)
    notes = read_notes(path)
    require(
        "config" in notes and bool(notes.keys() & {"latents_hash", "latents"}),
        "A saved generator has notes on its config and its latents; got "
        f"{sorted(notes)} in {path}: it is something else, or older than this version.",
    )
    known = notes.get("latents_hash") or notes.get("latents", "")
    if tokenizer is not None:
        hash_of = latents_hash if "latents_hash" in notes else statistics_hash
        require(
            known in ("", hash_of(tokenizer)),
            f"`tokenizer` (latents {hash_of(tokenizer)}) must be the one that the "
            f"generator in {path} was trained with (latents {known}): load that one, "
            "or train the generator again.",
        )
        known = known and latents_hash(tokenizer)
    require(
        tokenizer is not None or "latents_hash" in notes or not known,
        f"`tokenizer` (None) must be given for {path}, which was saved with a hash of "
        "latent statistics alone: load the tokenizer it was trained with, and pass it.",
    )
    config = from_dict(DiTConfig, json.loads(notes["config"]))
    origin = notes.get("origin", "")
    skeleton = eqx.filter_eval_shape(DiT, config, origin=origin, key=jr.key(0))
    return Generator(load_weights(skeleton, path), known)


def guided_velocity(
    dit: DiT, labels: Int[Array, " batch"], sampler: SamplerConfig
) -> Velocity:
    """The velocity field that `sampler` asks for, one label for each row of a batch.

    With guidance, the conditional and the unconditional velocity are one call of twice
    the batch; with `guidance = 1` there is no unconditional one.
    """
    num_classes = dit.config.num_classes
    if not isinstance(labels, Tracer):
        require(
            bool(
                np.all((np.asarray(labels) >= 0) & (np.asarray(labels) <= num_classes))
            ),
            f"Labels are 0 to {num_classes - 1}, and {num_classes} for any class; got "
            f"{np.min(labels)} to {np.max(labels)}.",
        )
    return eqx.Partial(_velocity, dit, labels, sampler)


def _velocity(
    dit: DiT,
    labels: Int[Array, " batch"],
    sampler: SamplerConfig,
    latents: Float[Array, "batch height width channels"],
    t: Float[Array, ""],
) -> Float[Array, "batch height width channels"]:
    times = jnp.full(labels.shape, t)
    if sampler.guidance == 1:
        return dit.batch(latents, times, labels)
    null = jnp.full_like(labels, dit.config.num_classes)
    both = dit.batch(
        jnp.concatenate([latents, latents]),
        jnp.concatenate([times, times]),
        jnp.concatenate([labels, null]),
    )
    conditional, unconditional = jnp.split(both, 2)
    return guided(
        conditional,
        unconditional,
        t,
        scale=sampler.guidance,
        start=sampler.guidance_start,
        channels=sampler.guided_channels,
    )
