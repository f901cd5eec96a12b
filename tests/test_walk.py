"""docs/walk.md names files and functions that exist, in lists of one step a line."""

import ast
from pathlib import Path
import re

import pytest


ROOT = Path(__file__).parent.parent
WALK = ROOT / "docs" / "walk.md"
LINES = WALK.read_text().splitlines()
# A number, a file and names in backticks, and after a colon what they do.
STEP = re.compile(r"(\d+)\. `([\w./]+\.py)`((?: `[\w.]+`)+): \S.*")
STEPS = [(number, line) for number, line in enumerate(LINES, 1) if line[:1].isdigit()]


def stale(line: str) -> str:
    """What is wrong with a step, or nothing."""
    step = STEP.fullmatch(line)
    if step is None:
        return "it is not of the form: 1. `file.py` `name`: what it does"
    path = ROOT / step[2]
    if not path.is_file():
        return f"there is no file {step[2]}"
    tree = ast.parse(path.read_text())
    gone = [name for name in step[3].split() if not is_defined(tree, name.strip("`"))]
    return f"{step[2]} does not define {', '.join(gone)}" if gone else ""


def is_defined(tree: ast.AST, name: str) -> bool:
    """Whether a dotted name is a function or class, inside of those before it."""
    for part in name.split("."):
        found = [
            node
            for node in getattr(tree, "body", [])
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == part
        ]
        if not found:
            return False
        tree = found[-1]
    return True


@pytest.mark.parametrize(("number", "line"), STEPS, ids=lambda value: str(value)[:60])
def test_every_file_and_name_of_a_step_exists(number, line):
    reason = stale(line)
    assert not reason, f"docs/walk.md line {number} is stale, {reason}: {line}"


def test_there_are_three_walks_and_their_steps_are_counted():
    numbers = [int(line.split(".")[0]) for _, line in STEPS]
    starts = [place for place, number in enumerate(numbers) if number == 1]
    assert len(starts) == sum(line.startswith("## ") for line in LINES) == 3
    ends = [*starts[1:], len(numbers)]
    for start, end in zip(starts, ends, strict=True):
        assert numbers[start:end] == list(range(1, end - start + 1))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("1. `vtp_eqx/no.py` `load`: reads", "no file vtp_eqx/no.py"),
        ("1. `vtp_eqx/tokenizer.py` `loads`: reads", "not define `loads`"),
        ("1. `vtp_eqx/data/tars.py` `TarSource.gone`: reads", "`TarSource.gone`"),
        ("1. `vtp_eqx/tokenizer.py` `load` reads", "not of the form"),
    ],
)
def test_a_stale_step_is_seen(line, reason):
    assert reason in stale(line)
