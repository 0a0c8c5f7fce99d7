r"""Which statements of a notebook the exercises need: found by names, without running anything.

A function is looked for by its name in every cell, so that copied, split and moved cells still count. From there the
names that it uses lead to what binds them, and to the statements that may change what they stand for. Training cells
that no answer depends on are left out.
"""

from __future__ import annotations

import ast
import re
import symtable
from collections.abc import Sequence
from dataclasses import dataclass, field

#: Cell magics that only wrap a cell of Python.
_WRAPPERS = re.compile(r"\A\s*%%(time|timeit|capture|prun)\b[^\n]*\n")
_SETTERS = re.compile(r"set_\w+|manual_seed|use_deterministic_algorithms|seed")


@dataclass
class Slice:
    r"""`cells`: position in the notebook -> its needed statements, on the lines on which they stood."""

    cells: dict[int, str] = field(default_factory=dict)
    #: For each wanted name: in how many places it is defined, and which cells it needs.
    copies: dict[str, int] = field(default_factory=dict)
    needed: dict[str, list[int]] = field(default_factory=dict)
    #: Cells that are no Python: position -> message.
    broken: dict[int, str] = field(default_factory=dict)
    #: Names of all functions, to say which one was perhaps meant.
    functions: list[str] = field(default_factory=list)
    #: Some statement may bind names that cannot be read off it.
    opaque: bool = False


@dataclass(eq=False)
class _Statement:
    cell: int
    first: int
    last: int
    binds: frozenset[str]
    uses: frozenset[str]
    touches: frozenset[str]
    is_data: bool
    opaque: bool
    stub: bool


def needed(cells: Sequence[str], wanted: Sequence[str]) -> Slice:
    r"""The slice of `cells` (sources of code cells, "" for others) that defines the functions `wanted`."""
    found = Slice()
    sources: dict[int, list[str]] = {}
    statements: list[_Statement] = []
    for number, cell in enumerate(cells):
        if not cell.strip():
            continue
        try:
            source = python(cell)
            tree = ast.parse(source)
            statements += [_statement(number, node, wanted) for node in tree.body]
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            found.broken[number] = _says(error)
            continue
        sources[number] = source.splitlines()
        found.functions += [n.name for n in tree.body if isinstance(n, ast.FunctionDef)]
    for name in wanted:
        places = [s for s in statements if name in s.binds]
        found.copies[name] = len(places)
        written = [s for s in places if not s.stub]
        if written:  # a copy of the blank cell below the answer does not take it away
            for stub in (s for s in places if s.stub):
                statements.remove(stub)
    found.opaque = any(s.opaque for s in statements)
    chosen: set[_Statement] = set()
    for name in wanted:
        mine = _closure(name, statements)
        found.needed[name] = sorted({s.cell for s in mine})
        chosen |= mine
    for number, lines in sources.items():
        kept = [s for s in statements if s.cell == number and s in chosen]
        if kept:
            keep = {line for s in kept for line in range(s.first, s.last + 1)}
            found.cells[number] = "\n".join(
                line if i in keep else "" for i, line in enumerate(lines, start=1)
            ).rstrip()
    return found


def python(cell: str) -> str:
    r"""A cell as Python: IPython's magics become calls. Raises SyntaxError."""
    from IPython.core.inputtransformer2 import TransformerManager

    wrapped = _WRAPPERS.match(cell)
    if wrapped:
        cell = "\n" + cell[wrapped.end() :]
    return TransformerManager().transform_cell(cell)


def _closure(name: str, statements: list[_Statement]) -> set[_Statement]:
    chosen = {s for s in statements if s.opaque}
    names, data = {name} | {u for s in chosen for u in s.uses}, set[str]()
    size = -1
    while size != len(chosen) + len(names):
        size = len(chosen) + len(names)
        for s in statements:
            if s not in chosen and (s.binds & names or s.touches & (data | names)):
                chosen.add(s)
            if s in chosen:
                names |= s.uses
                if s.is_data:
                    data |= s.binds
    return chosen


def _statement(cell: int, node: ast.stmt, wanted: Sequence[str]) -> _Statement:
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
    text = ast.unparse(node)
    binds, uses = _names(text)
    imports = isinstance(node, ast.Import | ast.ImportFrom)
    defines = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    return _Statement(
        cell,
        first,
        node.end_lineno or node.lineno,
        frozenset(binds),
        frozenset(uses),
        frozenset(_touched(node)),
        not imports and not defines,
        _is_opaque(node, text),
        isinstance(node, ast.FunctionDef) and node.name in wanted and is_blank(node),
    )


def _names(text: str) -> tuple[set[str], set[str]]:
    r"""Global names that a statement binds, and those that it uses, in nested scopes too."""
    binds, uses = set[str](), set[str]()
    todo = [symtable.symtable(text, "cell", "exec")]
    while todo:
        table = todo.pop()
        todo += table.get_children()
        top = table.get_type() == "module"
        for symbol in table.get_symbols():
            outer = top or symbol.is_global()
            if outer and (symbol.is_assigned() or symbol.is_imported() or (top and symbol.is_namespace())):
                binds.add(symbol.get_name())
            if outer and symbol.is_referenced():
                uses.add(symbol.get_name())
    return binds, uses


def _touched(node: ast.stmt) -> set[str]:
    r"""Names whose values a statement may change without binding them: `fit(model)`, `W[0] = 1`, `W += 1`."""
    if isinstance(node, ast.Expr):
        call = node.value.value if isinstance(node.value, ast.Await) else node.value
        if not isinstance(call, ast.Call):
            return set()
        root = _root(call.func)
        setter = isinstance(call.func, ast.Attribute) and _SETTERS.fullmatch(call.func.attr)
        if isinstance(call.func, ast.Name) and call.func.id in ("print", "display", "check", "show", "len"):
            return set()
        passed = {_root(a) for a in [*call.args, *(k.value for k in call.keywords)]} - {None}
        return passed | ({root} if setter or isinstance(call.func, ast.Attribute) else set()) - {None}
    if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign | ast.Delete):
        targets = node.targets if isinstance(node, ast.Assign | ast.Delete) else [node.target]
        return {_root(t) for t in targets if isinstance(t, ast.Attribute | ast.Subscript)} - {None}
    if isinstance(node, ast.For | ast.With | ast.If | ast.While | ast.Try):
        return {name for inner in ast.iter_child_nodes(node) if isinstance(inner, ast.stmt) for name in _touched(inner)}
    return set()


def _root(node: ast.expr) -> str | None:
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call | ast.Starred):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else None


def _is_opaque(node: ast.stmt, text: str) -> bool:
    if isinstance(node, ast.ImportFrom):
        return any(alias.name == "*" for alias in node.names)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return False
    return bool(re.search(r"\bexec\(|\bglobals\(\)|run_line_magic\('run'|\bsys\.path\b|\bos\.chdir\(", text))


def is_blank(node: ast.FunctionDef) -> bool:
    r"""Whether a function is as it was handed out: a docstring, and `return ...`, `...` or `pass`."""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    for line in body:
        value = line.value if isinstance(line, ast.Return | ast.Expr) else None
        dots = isinstance(value, ast.Constant) and value.value in (..., None)
        if not (dots or isinstance(line, ast.Pass) or (isinstance(line, ast.Return) and value is None)):
            return False
    return True


def _says(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return f"line {error.lineno} is not Python: {error.msg}"
    return "the cell is nested too deeply to be read"
