import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from vtp_eqx.config import (
    decoder_like,
    PrototypeConfig,
    TextConfig,
    TokenizerConfig,
    TransformerConfig,
    VTP_B,
    VTP_L,
    VTP_S,
)
from vtp_eqx.models.encoder import Features
from vtp_eqx.models.tokenizer import Pretrainer, Teacher, Tokenizer


TOWER = TransformerConfig(width=16, depth=1, num_heads=2)
CONFIG = TokenizerConfig(
    encoder=TOWER,
    decoder=decoder_like(TOWER),
    text=TextConfig(context=5, vocabulary=11, width=12, depth=1, num_heads=2),
    image_size=8,
    patch_size=4,
    latent_width=6,
)
PROTOTYPES = PrototypeConfig(num_prototypes=7, hidden_width=8, bottleneck_width=4)


@pytest.fixture(scope="module")
def pretrainer():
    return eqx.filter_jit(Pretrainer)(CONFIG, PROTOTYPES, key=jr.key(0))


@pytest.fixture(scope="module")
def tokenizer(pretrainer):
    return pretrainer.tokenizer


@pytest.fixture(scope="module")
def image():
    return np.asarray(jr.uniform(jr.key(1), (8, 12, 3)))


@pytest.fixture(scope="module")
def features():
    cls_key, patch_key = jr.split(jr.key(2))
    return Features(jr.normal(cls_key, (2, 16)), jr.normal(patch_key, (2, 3, 16)))


def reading(tokenizer, **changes):
    """`tokenizer` with the same arrays and a changed config."""
    config = dataclasses.replace(CONFIG, **changes)
    other = eqx.filter_eval_shape(Tokenizer, config, key=jr.key(0))
    return jax.tree.unflatten(jax.tree.structure(other), jax.tree.leaves(tokenizer))


def test_an_image_becomes_latents_and_an_image_again(tokenizer, image):
    latents = tokenizer.encode(image)
    assert latents.shape == (2, 3, 6)
    assert tokenizer.decode(latents).shape == image.shape


def test_latents_are_a_linear_reading_of_the_patches(tokenizer, image):
    (features,) = tokenizer.features(image)
    expected = features.patches @ tokenizer.bottleneck.weight.T
    np.testing.assert_allclose(
        tokenizer.encode(image), expected.reshape(2, 3, 6), atol=1e-5
    )


def test_mapping_over_a_batch_is_the_images_one_by_one(tokenizer, image):
    images = jnp.stack([image, 1 - image])
    together = jax.vmap(tokenizer.encode)(images)
    alone = jnp.stack([tokenizer.encode(one) for one in images])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_embeddings_share_a_space_and_have_unit_norm(tokenizer, image):
    of_image = tokenizer.embed_image(image)
    of_text = tokenizer.embed_text(np.array([1, 5, 10, 0, 0]))
    assert of_image.shape == of_text.shape == (12,)
    for embedding in (of_image, of_text):
        assert np.linalg.norm(embedding) == pytest.approx(1, abs=1e-5)


def test_normalizing_pixels_is_undone(tokenizer, image):
    pixels = tokenizer.normalize(jnp.asarray(image))
    np.testing.assert_allclose(tokenizer.denormalize(pixels), image, atol=1e-6)


def test_normal_pixels_have_the_mean_and_deviation_of_imagenet(tokenizer):
    # By hand: white red is (1 - 0.485) / 0.229.
    white = tokenizer.normalize(jnp.ones((1, 1, 3)))
    assert float(white[0, 0, 0]) == pytest.approx(0.515 / 0.229, rel=1e-6)


def test_normalizing_latents_is_undone(tokenizer, getkey):
    mean, std = jr.normal(getkey(), (6,)), jr.uniform(getkey(), (6,)) + 0.5
    measured = eqx.tree_at(
        lambda t: (t.latent_mean, t.latent_std), tokenizer, (mean, std)
    )
    latents = mean + std * jr.normal(getkey(), (50, 50, 6))
    normal = measured.normalize_latents(latents)
    np.testing.assert_allclose(jnp.mean(normal, (0, 1)), 0, atol=0.1)
    np.testing.assert_allclose(jnp.std(normal, (0, 1)), 1, atol=0.1)
    np.testing.assert_allclose(measured.denormalize_latents(normal), latents, atol=1e-5)


@pytest.mark.parametrize("name", ["normalize_latents", "denormalize_latents"])
def test_a_tokenizer_without_statistics_normalizes_nothing(tokenizer, name):
    latents = jnp.zeros((2, 2, 6))
    assert not tokenizer.is_measured
    with pytest.raises(ValueError, match=r"^`tokenizer` \(latent mean 0 .* must have"):
        getattr(tokenizer, name)(latents)
    with pytest.raises(ValueError, match="must have measured"):
        jax.vmap(getattr(tokenizer, name))(latents)
    for field, value in (("latent_mean", 1e-9), ("latent_std", 1 + 1e-6)):
        array = getattr(tokenizer, field).at[0].set(value)
        measured = eqx.tree_at(lambda t, f=field: getattr(t, f), tokenizer, array)
        assert measured.is_measured
        getattr(measured, name)(latents)


