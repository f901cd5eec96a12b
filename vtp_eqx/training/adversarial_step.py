"""One update of a decoder and one of its discriminator, on any number of devices."""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any, NamedTuple

import equinox as eqx
import jax
from jax import lax
import jax.numpy as jnp
import jax.random as jr
from jax.sharding import Mesh
from jaxtyping import Array, PyTree
import optax

from vtp_eqx.config import FinetuneConfig
from vtp_eqx.frozen.depth_features import DepthFeatures
from vtp_eqx.frozen.lpips import Perceptual
from vtp_eqx.losses.weighting import adaptive_weight
from vtp_eqx.mesh import DATA, REPLICATED, SPLIT
from vtp_eqx.models.discriminator import FeatureDiscriminator
from vtp_eqx.models.tokenizer import Tokenizer
from vtp_eqx.training.adversarial import (
    AdversarialObjective,
    AdversarialStudent,
    DecoderReadouts,
    RunningStatistics,
)
from vtp_eqx.training.microbatches import loss_and_gradient, Objective
from vtp_eqx.training.optimizer import make_optimizer
from vtp_eqx.training.precision import cast_params
from vtp_eqx.training.state import (
    copy_arrays,
    moving_average,
    placement,
    shard_state,
    TrainState,
)
from vtp_eqx.training.step import (
    advance,
    check_step,
    compiled_step,
    Step,
    without_optimizer,
)


# Ours: below such a loss a discriminator learns nothing more, and with less than such a
# share of the deviation of real colors what is decoded is gray.
SATURATED, FLAT = 0.01, 0.1

Gradient = tuple[Array, dict[str, Array], PyTree]  # a total, metrics, and its gradient


class Begun(NamedTuple):
    """Whether the decoder learns from the discriminator, and that from the decoder."""

    decoder: bool
    discriminator: bool


class OptimizerStates(NamedTuple):
    """Those of both optimizers."""

    decoder: PyTree
    discriminator: PyTree


class Optimizers(NamedTuple):
    """One for each network. The discriminator's counts from its own first step."""

    decoder: optax.GradientTransformation
    discriminator: optax.GradientTransformation

    @classmethod
    def of(cls, config: FinetuneConfig) -> "Optimizers":
        """Those that a config describes."""
        adversarial = config.adversarial
        steps_left = config.num_steps - adversarial.discriminator_start
        return cls(
            make_optimizer(config.optimizer, config.num_steps),
            make_optimizer(adversarial.optimizer, steps_left),
        )


def init_finetuning(
    config: FinetuneConfig,
    tokenizer: Tokenizer,
    mesh: Mesh,
    perceptual: Perceptual | None = None,
    vision: DepthFeatures | None = None,
) -> tuple[TrainState, Step]:
    """The first state of a fine-tuning of `tokenizer.decoder`, and its step."""
    objective = AdversarialObjective(config, tokenizer, perceptual, vision)
    key, optimizers = jr.key(config.seed), Optimizers.of(config)
    make = eqx.filter_jit(lambda key: objective.make_discriminator(key=key))
    zeros = (jnp.zeros((), kind) for kind in ("float32", "float32", "int32", "int32"))
    student = AdversarialStudent(
        copy_arrays(tokenizer.decoder), make(jr.fold_in(key, 2)),
        RunningStatistics(*zeros),
    )  # fmt: skip
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        student=student,
        teacher=copy_arrays(tokenizer.decoder),
        weights=None,
        opt_state=OptimizerStates(
            optimizers.decoder.init(_named("decoder", student.decoder)),
            optimizers.discriminator.init(
                _named("discriminator", student.discriminator)
            ),
        ),
        key=jr.fold_in(key, 1),
        num_skipped=jnp.zeros((), jnp.int32),
        typical_norm=jnp.zeros((), jnp.float32),
    )
    state = shard_state(state, mesh, config.sharding)
    return state, make_adversarial_step(state, objective, optimizers, mesh)


