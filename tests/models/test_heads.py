import json
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from safetensors.numpy import load_file

from vtp_eqx.config import PrototypeConfig
from vtp_eqx.models.heads import PrototypeHead


GOLDEN = Path(__file__).parent.parent / "golden" / "dino_head"
CONFIG = PrototypeConfig(
    num_prototypes=7, hidden_width=12, bottleneck_width=4, num_layers=3
)


# Compiled as a whole: op by op each takes seconds.
make_head = eqx.filter_jit(PrototypeHead)
outputs = eqx.filter_jit(lambda head, x: head(x))


@pytest.fixture(scope="module")
def head():
    return make_head(6, CONFIG, key=jr.key(0))


@pytest.fixture(scope="module")
def published():
    """The head and numbers of facebookresearch/dinov2 b8931f7."""
    sizes = json.loads((GOLDEN / "config.json").read_text())
    weights = load_file(GOLDEN / "model.safetensors")
    config = PrototypeConfig(
        num_prototypes=sizes["out_dim"],
        hidden_width=sizes["hidden_dim"],
        bottleneck_width=sizes["bottleneck_dim"],
        num_layers=sizes["nlayers"],
    )
    head = eqx.tree_at(
        lambda h: [
            *(layer.weight for layer in h.layers),
            *(layer.bias for layer in h.layers),
            h.prototypes,
            h.scale,
        ],
        make_head(sizes["in_dim"], config, key=jr.key(0)),
        [
            *(jnp.asarray(weights[f"mlp.{i}.weight"]) for i in (0, 2, 4)),
            *(jnp.asarray(weights[f"mlp.{i}.bias"]) for i in (0, 2, 4)),
            jnp.asarray(weights["last_layer.weight_v"]),
            jnp.asarray(weights["last_layer.weight_g"][:, 0]),
        ],
    )
    return head, load_file(GOLDEN / "io.safetensors")


def test_agrees_with_the_published_head(published):
    head, expected = published
    x = jnp.asarray(expected["x"])
    found = eqx.filter_jit(lambda head, x: (head.bottleneck(x), head(x)))(head, x)
    np.testing.assert_allclose(found[0], expected["bottleneck"], atol=1e-4)
    np.testing.assert_allclose(found[1], expected["logits"], atol=1e-4)


def test_agrees_with_the_published_gradient(published):
    head, expected = published
    mean_square = jax.jit(jax.grad(lambda x: jnp.mean(head(x) ** 2)))
    gradient = mean_square(jnp.asarray(expected["x"]))
    np.testing.assert_allclose(
        gradient, expected["grad_x_of_mean_square"], rtol=1e-4, atol=1e-6
    )


def test_a_logit_is_a_scaled_cosine(head, getkey):
    doubled = eqx.tree_at(lambda h: h.scale, head, 2 * head.scale)
    x = 10 * jr.normal(getkey(), (50, 6))
    logits = outputs(head, x)
    assert np.abs(logits).max() <= 1 + 1e-6
    np.testing.assert_allclose(outputs(doubled, x), 2 * logits, rtol=1e-6)


def test_the_length_of_a_prototype_cancels(head, getkey):
    longer = eqx.tree_at(lambda h: h.prototypes, head, 3 * head.prototypes)
    x = jr.normal(getkey(), (5, 6))
    np.testing.assert_allclose(outputs(longer, x), outputs(head, x), atol=1e-6)


def test_leading_axes_are_free(head, getkey):
    x = jr.normal(getkey(), (2, 3, 6))
    np.testing.assert_allclose(
        outputs(head, x)[1, 2], outputs(head, x[1, 2]), atol=1e-6
    )


def test_features_of_zeros_have_a_finite_gradient(head):
    # Biases start at zero, so the bottleneck of a zero feature has no direction.
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(head(x))))(jnp.zeros(6))
    assert np.isfinite(gradient).all()


def test_logits_are_float32_in_a_bfloat16_network(head, getkey):
    low = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), head)
    x = jr.normal(getkey(), (5, 6))
    logits = outputs(low, x.astype(jnp.bfloat16))
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, outputs(head, x), atol=0.05)


@pytest.mark.parametrize("num_layers", [1, 2, 4])
def test_the_depth_is_free(num_layers, getkey):
    config = PrototypeConfig(
        num_prototypes=5, hidden_width=8, bottleneck_width=4, num_layers=num_layers
    )
    head = make_head(6, config, key=getkey())
    assert len(head.layers) == num_layers
    assert outputs(head, jnp.ones(6)).shape == (5,)