def test_heads_read_full_features_or_latents(tokenizer, features):
    np.testing.assert_array_equal(tokenizer.head_features(features).cls, features.cls)
    narrow = reading(tokenizer, heads_input="latent")
    read = narrow.head_features(features)
    np.testing.assert_allclose(read.cls, tokenizer.bottleneck(features.cls))
    np.testing.assert_allclose(read.patches, tokenizer.bottleneck(features.patches))
    assert (
        narrow.contrast_features(features).shape
        == (2, narrow.config.head_width)
        == (2, 6)
    )


def test_contrast_reads_the_summary_or_the_mean_patch(tokenizer, features):
    np.testing.assert_array_equal(tokenizer.contrast_features(features), features.cls)
    pooled = reading(tokenizer, contrast_feature="pooled")
    np.testing.assert_allclose(
        pooled.contrast_features(features), features.patches.mean(axis=1), atol=1e-6
    )


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda image: image[None], r"got a batch of shape .* with `jax.vmap`"),
        (lambda image: (255 * image).astype(np.uint8), "got uint8: .* divide by 255"),
        (lambda image: image[:6], "patch size 4; got 6 x 12: crop or resize"),
        (lambda image: image[..., :1], "put the three colors last"),
        (lambda image: image[..., 0], r"got \(8, 12\)"),
        (lambda image: np.where(image > 0.5, np.nan, image), "are NaN or infinite"),
        (lambda image: 255 * image, "to 25.* seem to be in 0 to 255, so divide by 255"),
        (lambda image: 65535 * image, "seem to be in 0 to 65535"),
        (lambda image: 2 * image - 1, r"\(-0.9.* to 0.9.*\) must be in .*\[-1, 1\]"),
        (lambda image: (image - 0.45) / 0.22, "normalized by a mean and a deviation"),
        (lambda image: 1.2 * image - 0.1, "by a little, as after a resize, so clip"),
        (lambda image: jnp.asarray(2 * image - 1, jnp.bfloat16), r"\[-1, 1\]"),
    ],
)
@pytest.mark.parametrize("door", ["encode", "features", "embed_image"])
def test_a_bad_image_is_refused_in_one_sentence(tokenizer, image, door, spoil, message):
    with pytest.raises(ValueError, match=message):
        getattr(tokenizer, door)(spoil(image))


def test_the_values_of_a_batch_that_is_mapped_over_are_looked_at(tokenizer, image):
    for spoiled, message in (
        (2 * image - 1, r"\[-1, 1\]"),
        (np.full_like(image, np.inf), "are NaN or infinite"),
    ):
        images = jnp.stack([image, spoiled])
        with pytest.raises(ValueError, match=message):
            jax.vmap(tokenizer.encode)(images)
        with pytest.raises(ValueError, match=message):
            jax.vmap(jax.vmap(tokenizer.features))(images[None])
        # Where there are no values to look at:
        jax.eval_shape(jax.vmap(tokenizer.encode), images)
    with pytest.raises(ValueError, match="got -1 to 3"):
        jax.vmap(tokenizer.embed_text)(jnp.array([[1, 2, 3, 0, 0], [1, 2, -1, 0, 0]]))


@pytest.mark.parametrize("kind", [jnp.float32, jnp.bfloat16, jnp.float16, np.float64])
def test_rounding_is_no_other_range(tokenizer, kind):
    image = np.zeros((4, 4, 3))
    image[0], image[1] = 1 + 1e-3, -1e-3
    as_kind = np.asarray(image) if kind is np.float64 else jnp.asarray(image, kind)
    tokenizer.encode(as_kind)
    # Pixels to their normalized space and back, in what networks compute in.
    pixels = tokenizer.normalize(jnp.asarray([[[0.0] * 3, [1.0] * 3]], jnp.bfloat16))
    back = jnp.tile(tokenizer.denormalize(pixels), (4, 2, 1))
    tokenizer.encode(back)


@pytest.mark.parametrize(
    ("latents", "message"),
    [
        (np.zeros((1, 2, 2, 6)), "with `jax.vmap`"),
        (np.zeros((2, 2, 5)), r"\[rows, columns, 6\]; got \(2, 2, 5\)"),
        (np.zeros((2, 2, 6), int), "Latents are floats; got int64"),
        (np.full((2, 2, 6), np.inf), "got 24 that are NaN or infinite"),
    ],
)
def test_bad_latents_are_refused_in_one_sentence(tokenizer, latents, message):
    with pytest.raises(ValueError, match=message):
        tokenizer.decode(latents)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (np.zeros(6, int), "exactly 5 ids, padded with 0; got 6: shorten"),
        (np.zeros(4, int), "exactly 5 ids, padded with 0; got 4: pad"),
        (np.zeros((1, 5), int), "with `jax.vmap`"),
        (np.zeros(5), "integer ids; got float64"),
        (np.array([1, 2, 11, 0, 0]), r"lie in \[0, 11\); got 0 to 11"),
        (np.array([1, 2, -1, 0, 0]), r"lie in \[0, 11\); got -1 to 2"),
    ],
)
def test_a_bad_text_is_refused_in_one_sentence(tokenizer, ids, message):
    with pytest.raises(ValueError, match=message):
        tokenizer.embed_text(ids)


