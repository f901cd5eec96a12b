"""A diffusion transformer of captions: what reaches it, and what it refuses."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from vtp_eqx.config import DiTConfig, SamplerConfig, short_hash, TextConfig
from vtp_eqx.interop.lightningdit import config_to_published
from vtp_eqx.models.dit import DiT, drop_conditions
from vtp_eqx.models.generator import (
    Generator,
    guided_velocity,
    load_generator,
    save_generator,
)
from vtp_eqx.models.text import TextEncoder, TextFeatures


CONFIG = DiTConfig(
    width=16, depth=1, num_heads=2, latent_width=3, latent_size=2, num_classes=4,
    condition="text", text_context=5, text_width=6,
)  # fmt: skip
SHAPE = (2, 2, 3)
HASH = "c0eb857b5d77"  # of its config with classes, in the version without captions


@pytest.fixture(scope="module")
def dit():
    """A model whose every weight is alive: a new one starts with zeros."""
    random = np.random.default_rng(0)
    model = eqx.filter_eval_shape(lambda key: DiT(CONFIG, key=key), jr.key(0))
    return jax.tree.map(
        lambda leaf: jnp.asarray(0.3 * random.normal(size=leaf.shape), jnp.float32),
        model,
    )


@pytest.fixture(scope="module")
def velocity(dit):
    latents, t = jr.normal(jr.key(1), SHAPE), jnp.asarray(0.4)
    compiled = eqx.filter_jit(lambda text: dit(latents, t, text))
    return lambda tokens, length: np.asarray(compiled(features(tokens, length)))


def features(tokens, length):
    return TextFeatures(jnp.asarray(tokens), jnp.asarray(length, jnp.int32))


TOKENS = np.random.default_rng(2).normal(size=(5, 6)).astype(np.float32)


def test_every_word_counts_and_nothing_behind_the_end(velocity):
    before = velocity(TOKENS, 3)
    for place in range(5):
        changed = TOKENS.copy()
        changed[place] += 1
        after = velocity(changed, 3)
        assert np.array_equal(before, after) == (place >= 3)
    assert not np.array_equal(before, velocity(TOKENS, 2))


def test_no_text_is_the_same_whatever_its_features(velocity):
    np.testing.assert_array_equal(velocity(TOKENS, 0), velocity(TOKENS + 1, 0))


def test_dropped_texts_have_no_word():
    config = dataclasses.replace(CONFIG, label_drop_rate=0.5)
    texts = features(np.stack([TOKENS] * 64), np.full(64, 3))
    dropped = drop_conditions(texts, config, key=jr.key(0))
    lengths = np.asarray(dropped.length)
    assert set(lengths.tolist()) == {0, 3}
    assert 16 < (lengths == 0).sum() < 48  # half of 64


def test_guidance_leads_away_from_no_text(dit):
    texts = features(TOKENS[None], [3])
    noise, t = jr.normal(jr.key(3), (1, *SHAPE)), jnp.asarray(0.5)
    none = features(TOKENS[None], [0])
    sampler = SamplerConfig(guidance=3.0)
    found = eqx.filter_jit(guided_velocity(dit, texts, sampler))(noise, t)
    given, other = (
        eqx.filter_jit(guided_velocity(dit, one, SamplerConfig()))(noise, t)
        for one in (texts, none)
    )
    np.testing.assert_allclose(found, other + 3 * (given - other), rtol=1e-4, atol=1e-5)


def test_classes_and_texts_are_not_mistaken_for_each_other(dit):
    with pytest.raises(ValueError, match=r"^`condition` \(a label\) must be a text"):
        guided_velocity(dit, jnp.array([0]), SamplerConfig())
    labeled = dataclasses.replace(CONFIG, condition="label")
    model = eqx.filter_eval_shape(lambda: DiT(labeled, key=jr.key(0)))
    with pytest.raises(ValueError, match=r"^`condition` \(a text\) must be a label"):
        guided_velocity(model, features(TOKENS[None], [3]), SamplerConfig())


def test_other_features_are_refused(dit):
    with pytest.raises(ValueError, match=r"text features of shape \(5, 6\); got"):
        dit(jnp.zeros(SHAPE), jnp.asarray(0.1), features(TOKENS[:, :4], 3))


def test_a_saved_generator_keeps_the_text_tower_it_learned_with(dit, tmp_path):
    generator = Generator(dit, "abc", "def")
    save_generator(generator, tmp_path / "generator.safetensors")
    assert eqx.tree_equal(load_generator(tmp_path), generator)
    with pytest.raises(ValueError, match=r"^`guide` \(latents 'abc'\) must generate"):
        generator.check_guide(Generator(dit, "abc", "other"))


def test_published_formats_have_no_captions():
    with pytest.raises(ValueError, match=r"^`condition` \('text'\) must be 'label'"):
        config_to_published(CONFIG)


def test_models_of_classes_keep_their_hash():
    classes = dataclasses.replace(
        CONFIG, condition="label", text_context=77, text_width=768
    )
    before = DiTConfig(
        width=16, depth=1, num_heads=2, latent_width=3, latent_size=2, num_classes=4
    )
    assert short_hash(classes) == short_hash(before) == HASH
    assert short_hash(CONFIG) != HASH


def test_the_length_of_a_text_ends_with_its_end_token(getkey):
    config = TextConfig(context=5, vocabulary=9, width=8, depth=1, num_heads=2)
    tower = TextEncoder(config, key=getkey())
    read = eqx.filter_jit(lambda ids: tower.features(ids))
    text = jnp.array([7, 3, 8, 0, 0])
    found = read(text)
    assert int(found.length) == 3
    np.testing.assert_allclose(found.tokens[2], tower(text), rtol=1e-4, atol=1e-5)
    assert int(read(jnp.zeros(5, jnp.int32)).length) == 0
