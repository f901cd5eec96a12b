import dataclasses
import json
import socket

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks.bit_flips import faulty_at, Flip, flip_bit, same_bits
from tests.runs.conftest import metrics_of
from tests.runs.test_multihost import in_two_processes
from tests.training.examples import DECODE
from vtp_eqx.config import DiTConfig, GenerateConfig, short_hash
from vtp_eqx.losses.weighting import FixedWeights
from vtp_eqx.mesh import data_mesh
from vtp_eqx.runs import pretrain, train_decoder, train_generator
from vtp_eqx.runs.batches import ArrayBatches
from vtp_eqx.runs.checkpoint import Checkpoints
from vtp_eqx.runs.corruption import (
    check_recompute,
    CorruptionError,
    differences,
    Result,
)
from vtp_eqx.runs.loop import Callbacks, run_training
from vtp_eqx.runs.run_dir import check_config_unchanged, write_config
from vtp_eqx.training.microbatches import Objective
from vtp_eqx.training.state import copy_arrays, shard_state, TrainState
from vtp_eqx.training.step import make_step


NUM_STEPS, WIDTH = 6, 8

# A bit flips in the second process alone.
TWO = """
from benchmarks.bit_flips import faulty_at, Flip
from tests.runs.test_corruption import Training
from vtp_eqx.runs.corruption import CorruptionError
training = Training(None)
flip = Flip("output", leaf=1, device=1, element=3, bit=30)
faulty = faulty_at(training.step, 6, flip) if process else training.step
try:
    training.run(folder, faulty, recompute_every=2)
except CorruptionError as error:
    found["error"] = str(error)
"""


class Training:
    """Fits eight numbers on all devices; moments and teacher are split over them."""

    def __init__(self, num_devices: int | None = 2):
        self.mesh, optimizer = data_mesh(num_devices), optax.adam(0.1)

        def terms(student, teacher, views, step, key):
            return {"error": ((student * views - 1) ** 2).mean(-1)}, {}

        weight = lambda: jnp.zeros(WIDTH, jnp.float32)
        self.state = shard_state(
            TrainState.start(
                weight(), weight(), FixedWeights({"error": 1.0}), optimizer,
                key=jax.random.key(0),
            ),
            self.mesh, "zero",
        )  # fmt: skip
        self.step = make_step(
            self.state, Objective(lambda batch, key: batch["rows"], terms), optimizer,
            self.mesh, momentum=lambda step: jnp.asarray(0.5, jnp.float32),
            ema_source=lambda student: student, sharding="zero",
        )  # fmt: skip
        rows = np.random.default_rng(0).standard_normal((12, WIDTH))
        self.batches = ArrayBatches(dict, {"rows": rows.astype(np.float32)}, 4, seed=0)

    def start(self) -> TrainState:
        return copy_arrays(self.state)

    def run(self, folder, step=None, **options) -> TrainState:
        return run_training(
            self.start(), step or self.step, self.batches, num_steps=NUM_STEPS,
            mesh=self.mesh, folder=folder, log_every=1, save_every=2,
            callbacks=Callbacks(rows=self.batches.rows), **options,
        )  # fmt: skip


@pytest.fixture(scope="module")
def training() -> Training:
    return Training()


