import json

import equinox as eqx
import jax
import numpy as np
import pytest

from vtp_eqx.training.checkpoint import Checkpoints
from vtp_eqx.training.run import run


def advance(started, folder, num_steps):
    return run(
        started.start(), started.step, started.batches,
        num_steps=num_steps, mesh=started.mesh, folder=folder, log_every=1,
        save_every=2,
    )  # fmt: skip


def logged(folder):
    """The log without wall time."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [
        {name: value for name, value in json.loads(line).items() if name != "seconds"}
        for line in lines
    ]


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
    assert [line["step"] for line in logged(parts)] == [1, 2, 3, 4]
    assert logged(parts) == logged(whole)


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
