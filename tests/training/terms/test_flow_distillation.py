import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from tests.training.conftest import tiny_config
from vtp_eqx.config import (
    ControlsConfig,
    decoder_like,
    FlowDistillationConfig,
    OptimizerConfig,
    short_hash,
    TransformerConfig,
)
from vtp_eqx.losses.alignment import cosine_loss
from vtp_eqx.losses.cosines import unit_norm
from vtp_eqx.mesh import data_mesh, shard_batch
from vtp_eqx.training.pretrain import (
    initial_state,
    pretrain_objective,
    pretrain_step,
    pretrain_terms,
)
from vtp_eqx.training.pretrain_views import CaptionedBatch, PretrainViews
from vtp_eqx.training.state import shard_state
from vtp_eqx.training.terms.encoder_passes import EncoderPasses
from vtp_eqx.training.terms.flow_distillation import FlowDistillation
from vtp_eqx.training.terms.term import Microbatch


WIDTH = 6
TOWER = TransformerConfig(width=16, depth=0, num_heads=2)
TINY = tiny_config()
CONFIG = dataclasses.replace(
    TINY,
    tokenizer=dataclasses.replace(
        TINY.tokenizer, encoder=TOWER, decoder=decoder_like(TOWER), text=None,
        latent_norm="rms",
    ),
    prototypes=None,
    contrast_weight=0.0,
    distillation_weight=0.0,
    flow_distillation=FlowDistillationConfig(
        weight=0.5, width=WIDTH,
        decoder=TransformerConfig(width=8, depth=1, num_heads=2, init="clip"),
    ),
    latent_noise=1.0,
    controls=ControlsConfig(noise_law="interpolated"),
    optimizer=OptimizerConfig(warmup_steps=1, eps=1e-3),
)  # fmt: skip
FEATURES = jr.normal(jr.key(3), (3, WIDTH))


def vision(image):
    """Features of an image on the grid of its latents: its colors, turned."""
    return image.reshape(4, 4, 4, 4, 3).mean(axis=(1, 3)) @ FEATURES


@pytest.fixture(scope="module")
def student():
    return initial_state(CONFIG, None).student


@pytest.fixture(scope="module")
def images(data):
    return jnp.asarray(data["image"][:8] / np.float32(255))


@eqx.filter_jit
def losses_of(student, images, shares):
    """The loss of each image whose latents became noise by `shares`."""
    nothing = dict.fromkeys(("caption", "global_crops", "local_crops", "masks"))
    views = PretrainViews(
        whole=images, rebuilt=jnp.zeros(8, jnp.int32), **nothing,
        noise=jr.normal(jr.key(4), (8, 4, 4, 4)), draws={"reconstruction": shares},
    )  # fmt: skip
    term = FlowDistillation(CONFIG, vision)
    passes = EncoderPasses(student.tokenizer, views, CONFIG, term.needs, key=jr.key(0))
    return term.forward(
        Microbatch(
            student=student, teacher=None, views=views, targets=None, passes=passes,
            step=jnp.zeros((), jnp.int32), key=jr.key(0),
        )
    )  # fmt: skip


def test_features_are_told_from_points_of_the_flow(student, images):
    shares = jnp.linspace(0, 0.9, 8)
    noise = jr.normal(jr.key(4), (8, 4, 4, 4))

    @eqx.filter_jit
    def by_hand(student, images):
        latents = jax.vmap(student.tokenizer.encode)(images)
        share = shares[:, None, None, None]
        points = (1 - share) * latents + share * noise
        guess = student.heads["flow_distillation"].batch(points)
        return guess, jax.vmap(vision)(images)

    guess, features = by_hand(student, images)
    cosine = jnp.sum(unit_norm(guess) * unit_norm(features), axis=-1)
    expected = 1 - cosine.mean(axis=(1, 2))
    np.testing.assert_allclose(
        losses_of(student, images, shares), expected, rtol=1e-4, atol=1e-5
    )


def test_noise_alone_tells_nothing_of_an_image(student, images):
    @eqx.filter_jit
    @eqx.filter_grad
    def gradient(student, share):
        return losses_of(student, images, jnp.full(8, share)).mean()

    largest = lambda tree: max(
        float(jnp.abs(leaf).max())
        for leaf in jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array))
        if leaf.size > 0
    )
    latent, noise = gradient(student, 0.0), gradient(student, 1.0)
    for found in (latent, noise):
        assert largest(found.heads["flow_distillation"]) > 1e-5
        assert largest(found.tokenizer.decoder) == 0
    assert largest(latent.tokenizer.encoder.patch_embed) > 1e-5
    assert largest(latent.tokenizer.bottleneck) > 1e-5
    assert largest(noise.tokenizer.encoder) == 0


def updated(config, data, num_devices, vision=vision):
    mesh, start = data_mesh(num_devices), initial_state(config, None)
    step = pretrain_step(config, start, mesh, vision=vision)
    batch = CaptionedBatch(data["image"][: config.batch_size], None)
    state, metrics = step(shard_state(start, mesh, "none"), shard_batch(batch, mesh))
    arrays = jax.tree.map(np.asarray, eqx.filter(state.student, eqx.is_inexact_array))
    return arrays, {name: float(value) for name, value in metrics.items()}