def make_adversarial_step(
    state: TrainState,
    objective: AdversarialObjective,
    optimizers: Optimizers,
    mesh: Mesh,
) -> Step:
    """The `step(state, batch) -> (state, metrics)`; it donates its state.

    A step updates the decoder, against the discriminator as it is, and then the
    discriminator, on what the decoder makes now. Before their starts the discriminator
    stays as it is, and the decoder learns reconstruction alone; neither costs then what
    it does later, because the step is compiled anew as each begins. `state.student` is
    an `AdversarialStudent`, `state.teacher` the moving average of the decoder.

    A step of which a loss or a gradient is not finite, or whose decoder's gradient is a
    spike, is skipped: both networks, their optimizers and averages stay as they were.

    Metrics are those of `make_step`, whose `total` and `gradient_norm` are the
    decoder's, and

    - `adversarial`, `discriminator` and, with a weight, `lecam`: losses; the decoder's
      total is `reconstruction` and `adaptive_weight` times `adversarial`;
    - `reconstruction_norm`, `adversarial_norm`: of gradients at the last layer, of
      which that weight is made;
    - `discriminator_gradient_norm`;
    - `real_accuracy`, `fake_accuracy`, `real_logit`, `fake_logit`: of the
      discriminator; `real_deviation`, `fake_deviation`: of colors in an image;
    - `saturated_steps`, `flat_steps`: how many in a row the discriminator's loss was
      nearly 0, or what was decoded nearly of one color.

    What has not begun is 0 in them.
    """
    config = objective.config
    static = eqx.filter(state, eqx.is_array, inverse=True)
    places = placement(state, mesh, config.sharding)
    local = _Gradients(objective, static)

    def on_shards(gradient):
        return jax.shard_map(
            gradient, mesh=mesh, in_specs=(REPLICATED, SPLIT), out_specs=REPLICATED
        )

    def no_gradient(arrays, views):
        shapes = jax.eval_shape(on_shards(local.of_discriminator), arrays, views)
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    def on_arrays(begun, arrays, batch):
        key = jr.fold_in(jr.fold_in(arrays.key, arrays.step), 0)
        views = objective.make_views(batch, key)
        seen = without_optimizer(arrays)
        of_decoder = functools.partial(local.of_decoder, has_adversary=begun.decoder)
        total, metrics, gradient = on_shards(of_decoder)(seen, views)
        # From here on each device works on its share, wherever the state is split.
        gradient = lax.with_sharding_constraint(gradient, places.gradient[0].decoder)
        decoder, decoder_state = _updated(
            "decoder", optimizers.decoder, arrays.student.decoder, gradient,
            arrays.opt_state.decoder,
        )  # fmt: skip
        seen = eqx.tree_at(lambda state: state.student.decoder, seen, decoder)
        compute = no_gradient
        if begun.discriminator:
            compute = on_shards(local.of_discriminator)
        other_total, other_metrics, other_gradient = compute(seen, views)
        other_gradient = lax.with_sharding_constraint(
            other_gradient, places.gradient[0].discriminator
        )
        discriminator, running = arrays.student.discriminator, arrays.student.running
        discriminator_state = arrays.opt_state.discriminator
        if begun.discriminator:
            discriminator, discriminator_state = _updated(
                "discriminator", optimizers.discriminator, discriminator,
                other_gradient, discriminator_state,
            )  # fmt: skip
            decay = config.adversarial.lecam_decay
            running = _running(running, other_metrics, decay)
        student = AdversarialStudent(decoder, discriminator, running)
        teacher = moving_average(arrays.teacher, decoder, config.ema_decay)

        norm, other_norm = optax.tree.norm(gradient), optax.tree.norm(other_gradient)
        # Both are updated, or neither is.
        is_finite = jnp.isfinite(other_total + other_norm)
        is_good, typical_norm = check_step(
            jnp.where(is_finite, total, jnp.nan), norm, arrays.typical_norm,
            config.optimizer.spike_factor,
        )  # fmt: skip
        arrays, counts = advance(
            arrays, is_good, typical_norm, student=student, teacher=teacher,
            opt_state=OptimizerStates(decoder_state, discriminator_state),
        )  # fmt: skip
        metrics |= other_metrics | {
            "total": total,
            "gradient_norm": norm,
            "discriminator_gradient_norm": other_norm,
            "saturated_steps": arrays.student.running.saturated_steps,
            "flat_steps": arrays.student.running.flat_steps,
        }
        return arrays, metrics | counts

    # Not one program with a condition: on CPUs a convolution's gradient inside one
    # takes some thirty times as long.
    @functools.cache
    def step_of(begun: Begun) -> Step:
        of_phase = functools.partial(on_arrays, begun)
        return compiled_step(of_phase, static, places.state, mesh)

    last, number = None, 0

    def step(state: TrainState, batch: PyTree) -> tuple[TrainState, dict[str, Array]]:
        nonlocal last, number
        # Reading the number from a device would wait for the step before.
        number = number + 1 if state is last else int(state.step)
        begun = Begun(
            decoder=number >= config.adversarial.decoder_start,
            discriminator=number >= config.adversarial.discriminator_start,
        )
        last, metrics = step_of(begun)(state, batch)
        return last, metrics

    return step


