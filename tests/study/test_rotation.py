import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from vtp_eqx import config
from vtp_eqx.study.rotation import random_rotation, rotate_latents
from vtp_eqx.tokenizer import Tokenizer


SHAPE = config.TokenizerConfig(
    encoder=config.VIT_FEMTO,
    decoder=config.VIT_FEMTO,
    text=config.TextConfig(context=8, vocabulary=50, width=24, depth=1, num_heads=2),
    image_size=16,
    patch_size=8,
    latent_width=12,
    latent_init="orthogonal",
    heads_input="latent",
)


@eqx.filter_jit
def both_outputs(tokenizer, image):
    return tokenizer.encode(image), tokenizer.embed_image(image)


decoded = eqx.filter_jit(lambda tokenizer, latents: tokenizer.decode(latents))


@pytest.mark.parametrize("heads_input", ["latent", "full"])
def test_rotated_latents_hold_the_same_and_do_the_same(heads_input, getkey):
    shape = dataclasses.replace(SHAPE, heads_input=heads_input)
    tokenizer = eqx.filter_jit(Tokenizer)(shape, key=getkey())
    tokenizer = eqx.tree_at(
        lambda t: (t.latent_mean, t.latent_std),
        tokenizer,
        (jnp.full(12, 3.0), jnp.full(12, 2.0)),
    )
    key, image = getkey(), jr.uniform(getkey(), (16, 16, 3))
    rotated = rotate_latents(tokenizer, key=key)
    latents, embedded = both_outputs(tokenizer, image)
    turned, embedded_again = both_outputs(rotated, image)
    turn = random_rotation(12, key=key)
    np.testing.assert_allclose(turned, latents @ turn.T, atol=1e-5)
    assert float(jnp.abs(turned - latents).max()) > 0.1
    again, rebuilt = decoded(rotated, turned), decoded(tokenizer, latents)
    np.testing.assert_allclose(again, rebuilt, atol=1e-5)
    np.testing.assert_allclose(embedded_again, embedded, atol=1e-5)
    # Statistics of the old channels are not those of the new ones.
    assert (rotated.latent_mean == 0).all()
    assert (rotated.latent_std == 1).all()


def test_a_rotation_is_orthogonal_and_of_its_key(getkey):
    key = getkey()
    turn = random_rotation(7, key=key)
    np.testing.assert_allclose(turn @ turn.T, jnp.eye(7), atol=1e-5)
    assert jnp.array_equal(turn, random_rotation(7, key=key))
    assert not jnp.allclose(turn, random_rotation(7, key=getkey()), atol=0.1)
    assert jax.tree.leaves(turn)[0].dtype == jnp.float32
