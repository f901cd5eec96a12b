import dataclasses

import equinox as eqx
from hypothesis import given, strategies as st
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from vtp_eqx.mesh import data_mesh, REPLICATED, shard_batch
from vtp_eqx.models.tokenizer import Pretrainer, Teacher, Tokenizer
from vtp_eqx.training.pretrain import (
    clamp_logit_scale,
    init_pretraining,
    pretrain_objective,
)
from vtp_eqx.training.pretrain_views import (
    CaptionedBatch,
    Needs,
    PretrainViews,
    select_rows,
)
from vtp_eqx.training.terms.encoder_passes import EncoderPasses


NAMES = ("contrast", "distillation", "reconstruction")


def only(config, *names, **changes):
    """`config` with the weights of the other terms at 0."""
    left_out = {f"{name}_weight": 0.0 for name in NAMES if name not in names}
    return dataclasses.replace(config, **left_out, **changes)


def alone(function):
    """`function` as one device of a mesh runs it, compiled."""
    return jax.jit(
        jax.shard_map(
            function, mesh=data_mesh(1), in_specs=REPLICATED, out_specs=REPLICATED
        )
    )


def terms_of(objective, student, teacher, views, key):
    """Terms and monitors of a batch in one microbatch, at the first step."""
    step = jnp.zeros((), jnp.int32)
    taught = objective.add_teacher_targets(
        teacher, jax.tree.map(lambda rows: rows[None], views), step
    )
    views = jax.tree.map(lambda rows: rows[0], taught)
    return objective.loss(
        student, objective.forward(student, teacher, views, step, key)
    )


@pytest.fixture(scope="module")
def models(tiny):
    student = eqx.filter_jit(Pretrainer)(tiny.tokenizer, tiny.prototypes, key=jr.key(1))
    # Mask tokens start at zero, where they would hide what they are read by.
    hidden = jr.normal(jr.key(2), student.tokenizer.encoder.mask_token.shape)
    where = lambda student: student.tokenizer.encoder.mask_token
    student = eqx.tree_at(where, student, hidden)
    return student, Teacher.of(student)


@pytest.fixture(scope="module")
def batch(tiny, data):
    size = tiny.batch_size
    return CaptionedBatch(data["image"][:size], data["caption"][:size])


@pytest.fixture(scope="module")
def views(tiny, batch):
    return jax.jit(pretrain_objective(tiny, num_shards=1).make_views)(batch, jr.key(0))


