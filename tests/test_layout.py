"""The plan of the house: floors, no cycles, short files, one file for the mesh."""

import ast
from pathlib import Path

import pytest


ROOT = Path(__file__).parent.parent
PACKAGE = "vtp_eqx"
MAX_LINES = 400
MAX_EXPERIMENT_LINES = 150

# A room is a file or folder directly under the package. Rooms of one floor are
# strangers: an import goes to a lower floor or stays in its own room.
FLOORS = {
    "config": 0,
    "file_kinds": 0,
    "files": 0,
    "interrupts": 0,
    "mesh": 0,
    "nn": 1,
    "losses": 1,
    "flow": 1,
    "tensor_files": 1,
    "data": 1,
    "views": 1,
    "scenes": 2,  # draws data
    "models": 2,
    "frozen": 3,
    "interop": 3,
    "training": 4,
    "evaluation": 4,
    "runs": 5,  # introduces training, evaluation and data to one another
    "tokenizer": 6,  # loads runs, also while they go on
    "conversion": 7,
    "study": 7,  # saves and loads tokenizers by their public face
    "__init__": 8,
}
# What a room leaves to others: files and folders to `runs`, devices to the rooms above.
FORBIDDEN = {"training": {"os", "pathlib"}, "data": {"jax"}}
HOMELESS = {"utils", "util", "common", "misc", "helpers", "base", "factory", "builder"}
COLLECTIVES = {
    "all_gather",
    "all_to_all",
    "axis_index",
    "axis_size",
    "pcast",
    "pmax",
    "pmean",
    "pmin",
    "ppermute",
    "psum",
    "psum_scatter",
}
# Words that only this code had for things that the field has a name for.
RETIRED = {
    "Bad", "Captioned", "DerailedError", "Draws", "Endurance", "Examples", "Feed",
    "Fit", "Forecast", "LeftOut", "Lesson", "Order", "Reader", "Remark", "RemarkLog",
    "ShortSideCrop", "Squash", "Stream", "Survey", "Tally", "Watch", "Words",
    "Workplace", "all_or_none", "alike", "by_rows", "check_begun_alike", "computing",
    "cosines", "ends_stalled", "endurance", "followed", "go_back",
    "heads_on", "here", "lanes", "leads", "learned", "left_out", "look", "looked_at",
    "meant", "note_begun", "num_judged", "pace", "pretraining", "remark", "remarks",
    "replacing", "said_when_full", "shown", "stored_size", "stretch", "stretches",
    "tally", "taught", "through", "watch", "worst",
}  # fmt: skip
# A file for users of PyTorch: copied beside the weights, and imported by nothing here.
COPIED = Path(PACKAGE, "interop", "diffusers", "autoencoder_vtp.py")
MESH_MAKERS = {"Mesh", "make_mesh", "P", "PartitionSpec"}


def python_files(*folders: str) -> list[Path]:
    found = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return sorted(path.relative_to(ROOT) for path in found)


LIBRARY = python_files(PACKAGE)
SOURCES = python_files(PACKAGE, "experiments", "benchmarks", "tests")


def module_name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in LIBRARY}


def parse(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text(), str(path))


def imported_names(path: Path) -> list[str]:
    """Absolute dotted names that a file imports, also inside functions."""
    package = path.parent.parts
    names = []
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            source = ".".join([*above, *([node.module] if node.module else [])])
            names += [f"{source}.{alias.name}" for alias in node.names]
    return names


def imported_modules(path: Path) -> set[str]:
    """The package's modules that a file imports: each name's longest such prefix."""
    found = set()
    for name in imported_names(path):
        while name and name not in MODULES:
            name = name.rpartition(".")[0]
        if name:
            found.add(name)
    return found


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def called_name(call: ast.Call) -> str:
    function = call.func
    return getattr(function, "attr", getattr(function, "id", ""))


