from pathlib import Path
import signal
import subprocess
import sys
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import tyro

from experiments.sample import main
from vtp_eqx.config import (
    DiTConfig,
    SampleConfig,
    SamplerConfig,
    TokenizerConfig,
    VIT_FEMTO,
)
from vtp_eqx.mesh import data_mesh
from vtp_eqx.models.dit import DiT
from vtp_eqx.models.generator import Generator, save_generator
from vtp_eqx.runs.command import exit_with_message
from vtp_eqx.runs.sample import sample
from vtp_eqx.runs.sample_options import SampleOptions
from vtp_eqx.tokenizer import latents_hash, save, Tokenizer


SCRIPT = Path(__file__).parents[2] / "experiments" / "sample.py"
COUNT = 120


def by_script(words):
    """What the script does, in this process."""
    with exit_with_message(ValueError):
        main(tyro.cli(SampleOptions, args=words, config=(tyro.conf.OmitArgPrefixes,)))


@pytest.mark.slow
def test_a_killed_run_continues_without_a_doubled_or_missing_image(tmp_path, capsys):
    config = TokenizerConfig(
        encoder=VIT_FEMTO, decoder=VIT_FEMTO, image_size=32, patch_size=8,
        latent_width=8,
    )  # fmt: skip
    tokenizer = eqx.filter_jit(Tokenizer)(config, key=jr.key(0))
    tokenizer = eqx.tree_at(lambda t: t.latent_std, tokenizer, jnp.full(8, 0.5))
    shape = DiTConfig(
        width=16, depth=1, num_heads=2, latent_width=8, latent_size=4, num_classes=5
    )
    dit = eqx.filter_jit(lambda key: DiT(shape, key=key))(jr.key(1))
    dit = jax.tree.map(lambda leaf: leaf + np.float32(0.1), dit)
    generator = Generator(dit, latents_hash(tokenizer))
    save(tokenizer, tmp_path / "tokenizer")
    save_generator(generator, tmp_path / "generator" / "generator.safetensors")
    out = tmp_path / "samples"
    words = [
        "--tokenizer", tmp_path / "tokenizer", "--generator",
        tmp_path / "generator", "--out", out, "--num-samples", COUNT, "--num-steps", 40,
        "--guidance", 1.5, "--guided-channels", 3, "--group-size", 2, "--devices", 2,
        "--classes", 3, 1, "--npz",
    ]  # fmt: skip
    words = [*map(str, words)]
    run = subprocess.Popen([sys.executable, str(SCRIPT), *words])
    deadline = time.monotonic() + 300
    while len(list(out.glob("*.png"))) < 3:
        assert run.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    run.wait()
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.png")}
    assert len(before) < COUNT
    by_script(words)
    assert f"{COUNT} images in" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert (tmp_path / "samples-grid.png").exists()

    sampler = SamplerConfig(num_steps=40, guidance=1.5, guided_channels=3)
    wanted = SampleConfig(
        num_samples=COUNT, sampler=sampler, labels="given", group_size=2
    )
    whole = tmp_path / "whole"
    sample(
        wanted, generator, tokenizer, whole, given=np.array([3, 1]), mesh=data_mesh(5)
    )
    images = {path.name: path.read_bytes() for path in whole.glob("*.png")}
    assert len(images) == COUNT
    assert images == {path.name: path.read_bytes() for path in out.glob("*.png")}
    assert (out / "samples.json").read_text() == (whole / "samples.json").read_text()
    with np.load(out / "samples.npz") as archive:
        assert archive["arr_0"].shape == (COUNT, 32, 32, 3)
        np.testing.assert_array_equal(archive["arr_1"][:4], [3, 1, 3, 1])
    capsys.readouterr()
    with pytest.raises(SystemExit) as refused:
        by_script([*words, "--classes", "9"])
    sentence = str(refused.value.code)
    assert sentence.startswith("Labels are 0 to 4, and 5 for any class; got 9")
    assert len(sentence.splitlines()) == 1
    assert capsys.readouterr().err == ""