def test_a_tokenizer_without_text_embeds_nothing(image):
    silent = eqx.filter_jit(Tokenizer)(
        dataclasses.replace(CONFIG, text=None), key=jr.key(0)
    )
    assert silent.text is silent.projection is None
    with pytest.raises(ValueError, match="got a tokenizer without one"):
        silent.embed_image(image)


def test_a_teacher_reads_what_its_student_reads(pretrainer, features):
    for heads_input in ("full", "latent"):
        student = reading(pretrainer.tokenizer, heads_input=heads_input)
        teacher = Teacher.of(eqx.tree_at(lambda p: p.tokenizer, pretrainer, student))
        read = teacher.head_features(features)
        assert eqx.tree_equal(read, student.head_features(features))


def test_without_prototypes_there_is_no_teacher(pretrainer):
    assert Teacher.of(eqx.tree_at(lambda p: p.prototypes, pretrainer, None)) is None


def test_latents_start_in_an_orthonormal_basis_where_asked(tokenizer):
    config = dataclasses.replace(tokenizer.config, latent_init="orthogonal")
    found = eqx.filter_jit(Tokenizer)(config, key=jr.key(0))
    for layer in (found.bottleneck, found.decoder.embed):
        weight = layer.weight
        if weight.shape[0] > weight.shape[1]:
            weight = weight.T
        np.testing.assert_allclose(weight @ weight.T, np.eye(len(weight)), atol=1e-5)
    plain = eqx.filter_jit(Tokenizer)(
        dataclasses.replace(config, latent_init="normal"), key=jr.key(0)
    )
    # Nothing else differs.
    parts = lambda t: (t.bottleneck.weight, t.decoder.embed.weight)
    assert eqx.tree_equal(
        eqx.tree_at(parts, plain, parts(found)).decoder, found.decoder
    )
    assert eqx.tree_equal(plain.encoder, found.encoder)


def test_no_leaf_is_weakly_typed(pretrainer):
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(pretrainer))
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(pretrainer))


@pytest.mark.parametrize(
    ("config", "parameters"),
    [(VTP_S, 167_177_857), (VTP_B, 295_639_297), (VTP_L, 731_570_689)],
)
def test_published_sizes_have_the_published_parameters(config, parameters):
    """As published: 167.18, 295.64 and 731.57 million, without latent statistics."""
    shapes = eqx.filter_eval_shape(Tokenizer, config, key=jr.key(0))
    total = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert total - 2 * config.latent_width == parameters


def test_rounded_weights_change_results_a_little_and_no_type(tokenizer, image):
    rounded = tokenizer.at_precision("bfloat16")
    assert (tokenizer.precision, rounded.precision) == ("float32", "bfloat16")
    assert rounded.logit_scale.dtype == rounded.latent_std.dtype == jnp.float32
    ids = jnp.array([9, 3, 10, 0, 0])
    for name, given in (
        ("encode", image),
        ("decode", tokenizer.encode(image)),
        ("features", image),
        ("embed_image", image),
        ("embed_text", ids),
    ):
        exact, near = (
            jax.tree.leaves(getattr(one, name)(given)) for one in (tokenizer, rounded)
        )
        for before, after in zip(exact, near, strict=True):
            assert after.dtype == jnp.float32
            error = jnp.linalg.norm(after - before) / jnp.linalg.norm(before)
            # Eight bits, through a few layers.
            assert 1e-5 < error < 3e-2, name


def test_float32_is_what_it_was(tokenizer):
    assert eqx.tree_equal(tokenizer.at_precision("float32"), tokenizer)


def test_one_scaling_factor_leaves_channels_their_shares(getkey):
    tokenizer = eqx.filter_jit(Tokenizer)(CONFIG, key=getkey())
    latents = jr.normal(getkey(), (500, 6)) * jnp.geomspace(0.01, 3, 6) + 5
    own = tokenizer.with_statistics(latents.mean(axis=0), latents.std(axis=0))
    with pytest.raises(ValueError, match="measure_latents"):
        tokenizer.with_one_scaling_factor()
    scaled = own.with_one_scaling_factor()
    normal = scaled.normalize_latents(latents)
    np.testing.assert_allclose(normal.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(jnp.mean(normal**2), 1, rtol=1e-4)
    shares = normal.std(axis=0) / latents.std(axis=0)
    np.testing.assert_allclose(shares, shares[0], rtol=1e-4)
    np.testing.assert_allclose(scaled.denormalize_latents(normal), latents, rtol=1e-4)
