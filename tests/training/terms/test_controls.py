"""What controls act on, and that devices and microbatches change nothing of it."""

import dataclasses
from types import SimpleNamespace

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from vtp_eqx.config import (
    ControlsConfig,
    decoder_like,
    OptimizerConfig,
    TransformerConfig,
)
from vtp_eqx.losses.latents import kl_loss
from vtp_eqx.mesh import data_mesh, shard_batch
from vtp_eqx.models.decoder import PixelDecoder
from vtp_eqx.training.pretrain import initial_state, pretrain_objective, pretrain_step
from vtp_eqx.training.pretrain_views import CaptionedBatch, Needs, PretrainViews
from vtp_eqx.training.state import copy_arrays, shard_state
from vtp_eqx.training.terms.continuity import Continuity
from vtp_eqx.training.terms.encoder_passes import (
    EncoderPasses,
    shares_whole_pass,
    SubsetPass,
)
from vtp_eqx.training.terms.equivariance import RotationEquivariance, ScaleEquivariance
from vtp_eqx.training.terms.kl import KL
from vtp_eqx.training.terms.local_correlation import LocalCorrelation
from vtp_eqx.training.terms.reconstruction import Reconstruction
from vtp_eqx.training.terms.term import Microbatch


EVERY = ControlsConfig(
    noise_law="interpolated", masked_ratio=(-0.1, 0.7), kl_weight=1.0,
    scale_weight=0.25, rotation_weight=0.5, continuity_weight=0.5,
    correlation_weight=0.1,
)  # fmt: skip


@pytest.fixture(scope="module")
def config(tiny):
    """Every control on networks without blocks, which compile in no time."""
    encoder = TransformerConfig(width=16, depth=0, num_heads=2)
    tokenizer = dataclasses.replace(
        tiny.tokenizer, encoder=encoder, decoder=decoder_like(encoder), text=None,
        latent_norm="rms",
    )  # fmt: skip
    return dataclasses.replace(
        tiny, tokenizer=tokenizer, prototypes=None, contrast_weight=0.0,
        distillation_weight=0.0, reconstruction_weight=1.0, latent_noise=0.5,
        controls=EVERY, optimizer=OptimizerConfig(warmup_steps=1, eps=1e-3),
    )  # fmt: skip


@pytest.fixture(scope="module")
def start(config):
    """The first state, whose hidden patches are not zero: a norm divides by them."""
    state = initial_state(config, None)
    where = lambda state: state.student.tokenizer.encoder.mask_token
    return eqx.tree_at(where, state, jr.normal(jr.key(1), where(state).shape))


def outputs_of(term, latents, pixels, weight, *, draw=None, noise=None):
    """The forward pass of a term where the decoder multiplies latents by `weight`."""
    decoder = SimpleNamespace(batch=lambda latents: weight * latents)
    nothing = dict.fromkeys(
        ("whole", "caption", "rebuilt", "global_crops", "local_crops", "masks")
    )
    return term.forward(
        Microbatch(
            student=SimpleNamespace(
                tokenizer=SimpleNamespace(decoder=decoder, denormalize=lambda x: x)
            ),
            teacher=None, targets=None,
            views=PretrainViews(**nothing, noise=noise, draws={term.name: draw}),
            passes=SimpleNamespace(
                subset=SubsetPass(pixels, latents, latents, None),
                rebuilt=weight * latents,
            ),
            step=jnp.zeros((), jnp.int32), key=jr.key(0),
        )
    )  # fmt: skip


LATENTS, NOISE = jr.normal(jr.key(0), (2, 3, 4, 4, 3))
TURNS = jnp.array([1, 2, 3])


@pytest.mark.parametrize(
    ("kind", "draw", "ideal"),
    [
        # A decoder that works on each position by itself is equivariant to both.
        (ScaleEquivariance, None, 1.0),
        (RotationEquivariance, TURNS, 1.0),
        # One that ignores its latents is continuous.
        (Continuity, NOISE, 0.0),
    ],
)
def test_a_decoder_is_asked_for_the_ideal_and_latents_learn(kind, draw, ideal, config):
    term = kind(config)
    loss = lambda latents, pixels, weight, draw: outputs_of(
        term, latents, pixels, weight, draw=draw
    )
    np.testing.assert_allclose(loss(LATENTS, LATENTS, ideal, draw), 0, atol=1e-6)
    found = loss(LATENTS, LATENTS, 0.5, draw)
    assert found.shape == (3,)
    assert (np.asarray(found) > 0.05).all()
    order = np.array([2, 0, 1])
    drawn = None if draw is None else draw[order]
    again = loss(LATENTS[order], LATENTS[order], 0.5, drawn)
    np.testing.assert_allclose(again, found[order], rtol=1e-5)
    by_latents, by_weight = jax.grad(
        lambda latents, weight: loss(latents, LATENTS, weight, draw).sum(),
        argnums=(0, 1),
    )(LATENTS, 0.5)
    assert (np.abs(by_latents).max(axis=(1, 2, 3)) > 1e-3).all()
    assert abs(float(by_weight)) > 1e-3


