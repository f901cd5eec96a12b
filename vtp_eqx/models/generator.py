"""A trained diffusion transformer, bound to the latents it was trained on."""

import json
from pathlib import Path

import equinox as eqx
import jax
from jax.core import Tracer
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray
import numpy as np

from vtp_eqx.config import (
    as_json,
    DiTConfig,
    first_sentence,
    from_dict,
    require,
    SamplerConfig,
)
from vtp_eqx.flow import (
    dopri5,
    euler,
    guided,
    heun,
    sample,
    time_grid,
    trajectory,
    Velocity,
)
from vtp_eqx.models.arrays import (
    arrays_hash,
    latents_hash,
    named_arrays,
    statistics_hash,
    text_hash,
)
from vtp_eqx.models.dit import (
    check_condition_kind,
    Conditions,
    DiT,
    num_rows,
    without_condition,
)
from vtp_eqx.models.text import TextFeatures
from vtp_eqx.models.tokenizer import Tokenizer
from vtp_eqx.models.weights import load_weights, read_notes, save_weights
from vtp_eqx.tensor_files import require_file


GENERATOR_FILE = "generator.safetensors"
SOLVERS = {"euler": euler, "heun": heun}


class Generator(eqx.Module):
    """A diffusion transformer with the `latents_hash` of the tokenizer it learned with.

    The transformer works on normalized latents. With another encoder or other
    statistics they mean something else, and the images would be quietly worse: it is
    refused. The hash of a published transformer is not known, and is "".

    `text_hash` is that of the text tower whose features it learned with, or "".
    """

    dit: DiT
    latents_hash: str = eqx.field(static=True)
    text_hash: str = eqx.field(static=True, default="")

    def sample(
        self,
        conditions: Conditions,
        sampler: SamplerConfig,
        *,
        latents_hash: str,
        guide: "Generator | None" = None,
        key: PRNGKeyArray,
    ) -> Float[Array, "batch height width channels"]:
        """One normalized latent for each label or caption.

        `latents_hash` is that of the tokenizer which will decode them, and `guide` the
        weaker generator of autoguidance. Compiles once per batch size and sampler,
        whatever the weights.
        """
        self.check_latents_hash(latents_hash)
        noise = self._noise(num_rows(conditions), key)
        weaker = None if guide is None else self.check_guide(guide).dit
        return sample_latents(self.dit, conditions, noise, sampler, weaker)

    def trajectory(
        self,
        conditions: Conditions,
        sampler: SamplerConfig,
        *,
        latents_hash: str,
        key: PRNGKeyArray,
    ) -> Float[Array, "times batch height width channels"]:
        """The points on the way to what `sample` returns, noise first.

        For solvers whose steps are the same for all rows, and without a `guide`.
        """
        self.check_latents_hash(latents_hash)
        require(
            sampler.solver in SOLVERS,
            f"`sampler.solver` ({sampler.solver!r}) must be one of {[*SOLVERS]}, whose "
            "steps are those of a fixed grid: change it, or use `sample`.",
        )
        velocity = guided_velocity(self.dit, conditions, sampler)
        times = time_grid(sampler.num_steps, sampler.time_shift)
        noise = self._noise(num_rows(conditions), key)
        return trajectory(velocity, noise, times, SOLVERS[sampler.solver])

    def _noise(
        self, num: int, key: PRNGKeyArray
    ) -> Float[Array, "num height width channels"]:
        config = self.dit.config
        shape = (config.latent_size, config.latent_size, config.latent_width)
        return jr.normal(key, (num, *shape), jnp.float32)

    def check_latents_hash(self, latents_hash: str) -> None:
        """A `ValueError` unless it is that of what the generator was trained on."""
        require(
            bool(latents_hash) and latents_hash == self.latents_hash,
            f"`latents_hash` ({latents_hash!r}) must be that of the latents which the "
            f"generator was trained on ({self.latents_hash!r}): load the tokenizer it "
            "was trained with, or train it again.",
        )

    def check_guide(self, guide: "Generator") -> "Generator":
        """`guide`, or a `ValueError` where it does not generate the same latents."""
        require(
            guide.latents_hash == self.latents_hash
            and guide.text_hash == self.text_hash,
            f"`guide` (latents {guide.latents_hash!r}) must generate the latents "
            f"of the generator that it guides ({self.latents_hash!r}): choose an "
            "earlier or a smaller one that was trained with the same tokenizer.",
        )
        shapes = [
            (config.latent_size, config.latent_width, config.num_classes)
            for config in (guide.dit.config, self.dit.config)
        ]
        require(
            shapes[0] == shapes[1],
            f"`guide` (latent side, channels and classes {shapes[0]}) must be made for "
            f"those of the generator ({shapes[1]}): choose another one.",
        )
        return guide


def generator_hash(generator: Generator) -> str:
    """Sixteen hexadecimal digits that name the weights of a generator."""
    return arrays_hash(named_arrays(generator.dit))


def save_generator(generator: Generator, path: str | Path) -> None:
    """Writes a generator as one safetensors file, its config in the header."""
    dit = generator.dit
    notes = {"config": as_json(dit.config), "latents_hash": generator.latents_hash}
    others = {"origin": dit.origin, "text_hash": generator.text_hash}
    notes |= {name: note for name, note in others.items() if note}
    save_weights(dit, Path(path), notes)


