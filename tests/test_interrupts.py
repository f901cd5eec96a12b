from vtp_eqx.interrupts import INTERRUPTED, SENTENCE

import ast
from pathlib import Path
import signal
import subprocess
import sys

import pytest


ROOT = Path(__file__).parent.parent
MODULE = ROOT / "vtp_eqx" / "interrupts.py"
SCRIPTS = sorted((ROOT / "experiments").glob("*.py"))
# A script that has imported the module and nothing else, and what it does then.
START = f"""
import importlib.util, sys, time
sys.argv = [{str(ROOT / "experiments" / "sample.py")!r}]
spec = importlib.util.spec_from_file_location("interrupts", {str(MODULE)!r})
interrupts = importlib.util.module_from_spec(spec)
spec.loader.exec_module(interrupts)
ready = lambda: print("ready", flush=True)
"""


def interrupted(body, *arguments):
    """Status and words of a script that is interrupted when it says "ready"."""
    run = subprocess.Popen(
        [sys.executable, "-c", START + body, *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert run.stdout is not None
        assert run.stdout.readline() == "ready\n"
        run.send_signal(signal.SIGINT)
        _, said = run.communicate(timeout=30)
    finally:
        run.kill()
    return run.returncode, said


@pytest.mark.parametrize(
    "body",
    [
        "ready()\ntime.sleep(60)",
        "ready()\nwhile True: pass",
        "try:\n  ready()\n  time.sleep(60)\nexcept BaseException: pass",
    ],
)
def test_a_script_ends_with_one_sentence(body):
    assert interrupted(body) == (INTERRUPTED, f"{SENTENCE}\n")


def test_a_process_that_a_script_has_spawned_is_left_to_the_script():
    found = interrupted("ready()\ntime.sleep(0.2)", "--multiprocessing-fork")
    assert found == (0, "")


def test_a_program_that_is_no_script_keeps_its_handler():
    # As of this one, which pytest runs.
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_imports_it_before_anything_that_takes_time(path):
    for node in ast.parse(path.read_text()).body:
        match node:
            case ast.Import(names=[ast.alias(name="vtp_eqx.interrupts")]):
                return
            case ast.Import(names=names):
                assert {alias.name for alias in names} <= {"os"}
            case ast.ImportFrom():
                pytest.fail(f"{path.name} imports {node.module} first")
    pytest.fail(f"{path.name} does not import vtp_eqx.interrupts")
