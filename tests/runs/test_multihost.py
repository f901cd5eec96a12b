"""What two processes on this machine do together, with two devices each."""

import json
import os
from pathlib import Path
import socket
import subprocess
import sys

import equinox as eqx
import jax
import jax.random as jr
import numpy as np
import pytest

from vtp_eqx.config import (
    decoder_like,
    DiTConfig,
    LatentsConfig,
    SampleConfig,
    SamplerConfig,
    TokenizerConfig,
    TransformerConfig,
)
from vtp_eqx.data.sources import ArraySource
from vtp_eqx.evaluation.card import read
from vtp_eqx.evaluation.latent_statistics import measure_latents
from vtp_eqx.mesh import data_mesh
from vtp_eqx.models.arrays import latents_hash
from vtp_eqx.models.dit import DiT
from vtp_eqx.models.generator import Generator
from vtp_eqx.models.tokenizer import Tokenizer
from vtp_eqx.runs.extract_latents import extract_latents
from vtp_eqx.runs.log import read_log
from vtp_eqx.runs.multihost import all_equal, all_max, raise_on_all
from vtp_eqx.runs.sample import sample
from vtp_eqx.tokenizer import load, weights_hash


LEARN = """
from tests.training.conftest import pairs_training
_, _, found["learn"] = pairs_training(4, accumulate=2, sharding="zero")
"""

AGREE = """
from vtp_eqx.runs.multihost import all_equal, all_max, raise_on_all
answers = [all_max(3 * process), all_equal("a"), all_equal(f"{process}")]
for failing in (1, 2):
    try:
        with raise_on_all():
            if process == failing:
                raise KeyError("mine")
        answers.append("well")
    except Exception as error:
        answers.append(type(error).__name__)
found["agree"] = answers
"""

# The files are whole, but one process cannot read those of the newest checkpoint.
RESTORE = """
import jax.numpy as jnp, optax
from vtp_eqx.mesh import data_mesh, gather_to_host
from vtp_eqx.runs.checkpoint import Checkpoints
from vtp_eqx.training.state import shard_state, TrainState

def state(step):
    weight = {"weight": jnp.full(8, step, jnp.float32)}
    first = TrainState.start(weight, None, {}, optax.sgd(1.0), key=jax.random.key(0))
    first = eqx.tree_at(lambda state: state.step, first, jnp.asarray(step, jnp.int32))
    return shard_state(first, data_mesh(), "fsdp")

checkpoint_folder = folder / "restore" / "checkpoints"
with Checkpoints(checkpoint_folder, keep=3) as checkpoints:
    for step in (1, 2, 3):
        checkpoints.save(state(step))
with Checkpoints(checkpoint_folder, keep=3) as checkpoints:
    read = checkpoints._read
    def blind(step, wanted):
        if step == 3 and process == 1:
            raise OSError("a broken cable")
        return read(step, wanted)
    checkpoints._read = blind
    restored = checkpoints.restore(state(0))
    left = checkpoints.steps()
weight = gather_to_host(restored).student["weight"].tolist()
found["restore"] = [int(restored.step), weight, left]
"""

# The smallest run that has evaluations and an end, all of its state split.
PRETRAIN = """
from experiments.pretrain import pretrain
from vtp_eqx.config import (
    decoder_like, OptimizerConfig, PretrainConfig, TokenizerConfig, TransformerConfig
)
from vtp_eqx.evaluation import latent_statistics
from vtp_eqx.runs.pretrain_options import PretrainOptions

jax.distributed.initialize = lambda: None  # it was told where already
shape = TransformerConfig(width=16, depth=1, num_heads=2)
config = PretrainConfig(
    tokenizer=TokenizerConfig(
        encoder=shape, decoder=decoder_like(shape), text=None, image_size=16,
        patch_size=4, latent_width=4,
    ),
    contrast_weight=0.0, distillation_weight=0.0, optimizer=OptimizerConfig(
    warmup_steps=0), batch_size=8, reconstruction_batch=8, num_steps=1, sharding="fsdp",
)
# A file of sums for each process.
latent_statistics.BLOCK_IMAGES = 12
pretrain(PretrainOptions(
    config=config, out=f"{folder}/run", data=(f"{folder}/images.npz",),
    num_eval=8, log_every=1, evaluate_every=1, workers=1, distributed=True,
))
found["pretrain"] = jax.process_count()
"""

# Latents of a folder of arrays, and samples in them.
GENERATE = """
from tests.runs.test_multihost import generate
generate(folder / "generate")
found["generate"] = jax.process_count()
"""