def test_correlation_is_of_latents_alone(config):
    loss = lambda weight: outputs_of(
        LocalCorrelation(config), LATENTS, LATENTS, weight
    ).sum()
    assert float(loss(1.0)) > 0
    assert float(jax.grad(loss)(1.0)) == 0


def noisy(config, law, share, size=0.5, latents=LATENTS):
    controls = ControlsConfig(noise_law=law)
    config = dataclasses.replace(config, controls=controls, latent_noise=size)
    draw = None if law == "fixed" else jnp.full(3, share)
    # Pixels are zero, so that L1 is the mean size of noisy latents.
    return outputs_of(
        Reconstruction(config), latents, jnp.zeros_like(LATENTS), 1.0,
        draw=draw, noise=NOISE,
    )  # fmt: skip


def test_noise_follows_its_law(config):
    size = lambda grid: np.abs(np.asarray(grid)).mean(axis=(1, 2, 3))
    close = lambda found, grid: np.testing.assert_allclose(found, size(grid), rtol=1e-5)
    # Behind a norm the noise is in units of 1.
    close(noisy(config, "fixed", None), LATENTS + 0.5 * NOISE)
    close(noisy(config, "uniform", 0.3), LATENTS + 0.15 * NOISE)
    close(noisy(config, "interpolated", 0.3), 0.7 * LATENTS + 0.15 * NOISE)
    close(noisy(config, "interpolated", 0.0), LATENTS)
    # RecTok: by the root of 48 numbers over 4096.
    a = (48 / 4096) ** 0.5
    share = a * 0.3 / (1 + (a - 1) * 0.3)
    close(noisy(config, "shifted", 0.3), (1 - share) * LATENTS + share * 0.5 * NOISE)
    alone = noisy(config, "interpolated", 1.0)
    close(alone, 0.5 * NOISE)
    np.testing.assert_array_equal(
        noisy(config, "interpolated", 1.0, latents=9 * LATENTS), alone
    )


def test_each_term_draws_its_own_for_each_image(config, data):
    batch = CaptionedBatch(data["image"][:16], None)
    make_views = pretrain_objective(config, num_shards=1).make_views
    views = jax.jit(make_views)(batch, jr.key(0))
    grid = (8, 4, 4, 4)
    assert views.draws["kl"].shape == views.draws["continuity"].shape == grid
    assert not np.array_equal(views.draws["kl"], views.draws["continuity"])
    assert set(views.draws["rotation_equivariance"].tolist()) <= {1, 2, 3}
    share = np.asarray(views.draws["reconstruction"])
    assert ((share >= 0) & (share < 1)).all()
    assert len(set(share.tolist())) == 8
    assert views.hidden.shape == (8, 16)
    hidden = np.asarray(views.hidden.sum(axis=1))
    assert hidden.max() <= 11  # of 16, at most 0.7
    assert len(set(hidden.tolist())) > 2  # a share for each image


def test_a_posterior_is_around_what_encode_returns(config, start, data):
    student = start.student
    image = jnp.asarray(data["image"][:8] / np.float32(255))
    draw = jr.normal(jr.key(2), (8, 4, 4, 4))
    nothing = dict.fromkeys(
        ("caption", "noise", "global_crops", "local_crops", "masks")
    )
    term = KL(config)

    @eqx.filter_jit
    def both(student, draw, hidden, image):
        views = PretrainViews(
            whole=image, rebuilt=jnp.zeros(8, jnp.int32), **nothing, hidden=hidden,
            draws={"kl": draw},
        )  # fmt: skip
        passes = EncoderPasses(
            student.tokenizer, views, config, term.needs, heads=student.heads,
            key=jr.key(0),
        )  # fmt: skip
        rows = Microbatch(
            student=student, teacher=None, views=views, targets=None, passes=passes,
            step=jnp.zeros((), jnp.int32), key=jr.key(0),
        )  # fmt: skip
        return passes.subset, term.forward(rows)

    seen = jnp.zeros((8, 16), bool)
    subset, outputs = both(student, draw, seen, image)
    encoded = jax.vmap(student.tokenizer.encode)(image)
    np.testing.assert_allclose(subset.mean, encoded, rtol=1e-4, atol=1e-5)
    deviation = np.exp(np.asarray(subset.log_variance) / 2)
    np.testing.assert_allclose(deviation, np.exp(-3), rtol=0.2)
    expected = subset.mean + deviation * draw
    np.testing.assert_allclose(subset.latents, expected, rtol=1e-4, atol=1e-5)
    found = term.loss(student, outputs)
    nats = kl_loss(subset.mean, subset.log_variance)
    # Of 4 latents beside 3 * 4 * 4 values of a patch.
    np.testing.assert_allclose(found.value, nats * 4 / 48, rtol=1e-5)
    np.testing.assert_allclose(found.monitors["kl_per_latent"], nats, rtol=1e-5)
    # What is hidden is not read, and the rest is: there are no blocks to mix them.
    hidden = seen.at[:, :6].set(True)
    one, other = (
        both(student, 0 * draw, hidden, image)[0].latents.reshape(8, 16, 4)
        for image in (image, image[::-1])
    )
    np.testing.assert_array_equal(one[:, :6], other[:, :6])
    assert (np.abs(one - other)[:, 6:].max(axis=(1, 2)) > 1e-3).all()


