"""The arrows of docs/design.md, read from the import statements."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

HEAVY = {"torch", "transformers", "datasets", "evaluate", "accelerate", "sklearn", "scipy", "matplotlib"}

# What a config touches while its graph is built: names and options, nothing that computes.
LIGHT = [
    *ROOT.glob("config/**/*.py"),
    *ROOT.glob("recipe/**/*.py"),
    *ROOT.glob("code/sisyphus/**/*.py"),
    *(ROOT / "code/merging" / name for name in ("errors.py", "registry.py", "options.py", "merge/policy.py")),
    *ROOT.glob("code/merging/**/options.py"),
    *ROOT.glob("code/merging/**/__init__.py"),
    *ROOT.glob("code/merging/methods/*.py"),
]


def imported(path: Path, *, top_level_only: bool = False, members: bool = False) -> set[str]:
    """Names of the modules that a file imports; imports for the type checker do not count.

    Args:
        path: the file.
        top_level_only: without those inside functions.
        members: ``a.b`` for ``from a import b``; and texts that look like it, as ``import_module`` gets them.
    """
    found = set()
    stack: list[ast.AST] = [ast.parse(path.read_text())]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            stack.extend(node.orelse)
            continue
        if top_level_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.update(
                [f"{node.module}.{alias.name}" for alias in node.names] if members else [node.module]
            )
        elif members and isinstance(node, ast.Constant) and re.fullmatch(r"\w+(\.\w+)+", str(node.value)):
            found.add(str(node.value))
        stack.extend(ast.iter_child_nodes(node))
    return found


def dependencies(folder: Path) -> dict[str, set[str]]:
    """Which modules each module of a package imports; also inside functions, also by name in a text."""
    files = {}
    for path in folder.rglob("*.py"):
        parts = path.relative_to(folder.parent).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return {
        module: {name if name in files else name.rpartition(".")[0] for name in imported(path, members=True)}
        & files.keys()
        for module, path in files.items()
    }


def packages(path: Path, **options: bool) -> set[str]:
    return {name.split(".")[0] for name in imported(path, **options)}


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", sorted(ROOT.glob("code/sisyphus/**/*.py")), ids=relative)
def test_sisyphus_knows_nothing_of_merging(path: Path) -> None:
    assert not packages(path) & {"merging", "recipe", "config"}


@pytest.mark.parametrize("path", sorted(ROOT.glob("code/merging/**/*.py")), ids=relative)
def test_merging_knows_nothing_of_jobs(path: Path) -> None:
    assert not packages(path) & {"sisyphus", "recipe", "config"}


@pytest.mark.parametrize("path", sorted(set(LIGHT)), ids=relative)
def test_what_builds_a_graph_is_light(path: Path) -> None:
    assert not packages(path, top_level_only=True) & HEAVY


@pytest.mark.parametrize("path", sorted(ROOT.glob("code/merging/methods/*.py")), ids=relative)
def test_methods_are_pure(path: Path) -> None:
    allowed = {
        "merging.errors",
        "merging.kernels",
        "merging.options",
        "merging.patterns",
        "merging.registry",
        "merging.schedules",
    }
    allowed.add("merging.methods")
    inner = {name for name in imported(path, members=True) if name.split(".")[0] == "merging"}
    assert all(any(name == a or name.startswith(a + ".") for a in allowed) for name in inner), inner


@pytest.mark.parametrize("package", ["merging", "sisyphus"])
def test_imports_form_no_circle(package: str) -> None:
    TopologicalSorter(dependencies(ROOT / "code" / package)).prepare()  # a CycleError names the circle


NEIGHBOURS = [
    {"cli", "commands"},  # completions are made from the parser
    {"cleaning", "graph", "job"},  # a job cleans its folder; unused jobs are found in the graph
    {"engines", "fork_server", "localengine", "worker"},  # asks for a process; is that process
    {"explaining", "http_server", "sisyphus", "toolkit", "web"},  # toolkit offers the page of some jobs
    {"job_path", "paths"},
]
"""Folders and files of sisyphus that know each other, though no two of their modules do."""


def test_folders_form_no_circle() -> None:
    def room(module: str) -> str:
        name = module.split(".")[1 if "." in module else 0]
        return next(("+".join(sorted(group)) for group in NEIGHBOURS if name in group), name)

    rooms: dict[str, set[str]] = {}
    for module, others in dependencies(ROOT / "code/sisyphus").items():
        rooms.setdefault(room(module), set()).update({room(other) for other in others} - {room(module)})
    TopologicalSorter(rooms).prepare()


def test_code_is_no_package() -> None:
    """``code/__init__.py`` would hide Python's standard module ``code``."""
    assert not (ROOT / "code/__init__.py").exists()
