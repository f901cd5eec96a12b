import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks.compare_runs import compare, main
from vtp_eqx.runs.checkpoint import Checkpoints, read_arrays
from vtp_eqx.training.state import TrainState


WEIGHT = np.arange(4, dtype=np.float32)


def write_run(folder, weights, lines):
    """A run with a checkpoint of each step in `weights`, and these lines of the log."""
    student = {"weight": jnp.zeros(4), "bias": jnp.zeros(())}
    state = TrainState.start(student, None, {}, optax.sgd(1.0), key=jax.random.key(0))
    with Checkpoints(folder / "checkpoints", keep=9) as checkpoints:
        for step, weight in weights.items():
            values = (jnp.asarray(step, jnp.int32), jnp.asarray(weight))
            where = lambda state: (state.step, state.student["weight"])
            checkpoints.save(eqx.tree_at(where, state, values))
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)
    return folder


def line(step, total, **more):
    return {"step": step, "seconds": step / 7, "total": total, **more}


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    folder = tmp_path_factory.mktemp("first")
    lines = [line(1, 0.5, mfu=0.3), line(2, 0.25), line(4, 0.125, psnr=20.0)]
    return write_run(folder, {2: WEIGHT, 4: 2 * WEIGHT}, lines)


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    """The same but for the clock, the sign of a zero in step 4, and two metrics."""
    folder = tmp_path_factory.mktemp("second")
    other = 2 * WEIGHT
    other[0] = -0.0
    other[3] += 0.5
    lines = [line(1, 0.5, mfu=0.4), line(2, 0.75), line(4, 0.125, psnr=20.5)]
    return write_run(folder, {2: WEIGHT, 4: other}, lines)


def test_all_arrays_of_a_checkpoint_are_read_by_name(first):
    arrays = read_arrays(first / "checkpoints", 4)
    np.testing.assert_array_equal(arrays["student.weight"], 2 * WEIGHT)
    assert arrays["key"].dtype == np.uint32  # of keys their data
    with pytest.raises(ValueError, match=r"has a damaged checkpoint of step 9"):
        read_arrays(first / "checkpoints", 9)


def test_a_run_equals_itself(first, capsys):
    found = compare(first, first)
    assert found.is_equal
    assert (found.steps, found.num_lines) == ([2, 4], 3)
    main([str(first), str(first), "--equal"])
    assert "equal, bit for bit" in capsys.readouterr().out


def test_the_first_difference_is_named_and_the_status_is_1(first, second, capsys):
    with pytest.raises(SystemExit) as ended:
        main([str(first), str(second), "--equal"])
    assert ended.value.code == 1
    output = capsys.readouterr().out
    reason = "2 of 4 elements, by up to 0.5"
    assert f"First array that differs: student.weight, step 4: {reason}." in output
    assert "First metric that differs: total, step 2: 0.25 and 0.75." in output
    assert "mfu" not in output
    rows = [row.split("|")[1:3] for row in output.splitlines() if row.startswith("|")]
    names = [(step.strip(), name.strip()) for step, name in rows[2:]]
    assert names == [("2", "total"), ("4", "student.weight"), ("4", "psnr")]


def test_what_only_one_run_has_is_a_difference(first, tmp_path):
    shorter = write_run(tmp_path / "run", {2: WEIGHT}, [line(1, 0.5), line(2, 0.25)])
    found = compare(first, shorter)
    assert (found.steps, found.arrays) == ([2], [])
    assert found.metrics == [
        (4, "step", "4 and None"), (4, "total", "0.125 and None"),
        (4, "psnr", "20.0 and None"),
    ]  # fmt: skip
    assert not found.is_equal


def test_without_equal_metrics_are_compared_in_their_units(first, second, capsys):
    main([str(first), str(second)])
    rows = [
        [cell.strip() for cell in row.split("|")[1:-1]]
        for row in capsys.readouterr().out.splitlines()
    ]
    psnr = ["psnr", "dB", "4", "20", "20.5", "0.5", "0.5", "4"]
    total = ["total", "", "4", "0.125", "0.125", "0", "0.5", "2"]
    assert psnr in rows
    assert total in rows


def test_neither_a_folder_nor_a_commit_nor_devices(first, tmp_path):
    with pytest.raises(SystemExit, match=r"a folder, a commit or a number of devices"):
        main([str(first), "no-such-thing", "--equal"])
    with pytest.raises(SystemExit, match="must share a step"):
        main([str(first), str(tmp_path), "--equal"])


@pytest.mark.slow
def test_the_same_code_gives_the_same_run_at_any_commit(capsys):
    main(["1", "HEAD", "--equal"])
    assert "equal, bit for bit" in capsys.readouterr().out