def test_only_what_sees_all_patches_is_shared(tiny):
    pairs = Needs.PAIRS | Needs.SUBSET
    masked = dataclasses.replace(tiny, controls=ControlsConfig(masked_ratio=(0, 0.5)))
    assert shares_whole_pass(tiny, pairs)
    assert not shares_whole_pass(masked, pairs)


def updated(config, start, data, num_devices):
    mesh = data_mesh(num_devices)
    state = shard_state(copy_arrays(start), mesh, config.sharding)
    step = pretrain_step(config, state, mesh)
    batch = CaptionedBatch(data["image"][: config.batch_size], None)
    state, metrics = step(state, shard_batch(batch, mesh))
    arrays = eqx.filter((state.student, state.weights), eqx.is_inexact_array)
    return jax.tree.map(np.asarray, arrays), {k: float(v) for k, v in metrics.items()}


@pytest.fixture(scope="module")
def alone(config, start, data):
    return updated(config, start, data, 1)


@pytest.mark.slow
@pytest.mark.parametrize(("num_devices", "accumulate"), [(2, 2), (8, 1)])
def test_devices_and_microbatches_do_not_change_the_update(
    num_devices, accumulate, config, start, data, alone
):
    split = dataclasses.replace(config, accumulate=accumulate)
    arrays, metrics = updated(split, start, data, num_devices)
    expected, expected_metrics = alone
    assert {*EVERY.term_weights} < metrics.keys()
    for name, value in expected_metrics.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-3, err_msg=name)
    before = eqx.filter((start.student, start.weights), eqx.is_inexact_array)
    changed = 0
    for found, value, old in zip(
        *map(jax.tree.leaves, (arrays, expected, before)), strict=True
    ):
        np.testing.assert_allclose(found, value, rtol=1e-3, atol=2e-5)
        changed += not np.array_equal(value, old)
    assert changed > 10


def test_flops_are_those_of_the_compiler(tiny):
    # One block, because a compiler counts what a loop repeats once.
    wide = TransformerConfig(width=384, depth=1, num_heads=4, norm="layernorm")
    tokenizer = dataclasses.replace(
        tiny.tokenizer, encoder=wide, decoder=wide, image_size=32, patch_size=8,
        latent_width=64,
    )  # fmt: skip
    controls = dataclasses.replace(EVERY, noise_law="fixed")
    config = dataclasses.replace(tiny, tokenizer=tokenizer, controls=controls)
    made = lambda: PixelDecoder(wide, 64, 8, "float32", key=jr.key(0))
    arrays, static = eqx.partition(
        eqx.filter_eval_shape(made), lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct)
    )
    latents, pixels = jnp.zeros((1, 4, 4, 64)), jnp.zeros((1, 32, 32, 3))

    def forward(arrays, latents, pixels, draw, term):
        tokenizer = SimpleNamespace(
            decoder=eqx.combine(arrays, static), denormalize=lambda x: x
        )
        return term.forward(
            Microbatch(
                student=SimpleNamespace(tokenizer=tokenizer), teacher=None,
                views=SimpleNamespace(draws={term.name: draw}), targets=None,
                passes=SimpleNamespace(
                    subset=SubsetPass(pixels, latents, latents, None), rebuilt=pixels
                ),
                step=jnp.zeros((), jnp.int32), key=jr.key(0),
            )
        )  # fmt: skip

    for term, draw in (
        (ScaleEquivariance(config), None),
        (RotationEquivariance(config), jnp.ones(1, jnp.int32)),
        (Continuity(config), latents),
    ):
        lowered = jax.jit(forward, static_argnames="term").lower(
            arrays, latents, pixels, draw, term=term
        )
        assert term.flops().student == pytest.approx(
            lowered.cost_analysis()["flops"], rel=0.03
        ), term.name
    head = KL(config).make_head(jr.key(0))
    cost = jax.jit(lambda features: head(features)).lower(
        jnp.zeros((16, tokenizer.encoder.width))
    )
    assert KL(config).flops().student == pytest.approx(
        cost.cost_analysis()["flops"], rel=0.03
    )