@dataclasses.dataclass(frozen=True)
class _Gradients:
    """Losses, metrics and gradients of both networks; each method inside `shard_map`.

    `static` is what of a state is no array.
    """

    objective: AdversarialObjective
    static: TrainState

    def of_decoder(
        self, arrays: TrainState, views: Any, *, has_adversary: bool
    ) -> Gradient:
        """Of the decoder, which with an adversary learns from the discriminator too."""
        student, config = self._student(arrays), self.objective.config.adversarial
        objective = self.objective.of_decoder(has_adversary=has_adversary)
        teacher, share = None, jnp.zeros((), jnp.float32)
        norms = [share, share]
        if has_adversary:
            teacher = self._cast(student.discriminator)
            weight = student.decoder.to_pixels.weight

            def last_layer(weights):
                parts = (self._cast(part) for part in (student.decoder, *weights))
                total = lambda terms: terms["reconstruction"] + terms["adversarial"]
                return DecoderReadouts(*parts), total

            _, _, by_last = self._of(
                objective, (weight, weight), last_layer, teacher, views, arrays
            )
            norms = [jnp.linalg.norm(gradient) for gradient in by_last]
            share = config.weight * adaptive_weight(
                *norms, eps=config.weight_eps, limit=config.weight_limit
            )
        trainable, rest = eqx.partition(student.decoder, eqx.is_inexact_array)

        def assemble(part):
            decoder = self._cast(eqx.combine(part, rest))
            last = decoder.to_pixels.weight
            total = lambda terms: terms["reconstruction"] + share * terms["adversarial"]
            return DecoderReadouts(decoder, last, last), total

        total, metrics, gradient = self._of(
            objective, trainable, assemble, teacher, views, arrays
        )
        metrics = metrics | {
            "adaptive_weight": share,
            "reconstruction_norm": norms[0],
            "adversarial_norm": norms[1],
        }
        return total, metrics, gradient

    def of_discriminator(self, arrays: TrainState, views: Any) -> Gradient:
        """Of the discriminator, on what the decoder makes now."""
        student = self._student(arrays)
        trainable, rest = eqx.partition(student.discriminator, eqx.is_inexact_array)
        weight = self.objective.config.adversarial.lecam_weight

        def total(terms):
            return terms["discriminator"] + (weight * terms["lecam"] if weight else 0.0)

        assemble = lambda part: (self._cast(eqx.combine(part, rest)), total)
        teachers = (self._cast(student.decoder), student.running)
        objective = self.objective.of_discriminator()
        return self._of(objective, trainable, assemble, teachers, views, arrays)

    def _of(
        self, objective: Objective, trainable: PyTree, assemble: Callable[..., Any],
        teacher: Any, views: Any, arrays: TrainState,
    ) -> Gradient:  # fmt: skip
        key = jr.fold_in(jr.fold_in(arrays.key, arrays.step), 1)
        found = loss_and_gradient(
            objective, trainable, assemble, teacher, views, arrays.step,
            accumulate=self.objective.config.accumulate,
            key=jr.fold_in(key, lax.axis_index(DATA)),
        )  # fmt: skip
        return found.total, found.metrics, found.gradient

    def _student(self, arrays: TrainState) -> AdversarialStudent:
        return eqx.combine(arrays, self.static).student

    def _cast(self, tree: Any) -> Any:
        return cast_params(tree, self.objective.config.precision)


def _named(name: str, network: Any) -> PyTree:
    """Its float arrays by paths that optimizers know: `0.decoder.embed.weight`."""
    return ({name: eqx.filter(network, eqx.is_inexact_array)},)


def _updated(
    name: str,
    optimizer: optax.GradientTransformation,
    arrays: Any,
    gradient: PyTree,
    state: PyTree,
) -> tuple[Any, PyTree]:
    """The arrays of a network, and the state of its optimizer, after an update."""
    trainable, rest = eqx.partition(arrays, eqx.is_inexact_array)
    named = ({name: trainable},)
    updates, state = optimizer.update(({name: gradient},), state, named)
    applied: Any = optax.apply_updates(named, updates)
    arrays = eqx.combine(applied[0][name], rest)
    if isinstance(arrays, FeatureDiscriminator):
        arrays = arrays.updated()
    return arrays, state


def _running(
    running: RunningStatistics, metrics: dict[str, Array], decay: float
) -> RunningStatistics:
    is_saturated = metrics["discriminator"] < SATURATED
    is_flat = metrics["fake_deviation"] < FLAT * metrics["real_deviation"]
    return RunningStatistics(
        moving_average(running.real_logit, metrics["real_logit"], decay),
        moving_average(running.fake_logit, metrics["fake_logit"], decay),
        jnp.where(is_saturated, running.saturated_steps + 1, 0),
        jnp.where(is_flat, running.flat_steps + 1, 0),
    )
