from vtp_eqx.interrupts import INTERRUPTED, interruptible, SENTENCE

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


def interrupted(body, times=1):
    """Status and words of a script that is interrupted each time it says "ready"."""
    run = subprocess.Popen(
        [sys.executable, "-c", START + body],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert run.stdout is not None
        for _ in range(times):
            assert run.stdout.readline() == "ready\n"
            run.send_signal(signal.SIGINT)
        _, said = run.communicate(timeout=30)
    finally:
        run.kill()
    return run.returncode, said


NEVER_ENDS = """
with interrupts.interruptible({seconds}):
    try:
        ready()
        time.sleep(60)
    except KeyboardInterrupt:
        ready()
        time.sleep(60)
"""


@pytest.mark.parametrize(
    ("body", "times"),
    [
        ("ready()\ntime.sleep(60)", 1),
        ("ready()\nwhile True: pass", 1),
        ("try:\n  ready()\n  time.sleep(60)\nexcept BaseException: pass", 1),
        (NEVER_ENDS.format(seconds=60), 2),
        (NEVER_ENDS.format(seconds=0.2), 1),
    ],
)
def test_a_script_ends_with_one_sentence(body, times):
    assert interrupted(body, times) == (INTERRUPTED, f"{SENTENCE}\n")


def test_a_block_ends_by_an_error_and_leaves_no_handler():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), interruptible(60):
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    with interruptible(60):
        pass
    assert signal.getsignal(signal.SIGINT) is before


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
