import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtp_eqx.config import DiTConfig, OptimizerConfig, TextConfig
from vtp_eqx.models.arrays import leaf_path
from vtp_eqx.models.dit import DiT
from vtp_eqx.models.tokenizer import Pretrainer
from vtp_eqx.training.optimizer import (
    clip_by_network_norm,
    cosine,
    decays,
    is_patch_embedding,
    is_prototype,
    learning_rate,
    make_optimizer,
    network_of,
    ramp,
    weight_decay,
)


PLAIN = OptimizerConfig(
    learning_rate=0.1,
    warmup_steps=0,
    schedule="constant",
    weight_decay=0.0,
    clip_norm=None,
)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0.25),  # the first of four steps of warmup
        (3, 1.0),  # the last
        (4, 1.0),  # the cosine starts at the peak
        (6, 0.1 + 0.9 * (1 + np.cos(np.pi / 4)) / 2),
        (8, 0.55),  # half way
        (12, 0.1),  # the end of the run
        (20, 0.1),  # and behind it
    ],
)
def test_the_learning_rate_by_hand(step, expected):
    config = OptimizerConfig(learning_rate=2.0, warmup_steps=4, final_rate=0.1)
    rate = learning_rate(config, 12)(step)
    np.testing.assert_allclose(rate, 2 * expected, rtol=1e-6)


def test_a_constant_rate_stays_at_its_peak():
    config = dataclasses.replace(PLAIN, warmup_steps=2)
    rates = [float(learning_rate(config, 9)(step)) for step in range(9)]
    np.testing.assert_allclose(rates, [0.05] + [0.1] * 8, rtol=1e-6)


def test_a_warmup_as_long_as_the_run_is_an_error():
    with pytest.raises(ValueError, match="`warmup_steps` must lie below"):
        learning_rate(dataclasses.replace(PLAIN, warmup_steps=9), 9)


@pytest.mark.parametrize("curve", [cosine, ramp])
def test_curves_go_from_start_to_end_and_are_flat_outside(curve):
    values = [float(curve(0.04, 0.07, at)) for at in (-1.0, 0.0, 0.5, 1.0, 2.0)]
    np.testing.assert_allclose(values, [0.04, 0.04, 0.055, 0.07, 0.07], rtol=1e-6)


def test_the_teacher_temperature_of_the_paper():
    # By the formula of DINOv2: 0.04 at the first step and 0.07 after 37500 of them.
    np.testing.assert_allclose(ramp(0.04, 0.07, 0 / 37_500), 0.04, rtol=1e-6)
    np.testing.assert_allclose(ramp(0.04, 0.07, 37_500 / 37_500), 0.07, rtol=1e-6)


BLOCK = [
    "attention.to_out.weight",
    "attention.to_qkv.weight",
    "feed_forward.gate.weight",
    "feed_forward.out.weight",
    "feed_forward.up.weight",
]
TEXT_BLOCK = [name for name in BLOCK if "gate" not in name]
DECAYED = {
    *(f"tokenizer.encoder.stack.blocks.{name}" for name in BLOCK),
    *(f"tokenizer.decoder.stack.blocks.{name}" for name in BLOCK),
    *(f"tokenizer.text.stack.blocks.{name}" for name in TEXT_BLOCK),
    "tokenizer.encoder.patch_embed.weight",
    "tokenizer.bottleneck.weight",
    "tokenizer.decoder.embed.weight",
    "tokenizer.decoder.to_pixels.weight",
    "tokenizer.text.token_embedding",
    "tokenizer.text.projection",
    "tokenizer.projection.weight",
    "prototypes.layers.0.weight",
    "prototypes.layers.1.weight",
    "prototypes.prototypes",
}
KEPT = {
    "tokenizer.encoder.cls_token",
    "tokenizer.encoder.mask_token",
    "tokenizer.encoder.patch_embed.bias",
    "tokenizer.encoder.norm.weight",
    "tokenizer.encoder.stack.blocks.attention_norm.weight",
    "tokenizer.encoder.stack.blocks.attention.query_norm.weight",
    "tokenizer.encoder.stack.blocks.attention_scale",
    "tokenizer.text.positions",
    "tokenizer.text.norm.weight",
    "tokenizer.logit_scale",
    "tokenizer.logit_bias",
    "tokenizer.latent_mean",
    "tokenizer.latent_std",
    "prototypes.scale",
}
DIT_DECAYED = {
    *(f"blocks.{name}" for name in BLOCK),
    "blocks.modulation.weight",
    "modulation.weight",
    "labels",
    "time_in.weight",
    "time_out.weight",
    "to_tokens.weight",
    "to_velocity.weight",
}


