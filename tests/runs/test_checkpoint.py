import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.runs.conftest import metrics_of
from vtp_eqx.mesh import data_mesh, on_mesh
from vtp_eqx.runs import checkpoint as module
from vtp_eqx.runs.checkpoint import Checkpoints, read_newest
from vtp_eqx.runs.loop import run_training
from vtp_eqx.training.state import TrainState


# Reads of damaged files that TensorStore had under way answer, at any later moment, to
# a loop that Orbax closed meanwhile.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)


def advance(started, folder, num_steps):
    return run_training(
        started.start(), started.step, started.batches,
        num_steps=num_steps, mesh=started.mesh, folder=folder, log_every=1,
        save_every=2,
    )  # fmt: skip


def assert_same_bits(found, wanted):
    for path, array in jax.tree_util.tree_leaves_with_path(wanted):
        assert eqx.is_array(array)
        name = jax.tree_util.keystr(path)
        other = dict(jax.tree_util.tree_leaves_with_path(found))[path]
        if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
            array, other = jax.random.key_data(array), jax.random.key_data(other)
        assert other.dtype == array.dtype, name
        np.testing.assert_array_equal(np.asarray(other), np.asarray(array), name)


@pytest.mark.slow
def test_an_interrupted_run_ends_as_one_that_was_not(started, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    expected = advance(started, whole, 4)
    advance(started, parts, 3)
    # It is killed after step 3 was logged, but before its checkpoint was whole.
    with Checkpoints(parts / "checkpoints") as checkpoints:
        checkpoints._manager.delete(3)
    resumed = advance(started, parts, 4)
    assert_same_bits(
        eqx.filter(resumed, eqx.is_array), eqx.filter(expected, eqx.is_array)
    )
    assert [line["step"] for line in metrics_of(parts)] == [1, 2, 3, 4]
    assert metrics_of(parts) == metrics_of(whole)


def test_restored_arrays_are_placed_as_the_template(started, tmp_path):
    state = started.start()
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() == 0
        restored = checkpoints.restore(state)
    arrays = lambda tree: jax.tree.leaves(eqx.filter(tree, eqx.is_array))
    for ours, theirs in zip(arrays(restored), arrays(state), strict=True):
        assert ours.sharding == theirs.sharding
    assert_same_bits(
        eqx.filter(restored, eqx.is_array), eqx.filter(state, eqx.is_array)
    )


def test_an_empty_folder_cannot_be_restored(started, tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() is None
        with pytest.raises(FileNotFoundError, match="needs a checkpoint; got an empty"):
            checkpoints.restore(started.start())


def small(width: int, step: int) -> TrainState:
    """A state that is quickly written."""
    student = {"weight": jax.random.normal(jax.random.key(step), (width, 50))}
    state = TrainState.start(
        student, None, {}, optax.adam(1e-3), key=jax.random.key(step)
    )
    return eqx.tree_at(lambda state: state.step, state, jnp.asarray(step, jnp.int32))


@pytest.fixture
def saved(tmp_path):
    """Checkpoints of steps 1, 2 and 3."""
    folder = tmp_path / "checkpoints"
    with Checkpoints(folder, keep=3) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(small(100, step))
    return folder


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def largest(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: flip_a_bit(largest(folder)),
        lambda folder: largest(folder).unlink(),
        lambda folder: largest(folder).write_bytes(b""),
        lambda folder: next(folder.rglob("manifest.ocdbt")).unlink(),
    ],
    ids=["bit", "file gone", "file empty", "manifest gone"],
)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(damage, saved):
    damage(saved / "3")
    said = []
    with Checkpoints(saved, keep=3, say=said.append) as checkpoints:
        restored = checkpoints.restore(small(100, 0))
        assert_same_bits(
            eqx.filter(restored, eqx.is_array), eqx.filter(small(100, 2), eqx.is_array)
        )
        # Set aside, it does not stand in the way of its own step.
        checkpoints.save(small(100, 3))
        checkpoints.wait()
        assert checkpoints.steps() == [1, 2, 3]
    (sentence,) = said
    assert "Checkpoint 3 in" in sentence
    assert "going back to step 2" in sentence


def test_a_changed_number_is_noticed_by_its_bits(saved, monkeypatch):
    # Files that read well and hold another value, as no checksum of files would see.
    with Checkpoints(saved, keep=3) as checkpoints:
        sums = next((saved / "3" / "sums").glob("metadata"))
        found = json.loads(sums.read_text())
        found["student.weight"] += 1
        sums.write_text(json.dumps(found))
        assert int(checkpoints.restore(small(100, 0)).step) == 2


def test_damage_beside_a_state_is_said_and_the_file_can_be_spared(saved):
    beside = saved / "3" / "_CHECKPOINT_METADATA"
    beside.write_text("[true]")
    with pytest.raises(ValueError, match=r"_CHECKPOINT_METADATA` are sound; .* delete"):
        Checkpoints(saved, keep=3)
    beside.unlink()
    with Checkpoints(saved, keep=3) as checkpoints:
        assert int(checkpoints.restore(small(100, 0)).step) == 3


def test_half_a_checkpoint_is_none(saved):
    (saved / "3").rename(saved / "4.orbax-checkpoint-tmp")
    with Checkpoints(saved, keep=3) as checkpoints:
        assert int(checkpoints.restore(small(100, 0)).step) == 2


def test_another_model_is_refused_and_loses_nothing(saved):
    with Checkpoints(saved, keep=3) as checkpoints:
        with pytest.raises(ValueError, match=r"got another in .* differs in .*weight"):
            checkpoints.restore(small(99, 0))
        assert checkpoints.steps() == [1, 2, 3]
    assert not (saved.parent / "damaged").exists()


def test_where_all_are_damaged_none_is_touched(saved):
    for step in (1, 2, 3):
        largest(saved / str(step)).write_bytes(b"")
    with Checkpoints(saved, keep=3) as checkpoints:
        with pytest.raises(FileNotFoundError, match="got no sound one "):
            checkpoints.restore(small(100, 0))
        assert checkpoints.steps() == [1, 2, 3]


def test_the_last_and_the_best_are_kept_also_by_a_later_process(tmp_path):
    scores = {1: 0.1, 2: 0.9, 3: 0.2, 4: 0.3, 5: None, 6: float("nan"), 7: 0.8}
    for some in ((1, 2, 3), (4, 5), (6, 7)):
        with Checkpoints(tmp_path, keep=2, keep_best=1) as checkpoints:
            for step in some:
                checkpoints.save(small(3, step), scores[step])
    with Checkpoints(tmp_path, keep=2, keep_best=1) as checkpoints:
        assert checkpoints.steps() == [2, 6, 7]


@pytest.mark.slow
def test_a_checkpoint_is_free_of_topology(saved):
    mesh = data_mesh(4)
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data", None))
    one = small(100, 0)
    weight = lambda state: state.student["weight"]
    spread = eqx.tree_at(weight, one, jax.device_put(weight(one), split))
    with Checkpoints(saved, keep=3) as checkpoints:
        restored = checkpoints.restore(on_mesh(spread, mesh))
        assert weight(restored).sharding == split
        np.testing.assert_array_equal(weight(restored), weight(small(100, 3)))
        checkpoints.save(
            eqx.tree_at(lambda state: state.step, restored, jnp.asarray(4))
        )
    with Checkpoints(saved, keep=3) as checkpoints:
        again = checkpoints.restore(one)
        np.testing.assert_array_equal(weight(again), weight(small(100, 3)))


def files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_some_arrays_of_the_newest_state_are_read_and_nothing_is_written(saved):
    weight, rows = lambda state: state.student["weight"], data_mesh(4)
    split = jax.sharding.NamedSharding(rows, jax.sharding.PartitionSpec("data"))
    state = small(100, 4)
    with Checkpoints(saved, keep=3) as checkpoints:
        checkpoints.save(
            eqx.tree_at(weight, state, jax.device_put(weight(state), split))
        )
    before = files(saved)
    shape = jax.ShapeDtypeStruct((100, 50), jnp.float32)
    found = read_newest(saved, {"student.weight": shape})
    np.testing.assert_array_equal(found["student.weight"], weight(state))
    assert found.keys() == {"student.weight"}
    assert files(saved) == before


def test_the_newest_state_is_named_where_it_is_damaged(saved):
    flip_a_bit(largest(saved / "3"))
    with pytest.raises(ValueError, match="a damaged checkpoint of step 3 "):
        read_newest(saved, {"student.weight": small(100, 0).student["weight"]})


def test_a_state_that_is_deleted_while_it_is_read_gives_way_to_a_newer(
    saved, monkeypatch
):
    read, seen = module._read_some, []

    def overtaken(folder, wanted):
        seen.append(folder.name)
        if len(seen) == 1:
            with Checkpoints(saved, keep=1) as checkpoints:
                checkpoints.save(small(100, 4))
            assert not folder.exists()
        return read(folder, wanted)

    monkeypatch.setattr(module, "_read_some", overtaken)
    found = read_newest(saved, {"student.weight": small(100, 0).student["weight"]})
    assert seen == ["3", "4"]
    np.testing.assert_array_equal(
        found["student.weight"], small(100, 4).student["weight"]
    )


def test_a_run_without_a_state_is_said(tmp_path):
    (tmp_path / "1.orbax-checkpoint-tmp").mkdir()
    with pytest.raises(FileNotFoundError, match="has none yet: wait"):
        read_newest(tmp_path, {})
