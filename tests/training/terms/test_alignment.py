import dataclasses
import json

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from vtp_eqx.config import (
    AlignmentConfig,
    ControlsConfig,
    decoder_like,
    from_dict,
    OptimizerConfig,
    PretrainConfig,
    TransformerConfig,
)
from vtp_eqx.config.presets import VA_VAE_B
from vtp_eqx.frozen.dinov2 import DinoV2, DinoV2Config
from vtp_eqx.frozen.encoder import FrozenEncoder
from vtp_eqx.losses.alignment import cosine_loss, similarity_loss
from vtp_eqx.mesh import data_mesh, shard_batch
from vtp_eqx.models.tokenizer import Tokenizer
from vtp_eqx.runs.log import read_log
from vtp_eqx.runs.pretrain import pretrain
from vtp_eqx.training.flops import train_flops
from vtp_eqx.training.parameter_counts import decoder_flops, encoder_flops
from vtp_eqx.training.pretrain import (
    initial_state,
    pretrain_objective,
    pretrain_step,
    pretrain_terms,
)
from vtp_eqx.training.pretrain_views import CaptionedBatch, PretrainViews
from vtp_eqx.training.state import copy_arrays, shard_state
from vtp_eqx.training.terms.alignment import Alignment, FeatureGrid
from vtp_eqx.training.terms.encoder_passes import EncoderPasses
from vtp_eqx.training.terms.term import Microbatch, ViewsAndTargets


WIDTH = 6


@pytest.fixture(scope="module")
def vision():
    config = DinoV2Config(
        width=WIDTH, depth=1, num_heads=2, patch_size=2, grid_size=4, num_registers=0
    )
    network = eqx.filter_jit(DinoV2)(config, key=jr.key(3))
    return FeatureGrid(network, 4)


@pytest.fixture(scope="module")
def aligned(tiny):
    return dataclasses.replace(
        tiny,
        contrast_weight=0.0,
        distillation_weight=0.0,
        alignment=AlignmentConfig(
            width=WIDTH, cosine_margin=0.0, similarity_margin=0.0
        ),
        alignment_weight=0.5,
        num_steps=2,
    )


@pytest.fixture(scope="module")
def student(aligned):
    return initial_state(aligned, None).student


@pytest.fixture(scope="module")
def views(data):
    image = jnp.asarray(data["image"][:8] / np.float32(255))
    nothing = dict.fromkeys(
        ("caption", "noise", "global_crops", "local_crops", "masks")
    )
    return PretrainViews(whole=image, rebuilt=jnp.zeros(8, jnp.int32), **nothing)


def outputs_of(term, student, views):
    passes = EncoderPasses(
        student.tokenizer, views, term.config, term.needs, key=jr.key(0)
    )
    return term.forward(
        Microbatch(
            student=student, teacher=None, views=views, targets=None, passes=passes,
            step=jnp.zeros((), jnp.int32), key=jr.key(0),
        )
    )  # fmt: skip


def test_its_gradient_reaches_encoder_and_bottleneck_but_no_decoder(
    aligned, student, views, vision
):
    term = Alignment(aligned, vision)

    @eqx.filter_jit
    @eqx.filter_grad(has_aux=True)
    def gradient(student):
        outputs = outputs_of(term, student, views)
        return term.loss(student, outputs).value.mean(), outputs

    found, outputs = gradient(student)
    tokenizer = found.tokenizer
    largest = lambda tree: max(
        float(jnp.abs(leaf).max())
        for leaf in jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array))
    )
    assert largest(tokenizer.encoder.stack) > 1e-6
    assert largest(tokenizer.bottleneck) > 1e-6
    assert largest(found.heads["alignment"]) > 1e-6
    assert largest(tokenizer.decoder) == 0
    # The losses of the latents as they are, through the map to the network's width.
    latents = jax.jit(jax.vmap(student.tokenizer.encode))(views.whole)
    mapped = student.heads["alignment"](latents)
    features = jax.jit(jax.vmap(vision))(views.whole)
    for name, loss in (("cosine", cosine_loss), ("similarity", similarity_loss)):
        expected = loss(mapped, features, margin=0.0)
        np.testing.assert_allclose(getattr(outputs, name), expected, rtol=1e-4)


