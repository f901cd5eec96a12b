"""Two processes with two devices each learn what one process with four does."""

import json
import os
from pathlib import Path
import socket
import subprocess
import sys

import pytest


# Loads the training from the tests' own file, which a new process cannot import.
PROGRAM = """
import importlib.util, json, sys
import jax
port, process, path = sys.argv[1:]
jax.distributed.initialize(f"localhost:{port}", 2, int(process))
import vtp_eqx
spec = importlib.util.spec_from_file_location("training_conftest", path)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
_, _, logged = module.pairs_training(4, accumulate=2, sharding="zero")
print(json.dumps(logged))
jax.distributed.shutdown()
"""


@pytest.mark.slow
def test_two_processes_learn_as_one(pairs):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    here = Path(__file__).parent
    paths = [str(here.parent.parent), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, port, number, str(here / "conftest.py")],
            env=environment, stdout=subprocess.PIPE, text=True,
        )
        for number in "01"
    ]  # fmt: skip
    try:
        printed = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    _, _, expected = pairs(4, accumulate=2, sharding="zero")
    for output in printed:
        logged = json.loads(output.splitlines()[-1])
        for ours, theirs in zip(logged, expected, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-5)
