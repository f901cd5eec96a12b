"""What a trained flow is like: its loss on held-out latents, and how straight it goes.

They explain and do not rank: a loss depends on the latents' covariance more than on how
good samples are, and both depend on the sampler and on the times.
"""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray
import numpy as np
from scipy.special import expit, ndtri

from vtp_eqx.flow import flow_loss, interpolate
from vtp_eqx.models.dit import DiT


LOSS_IMAGES = 960  # ours: at most so many latents a loss is averaged over
BATCH = 240
GOLDEN = (5**0.5 - 1) / 2  # its multiples are spread evenly, in whatever order

Path = Float[np.ndarray, "times batch height width channels"]


def path_shapes(path: Path) -> dict[str, Float[np.ndarray, " batch"]]:
    """How straight the path of each sample is, from noise to latents.

    "straightness" is the mean cosine of the angles between consecutive steps, and
    "efficiency" the distance of the ends over the length of the path. Both are 1 where
    the velocity is constant. "Diffusing in the Right Space" (2606.03578), where 50
    Euler steps are taken: compare samplers of equal steps.
    """
    steps = np.diff(path.reshape(*path.shape[:2], -1).astype(np.float64), axis=0)
    lengths = np.linalg.norm(steps, axis=-1)
    products = np.sum(steps[1:] * steps[:-1], axis=-1)
    ends = np.linalg.norm(steps.sum(axis=0), axis=-1)
    tiny = np.finfo(np.float64).tiny
    alignments = products / np.maximum(lengths[1:] * lengths[:-1], tiny)
    return {
        "straightness": alignments.mean(axis=0),
        "efficiency": ends / np.maximum(lengths.sum(axis=0), tiny),
    }


def held_out_flow_loss(
    dit: DiT,
    latents: Float[np.ndarray, "count height width channels"],
    labels: Int[np.ndarray, " count"],
    *,
    times: tuple[float, float],
    key: PRNGKeyArray,
) -> float:
    """The mean squared error of velocities, per number of normalized latents.

    Of at most `LOSS_IMAGES` of them, evenly spread. `times` are logit-normal of this
    mean and deviation, their quantiles even; the noise is of `key`, so that the losses
    of two models differ by little chance.
    """
    num = min(LOSS_IMAGES, len(latents))
    chosen = np.arange(num) * len(latents) // num
    mean, deviation = times
    t = expit(mean + deviation * ndtri((np.arange(num) + 0.5) * GOLDEN % 1))
    parts = []
    for start in range(0, num, BATCH):
        rows = np.arange(start, min(start + BATCH, num))
        filled = rows[np.arange(BATCH) % len(rows)]  # one size is compiled
        of = chosen[filled]
        squares = _squares(
            dit, jnp.asarray(latents[of]), jnp.asarray(labels[of]),
            jnp.asarray(t[filled], jnp.float32), jr.fold_in(key, start),
        )  # fmt: skip
        parts.append(np.asarray(squares)[: len(rows)])
    return float(np.mean(np.concatenate(parts), dtype=np.float64))


@eqx.filter_jit
def _squares(dit: DiT, data: Array, label: Array, t: Array, key: Array) -> Array:
    noise = jr.normal(key, data.shape, data.dtype)
    point, velocity = interpolate(noise, data, t)
    predicted = dit.batch(point, t, label).astype(data.dtype)
    return flow_loss(predicted, velocity).square