@pytest.fixture(scope="module")
def whole(training, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return training.run(folder), metrics_of(folder)


def arrays(state):
    return Result(state, {}).arrays()


def test_steps_that_are_computed_twice_change_nothing(training, whole, tmp_path):
    state = training.run(tmp_path, recompute_every=2)
    assert differences(Result(state, {}), Result(whole[0], {}), training.mesh) == []
    assert metrics_of(tmp_path) == whole[1]
    assert not (tmp_path / "corruption").exists()


def test_a_flipped_bit_stops_the_run_and_both_results_are_there(
    training, whole, tmp_path
):
    # Steps 1 and 2, 3, and 4, whose second computation is the sixth call.
    flip = Flip("output", leaf=1, device=1, element=3, bit=30)  # of the student
    faulty = faulty_at(training.step, 6, flip)
    host = socket.gethostname()
    with pytest.raises(
        CorruptionError,
        match=rf"^Step 4, .* got two on host {host}, cpu:1: state\.student "
        r"\(1 of 8 elements, by up to \S+\)\. Both are in .*/corruption/step-4-1\. ",
    ):
        training.run(tmp_path, faulty, recompute_every=2)
    # Neither a checkpoint nor a line of the step.
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["2"]
    assert [line["step"] for line in metrics_of(tmp_path)] == [1, 2, 3]
    folder = tmp_path / "corruption" / "step-4-1"
    for name in ("first", "second"):
        with Checkpoints(folder / name / "checkpoints") as checkpoints:
            assert int(checkpoints.restore(training.start()).step) == 4
    # The second device has a copy of its own, which no checkpoint has.
    report = json.loads((folder / "report-0.json").read_text())
    assert report["rows"] == training.batches.rows(report["batch"])
    (found,) = report["differences"]
    assert (found["leaf"], found["device"]) == ("state.student", "cpu:1")
    (element,) = found["elements"]
    assert element["index"] == 3
    first, second = (int(bits, 16) for bits in element["bits"])
    assert first ^ second == 1 << 30
    # The same command continues from before, with hardware that is whole.
    state = training.run(tmp_path, recompute_every=2)
    assert all(map(same_bits, arrays(state).values(), arrays(whole[0]).values()))
    assert metrics_of(tmp_path) == whole[1]


def test_a_wrong_parameter_is_seen_in_what_comes_of_it_each_time(training, tmp_path):
    flip = Flip("parameter", leaf=0, device=0, element=0, bit=30)
    for attempt in (1, 2):
        faulty = faulty_at(training.step, 2, flip)
        with pytest.raises(CorruptionError, match=r"state\.student .*state\.teacher"):
            training.run(tmp_path, faulty, recompute_every=1)
        folder = tmp_path / "corruption" / f"step-1-{attempt}"
        report = json.loads((folder / "report-0.json").read_text())
        assert "metrics.total" in {one["leaf"] for one in report["differences"]}
        assert report["metrics"]["first"] != report["metrics"]["second"]


def test_a_part_that_one_device_holds_is_compared_there(training):
    result = Result(training.start(), {})
    moment = lambda result: result.state.opt_state[0].mu[0]
    assert not moment(result).is_fully_replicated
    flipped = flip_bit(moment(result), device=1, element=2, bit=31)
    other = eqx.tree_at(moment, result, flipped)
    (found,) = differences(result, other, training.mesh)
    # Zero and minus zero are other bits of one number.
    assert found.leaf.startswith("state.opt_state.")
    assert (found.device, found.num_differing, found.size) == ("cpu:1", 1, 4)
    assert found.largest == 0


def test_numbers_are_compared_by_their_bits(training):
    pairs = {
        "nan": (np.float32(np.nan), np.float32(np.nan), None),
        "not-nan": (np.float32(np.nan), np.float32(1), np.nan),
        "infinite": (np.float32(np.inf), np.float32(1), np.inf),
        "integer": (np.int32(3), np.int32(5), 2),
        "truth": (np.bool_(True), np.bool_(False), 1),
        "nothing": (np.zeros(0, np.float32), np.zeros(0, np.float32), None),
    }
    place = lambda value: jax.device_put(value, training.state.step.sharding)
    first, second = (
        Result(training.state, {name: place(pair[at]) for name, pair in pairs.items()})
        for at in (0, 1)
    )
    found = {}
    for one in differences(first, second, training.mesh):
        found.setdefault(one.leaf.removeprefix("metrics."), []).append(one.largest)
    expected = {name: [pair[2]] * 2 for name, pair in pairs.items() if pair[2]}
    np.testing.assert_equal(found, expected)


def test_keys_are_compared_too(training):
    result = Result(training.start(), {})
    other = jax.device_put(jax.random.key(1), result.state.key.sharding)
    changed = eqx.tree_at(lambda result: result.state.key, result, other)
    found = differences(result, changed, training.mesh)
    assert {one.leaf for one in found} == {"state.key"}


def test_kernels_of_a_gpu_must_add_in_one_order(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_deterministic_ops=false")
    check_recompute(0, "gpu")
    with pytest.raises(ValueError, match=r"`recompute_every` \(7\) needs kernels"):
        check_recompute(7, "gpu")
    monkeypatch.setenv("XLA_FLAGS", "--a --xla_gpu_deterministic_ops=true")
    check_recompute(7, "gpu")
    with pytest.raises(ValueError, match=r"`recompute_every` \(-1\) must be a number"):
        check_recompute(-1, "gpu")


def test_every_training_has_the_field(tiny, data, tokenizer, tmp_path, monkeypatch):
    asked = []

    class Begun(Exception):
        pass

    def run(state, step, batches, *, recompute_every, callbacks, **options):
        asked.append((recompute_every, callbacks.rows(0)[:2]))
        raise Begun

    nothing = lambda *arguments: (None, None)
    for module in (pretrain, train_decoder, train_generator):
        monkeypatch.setattr(module, "run_training", run)
    monkeypatch.setattr(pretrain, "init_pretraining", nothing)
    monkeypatch.setattr(train_decoder, "init_decoder_training", nothing)
    monkeypatch.setattr(train_decoder, "with_new_decoder", lambda *_, key: None)
    monkeypatch.setattr(train_decoder, "solve_decoder", nothing)
    monkeypatch.setattr(train_generator, "init_generator_training", nothing)
    shape = DiTConfig(width=16, depth=1, num_heads=2, latent_width=4, latent_size=2)
    generate = GenerateConfig(dit=shape, batch_size=4, recompute_every=3)
    latents = np.random.default_rng(0).standard_normal((8, 2, 2, 4), np.float32)
    for start in (
        lambda: pretrain.pretrain(
            dataclasses.replace(tiny, recompute_every=1), data, folder=tmp_path
        ),
        lambda: train_decoder.train_decoder(
            dataclasses.replace(DECODE, recompute_every=2, batch_size=4), tokenizer,
            data["image"][:8], latents, folder=tmp_path,
        ),
        lambda: train_generator.train_generator(
            generate, latents, np.zeros(8, np.int32), folder=tmp_path
        ),
    ):  # fmt: skip
        with pytest.raises(Begun):
            start()
    assert [number for number, _ in asked] == [1, 2, 3]
    assert all(len(rows) == 2 for _, rows in asked)


def test_a_run_that_is_continued_may_be_checked_from_then_on(tiny, tmp_path):
    write_config(tmp_path, tiny)
    checked = dataclasses.replace(tiny, recompute_every=100)
    check_config_unchanged(tmp_path, checked)
    assert short_hash(checked) != short_hash(tiny)


def test_a_full_disk_does_not_hide_that_results_differ(training, tmp_path, monkeypatch):
    def save(checkpoints, state):
        raise OSError("no space left")

    flip = Flip("output", leaf=1, device=0, element=0, bit=1)
    monkeypatch.setattr("vtp_eqx.runs.corruption.Checkpoints.save", save)
    with pytest.raises(CorruptionError, match=r"not be written to .*no space left\)"):
        training.run(tmp_path, faulty_at(training.step, 2, flip), recompute_every=1)


@pytest.mark.slow
def test_a_bit_that_flips_in_one_process_stops_both(tmp_path):
    first, second = (found["error"] for found in in_two_processes(TWO, tmp_path))
    assert first == second
    assert "state.student (1 of 8 elements" in first
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["2"]
    (folder,) = (tmp_path / "corruption").iterdir()
    seen = lambda index: json.loads((folder / f"report-{index}.json").read_text())
    assert [len(seen(index)["differences"]) for index in (0, 1)] == [0, 1]