@given(seed=st.integers(0, 2**31 - 1), chosen=st.sampled_from([1, 2, 4, 8]))
def test_a_picked_subset_has_one_row_of_every_stratum(seed, chosen):
    stratum = 8 // chosen
    offsets = np.random.default_rng(seed).integers(0, stratum, chosen)
    found = np.asarray(select_rows(jnp.arange(8), jnp.asarray(offsets)))
    np.testing.assert_array_equal(found // stratum, np.arange(chosen))
    np.testing.assert_array_equal(found % stratum, offsets)


def test_every_image_is_rebuilt_some_time(tiny, batch):
    draw = jax.jit(
        lambda key: pretrain_objective(
            only(tiny, "contrast", "reconstruction"), num_shards=1
        ).make_views(batch, key).rebuilt
    )  # fmt: skip
    offsets = np.stack([draw(jr.key(seed)) for seed in range(20)])
    assert offsets.shape == (20, 8)
    # Two images a stratum: each offset comes up in each of eight of them.
    assert (offsets.min(axis=0) == 0).all()
    assert (offsets.max(axis=0) == 1).all()


def test_views_have_the_shapes_of_the_recipe(tiny, views):
    assert views.whole.shape == (16, 16, 16, 3)
    assert views.global_crops.shape == (8, 2, 16, 16, 3)
    assert views.local_crops.shape == (8, 1, 8, 8, 3)
    assert views.masks.shape == (8, 2, 16)
    # Half of the crops hide something, and at most half of their patches.
    counts = np.asarray(views.masks.sum(axis=-1))
    assert (counts > 0).sum() == 8
    assert counts.max() == 8
    for images in (views.whole, views.global_crops, views.local_crops):
        assert images.min() >= -0.01
        assert images.max() <= 1.01


def test_views_are_a_function_of_the_key(tiny, batch, views):
    make_views = jax.jit(
        pretrain_objective(only(tiny, "reconstruction"), num_shards=1).make_views
    )
    draw = lambda seed: make_views(batch, jr.key(seed)).whole
    assert jnp.array_equal(draw(0), draw(0))
    assert not jnp.array_equal(draw(0), draw(1))


@pytest.mark.parametrize("name", NAMES)
def test_terms_without_weight_are_not_computed(name, tiny, batch, models):
    config = only(tiny, name)
    objective = pretrain_objective(config, num_shards=1)
    views = eqx.filter_eval_shape(objective.make_views, batch, jr.key(0))
    has = {
        field.name: getattr(views, field.name) is not None
        for field in dataclasses.fields(PretrainViews)
    }
    crops = ("global_crops", "local_crops", "masks")
    assert all(has[crop] == (name == "distillation") for crop in crops)
    assert has["caption"] == (name == "contrast")
    assert has["rebuilt"] == (name == "reconstruction")
    assert has["whole"] == (name != "distillation")
    if name == "reconstruction":
        assert len(views.whole) == config.reconstruction_batch


def test_an_autoencoder_has_one_term_and_no_monitors(tiny, batch, models):
    config = only(tiny, "reconstruction")
    objective = pretrain_objective(config, num_shards=1)
    student, _ = models
    prepared = jax.jit(objective.make_views)(batch, jr.key(0))
    # No mesh: without contrast and distillation nothing reduces over devices.
    terms, monitors = eqx.filter_jit(terms_of)(
        objective, student, None, prepared, jr.key(0)
    )
    assert terms.keys() == {"reconstruction"}
    assert monitors == {}
    assert terms["reconstruction"].shape == (config.reconstruction_batch,)


def test_shared_features_equal_a_second_pass(tiny, models, views):
    student, _ = models

    def rebuild(config):
        objective = pretrain_objective(config, num_shards=1)
        terms = alone(
            lambda views: jax.lax.pmean(
                terms_of(objective, student, None, views, jr.key(0))[0][
                    "reconstruction"
                ],
                "data",
            )
        )
        return np.asarray(terms(views))

    shared = only(tiny, "contrast", "reconstruction")
    # Where contrast drops rows, reconstruction makes a pass of its own without.
    separate = dataclasses.replace(shared, contrast_drop=0.5)
    np.testing.assert_allclose(rebuild(shared), rebuild(separate), rtol=1e-5)


@pytest.mark.parametrize("drop", [0.0, 0.5])
def test_decoded_latents_are_those_that_are_encoded(drop, tiny, views):
    """Of both blocks, in the pass of contrast and in one of its own."""
    encoder = dataclasses.replace(tiny.tokenizer.encoder, depth=2, init="clip")
    shape = dataclasses.replace(tiny.tokenizer, encoder=encoder, readout_layers=2)
    config = dataclasses.replace(tiny, tokenizer=shape, contrast_drop=drop)
    tokenizer = eqx.filter_jit(Tokenizer)(shape, key=jr.key(1))

    @eqx.filter_jit
    def latents(tokenizer, views):
        needs = Needs.PAIRS | Needs.SUBSET
        passes = EncoderPasses(tokenizer, views, config, needs, key=jr.key(0))
        images = select_rows(views.whole, views.rebuilt)
        return passes.subset.latents, jax.vmap(tokenizer.encode)(images)

    found, expected = latents(tokenizer, views)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["contrast", "reconstruction"])
def test_every_objective_has_a_stochastic_depth_of_its_own(name, tiny, models, views):
    student, _ = models
    both = only(tiny, "contrast", "reconstruction")
    config = dataclasses.replace(both, **{f"{name}_drop": 0.5})
    objective = pretrain_objective(config, num_shards=1)

    def mean_terms(views, key):
        terms, _ = terms_of(objective, student, None, views, key)
        return jax.lax.pmean(jax.tree.map(jnp.mean, terms), "data")

    compiled = alone(mean_terms)
    first, second = compiled(views, jr.key(0)), compiled(views, jr.key(1))
    for term in ("contrast", "reconstruction"):
        assert (first[term] != second[term]) == (term == name)