BEGIN = """
import json, pathlib, sys
import equinox as eqx, jax
port, process, folder = sys.argv[1], int(sys.argv[2]), pathlib.Path(sys.argv[3])
jax.distributed.initialize(f"localhost:{port}", 2, process)
found = {}
"""
END = """
jax.distributed.shutdown()
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """That of both processes, with images to learn from."""
    folder = tmp_path_factory.mktemp("two")
    np.savez(folder / "images.npz", arr_0=images_to_learn())
    return folder


def images_to_learn() -> np.ndarray:
    draw = np.random.default_rng(0)
    return draw.integers(0, 256, (24, 16, 16, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def found(folder) -> list[dict]:
    """What either process found: one pair for all, as to start is most of the work."""
    # The last one leaves other settings than it found.
    return in_two_processes(LEARN + AGREE + RESTORE + GENERATE + PRETRAIN, folder)


def in_two_processes(program: str, folder: Path) -> list[dict]:
    """What `program` has put into `found` in each of them."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        # The last one counts; all else is compiled as here.
        "XLA_FLAGS": os.environ["XLA_FLAGS"]
        + " --xla_force_host_platform_device_count=2",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
    code = BEGIN + program + END
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, port, number, str(folder)],
            env=environment, stdout=subprocess.PIPE, text=True,
        )
        for number in "01"
    ]  # fmt: skip
    try:
        printed = [process.communicate(timeout=1200)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [json.loads(output.splitlines()[-1]) for output in printed]


def generate(folder: Path) -> None:
    """Extracts the latents of 22 images into `folder`, and draws 7 samples in them."""
    shape = TransformerConfig(width=16, depth=1, num_heads=2)
    config = TokenizerConfig(
        encoder=shape, decoder=decoder_like(shape), image_size=16, patch_size=8,
        latent_width=4,
    )  # fmt: skip
    tokenizer = eqx.filter_jit(Tokenizer)(config, key=jr.key(0))
    images = np.random.default_rng(0).integers(0, 256, (22, 16, 16, 3))
    source = ArraySource({"image": images.astype(np.uint8), "label": np.arange(22) % 5})
    tokenizer, _ = extract_latents(
        LatentsConfig(shard_images=4), tokenizer, source, folder / "latents",
        device_images=4, num_threads=2,
    )  # fmt: skip
    size = DiTConfig(
        width=16, depth=1, num_heads=2, latent_width=4, latent_size=2, num_classes=5
    )
    dit = eqx.filter_jit(lambda key: DiT(size, key=key))(jr.key(1))
    moved = jax.tree.map(lambda leaf: leaf + 0.1, dit)  # a new one stands still
    sample(
        SampleConfig(num_samples=7, group_size=2, sampler=SamplerConfig(num_steps=2)),
        Generator(moved, latents_hash(tokenizer)), tokenizer, folder / "samples",
    )  # fmt: skip


def test_one_process_agrees_with_itself():
    assert all_max(3) == 3
    assert all_equal("a")
    with pytest.raises(KeyError), raise_on_all():
        raise KeyError
    with raise_on_all():
        pass


@pytest.mark.slow
def test_two_processes_learn_as_one(pairs, found):
    _, _, expected = pairs(4, accumulate=2, sharding="zero")
    for logged in (process["learn"] for process in found):
        for ours, theirs in zip(logged, expected, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-5)


@pytest.mark.slow
def test_an_error_in_one_process_is_raised_in_both(found):
    first, second = (process["agree"] for process in found)
    assert first == [3, True, False, "OtherProcessError", "well"]
    assert second == [3, True, False, "KeyError", "well"]


@pytest.mark.slow
def test_a_checkpoint_that_one_process_cannot_read_is_damaged_for_both(found, folder):
    for process in found:
        assert process["restore"] == [2, [2.0] * 8, [1, 2]]
    damaged = folder / "restore" / "damaged"
    assert [path.name for path in damaged.iterdir()] == ["3"]


@pytest.mark.slow
def test_a_run_whose_state_is_split_over_processes_is_judged_and_finished(
    found, folder, tmp_path
):
    assert [process["pretrain"] for process in found] == [2, 2]
    run = folder / "run"
    (line,) = read_log(run / "metrics.jsonl")
    assert line["feature_rank"] > 1
    numbers, card = read(run / "card.json")
    assert numbers == {"psnr": pytest.approx(line["psnr"], rel=1e-5)}
    tokenizer = load(run)
    assert weights_hash(tokenizer) == card.tokenizer_hash
    # Of all training images, and what one process measures.
    assert card.latents_of == "24 of 24 training images"
    # Compiled as there: another program rounds otherwise.
    source = ArraySource({"image": images_to_learn()})
    alone, _ = measure_latents(tokenizer, source, tmp_path, mesh=data_mesh(1))
    np.testing.assert_array_equal(tokenizer.latent_mean, alone.latent_mean)
    np.testing.assert_array_equal(tokenizer.latent_std, alone.latent_std)
    assert (run / "report.md").exists()


@pytest.mark.slow
def test_two_processes_extract_and_sample_the_same_bits_as_one(found, folder, tmp_path):
    assert [process["generate"] for process in found] == [2, 2]
    generate(tmp_path)
    two, one = (
        {
            path.relative_to(place): path.read_bytes()
            for path in place.rglob("*")
            if path.suffix in (".json", ".npy", ".png")
        }
        for place in (folder / "generate", tmp_path)
    )
    assert len(one) == 6 * 3 + 1 + 7 + 1  # shards, index; samples, record
    assert two == one
