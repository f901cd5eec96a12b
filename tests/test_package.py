"""Importing the package is light, checks types, and needs only what is declared."""

import ast
from collections.abc import Iterator
import importlib
from importlib.metadata import packages_distributions
import itertools
from pathlib import Path
import re
import subprocess
import sys
import tomllib

import jax.numpy as jnp
import jaxtyping
import pytest

from vtp_eqx import flow


ROOT = Path(__file__).parent.parent
# Each takes a good part of the three seconds that an import may last.
HEAVY = {
    "tensorflow_datasets", "array_record", "orbax", "matplotlib", "tyro", "scipy",
    "rich",
}  # fmt: skip


def normalized(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def declared(extras: bool) -> set[str]:
    """The distributions that `pip install vtp_eqx` asks for, with or without extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = list(project["dependencies"])
    if extras:
        lines += itertools.chain(*project["optional-dependencies"].values())
    return {normalized(re.match(r"[\w.-]+", line).group()) for line in lines}


def imported(node: ast.AST, late: bool = False) -> Iterator[tuple[str, bool]]:
    """Libraries that a file imports, and whether only when a function is called."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and not node.level:
        names = [node.module]
    else:
        names = []
    yield from ((name.split(".")[0], late) for name in names)
    late = late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    for child in ast.iter_child_nodes(node):
        yield from imported(child, late)


@pytest.mark.parametrize("folder", ["vtp_eqx", "experiments", "benchmarks"])
def test_every_imported_library_is_declared(folder):
    """What only some calls need may be an extra."""
    distributions = packages_distributions()
    ours = {*sys.stdlib_module_names, "vtp_eqx", "experiments", "benchmarks"}
    for path in (ROOT / folder).rglob("*.py"):
        if path.parent.name == "published_code" or path.name == "autoencoder_vtp.py":
            continue  # run in an environment of its own, with torch
        for name, late in imported(ast.parse(path.read_text())):
            candidates = {normalized(one) for one in distributions.get(name, [name])}
            assert name in ours or candidates & declared(extras=late), (
                f"{path} imports {name}, which is not among the dependencies"
            )


@pytest.mark.parametrize(
    "name", sorted(path.stem for path in (ROOT / "benchmarks").glob("[!_]*.py"))
)
def test_every_benchmark_can_be_imported(name):
    assert importlib.import_module(f"benchmarks.{name}").__doc__


def test_importing_the_package_leaves_heavy_libraries_alone():
    script = "import sys, vtp_eqx; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert not HEAVY & set(loaded.stdout.split())


def test_a_wrong_shape_fails_where_it_enters_and_names_the_axis():
    latents = jnp.zeros((2, 4, 4, 8))
    with pytest.raises(jaxtyping.TypeCheckError, match="batch height width channels"):
        flow.interpolate(latents, latents[0], jnp.zeros(2))
