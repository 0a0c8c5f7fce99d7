r"""A page for each room of the package, written from its docstrings into docs/library/ before Sphinx reads it."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import typer
from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.util.inspect import stringify_signature

import coursekit

FOLDER = Path(__file__).resolve().parent / "library"
#: Where each class of the package is described, for links from the signatures: one name may stand for several classes.
HOMES: dict[Any, str] = {}


def write(app: Sphinx) -> None:
    names = [m.name for m in pkgutil.iter_modules(coursekit.__path__) if m.ispkg]
    rooms = {name: importlib.import_module(f"coursekit.{name}") for name in names}
    for package in rooms.values():
        for file in map(importlib.import_module, below(package)):
            HOMES.update({thing: f"{file.__name__}.{n}" for n, thing in own(file)})
    for package in rooms.values():
        HOMES.update({thing: f"{package.__name__}.{n}" for n, thing in given(package).items()})
    pages = {f"{name}.md": room(package) for name, package in rooms.items()}
    pages |= {"ground.md": ground(), "commands.md": commands()}
    FOLDER.mkdir(exist_ok=True)
    for old in {file.name for file in FOLDER.glob("*.md")} - pages.keys():
        (FOLDER / old).unlink()
    for name, text in pages.items():
        place = FOLDER / name
        if not place.exists() or place.read_text(encoding="utf-8") != text:
            place.write_text(text, encoding="utf-8")


def room(package: ModuleType) -> str:
    r"""Markdown: the names that the room gives, then its files, each with what else it has."""
    name = package.__name__
    first = given(package)
    parts = [f"# {name}", doc(package)]
    if first:
        parts += ["## Names", *(entry(thing, f"{name}.{n}") for n, thing in first.items())]
    parts.append("## Files")
    for file in map(importlib.import_module, below(package)):
        parts += [f"### {file.__name__.removeprefix(name + '.')}", doc(file)]
        parts += [entry(thing, f"{file.__name__}.{n}") for n, thing in own(file) if n not in first]
    return "\n\n".join(parts) + "\n"


def ground() -> str:
    r"""The files that lie in no room, on one page."""
    parts = ["# The ground", "Files of a few functions each, which all rooms may use."]
    for module in pkgutil.iter_modules(coursekit.__path__):
        if not module.ispkg and module.name != "cli":
            file = importlib.import_module(f"coursekit.{module.name}")
            parts += [f"## {file.__name__}", doc(file)]
            parts += [entry(thing, f"{file.__name__}.{n}") for n, thing in own(file)]
    return "\n\n".join(parts) + "\n"


def commands() -> str:
    r"""Every command with its arguments and options, as `--help` has them."""
    from coursekit.cli import app

    parts = ["# Commands"]
    for name, command in leaves("coursekit", typer.main.get_command(app)):
        parts += [f"## {name}", inspect.cleandoc(command.help or "")]
        rows = [f"`{' '.join(p.opts)}`\n: {p.help}" for p in command.params if getattr(p, "help", None)]
        parts += rows
    return "\n\n".join(parts) + "\n"


def leaves(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    r"""The commands that do something, below a group."""
    for part, below in getattr(command, "commands", {}).items():
        yield from leaves(f"{name} {part}", below)
    if not hasattr(command, "commands") and not command.hidden:
        yield name, command


def below(package: ModuleType) -> Iterator[str]:
    r"""The names of a room's files, but for those that run inside a box."""
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.ispkg and not module.name.rpartition(".")[2].startswith("_") and ".inside." not in module.name:
            yield module.name


def given(package: ModuleType) -> dict[str, Any]:
    return {n: thing for n in getattr(package, "__all__", ()) if described(thing := getattr(package, n))}


def own(module: ModuleType) -> list[tuple[str, Any]]:
    r"""Public functions and classes that are written in this very file."""
    return [
        (name, thing)
        for name, thing in vars(module).items()
        if not name.startswith("_") and described(thing) and thing.__module__ == module.__name__
    ]