def test_a_tokenizer_is_pretrained_on_pixels_and_alignment(
    aligned, data, vision, student, tmp_path
):
    assert [term.name for term in pretrain_terms(aligned)] == [
        "reconstruction", "alignment",
    ]  # fmt: skip
    images = {"image": data["image"]}
    trained = pretrain(
        aligned, images, folder=tmp_path, mesh=data_mesh(1), vision=vision
    )
    lines = read_log(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2]
    for line in lines:
        parts = line["alignment_cosine"] + line["alignment_similarity"]
        assert line["alignment"] == pytest.approx(parts, rel=1e-5)
        total = 0.1 * line["reconstruction"] + 0.5 * line["alignment"]
        assert line["total"] == pytest.approx(total, rel=1e-5)
    before = student.tokenizer
    for part in ("encoder", "bottleneck", "decoder"):
        assert not eqx.tree_equal(getattr(trained, part), getattr(before, part))
    # What the term trains beside the tokenizer is no part of it.
    assert jax.tree.structure(trained) == jax.tree.structure(before)


def test_latents_learn_to_be_like_an_encoder_of_ours_which_learns_nothing(
    aligned, student, views
):
    # It has other patches, of which there must be as many.
    shape = dataclasses.replace(aligned.tokenizer, patch_size=8, image_size=32)
    teacher = eqx.filter_jit(Tokenizer)(shape, key=jr.key(5))
    vision = FeatureGrid.for_latents(FrozenEncoder.of(teacher), aligned.tokenizer)
    large = jax.image.resize(views.whole[0], (32, 32, 3), "bilinear", antialias=True)
    expected = teacher.features(large)[0].patches.reshape(4, 4, -1)
    np.testing.assert_allclose(vision(views.whole[0]), expected, atol=1e-5)
    config = dataclasses.replace(
        aligned, alignment=dataclasses.replace(aligned.alignment, width=16)
    )
    head = Alignment(config, vision).make_head(jr.key(6))
    student = eqx.tree_at(lambda student: student.heads["alignment"], student, head)

    @eqx.filter_jit
    @eqx.filter_value_and_grad
    def gradient(both):
        student, vision = both
        term = Alignment(config, vision)
        return term.loss(student, outputs_of(term, student, views)).value.mean()

    losses = []
    for _ in range(12):
        loss, (own, frozen) = gradient((student, vision))
        losses.append(float(loss))
        assert not any(leaf.any() for leaf in jax.tree.leaves(frozen))
        step = jax.tree.map(lambda leaf: -0.01 * jnp.sign(leaf), own)
        student = eqx.apply_updates(student, step)
    assert losses[-1] < 0.8 * losses[0]


def test_alignment_without_its_network_is_refused(aligned):
    with pytest.raises(ValueError, match=r"^`vision` must be the frozen network .*0.5"):
        pretrain_objective(aligned, num_shards=1)


def test_features_on_another_grid_are_refused(aligned, student, views, vision):
    coarse = Alignment(aligned, FeatureGrid(vision.network, 2))
    message = r"`vision` must return features of shape \[4, 4, 6\].* got \[2, 2, 6\]"
    with pytest.raises(ValueError, match=message):
        eqx.filter_eval_shape(lambda: outputs_of(coarse, student, views))


def test_a_dinov2_sees_as_many_patches_as_there_are_latents(vision, tiny, views):
    grid = FeatureGrid.for_latents(vision.network, tiny.tokenizer)
    assert grid.grid_size == 4
    image = views.whole[0]
    small = jax.image.resize(image, (8, 8, 3), "bilinear", antialias=True)
    expected = vision.network(small).patches.reshape(4, 4, WIDTH)
    np.testing.assert_allclose(grid(image), expected, rtol=1e-5)


@pytest.fixture(scope="module")
def adaptive(aligned):
    """VA-VAE, all of it, in networks without blocks, which compile in no time."""
    encoder = TransformerConfig(width=16, depth=0, num_heads=2)
    tokenizer = dataclasses.replace(
        aligned.tokenizer, encoder=encoder, decoder=decoder_like(encoder), text=None
    )
    return dataclasses.replace(
        aligned, tokenizer=tokenizer, prototypes=None,
        alignment=dataclasses.replace(aligned.alignment, weighting="adaptive"),
        controls=ControlsConfig(kl_weight=1e-2),
        optimizer=OptimizerConfig(warmup_steps=1, eps=1e-3),
    )  # fmt: skip


@pytest.fixture(scope="module")
def start(adaptive):
    return initial_state(adaptive, None)


def updated(config, start, data, vision, num_devices):
    """The arrays of the student, before and after a step, and the step's metrics."""
    mesh, start = data_mesh(num_devices), copy_arrays(start)
    student = lambda state: jax.tree.map(
        np.asarray, eqx.filter(state.student, eqx.is_inexact_array)
    )
    before = student(start)
    step = pretrain_step(config, start, mesh, vision=vision)
    batch = CaptionedBatch(data["image"][: config.batch_size], None)
    state, metrics = step(shard_state(start, mesh, "none"), shard_batch(batch, mesh))
    return (
        before,
        student(state),
        {name: float(value) for name, value in metrics.items()},
    )