def is_text(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def axes_named(tree: ast.Module) -> list[int]:
    """Lines where a mesh axis is named, or a mesh or partition is made."""
    lines = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            by_keyword = any(
                keyword.arg == "axis_name" and is_text(keyword.value)
                for keyword in node.keywords
            )
            in_collective = called_name(node) in COLLECTIVES and any(
                is_text(argument) for argument in node.args
            )
            if by_keyword or in_collective or called_name(node) in MESH_MAKERS:
                lines.append(node.lineno)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            arguments = node.args
            positional = [*arguments.posonlyargs, *arguments.args]
            defaults = arguments.defaults
            first_default = len(positional) - len(defaults)
            pairs = [
                *zip(positional[first_default:], defaults, strict=True),
                *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
            ]
            lines += [
                argument.lineno
                for argument, default in pairs
                if argument.arg == "axis_name" and is_text(default)
            ]
    return lines


@pytest.mark.parametrize("path", LIBRARY, ids=str)
def test_imports_point_downstairs(path):
    here = room(module_name(path))
    assert here in FLOORS, f"{here} is a new room: give it a floor in FLOORS"
    for module in sorted(imported_modules(path)):
        there = room(module)
        assert there == here or FLOORS[there] < FLOORS[here], (
            f"{path} (floor {FLOORS[here]}) imports {module} (floor {FLOORS[there]})"
        )


@pytest.mark.parametrize("path", LIBRARY, ids=str)
def test_the_library_knows_no_experiment(path):
    outside = {"experiments", "benchmarks", "tests", "torch", "tensorflow"}
    found = outside & {name.split(".")[0] for name in imported_names(path)}
    assert found == ({"torch"} if path == COPIED else set())


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_what_is_copied_is_not_imported(path):
    assert module_name(COPIED) in MODULES
    assert module_name(COPIED) not in imported_modules(path)


@pytest.mark.parametrize("path", LIBRARY, ids=str)
def test_a_room_imports_nothing_that_it_leaves_to_others(path):
    imported = {name.split(".")[0] for name in imported_names(path)}
    assert not imported & FORBIDDEN.get(room(module_name(path)), set())


def test_imports_have_no_cycle():
    unvisited, walked = {*MODULES}, []

    def visit(module):
        assert module not in walked, " -> ".join([*walked, module])
        if module in unvisited:
            walked.append(module)
            for imported in sorted(imported_modules(MODULES[module]) - {module}):
                visit(imported)
            walked.pop()
            unvisited.discard(module)

    for module in sorted(MODULES):
        visit(module)


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_a_file_fits_in_one_sitting(path):
    assert len((ROOT / path).read_text().splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", python_files("experiments"), ids=str)
def test_an_experiment_is_read_from_top_to_bottom(path):
    limit = MAX_EXPERIMENT_LINES
    assert len((ROOT / path).read_text().splitlines()) <= limit


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_a_module_is_named_by_a_noun_with_a_home(path):
    assert not HOMELESS & {part.removesuffix(".py") for part in path.parts}


@pytest.mark.parametrize("path", LIBRARY, ids=str)
def test_every_module_says_what_it_is(path):
    assert ast.get_docstring(parse(path)), f"{path} has no docstring"


@pytest.mark.parametrize("path", LIBRARY, ids=str)
def test_only_the_mesh_file_names_an_axis(path):
    lines = axes_named(parse(path))
    assert path.name == "mesh.py" or not lines, f"{path} names a mesh axis: {lines}"


@pytest.mark.parametrize(
    "source",
    [
        "jax.lax.pmean(x, 'data')",
        "sinkhorn(logits, axis_name='data')",
        "def loss(x, *, axis_name='data'): ...",
        "P('data')",
        "jax.make_mesh((4,), ('data',))",
    ],
)
def test_a_named_axis_is_seen(source):
    assert axes_named(ast.parse(source)) == [1]


@pytest.mark.parametrize(
    "source",
    [
        "jax.lax.pmean(x, axis_name)",
        "def loss(x, *, axis_name=None): ...",
        "load(folder / 'data')",
    ],
)
def test_a_passed_axis_is_not_a_named_one(source):
    assert axes_named(ast.parse(source)) == []


def identifiers(tree: ast.Module) -> dict[str, int]:
    """Every name that a file gives or uses, and a line where it does."""
    lines = {}
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
                lines[name] = node.lineno
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                lines[name] = node.lineno
            case ast.keyword(arg=str(name)):
                lines[name] = node.value.lineno
    return lines


@pytest.mark.parametrize(
    "path", [*LIBRARY, *python_files("experiments", "benchmarks")], ids=str
)
def test_names_are_those_of_the_field(path):
    found = identifiers(parse(path))
    retired = {name: found[name] for name in sorted(RETIRED & found.keys())}
    assert not retired, f"{path} has names that the glossary replaced: {retired}"


@pytest.mark.parametrize(
    "source", ["def look(): ...", "x.look()", "f(look=1)", "lambda look: 0", "look = 1"]
)
def test_a_retired_name_is_seen(source):
    assert RETIRED & identifiers(ast.parse(source)).keys() == {"look"}