def test_devices_and_microbatches_do_not_change_the_update(data, student):
    arrays, metrics = updated(CONFIG, data, 1)
    total = 0.1 * metrics["reconstruction"] + 0.5 * metrics["flow_distillation"]
    assert metrics["total"] == pytest.approx(total, rel=1e-5)
    split = dataclasses.replace(CONFIG, accumulate=2)
    found, found_metrics = updated(split, data, 2)
    for name, value in metrics.items():
        np.testing.assert_allclose(found_metrics[name], value, rtol=1e-3, err_msg=name)
    for one, other in zip(*map(jax.tree.leaves, (found, arrays)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=2e-5)
    head = lambda student: student.heads["flow_distillation"].out.weight
    assert not np.array_equal(head(arrays), head(student))


def test_there_must_be_a_flow_and_a_network():
    names = [term.name for term in pretrain_terms(CONFIG)]
    assert names == ["reconstruction", "flow_distillation"]
    with pytest.raises(ValueError, match=r"^`vision` must be .* \(0.5\) is above 0"):
        pretrain_objective(CONFIG, num_shards=1)
    with pytest.raises(ValueError, match=r"^`flow_distillation.weight` needs .* got"):
        dataclasses.replace(CONFIG, controls=ControlsConfig(), latent_noise=0.5)


def test_flops_are_those_of_the_compiler():
    # One block, because a compiler counts what a loop repeats once; attention's
    # products, which the rule leaves out, are few.
    wide = TransformerConfig(width=192, depth=1, num_heads=4)
    config = dataclasses.replace(
        CONFIG, flow_distillation=FlowDistillationConfig(weight=1.0, decoder=wide)
    )
    term = FlowDistillation(config, vision)
    head = eqx.filter_jit(term.make_head)(jr.key(0))
    cost = jax.jit(lambda grid: head.batch(grid)).lower(jnp.zeros((1, 4, 4, 4)))
    compiled = cost.cost_analysis()["flops"]
    assert term.flops().student == pytest.approx(compiled, rel=0.03)


# The EMA teacher of self-distillation in place of a frozen network.
JOINT = dataclasses.replace(
    TINY,
    tokenizer=dataclasses.replace(TINY.tokenizer, latent_norm="rms", text=None),
    contrast_weight=0.0,
    flow_distillation=dataclasses.replace(
        CONFIG.flow_distillation, target="teacher", width=16
    ),
    latent_noise=1.0,
    controls=ControlsConfig(noise_law="interpolated"),
)


def test_the_teacher_of_self_distillation_can_be_the_target(images):
    state = initial_state(JOINT, None)
    # A teacher that is not its student any more.
    teacher = jax.tree.map(lambda leaf: 1.1 * leaf, state.teacher)
    nothing = dict.fromkeys(("caption", "global_crops", "local_crops", "masks"))
    shares = jnp.linspace(0, 0.9, 8)
    views = PretrainViews(
        whole=images, rebuilt=jnp.zeros(8, jnp.int32), **nothing,
        noise=jr.normal(jr.key(4), (8, 4, 4, 4)), draws={"reconstruction": shares},
    )  # fmt: skip
    term = FlowDistillation(JOINT)

    @eqx.filter_jit
    def losses(models):
        student, teacher = models
        passes = EncoderPasses(
            student.tokenizer, views, JOINT, term.needs, key=jr.key(0)
        )
        return term.forward(
            Microbatch(
                student=student, teacher=teacher, views=views, targets=None,
                passes=passes, step=jnp.zeros((), jnp.int32), key=jr.key(0),
            )
        ).mean()  # fmt: skip

    @eqx.filter_jit
    def by_hand(student, teacher):
        latents = jax.vmap(student.tokenizer.encode)(images)
        share = shares[:, None, None, None]
        points = (1 - share) * latents + share * views.noise
        guess = student.heads["flow_distillation"].batch(points)
        patches = teacher.encoder.batch(teacher.normalize(images)).patches
        return cosine_loss(guess, patches.reshape(guess.shape), margin=0.0).mean()

    models = (state.student, teacher)
    found = losses(models)
    np.testing.assert_allclose(found, by_hand(*models), rtol=1e-4)
    assert abs(found - losses((state.student, state.teacher))) > 1e-4
    of_student, of_teacher = eqx.filter_grad(losses)(models)
    arrays = jax.tree.leaves(eqx.filter(of_teacher, eqx.is_inexact_array))
    assert all((leaf == 0).all() for leaf in arrays)
    assert jnp.abs(of_student.tokenizer.bottleneck.weight).max() > 1e-6


@pytest.mark.slow
def test_no_frozen_network_is_needed_and_devices_do_not_matter(data):
    arrays, metrics = updated(JOINT, data, 1, vision=None)
    assert metrics["flow_distillation"] > 0
    split = dataclasses.replace(JOINT, accumulate=2)
    found, found_metrics = updated(split, data, 2, vision=None)
    for name in ("flow_distillation", "distillation", "total"):
        np.testing.assert_allclose(found_metrics[name], metrics[name], rtol=1e-3)
    for one, other in zip(*map(jax.tree.leaves, (found, arrays)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-2, atol=1e-4)


def test_there_must_be_a_teacher_as_wide_as_asked():
    assert short_hash(FlowDistillationConfig(target="frozen")) == short_hash(
        FlowDistillationConfig()
    )
    assert JOINT.vision_widths == {}
    assert CONFIG.vision_widths == {"flow_distillation": WIDTH}
    with pytest.raises(ValueError, match=r"^`flow_distillation.target` \('teacher'\)"):
        dataclasses.replace(JOINT, distillation_weight=0.0)
    narrow = dataclasses.replace(JOINT.flow_distillation, width=WIDTH)
    with pytest.raises(ValueError, match=r"^`flow_distillation.width` \(6\) must be"):
        dataclasses.replace(JOINT, flow_distillation=narrow)
    more = FlowDistillation(JOINT).flops()
    assert more.teacher == more.subset_pass > 0