def load_generator(path: str | Path, tokenizer: Tokenizer | None = None) -> Generator:
    """The generator that `save_generator` wrote, equal to the last bit.

    `path` is its file, or a folder with a `generator.safetensors`.

    Where `tokenizer` is given, another one than the generator was trained with is a
    `ValueError`. Generators that were saved with a hash of the statistics alone need
    it: measured statistics tell tokenizers apart, so what matches is bound to the
    `latents_hash` of today.

    A missing file is a `FileNotFoundError`. A file that is cut short, and one of
    something else, are a `ValueError`.
    """
    path = Path(path)
    path = path / GENERATOR_FILE if path.is_dir() else path
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
        text = notes.get("text_hash", "")
        require(
            text in ("", text_hash(tokenizer)),
            f"`tokenizer` (text tower {text_hash(tokenizer) or 'none'}) must have the "
            f"text tower that the generator in {path} was trained with ({text}): load "
            "that tokenizer.",
        )
    require(
        tokenizer is not None or "latents_hash" in notes or not known,
        f"`tokenizer` (None) must be given for {path}, which was saved with a hash of "
        "latent statistics alone: load the tokenizer it was trained with, and pass it.",
    )
    try:
        config = from_dict(DiTConfig, json.loads(notes["config"]))
        origin = notes.get("origin", "")
        skeleton = eqx.filter_eval_shape(DiT, config, origin=origin, key=jr.key(0))
    except (ValueError, TypeError, ArithmeticError, RecursionError) as error:
        raise ValueError(
            "A saved generator has a note on its shape; got another one in "
            f"{path} ({first_sentence(error)}): copy the file again, or load it with "
            "the version that saved it."
        ) from error
    return Generator(load_weights(skeleton, path), known, notes.get("text_hash", ""))


def sample_latents(
    dit: DiT,
    conditions: Conditions,
    noise: Float[Array, "batch height width channels"],
    sampler: SamplerConfig,
    guide: DiT | None = None,
) -> Float[Array, "batch height width channels"]:
    """Normalized latents, integrated from `noise`; one label or caption for each row.

    dopri5 chooses steps for each row by itself, so that no row depends on another.
    """
    velocity = guided_velocity(dit, conditions, sampler, guide)
    if sampler.solver != "dopri5":
        times = time_grid(sampler.num_steps, sampler.time_shift)
        return sample(velocity, noise, times, SOLVERS[sampler.solver])
    return _adaptive(dit, conditions, noise, sampler, guide)


@eqx.filter_jit
def _adaptive(
    dit: DiT,
    conditions: Conditions,
    noise: Float[Array, "batch height width channels"],
    sampler: SamplerConfig,
    guide: DiT | None,
) -> Float[Array, "batch height width channels"]:
    def one(condition, noise):
        alone = jax.tree.map(lambda array: array[None], condition)
        reached = dopri5(
            guided_velocity(dit, alone, sampler, guide),
            noise[None],
            tolerance=sampler.tolerance,
            tolerance_abs=sampler.tolerance_abs,
            max_steps=sampler.num_steps,
        )
        return reached[0]

    return jax.vmap(one)(conditions, noise)


def guided_velocity(
    dit: DiT,
    conditions: Conditions,
    sampler: SamplerConfig,
    guide: DiT | None = None,
) -> Velocity:
    """The velocity field with guidance as `sampler` says.

    `conditions` are one label, or the features of one caption, for each row.

    With guidance, the conditional and the unconditional velocity are one call of twice
    the batch; with `guidance = 1` there is no unconditional one. `guide` is the weaker
    transformer of autoguidance, which sees the same conditions.
    """
    require(
        (guide is not None) == (sampler.guide == "generator"),
        f"`guide` ({'none' if guide is None else 'a generator'}) must be given where, "
        f"and only where, the sampler's `guide` ({sampler.guide!r}) is 'generator': "
        "change either.",
    )
    check_condition_kind(conditions, dit.config)
    if not isinstance(conditions, Tracer | TextFeatures):
        check_labels(np.asarray(conditions), dit.config.num_classes)
    return eqx.Partial(_velocity, dit, guide, conditions, sampler)


def check_labels(labels: Int[np.ndarray, " count"], num_classes: int) -> None:
    """A `ValueError` where a label is no class, nor the null class."""
    require(
        bool(np.all((labels >= 0) & (labels <= num_classes))),
        f"Labels are 0 to {num_classes - 1}, and {num_classes} for any class; got "
        f"{np.min(labels)} to {np.max(labels)}: correct them.",
    )


def _velocity(
    dit: DiT,
    guide: DiT | None,
    conditions: Conditions,
    sampler: SamplerConfig,
    latents: Float[Array, "batch height width channels"],
    t: Float[Array, ""],
) -> Float[Array, "batch height width channels"]:
    times = jnp.full((num_rows(conditions),), t)
    if sampler.guidance == 1:
        return dit.batch(latents, times, conditions).astype(latents.dtype)
    if guide is not None:
        conditional = dit.batch(latents, times, conditions)
        other = guide.batch(latents, times, conditions)
    else:
        none = without_condition(conditions, dit.config)
        join = lambda *parts: jnp.concatenate(parts)
        both = dit.batch(
            join(latents, latents),
            join(times, times),
            jax.tree.map(join, conditions, none),
        )
        conditional, other = jnp.split(both, 2)
    return guided(
        conditional.astype(latents.dtype),
        other.astype(latents.dtype),
        t,
        scale=sampler.guidance,
        start=sampler.guidance_start,
        end=sampler.guidance_end,
        channels=sampler.guided_channels,
    )