def described(thing: Any) -> bool:
    return (inspect.isclass(thing) or inspect.isfunction(thing)) and bool(doc(thing))


def entry(thing: Any, path: str) -> str:
    r"""A function, or a class with its public methods."""
    if not inspect.isclass(thing):
        return directive("function", path + signature(thing), listed(thing))
    parts = [listed(thing)]
    for name, method in vars(thing).items():
        method = method.__func__ if isinstance(method, classmethod | staticmethod) else method
        if not name.startswith("_") and inspect.isfunction(method) and doc(method):
            parts.append(directive("method", name + signature(method), listed(method)))
    return directive("class", path + signature(thing), "\n\n".join(parts))


def directive(kind: str, head: str, text: str) -> str:
    fence = "`" * (max((len(run) for run in re.findall(r"`{3,}", text)), default=2) + 1)
    return f"{fence}{{py:{kind}}} {head}\n{text}\n{fence}"


def signature(thing: Any) -> str:
    try:
        found = inspect.signature(thing)
    except (TypeError, ValueError):
        return "()"
    scope = vars(importlib.import_module(thing.__module__))
    kept = [
        p.replace(annotation=qualified(p.annotation, scope))
        for p in found.parameters.values()
        if p.name not in ("self", "cls")
    ]
    found = found.replace(parameters=kept, return_annotation=qualified(found.return_annotation, scope))
    text = " ".join(stringify_signature(found, show_return_annotation=not inspect.isclass(thing)).split())
    return re.sub(r"= ?<[^<>]*>", "= ...", text)  # a default that has no spelling


def qualified(annotation: Any, scope: dict[str, Any]) -> Any:
    r"""An annotation, which is text, with the package's classes by their whole names, of which the last part shows."""
    if not isinstance(annotation, str):
        return annotation
    names = {name: HOMES[thing] for name, thing in scope.items() if inspect.isclass(thing) and thing in HOMES}
    return re.sub(r"(?<![\w.])[A-Za-z]\w*", lambda found: names.get(found[0], found[0]), annotation)


def doc(thing: Any) -> str:
    r"""The docstring, which is Markdown. A dataclass without one has its signature there, which says nothing new."""
    text = inspect.cleandoc(thing.__doc__ or "")
    return "" if inspect.isclass(thing) and text.startswith(f"{thing.__name__}(") else text


def listed(thing: Any) -> str:
    r"""The docstring, in which sentences "name: meaning." of parameters and fields are a list."""
    names = {name for cls in getattr(thing, "__mro__", ()) for name in vars(cls).get("__annotations__", ())}
    with suppress(TypeError, ValueError):
        names |= inspect.signature(thing).parameters.keys()
    if not names:
        return doc(thing)
    one = rf"`?\b(?:{'|'.join(names)})\b`?"
    head = re.compile(rf"(?:^|(?<=[.:;…] )|(?<=\.\) ))({one}(?:(?:, | … ){one})*): (?=\S)")
    paragraphs = []
    for paragraph in doc(thing).split("\n\n"):
        parts = head.split(" ".join(paragraph.split()))
        lead, *found = (re.sub("; ?$", ".", part).strip() for part in parts)
        if found:
            found[-1], _, after = re.sub(r"(?<=\.) (?=(?:Raises|Returns) )", "\n", found[-1]).partition("\n")
            terms = [re.sub(r"`?(\w+)`?", r"`\1`", term) for term in found[::2]]
            items = [f"- {term}: {meaning}" for term, meaning in zip(terms, found[1::2], strict=True)]
            paragraph = "\n\n".join(filter(None, (lead, "\n".join(items), after)))
        paragraphs.append(paragraph)
    return "\n\n".join(paragraphs)


def exactly(app: Sphinx, tree: nodes.document) -> None:
    r"""A name in a signature leads to what is called so in full, and never to another class of the same last name."""
    for name in tree.findall(pending_xref):
        if name.get("refdomain") == "py":
            name.attributes.pop("refspecific", None)


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("builder-inited", write, priority=100)
    app.connect("doctree-read", exactly)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
