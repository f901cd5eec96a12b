"""Flow matching on straight paths: the path, its loss, and the way back by an ODE.

One time convention holds for all of it: `t = 0` is noise, `t = 1` is data, and a
velocity points from noise to data. Arrays are batch first. No model is known here: a
velocity field is any function `velocity(x, t)` of a batch and one time.

Lipman et al. 2023, https://arxiv.org/abs/2210.02747; the choices of loss, of time
distribution and of time shift are LightningDiT's (Yao et al. 2025,
https://arxiv.org/abs/2501.01423).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
from jax import lax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray
import numpy as np

from vtp_eqx.config import require


Latents = Float[Array, "batch height width channels"]
Time = Float[Array, ""]
Velocity = Callable[[Latents, Time], Latents]
Solver = Callable[[Velocity, Latents, Time, Time], Latents]

# The direction of a shorter velocity is noise: see `cosine_distance`.
SHORTEST_NORM = 0.1


class FlowLoss(NamedTuple):
    """The flow-matching loss of each example, and its two parts before weighting."""

    total: Float[Array, " batch"]
    square: Float[Array, " batch"]
    cosine: Float[Array, " batch"]


def interpolate(
    noise: Latents, data: Latents, t: Float[Array, " batch"]
) -> tuple[Latents, Latents]:
    """The points at times `t` of the straight paths, and the velocities there."""
    t = t[:, None, None, None]
    return (1 - t) * noise + t * data, data - noise


def time_samples(
    num: int, *, mean: float = 0.0, std: float = 1.0, key: PRNGKeyArray
) -> Float[Array, " {num}"]:
    """`num` logit-normal times in (0, 1): the sigmoid of a normal `mean`, `std`.

    A negative `mean` puts more of them on the noisy side; the median is
    `sigmoid(mean)`. Esser et al. 2024, https://arxiv.org/abs/2403.03206, section 3.1.
    """
    require(std > 0, f"`std` must be positive; got {std}: raise it.")
    return jax.nn.sigmoid(mean + std * jr.normal(key, (num,), jnp.float32))


def flow_loss(
    velocity: Latents, target: Latents, *, cosine_weight: float = 1.0
) -> FlowLoss:
    """Squared error and cosine distance of predicted velocities, per example.

    `total = square + cosine_weight * cosine`. `square` is the mean over all elements;
    `cosine`, in [0, 2], the mean over positions of the distance over channels.
    LightningDiT, section 3.3, with weight 1.
    """
    square = jnp.mean((velocity - target) ** 2, axis=(1, 2, 3))
    cosine = jnp.mean(cosine_distance(velocity, target), axis=(1, 2))
    return FlowLoss(square + cosine_weight * cosine, square, cosine)


def cosine_distance(
    a: Float[Array, "*axes channels"], b: Float[Array, "*axes channels"]
) -> Float[Array, "*axes"]:
    """One minus the cosine of the angle between `a` and `b`, over the last axis.

    A vector shorter than `SHORTEST_NORM` is divided by that instead of by its norm. A
    transformer whose last layer starts at zero has no direction yet: with the published
    floor of 1e-8 its first gradient is near 1e8, and Adam's second moment remembers
    that for hundreds of steps. Velocities of unit-variance latents are far longer than
    this floor once training has begun.
    """

    def direction(x):
        squared = jnp.sum(x**2, axis=-1, keepdims=True)
        return x * lax.rsqrt(jnp.maximum(squared, SHORTEST_NORM**2))

    return 1 - jnp.sum(direction(a) * direction(b), axis=-1)


def time_grid(num_steps: int, shift: float = 0.0) -> Float[Array, " times"]:
    """The `num_steps + 1` times from 0 to 1 that bound `num_steps` solver steps.

    A `shift` s moves a uniform grid by `t -> s t / (1 + (s - 1) t)`: below 1, steps
    gather near the noise; 0 and 1 leave the grid uniform. (A published setting of 250
    "steps" counts grid points: it is 249 here.)
    """
    require(num_steps >= 1, f"`num_steps` must be 1 or more; got {num_steps}.")
    require(shift >= 0, f"`shift` must not be negative; got {shift}: 0 is uniform.")
    t = np.linspace(0, 1, num_steps + 1)
    if shift:
        t = shift * t / (1 + (shift - 1) * t)
    return jnp.asarray(t, jnp.float32)


def guided(
    conditional: Latents,
    unconditional: Latents,
    t: Time,
    *,
    scale: float,
    start: float = 0.0,
    end: float = 1.0,
    channels: int | None = None,
) -> Latents:
    """Classifier-free guidance: the velocity `scale` times as far from `unconditional`.

    Scale 1 is `conditional` itself. Outside times `start` to `end` nothing is guided.
    Only the first `channels` channels are; `None` guides all. (The published sampler
    guides 3 of them, inherited from a model with 3-channel noise: to compare scales,
    say which.)

    Ho & Salimans 2022, https://arxiv.org/abs/2207.12598; for the interval, Kynkäänniemi
    et al. 2024, https://arxiv.org/abs/2404.07724. With the velocity of a weaker model
    in place of the unconditional one it is autoguidance: Karras et al. 2024,
    https://arxiv.org/abs/2406.02507.
    """
    width = conditional.shape[-1]
    require(
        channels is None or 0 < channels <= width,
        f"`channels` must be 1 to {width}, or None for all; got {channels}.",
    )
    active = (jnp.arange(width) < (channels or width)) & (t >= start) & (t <= end)
    # Written from `conditional`, so that scale 1 is exact.
    change = (scale - 1) * (conditional - unconditional)
    return conditional + jnp.where(active, change, jnp.zeros_like(change))


def euler(velocity: Velocity, x: Latents, t: Time, t_next: Time) -> Latents:
    """One step of Euler's method: first order, one evaluation."""
    return x + (t_next - t) * velocity(x, t)


