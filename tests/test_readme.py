"""What README.md says is so: its example runs, its paths and commands exist."""

from pathlib import Path
import re
import shlex
import tomllib

import jax.numpy as jnp
import pytest


ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
EXAMPLES = [text for language, text in BLOCKS if language == "python"]
COMMANDS = [
    line.partition("#")[0]
    for language, text in BLOCKS
    if language == "sh"
    for line in text.splitlines()
]
ROOTS = ("vtp_eqx/", "experiments/", "tests/", "benchmarks/", "docs/", ".ci/")


def marked_command(mark: str) -> str:
    """The one line of the shell block below `<!-- ci: mark -->`, as `.ci/run` reads."""
    found = re.findall(
        rf"^<!-- ci: {mark} -->\n```sh\n(.*)\n```$", README, re.MULTILINE
    )
    assert len(found) == 1
    return found[0]


@pytest.mark.slow
def test_the_example_runs_and_its_comments_hold():
    (example,) = EXAMPLES
    names = {}
    exec(compile(example, "README.md", "exec"), names)
    shapes = re.findall(r"^(\w+) = .*# \[([\d, ]+)\]", example, re.MULTILINE)
    assert len(shapes) >= 4
    for name, shape in shapes:
        assert names[name].shape == tuple(map(int, shape.split(","))), name
        assert jnp.isfinite(names[name]).all(), name


def test_the_example_has_about_twenty_lines():
    (example,) = EXAMPLES
    assert len([line for line in example.splitlines() if line]) <= 25


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 200


@pytest.mark.parametrize("mark", ["main", "tests"])
def test_a_marked_command_sets_everything_up(mark):
    steps = [shlex.split(step) for step in marked_command(mark).split("&&")]
    assert [step[0] for step in steps[:3]] == ["python3", ".", "pip"]


def test_the_main_command_ends_with_the_experiment():
    # `.ci/run` appends --smoke to it.
    assert marked_command("main").endswith("python experiments/scale_encoder.py")


def test_every_extra_that_is_named_exists():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = set(re.findall(r"'\.\[(\w+)\]'", README))
    assert named <= project["optional-dependencies"].keys()
    assert "test" in named


def test_every_path_that_is_named_exists():
    named = re.findall(r"`([\w./-]+)`", README)
    paths = [path for path in named if path.startswith(ROOTS)]
    paths += re.findall(r"\]\(([^):]+)\)", README)
    missing = [path for path in paths if not (ROOT / path).exists()]
    assert paths
    assert not missing


def test_every_module_and_script_that_is_named_exists():
    words = [word for command in COMMANDS for word in shlex.split(command)]
    modules = re.findall(r"`(vtp_eqx(?:\.\w+)+)`", README)
    modules += [word for word in words if word.startswith("benchmarks.")]
    paths = [ROOT / module.replace(".", "/") for module in modules]
    missing = [p for p in paths if not (p.is_dir() or p.with_suffix(".py").is_file())]
    missing += [w for w in words if w.endswith(".py") and not (ROOT / w).is_file()]
    assert modules
    assert not missing