def paths(model):
    leaves = jax.tree_util.tree_leaves_with_path(model)
    is_float = lambda leaf: jnp.issubdtype(leaf.dtype, jnp.floating)
    return {leaf_path(path) for path, leaf in leaves if is_float(leaf)}


def skeleton(tiny):
    """A pretrainer with every optional part, as shapes."""
    encoder = dataclasses.replace(tiny.tokenizer.encoder, qk_norm=True, layer_scale=0.1)
    tokenizer = dataclasses.replace(tiny.tokenizer, encoder=encoder, logit_bias=-10.0)
    make = lambda: Pretrainer(tokenizer, tiny.prototypes, key=jax.random.key(0))
    return eqx.filter(eqx.filter_eval_shape(make), lambda leaf: hasattr(leaf, "dtype"))


def test_which_weights_of_a_pretrainer_decay(tiny):
    found = paths(skeleton(tiny))
    assert found >= KEPT
    assert {path for path in found if decays(path)} == DECAYED


def test_which_weights_of_a_generator_decay():
    config = DiTConfig(
        width=16, depth=1, num_heads=2, latent_size=2, latent_width=4, num_classes=3
    )
    make = lambda: DiT(config, key=jax.random.key(0))
    shapes = eqx.filter(
        eqx.filter_eval_shape(make), lambda leaf: hasattr(leaf, "dtype")
    )
    assert {path for path in paths(shapes) if decays(path)} == DIT_DECAYED


@pytest.mark.parametrize("path", ["1.log_variance.contrast", "1.weight.contrast"])
def test_the_weights_of_terms_do_not_decay(path):
    assert not decays(path)


def test_two_rules_meet_only_what_they_are_for(tiny):
    found = paths(skeleton(tiny))
    assert {path for path in found if is_patch_embedding(path)} == {
        "tokenizer.encoder.patch_embed.weight",
        "tokenizer.encoder.patch_embed.bias",
    }
    assert {path for path in found if is_prototype(path)} == {
        "prototypes.prototypes",
        "prototypes.scale",
    }


def moves(config, tree, num_steps=1):
    """How far a gradient of ones moves every array in each of some steps."""
    optimizer = make_optimizer(config, 10)
    state, gradients, moved = (
        optimizer.init(tree),
        jax.tree.map(jnp.ones_like, tree),
        [],
    )
    for _ in range(num_steps):
        updates, state = optimizer.update(gradients, state, tree)
        moved.append(jax.tree.map(lambda update: float(update.mean()), updates))
    return moved


def test_the_first_step_of_adam_is_the_learning_rate():
    # A first moment over the root of a second one: 1, whatever the gradient.
    (moved,) = moves(PLAIN, {"bias": jnp.full(2, 3.0)})
    np.testing.assert_allclose(moved["bias"], -0.1, rtol=1e-4)


def test_decay_is_a_share_of_the_weight_by_hand():
    config = dataclasses.replace(PLAIN, weight_decay=0.5)
    (moved,) = moves(
        config, {"weight": jnp.full((2, 2), 3.0), "bias": jnp.full(2, 3.0)}
    )
    np.testing.assert_allclose(moved["weight"], -0.1 * (1 + 0.5 * 3), rtol=1e-4)
    np.testing.assert_allclose(moved["bias"], -0.1, rtol=1e-4)


def test_the_patch_embedding_learns_at_a_share_of_the_rate():
    config = dataclasses.replace(PLAIN, patch_rate=0.2)
    tree = {"patch_embed": {"weight": jnp.ones((2, 2))}, "weight": jnp.ones((2, 2))}
    (moved,) = moves(config, tree)
    np.testing.assert_allclose(moved["weight"], -0.1, rtol=1e-4)
    np.testing.assert_allclose(moved["patch_embed"]["weight"], -0.02, rtol=1e-4)