def heun(velocity: Velocity, x: Latents, t: Time, t_next: Time) -> Latents:
    """One step of Heun's method (the trapezoid): second order, two evaluations."""
    slope = velocity(x, t)
    corrected = velocity(x + (t_next - t) * slope, t_next)
    return x + (t_next - t) * (slope + corrected) / 2


@eqx.filter_jit
def sample(
    velocity: Velocity,
    noise: Latents,
    times: Float[Array, " times"],
    step: Solver = euler,
) -> Latents:
    """The latents reached from `noise` by following `velocity` over `times`.

    One compiled loop. It compiles once for many weights where `velocity` is a pytree
    that holds them (an `eqx.Module` or `eqx.Partial`), and anew for every new lambda.
    """
    return _follow(velocity, noise, times, step, keep=False)[0]


@eqx.filter_jit
def trajectory(
    velocity: Velocity,
    noise: Latents,
    times: Float[Array, " times"],
    step: Solver = euler,
) -> Float[Array, "times batch height width channels"]:
    """The points that `sample` reaches at each of `times`, from noise to latents."""
    points = _follow(velocity, noise, times, step, keep=True)[1]
    return jnp.concatenate([noise[None], points])


def _follow(
    velocity: Velocity, noise: Latents, times: Array, step: Solver, *, keep: bool
) -> tuple[Latents, Any]:
    """Where the steps over `times` end, and with `keep` the point after each."""

    def advance(x, interval):
        x = step(velocity, x, *interval)
        return x, x if keep else None

    return lax.scan(advance, noise, (times[:-1], times[1:]))


@eqx.filter_jit
def dopri5(
    velocity: Velocity,
    noise: Latents,
    *,
    tolerance: float = 1e-3,
    tolerance_abs: float = 1e-6,
    max_steps: int = 4096,
) -> Latents:
    """The latents reached from `noise` by Dormand and Prince's adaptive method.

    Fifth order; a step is as long as the error allows, over all of `noise` together:
    map over examples where one must not depend on another. NaN where `max_steps`,
    refused ones among them, do not reach the data.

    Dormand & Prince 1980, https://doi.org/10.1016/0771-050X(80)90013-3.
    """
    import diffrax  # takes a second: only for who asks for it

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, x, _: velocity(x, jnp.asarray(t))),
        diffrax.Dopri5(),
        t0=0.0,
        t1=1.0,
        dt0=None,
        y0=noise,
        stepsize_controller=diffrax.PIDController(tolerance, tolerance_abs),
        max_steps=max_steps,
        throw=False,
    )
    assert solution.ys is not None
    reached = solution.result == diffrax.RESULTS.successful
    return jnp.where(reached, solution.ys[0], jnp.nan)
