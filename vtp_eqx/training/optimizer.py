"""AdamW with the schedules and masks of the recipes."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree
import optax

from vtp_eqx.config import OptimizerConfig, require
from vtp_eqx.models.arrays import leaf_path


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


def weight_decay(config: OptimizerConfig, num_steps: int) -> float | optax.Schedule:
    """The decay of `config`, or its half cosine over the run (DINO, DINOv2)."""
    start, end = config.weight_decay, config.final_weight_decay
    if end is None:
        return start
    return lambda step: cosine(start, end, jnp.asarray(step, jnp.float32) / num_steps)


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
    frozen = config.freeze_prototypes
    thaw = optax.scale_by_schedule(
        lambda step: jnp.asarray(jnp.asarray(step) >= frozen, jnp.float32)
    )
    return optax.chain(
        _clip(config),
        optax.scale_by_adam(config.b1, config.b2, config.eps),
        optax.add_decayed_weights(weight_decay(config, num_steps), mask=_where(decays)),
        optax.scale_by_learning_rate(learning_rate(config, num_steps)),
        optax.masked(optax.scale(config.patch_rate), _where(is_patch_embedding)),
        optax.masked(thaw, _where(is_prototype)) if frozen else optax.identity(),
    )


def clip_by_network_norm(limit: float) -> optax.GradientTransformation:
    """Shortens the gradient of each network that is longer than `limit` to it.

    By itself, as DINOv2 does: `network_of` says what counts as one.
    """

    def clip(updates, state, params=None):
        del params
        squares: dict[str, Float[Array, ""]] = {}
        for path, leaf in jax.tree.leaves_with_path(updates):
            network = network_of(leaf_path(path))
            squares[network] = squares.get(network, jnp.zeros(())) + jnp.sum(leaf**2)
        share = {
            network: jnp.minimum(1.0, limit / jnp.sqrt(jnp.maximum(square, 1e-30)))
            for network, square in squares.items()
        }
        clipped = jax.tree_util.tree_map_with_path(
            lambda path, leaf: leaf * share[network_of(leaf_path(path))], updates
        )
        return clipped, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), clip)


def network_of(path: str) -> str:
    """The network an array belongs to: `encoder`, `decoder`, `prototypes`, say.

    `path` is that of an array in (student, loss weights).
    """
    return next(name for name in path.split(".")[1:] if name != "tokenizer")


def _clip(config: OptimizerConfig) -> optax.GradientTransformation:
    if config.clip_norm is None:
        return optax.identity()
    if config.clip_by == "network":
        return clip_by_network_norm(config.clip_norm)
    return optax.clip_by_global_norm(config.clip_norm)


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
