import equinox as eqx
from hypothesis import given, strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vtp_eqx.mesh import data_mesh
from vtp_eqx.models.tokenizer import Pretrainer, Teacher
from vtp_eqx.nn.linear import Linear
from vtp_eqx.runs.checkpoint import Checkpoints
from vtp_eqx.training.state import copy_arrays, moving_average, shard_state, TrainState


seeds = st.integers(0, 2**31 - 1)


class Counted(eqx.Module):
    """A float array, an integer array and something that is no array."""

    weight: jax.Array
    count: jax.Array
    name: str


def counted(seed, name="a"):
    draw = np.random.default_rng(seed)
    # Magnitudes from denormal to huge: exactness must not be a matter of luck.
    weight = draw.normal(size=5) * 10.0 ** draw.integers(-30, 30, 5)
    return Counted(jnp.asarray(weight, jnp.float32), jnp.asarray(seed % 7), name)


@given(seed=seeds)
def test_a_momentum_of_1_keeps_the_teacher_exactly(seed):
    teacher, student = counted(seed), counted(seed + 1)
    assert eqx.tree_equal(moving_average(teacher, student, 1.0), teacher)


@given(seed=seeds)
def test_a_momentum_of_0_copies_the_student_exactly(seed):
    teacher, student = counted(seed), counted(seed + 1)
    mixed = moving_average(teacher, student, jnp.float32(0))
    assert jnp.array_equal(mixed.weight, student.weight)


def test_a_moving_average_by_hand():
    teacher = Counted(jnp.asarray([4.0, 0.0]), jnp.asarray(1), "a")
    student = Counted(jnp.asarray([8.0, 2.0]), jnp.asarray(2), "a")
    mixed = moving_average(teacher, student, 0.75)
    np.testing.assert_array_equal(mixed.weight, [5.0, 0.5])
    # What is not a float stays the teacher's.
    assert (int(mixed.count), mixed.name) == (1, "a")


def test_a_moving_average_keeps_the_teachers_type():
    teacher = jnp.ones(3, jnp.bfloat16)
    student = jnp.zeros(3, jnp.float32)
    assert moving_average(teacher, student, jnp.float32(0.5)).dtype == jnp.bfloat16


def test_copies_share_no_buffer():
    tree = counted(0)
    twin = copy_arrays(tree)
    assert eqx.tree_equal(twin, tree)
    tree.weight.delete()
    assert jnp.isfinite(twin.weight).all()


def test_a_new_state_has_taken_no_step(getkey):
    student = Linear(2, 3, key=getkey())
    weights = {"error": jnp.ones((), jnp.float32)}
    key = getkey()
    state = TrainState.start(student, None, weights, optax.adam(0.1), key=key)
    assert state.step.dtype == jnp.int32
    assert int(state.step) == 0
    moments = state.opt_state[0].mu
    assert jax.tree.structure(moments) == jax.tree.structure((student, weights))
    assert all(not leaf.any() for leaf in jax.tree.leaves(moments))


def bytes_of_a_device(tree):
    """What the first device holds of `tree`."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if eqx.is_inexact_array(leaf)]
    shards = [leaf.addressable_shards[0].data for leaf in leaves]
    return sum(shard.nbytes for shard in shards)


@pytest.fixture(scope="module")
def skeleton(tiny):
    student = eqx.filter_jit(Pretrainer)(
        tiny.tokenizer, tiny.prototypes, key=jax.random.key(0)
    )
    weights = {"error": jnp.ones((), jnp.float32)}
    return TrainState.start(
        student, Teacher.of(student), weights, optax.adam(0.1), key=jax.random.key(1)
    )


PARTS = ("student", "teacher", "opt_state")


@pytest.mark.parametrize("num_devices", [2, 8])
@pytest.mark.parametrize(
    ("sharding", "split"), [("none", ()), ("zero", PARTS[1:]), ("fsdp", PARTS)]
)
def test_what_is_split_falls_with_the_number_of_devices(
    sharding, split, num_devices, skeleton
):
    state = shard_state(skeleton, data_mesh(num_devices), sharding)
    for part in PARTS:
        whole = bytes_of_a_device(getattr(skeleton, part))
        share = bytes_of_a_device(getattr(state, part))
        if part in split:
            # A few short arrays are not divided: they are copied.
            assert whole / num_devices <= share < 1.15 * whole / num_devices
        else:
            assert share == whole


def test_placing_changes_no_number(skeleton):
    state = shard_state(skeleton, data_mesh(8), "fsdp")
    assert eqx.tree_equal(
        jax.device_get(eqx.filter(state, eqx.is_inexact_array)),
        jax.device_get(eqx.filter(skeleton, eqx.is_inexact_array)),
    )


@pytest.mark.parametrize("num_devices", [1, 2, 4])
def test_a_state_split_over_8_devices_is_restored_on_fewer(
    num_devices, skeleton, tmp_path
):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(shard_state(skeleton, data_mesh(8), "fsdp"))
    template = shard_state(skeleton, data_mesh(num_devices), "zero")
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(template)
    arrays = lambda tree: jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array))
    for found, wanted in zip(arrays(restored), arrays(template), strict=True):
        assert found.sharding == wanted.sharding
        np.testing.assert_array_equal(found, wanted)
