import math

from hypothesis import given, strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtp_eqx.losses.contrastive import clip_loss, siglip_loss


seeds = st.integers(0, 2**31 - 1)


@jax.jit
def clip(image, text, log_scale=1.5):
    return clip_loss(image, text, log_scale=jnp.float32(log_scale))


@jax.jit
def siglip(image, text, log_scale=1.5, bias=-3.0):
    scalars = dict(log_scale=jnp.float32(log_scale), bias=jnp.float32(bias))
    return siglip_loss(image, text, **scalars)


def pairs(seed):
    rows = np.random.default_rng(seed).standard_normal((2, 8, 5)).astype(np.float32)
    image, text = rows / np.linalg.norm(rows, axis=-1, keepdims=True)
    return image, text


def test_two_pairs_by_hand():
    # Orthogonal images, each with its caption: own logit 2, other logit 0.
    image = text = np.eye(2, dtype=np.float32)
    by_hand = math.log1p(math.exp(-2))
    np.testing.assert_allclose(clip(image, text, math.log(2)), [by_hand] * 2, rtol=1e-6)
    # Bias -1: the positive has logit 1, the negative -1, and both cost the same.
    by_hand = 2 * math.log1p(math.exp(-1))
    ours = siglip(image, text, math.log(2), -1.0)
    np.testing.assert_allclose(ours, [by_hand] * 2, rtol=1e-6)


def test_equal_embeddings_leave_a_guess():
    same = np.full((8, 4), 0.5, np.float32)
    np.testing.assert_allclose(clip(same, same), np.log(8), rtol=1e-6)


@pytest.mark.parametrize("loss", [clip, siglip])
@given(seed=seeds, order=st.permutations(range(8)))
def test_reordering_the_pairs_reorders_the_loss(loss, seed, order):
    image, text = pairs(seed)
    order = np.array(order)
    permuted = loss(image[order], text[order])
    np.testing.assert_allclose(permuted, loss(image, text)[order], rtol=1e-4)


@given(seed=seeds)
def test_images_and_texts_may_change_places(seed):
    image, text = pairs(seed)
    np.testing.assert_array_equal(clip(image, text), clip(text, image))
    swapped = siglip(text, image).mean()  # a sum by columns instead of by rows
    np.testing.assert_allclose(siglip(image, text).mean(), swapped, rtol=1e-5)


@given(seed=seeds)
def test_a_rotation_of_both_changes_nothing(seed):
    image, text = pairs(seed)
    rotation, _ = np.linalg.qr(image[:5])
    for loss in (clip, siglip):
        rotated = loss(image @ rotation, text @ rotation)
        np.testing.assert_allclose(rotated, loss(image, text), rtol=1e-4)


@given(seed=seeds, shift=st.sampled_from([-2.0, 0.5, 3.0]))
def test_a_shift_of_all_logits_is_nothing_to_clip_and_a_bias_to_siglip(seed, shift):
    image, text = pairs(seed)
    # One more channel, constant in both, adds `shift` to every inner product.
    add = lambda rows, value: np.pad(rows, ((0, 0), (0, 1)), constant_values=value)
    shifted = add(image, shift), add(text, 1.0)
    np.testing.assert_allclose(clip(*shifted), clip(image, text), rtol=1e-4, atol=1e-5)
    biased = siglip(image, text, 1.5, -3 + math.exp(1.5) * shift)
    np.testing.assert_allclose(siglip(*shifted), biased, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("loss", [clip, siglip])
def test_the_largest_scale_stays_finite(loss):
    image, text = pairs(0)
    gradient = jax.grad(lambda text: loss(image, text, math.log(100)).mean())(text)
    assert np.isfinite(gradient).all()
    assert np.isfinite(loss(image, -image, math.log(100))).all()


def test_bfloat16_embeddings_meet_in_float32():
    image, text = (jnp.asarray(part, jnp.bfloat16) for part in pairs(0))
    ours = clip(image, text)
    assert ours.dtype == jnp.float32
    exact = clip(image.astype(jnp.float32), text.astype(jnp.float32))
    np.testing.assert_array_equal(ours, exact)


def test_nan_is_an_error():
    image, text = pairs(0)
    spoiled = text.copy()
    spoiled[2, 1] = np.nan
    with pytest.raises(ValueError, match="`text` must be finite"):
        clip_loss(jnp.array(image), jnp.array(spoiled), log_scale=jnp.float32(1.0))
    assert np.isnan(clip(image, spoiled)).all()
    assert np.isnan(siglip(image, spoiled)).all()


def total_and_gradients(loss, image, text, block):
    def total(image, text, log_scale, bias):
        scalars = {"log_scale": log_scale}
        if loss is siglip_loss:
            scalars["bias"] = bias
        return loss(image, text, **scalars, block=block).mean()

    scalars = jnp.float32(1.5), jnp.float32(-3)
    return jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2, 3)))(
        image, text, *scalars
    )


@pytest.mark.parametrize("block", [1, 3, 4])  # 3 leaves a block that is not full
@pytest.mark.parametrize("loss", [clip_loss, siglip_loss])
def test_blocks_change_neither_value_nor_gradient(loss, block):
    image, text = pairs(0)
    whole = total_and_gradients(loss, image, text, None)
    blocked = total_and_gradients(loss, image, text, block)
    for ours, theirs in zip(
        jax.tree.leaves(blocked), jax.tree.leaves(whole), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_batch_of_32k_needs_no_more_than_its_blocks():
    # 32768 squared float32 logits are 4 GiB, and a step would keep them twice.
    rows = jax.ShapeDtypeStruct((32768, 64), jnp.float32)
    total = lambda image, text, scale: clip_loss(image, text, log_scale=scale).mean()
    step = jax.jit(jax.grad(total, argnums=(0, 1)))
    scale = jax.ShapeDtypeStruct((), jnp.float32)
    needed = step.lower(rows, rows, scale).compile().memory_analysis()
    assert needed.temp_size_in_bytes < 2**30
