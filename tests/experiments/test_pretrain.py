import json
from pathlib import Path
import subprocess
import sys
import time

import pytest

from experiments.pretrain import PRESETS
from vtp_eqx.config import as_json, from_dict
from vtp_eqx.training.pretrain_options import Options
from vtp_eqx.training.run import TERMINATED


SCRIPT = Path(__file__).parents[2] / "experiments" / "pretrain.py"


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_preset_is_read_back_from_what_a_run_writes(name):
    _, options = PRESETS[name]
    assert from_dict(Options, json.loads(as_json(options))) == options


@pytest.mark.slow
def test_a_terminated_run_says_so_by_its_status_and_is_continued(tmp_path):
    out = tmp_path / "run"
    command = [
        sys.executable, str(SCRIPT), "laptop", "--out", str(out), "--num-judged", "96",
        "--config.num-steps", "100000", "--log-every", "1", "--devices", "1",
        "--evaluate-every", "100000",
    ]  # fmt: skip
    log = out / "metrics.jsonl"
    for _ in range(2):
        lines = len(log.read_text().splitlines()) if log.exists() else 0
        with (tmp_path / "output.txt").open("ab") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            while not log.exists() or len(log.read_text().splitlines()) < lines + 3:
                said = (tmp_path / "output.txt").read_text()
                assert process.poll() is None, said[-2000:]
                time.sleep(0.1)
            process.terminate()
            assert process.wait(60) == TERMINATED
        finally:
            process.kill()
            process.wait()
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert steps == list(range(1, len(steps) + 1))