@pytest.fixture(scope="module")
def on_one_device(adaptive, start, data, vision):
    return updated(adaptive, start, data, vision, 1)


def test_an_adaptive_weight_makes_alignment_pull_as_hard_as_pixels(
    adaptive, start, data, vision, on_one_device
):
    _, _, metrics = on_one_device
    objective = pretrain_objective(adaptive, num_shards=1, vision=vision)
    keys = [jr.fold_in(jr.fold_in(start.key, 0), number) for number in (0, 1)]
    batch = CaptionedBatch(data["image"][: adaptive.batch_size], None)

    @jax.jit
    def norms(batch):
        views = ViewsAndTargets(objective.make_views(batch, keys[0]), (None,) * 3)

        def last_layer(student):
            return student.tokenizer.bottleneck.weight, student.heads["kl"].weight

        def mean(layer, name):
            student = eqx.tree_at(last_layer, start.student, layer)
            outputs = objective.forward(student, None, views, start.step, keys[1])
            return objective.loss(student, outputs)[0][name].mean()

        layer = last_layer(start.student)
        return [
            jnp.sqrt(sum((part**2).sum() for part in jax.grad(mean)(layer, name)))
            for name in ("reconstruction", "alignment")
        ]

    pixels, own = map(float, norms(batch))
    assert metrics["reconstruction_norm"] == pytest.approx(0.1 * pixels, rel=1e-4)
    assert metrics["alignment_norm"] == pytest.approx(own, rel=1e-4)
    weight = 0.5 * 0.1 * pixels / (own + 1e-4)
    assert metrics["adaptive_weight"] == pytest.approx(weight, rel=1e-4)
    total = 0.1 * metrics["reconstruction"] + weight * metrics["alignment"]
    total += 1e-2 * metrics["kl"]
    assert metrics["total"] == pytest.approx(total, rel=1e-4)


def test_an_adaptive_weight_has_its_limit(adaptive, start, data, vision, on_one_device):
    limit = on_one_device[2]["adaptive_weight"] / adaptive.alignment_weight / 3
    config = dataclasses.replace(
        adaptive, alignment=dataclasses.replace(adaptive.alignment, weight_limit=limit)
    )
    _, _, metrics = updated(config, start, data, vision, 1)
    weight = adaptive.alignment_weight * limit
    assert metrics["adaptive_weight"] == pytest.approx(weight, rel=1e-5)


def test_devices_and_microbatches_do_not_change_an_adaptive_update(
    adaptive, start, data, vision, on_one_device
):
    split = dataclasses.replace(adaptive, accumulate=2)
    _, arrays, metrics = updated(split, start, data, vision, 2)
    before, expected, expected_metrics = on_one_device
    for name, value in expected_metrics.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-3, err_msg=name)
    for found, value in zip(*map(jax.tree.leaves, (arrays, expected)), strict=True):
        np.testing.assert_allclose(found, value, rtol=1e-3, atol=2e-5)
    moved = jax.tree.map(
        lambda new, old: not np.array_equal(new, old), expected, before
    )
    assert moved.tokenizer.bottleneck.weight
    assert moved.heads["kl"].weight


def test_an_adaptive_weight_needs_pixels_and_fixed_weights(adaptive):
    with pytest.raises(ValueError, match=r"^`alignment.weighting` .* is 0: raise it"):
        dataclasses.replace(
            adaptive, reconstruction_weight=0.0, controls=ControlsConfig()
        )
    with pytest.raises(ValueError, match=r"^`alignment.weighting` .* got 'learned'"):
        dataclasses.replace(adaptive, weighting="learned")
    with pytest.raises(ValueError, match=r"^`alignment.weight_eps` \(0\) must be"):
        AlignmentConfig(weight_eps=0)


def test_norms_cost_what_they_compute(adaptive):
    fixed, own = (
        dataclasses.replace(
            adaptive, alignment=dataclasses.replace(adaptive.alignment, weighting=name)
        )
        for name in ("fixed", "adaptive")
    )
    tokenizer = adaptive.tokenizer
    parts = encoder_flops(tokenizer, tokenizer.image_size)
    parts += 2 * decoder_flops(tokenizer)
    more = train_flops(own) - train_flops(fixed)
    assert more == pytest.approx(adaptive.reconstruction_batch * parts)


def test_its_preset_is_va_vae_and_survives_json():
    names = [term.name for term in pretrain_terms(VA_VAE_B)]
    assert names == ["reconstruction", "alignment", "kl"]
    assert VA_VAE_B.alignment.weighting == "adaptive"
    fields = json.loads(json.dumps(dataclasses.asdict(VA_VAE_B)))
    assert from_dict(PretrainConfig, fields) == VA_VAE_B
