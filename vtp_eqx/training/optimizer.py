"""AdamW with the schedules and masks of the recipes."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree
import optax

from vtp_eqx.config import OptimizerConfig, require
from vtp_eqx.models.arrays import leaf_path as leaf_path


def learning_rate(config: OptimizerConfig, num_steps: int) -> optax.Schedule:
    """Linear warmup to the peak at step `warmup_steps - 1`, then cosine or constant.

    The cosine falls from the peak to `final_rate` times the peak at the end of the run
    (OpenCLIP: `lr * (step + 1) / warmup`, cosine to zero).
    """
    require(
        0 <= config.warmup_steps < num_steps or num_steps == 0,
        "`warmup_steps` must lie below the run's `num_steps`; got "
        f"{config.warmup_steps} and {num_steps}: shorten the warmup.",
    )

    def rate(step):
        step = jnp.asarray(step, jnp.float32)
        warm = (step + 1) / max(config.warmup_steps, 1)
        progress = (step - config.warmup_steps) / (num_steps - config.warmup_steps)
        falling = 1.0
        if config.schedule == "cosine":
            falling = cosine(config.final_rate, 1.0, 1 - progress)
        share = jnp.where(step < config.warmup_steps, warm, falling)
        return jnp.asarray(config.learning_rate * share, jnp.float32)

    return rate


def cosine(
    start: float, end: float, progress: float | Float[Array, ""]
) -> Float[Array, ""]:
    """From `start` at `progress` 0 to `end` at 1 along half a cosine, flat outside."""
    progress = jnp.clip(progress, 0, 1)
    return end + (start - end) * 0.5 * (1 + jnp.cos(jnp.pi * progress))


def ramp(
    start: float, end: float, progress: float | Float[Array, ""]
) -> Float[Array, ""]:
    """From `start` at `progress` 0 to `end` at 1 along a line, flat outside."""
    return start + (end - start) * jnp.clip(progress, 0, 1)


def make_optimizer(
    config: OptimizerConfig, num_steps: int
) -> optax.GradientTransformation:
    """AdamW as `config` says, for the trainable arrays of a student and its weights."""
    clip = (
        optax.identity()
        if config.clip_norm is None
        else optax.clip_by_global_norm(config.clip_norm)
    )
    frozen = config.freeze_prototypes
    thaw = optax.scale_by_schedule(
        lambda step: jnp.asarray(jnp.asarray(step) >= frozen, jnp.float32)
    )
    return optax.chain(
        clip,
        optax.scale_by_adam(config.b1, config.b2, config.eps),
        optax.add_decayed_weights(config.weight_decay, mask=_where(decays)),
        optax.scale_by_learning_rate(learning_rate(config, num_steps)),
        optax.masked(optax.scale(config.patch_rate), _where(is_patch_embedding)),
        optax.masked(thaw, _where(is_prototype)) if frozen else optax.identity(),
    )


def decays(path: str) -> bool:
    """Whether weight decay acts on the array at `path`.

    It acts on matrices: not on biases, norms, layer scales, single tokens, positions,
    logit scale and bias, loss weights or statistics.
    """
    names = path.split(".")
    matrices = ("weight", "prototypes", "projection", "token_embedding", "labels")
    return names[-1] in matrices and not any("norm" in name for name in names)


def is_patch_embedding(path: str) -> bool:
    """Whether `path` is the encoder's patch embedding."""
    return "patch_embed" in path.split(".")


def is_prototype(path: str) -> bool:
    """Whether `path` is the prototype head's last, weight-normalized layer."""
    return path.endswith(("prototypes.prototypes", "prototypes.scale"))


def _where(rule: Callable[[str], bool]) -> Callable[[PyTree], PyTree]:
    return lambda tree: jax.tree_util.tree_map_with_path(
        lambda path, _: rule(leaf_path(path)), tree
    )