def test_frozen_prototypes_do_not_move_for_so_many_steps():
    config = dataclasses.replace(PLAIN, freeze_prototypes=2, weight_decay=0.5)
    head = {"prototypes": jnp.ones((2, 2)), "scale": jnp.ones(2), "layer": jnp.ones(2)}
    moved = moves(config, {"prototypes": head}, num_steps=4)
    for name in ("prototypes", "scale"):
        distances = [step["prototypes"][name] for step in moved]
        assert distances[:2] == [0, 0]
        assert all(distance < -0.05 for distance in distances[2:])
    assert all(step["prototypes"]["layer"] < -0.05 for step in moved)


def test_clipping_bounds_the_norm_of_all_gradients_together():
    # Adam undoes any common scale, so it is seen by its first moment.
    config = dataclasses.replace(PLAIN, clip_norm=1.0, b1=0.0)
    tree = {"bias": jnp.zeros(16)}
    optimizer = make_optimizer(config, 10)
    gradients = {"bias": jnp.full(16, 5.0)}  # of norm 20
    _, state = optimizer.update(gradients, optimizer.init(tree), tree)
    (moment,) = [part.mu for part in state if hasattr(part, "mu")]
    np.testing.assert_allclose(moment["bias"], 0.25, rtol=1e-5)


def test_clipping_by_network_leaves_short_gradients_as_they_are():
    student = {"tokenizer": {"encoder": {"a": jnp.ones(2), "b": jnp.ones(2)}}}
    student["prototypes"] = {"scale": jnp.full(3, 0.1)}
    gradient = (student, {"contrast": jnp.array(5.0)})
    clip = clip_by_network_norm(1.0)
    (clipped, weights), _ = clip.update(gradient, clip.init(gradient))
    encoder = clipped["tokenizer"]["encoder"]
    np.testing.assert_allclose(encoder["a"], 0.5, rtol=1e-6)  # a norm of 2 in all
    np.testing.assert_allclose(encoder["b"], 0.5, rtol=1e-6)
    np.testing.assert_array_equal(clipped["prototypes"]["scale"], np.float32(0.1))
    np.testing.assert_allclose(weights["contrast"], 1.0)


def test_which_networks_are_clipped_by_themselves(tiny):
    found = {network_of(f"0.{path}") for path in paths(skeleton(tiny))}
    networks = {"encoder", "bottleneck", "decoder", "text", "prototypes"}
    assert found - networks == {
        "projection", "logit_scale", "logit_bias", "latent_mean", "latent_std"
    }  # fmt: skip


def test_decay_rises_along_a_cosine_by_hand():
    config = dataclasses.replace(PLAIN, weight_decay=0.04, final_weight_decay=0.4)
    decay = weight_decay(config, 10)
    found = [float(decay(step)) for step in (0, 5, 10)]
    np.testing.assert_allclose(found, [0.04, 0.22, 0.4], rtol=1e-6)
    optimizer = make_optimizer(config, 10)
    params = {"weight": jnp.ones(2), "bias": jnp.ones(2)}
    state, nothing = optimizer.init(params), jax.tree.map(jnp.zeros_like, params)
    for step in range(3):
        updates, state = optimizer.update(nothing, state, params)
        np.testing.assert_allclose(updates["weight"], -0.1 * decay(step), rtol=1e-6)
        np.testing.assert_array_equal(updates["bias"], 0)


def test_a_text_tower_has_no_weight_that_no_rule_knows(tiny):
    # A new matrix with a new name would silently not decay.
    assert isinstance(tiny.tokenizer.text, TextConfig)
    leaves = jax.tree_util.tree_leaves_with_path(skeleton(tiny))
    flat = ("positions", "attention_scale", "feed_forward_scale")
    for path, leaf in leaves:
        name = leaf_path(path)
        dims = leaf.ndim - ("blocks" in name)  # the layer axis is none of its own
        if dims >= 2 and not name.endswith(flat):
            assert decays(name), name
