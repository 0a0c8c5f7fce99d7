r"""The house's rooms: who may import whom, read from the source without running it."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "coursekit"

#: Files that lie in no room. Everybody may use them, and they use no room.
GROUND = {
    "architecture", "autocast", "counts", "device", "errors", "files", "fingerprint", "interop", "labels", "live",
    "modes", "paths", "cli_errors",
}  # fmt: skip
#: From the ground up: a room imports from rooms to the left of it only.
ROOMS = (
    "plots", "quantization", "methods", "memory", "qlora", "models", "tasks", "evaluation", "training", "forgetting",
    "adapterhub", "notebook", "experiments", "comparison", "checks", "batch", "authoring", "grading", "doctor", "cli",
)  # fmt: skip


def modules() -> dict[str, Path]:
    r"""Every module of the package by its dotted name below `coursekit`."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


@cache
def nodes(path: Path) -> list[ast.AST]:
    r"""All that a file's syntax tree has."""
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def imports(path: Path) -> Iterator[tuple[str, str]]:
    r"""(module below `coursekit`, name taken from it, "" for the module itself) of every import, wherever it stands."""
    for node in nodes(path):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "coursekit":
            source = (node.module or "").removeprefix("coursekit").removeprefix(".")
            for alias in node.names:
                inside = f"{source}.{alias.name}".removeprefix(".")
                yield (inside, "") if inside in MODULES else (source, alias.name)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("coursekit."):
                    yield alias.name.removeprefix("coursekit."), ""


def room(module: str) -> str:
    return module.partition(".")[0]


def test_every_module_lies_in_a_room_or_on_the_ground():
    assert {room(module) for module in MODULES} - {""} <= {*GROUND, *ROOMS}


@pytest.mark.parametrize("module", [m for m in MODULES if m])
def test_imports_go_down_only(module):
    floor = {name: number for number, name in enumerate(ROOMS, start=1)}
    mine = floor.get(room(module), 0)
    for target, _ in imports(MODULES[module]):
        theirs = floor.get(room(target), 0)
        assert not target or room(target) == room(module) or theirs < mine or theirs == 0 == mine, (
            f"{module} imports {target}, which lies above it"
        )


def test_data_ask_no_models():
    r"""Text, splits and batches know neither how a model is trained nor what is measured of it."""
    asked = {
        (module, target)
        for module, path in MODULES.items()
        for target, _ in imports(path)
        if room(module) == "tasks" and room(target) not in {"tasks", "models", *GROUND}
    }
    assert not asked
    assert {t for m, p in MODULES.items() if room(m) == "tasks" for t, _ in imports(p) if room(t) == "models"} == {
        "models.sources", "models.cache"
    }  # fmt: skip


def test_no_files_import_each_other_in_a_circle():
    arrows = {
        module: {t for t, _ in imports(path) if t and t != module and not is_face(t)}
        for module, path in MODULES.items()
        if not is_face(module)
    }
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join([*trail[trail.index(module) :], module])
        if module not in done:
            for target in sorted(arrows.get(module, ())):
                visit(target, (*trail, module))
            done.add(module)

    for module in arrows:
        visit(module, ())


def is_face(module: str) -> bool:
    r"""Whether `module` is a package's `__init__`, which only hands names on."""
    return MODULES[module].name == "__init__.py" if module in MODULES else False


@pytest.mark.parametrize("module", [m for m in MODULES if m])
def test_a_private_name_stays_in_its_file(module):
    taken = [(target, name) for target, name in imports(MODULES[module]) if name.startswith("_")]
    assert not taken, taken
    files = {
        alias.asname or alias.name
        for node in nodes(MODULES[module])
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "coursekit"
        for alias in node.names
        if f"{node.module}.{alias.name}".removeprefix("coursekit.") in MODULES
    }
    reached = [
        f"{node.value.id}.{node.attr}"
        for node in nodes(MODULES[module])
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in files
        if node.attr.startswith("_") and not node.attr.startswith("__")
    ]
    assert not reached, reached
