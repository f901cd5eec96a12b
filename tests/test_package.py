"""Importing the package is light, checks types, and needs only what is declared."""

import ast
from importlib.metadata import packages_distributions
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
HEAVY = {"tensorflow_datasets", "grain", "orbax", "matplotlib", "tyro", "scipy", "rich"}


def normalized(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def declared() -> set[str]:
    """The distributions that `pip install vtp_eqx` asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {
        normalized(re.match(r"[\w.-]+", line).group())
        for line in project["dependencies"]
    }


def imported(folder: str) -> set[str]:
    """Top-level names of the libraries that the files of a folder import."""
    names = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add(node.module.split(".")[0])
    return names - {*sys.stdlib_module_names, "vtp_eqx", "experiments", "benchmarks"}


@pytest.mark.parametrize("folder", ["vtp_eqx", "experiments", "benchmarks"])
def test_every_imported_library_is_declared(folder):
    distributions = packages_distributions()
    for name in imported(folder):
        candidates = {normalized(one) for one in distributions.get(name, [name])}
        assert candidates & declared(), f"{name} is not among the dependencies"


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