@pytest.fixture(scope="module")
def distilled(tiny, models, views):
    """Gradients of the distillation term: by the teacher and by the crops of both."""
    student, teacher = models
    config = only(
        tiny,
        "distillation",
        distillation=dataclasses.replace(tiny.distillation, koleo_weight=0.0),
    )
    objective = pretrain_objective(config, num_shards=1)
    arrays, static = eqx.partition(teacher, eqx.is_inexact_array)

    def parts(arrays, crops, views):
        views = dataclasses.replace(views, global_crops=crops)
        teacher = eqx.combine(arrays, static)
        terms, _ = terms_of(objective, student, teacher, views, jr.key(0))
        return jax.lax.pmean(terms["distillation"].mean(), "data")

    gradients = alone(jax.grad(parts, argnums=(0, 1)))
    return gradients(arrays, views.global_crops, views)


@pytest.mark.slow
def test_distillation_needs_no_local_crops_and_no_warmup(tiny, data):
    config = only(
        tiny, "distillation", accumulate=2,
        views=dataclasses.replace(tiny.views, num_local=0),
        distillation=dataclasses.replace(tiny.distillation, teacher_warmup=0.0),
    )  # fmt: skip
    mesh = data_mesh(1)
    state, step = init_pretraining(config, data["image"], mesh)
    batch = CaptionedBatch(data["image"][: config.batch_size], None)
    state, metrics = step(state, shard_batch(batch, mesh))
    assert all(map(jnp.isfinite, metrics.values()))
    assert int(metrics["num_skipped"]) == 0
    assert metrics["dino"] > 0


def test_the_teacher_gets_no_gradient(distilled):
    for leaf in jax.tree.leaves(distilled[0]):
        assert not leaf.any()


def test_the_student_cannot_read_hidden_patches(distilled, views):
    # The teacher sees them, but nothing flows back through its targets.
    size = 4
    by_patch = np.asarray(distilled[1]).reshape(8, 2, 4, size, 4, size, 3)
    by_patch = np.abs(by_patch).sum(axis=(3, 5, 6)).reshape(8, 2, 16)
    hidden = np.asarray(views.masks)
    assert (by_patch[hidden] == 0).all()
    assert (by_patch[~hidden] > 0).all()


def test_latents_are_smoothed_and_disturbed_where_asked_for(tiny, batch, models):
    student, _ = models

    def found(**changes):
        config = only(tiny, "reconstruction", **changes)
        objective = pretrain_objective(config, num_shards=1)
        views = jax.jit(objective.make_views)(batch, jr.key(0))
        terms = alone(
            lambda views: terms_of(objective, student, None, views, jr.key(1))[0]
        )
        return views, terms(views)

    plain, terms = found()
    assert plain.noise is None
    smooth = found(smoothness_weight=0.5)[1]
    assert smooth.keys() == {"reconstruction", "smoothness"}
    np.testing.assert_allclose(smooth["reconstruction"], terms["reconstruction"])
    noisy, disturbed = found(latent_noise=0.5)
    assert noisy.noise.shape == (tiny.reconstruction_batch, 4, 4, 4)
    assert np.all(disturbed["reconstruction"] != terms["reconstruction"])
    # So little noise is as good as none.
    almost = found(latent_noise=1e-6)[1]
    np.testing.assert_allclose(
        almost["reconstruction"], terms["reconstruction"], rtol=1e-4
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            dict(reconstruction_batch=4),
            "`reconstruction_batch` .* got 4 images on 8",
        ),
        (dict(distillation_batch=4), "`distillation_batch` .* got 4 images on 8"),
    ],
)
def test_a_subset_smaller_than_the_mesh_is_refused(changes, message, tiny):
    config = dataclasses.replace(tiny, **changes)
    with pytest.raises(ValueError, match=message):
        pretrain_objective(config, num_shards=8)


@pytest.mark.parametrize(("scale", "expected"), [(-1, 0), (2, 2), (9, np.log(100))])
def test_the_logit_multiplier_stays_between_1_and_100(scale, expected, models):
    where = lambda student: student.tokenizer.logit_scale
    student = eqx.tree_at(where, models[0], jnp.asarray(scale, jnp.float32))
    found = where(clamp_logit_scale(student))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6)
