import equinox as eqx
import jax
from jax.flatten_util import ravel_pytree
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

from tests.training.conftest import pairs_batches, pairs_objective, pairs_state
from vtp_eqx.losses.contrastive import clip_loss
from vtp_eqx.losses.cosines import unit_norm
from vtp_eqx.mesh import data_mesh, replicate, shard_batch
from vtp_eqx.training.gradient_cosines import make_gradient_cosines, pairwise_cosines
from vtp_eqx.training.microbatches import Objective


STEP = jnp.zeros((), jnp.int32)


class Two(eqx.Module):
    trunk: jax.Array
    head: jax.Array


VECTORS = {"a": (3.0, 4.0, 0.0), "b": (4.0, 3.0, 0.0), "minus a": (-3.0, -4.0, 0.0),
           "c": (0.0, 0.0, 2.0), "nothing": (0.0, 0.0, 0.0)}  # fmt: skip


def test_cosines_of_linear_terms_are_those_of_their_vectors():
    names = [*VECTORS]
    rows = jnp.asarray([[VECTORS[name] for name in names]])  # one image, five terms

    def loss(student, outputs):
        return {name: outputs[:, i] for i, name in enumerate(names)}, {}

    def forward(student, teacher, views, step, key):
        return jnp.einsum("nti,i->nt", views, student.trunk) * student.head

    objective = Objective(lambda batch, key: batch, forward, loss)
    cosines = make_gradient_cosines(
        objective, names, lambda student: student.trunk, data_mesh(1)
    )
    student = Two(jnp.asarray([0.5, -2.0, 1.0]), jnp.asarray(7.0))
    found = np.asarray(cosines(student, None, rows, STEP, jr.key(0)))
    expected = [
        [1, 0.96, -1, 0, 0],
        [0.96, 1, -0.96, 0, 0],
        [-1, -0.96, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 0, 0],  # of no gradient
    ]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_gradients_are_of_all_leaves_together_and_of_any_length():
    # (1, 2, 2) and (2, 0, -1), each over two leaves and times a tiny and a huge number.
    leaves = {"x": jnp.asarray([[1e-30], [2e20]]),
              "y": jnp.asarray([[[2e-30, 2e-30]], [[0.0, -1e20]]])}  # fmt: skip
    found = pairwise_cosines(leaves)
    assert found[0, 1] == pytest.approx(0.0, abs=1e-6)
    np.testing.assert_allclose(jnp.diagonal(found), 1.0, rtol=1e-6)
    leaves["x"] = leaves["x"].at[1].set(-2e20)
    assert pairwise_cosines(leaves)[0, 1] == pytest.approx(-4 / (3 * 5**0.5))


def by_hand(state, batch):
    """The cosine between contrast and error on the image tower, without a mesh."""
    image, text = jnp.asarray(batch["image"]), jnp.asarray(batch["text"])
    target = state.teacher.image(image)
    target = target - target.mean(axis=0)
    tower, rest = eqx.partition(state.student.image, eqx.is_inexact_array)

    def contrast(tower):
        embedded = unit_norm(eqx.combine(tower, rest)(image))
        return clip_loss(
            embedded, unit_norm(state.student.text(text)),
            log_scale=state.student.log_scale,
        ).mean()  # fmt: skip

    def error(tower):
        return ((eqx.combine(tower, rest)(image) - target) ** 2).mean()

    one, other = (ravel_pytree(jax.grad(term)(tower))[0] for term in (contrast, error))
    return one @ other / jnp.linalg.norm(one) / jnp.linalg.norm(other)


@pytest.mark.parametrize(("num_devices", "accumulate"), [(1, 1), (2, 1), (1, 4)])
def test_cosines_are_of_the_global_batch(num_devices, accumulate):
    mesh = data_mesh(num_devices)
    state = replicate(pairs_state(optax.sgd(0.1)), mesh)
    batch = next(pairs_batches(None, None))
    cosines = make_gradient_cosines(
        pairs_objective(), ["contrast", "error"], lambda pairs: pairs.image, mesh,
        accumulate=accumulate,
    )  # fmt: skip
    found = cosines(
        state.student, state.teacher, shard_batch(batch, mesh), STEP, jr.key(0)
    )
    assert found[0, 1] == pytest.approx(float(by_hand(state, batch)), abs=1e-5)
    np.testing.assert_allclose(jnp.diagonal(found), 1.0, rtol=1e-5)
