r"""Which statements of a notebook the exercises need: found by names, without running anything.

A function is looked for by its name in every cell, so that copied, split and moved cells still count. From there the
names that it uses lead to what binds them, and to the statements that may change what they stand for. Training cells
that no answer depends on are left out.
"""

from __future__ import annotations

import ast
import builtins
import itertools
import re
import symtable
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from coursekit.notebook.cells import is_blank

#: Cell magics that only wrap a cell of Python.
_WRAPPERS = re.compile(r"\A\s*%%(time|timeit|capture|prun)\b[^\n]*\n")
#: Characters of a cell with IPython's magics, and how many of them: it is tokenised anew for each.
MOST_MAGIC, MOST_MAGICS = 10_000, 100
#: Methods of a package that change how it computes from then on.
_SETTERS = re.compile(r"set_\w+|use_deterministic_algorithms")
#: Functions that only look at what they are given.
_LOOKERS = ("print", "display", "check", "show", "len")
#: Packages that no submission brings, and names through which code reaches what its names do not say.
_INSTALLED = {*sys.stdlib_module_names, "torch", "numpy", "coursekit"}
_WINDOWS = {"globals", "locals", "vars", "eval", "exec", "open", "compile", "os", "sys", "gc", "inspect", "importlib",
            "builtins", "__import__", "__main__", "get_ipython"}  # fmt: skip


@dataclass
class Slice:
    r"""`cells`: position in the notebook -> its needed statements, on the lines on which they stood."""

    cells: dict[int, str] = field(default_factory=dict)
    #: For each wanted name: in how many places it is defined, and which cells it needs.
    copies: dict[str, int] = field(default_factory=dict)
    needed: dict[str, list[int]] = field(default_factory=dict)
    #: Wanted names that mean the same in a run of the whole notebook, whatever that does.
    certain: list[str] = field(default_factory=list)
    #: Wanted names of which there is nothing but what was handed out.
    blank: list[str] = field(default_factory=list)
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
    changes: frozenset[str]
    is_data: bool
    perhaps: bool
    repeats: str
    opaque: bool
    stub: bool
    #: It binds names and does nothing else; it only looks.
    plain: bool
    looks: bool


def needed(cells: Sequence[str], wanted: Sequence[str], handed_out: Collection[int] = ()) -> Slice:
    r"""The slice of `cells` (sources of code cells, "" for others) that defines the functions `wanted`.

    handed_out: positions of cells that are the course's own, and patch nobody's functions. What cannot be read off a
    statement (`from x import *`, `%run`, `exec`) is needed by everything.
    """
    found = Slice()
    sources: dict[int, list[str]] = {}
    statements: list[_Statement] = []
    for number, cell in enumerate(cells):
        if not cell.strip():
            continue
        try:
            source, tree = python(cell)
            lines = re.split(r"\r\n|\r|\n", source)  # as Python does: U+2028 or a form feed ends no line
            shared = _on_shared_lines(tree.body)
            statements += [_statement(number, n, None if n in shared else lines, wanted) for n in tree.body]
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            found.broken[number] = _says(error)
            continue
        sources[number] = lines
        found.functions += [n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)]
    every = [*statements]
    seen: set[str] = set()
    for s in every:  # the import at the head of an answer's cell must not tie all cells to that cell
        if s.repeats and s.repeats in seen:
            statements.remove(s)
        seen.add(s.repeats)
    for name in wanted:
        places = [s for s in statements if name in s.binds]
        found.copies[name] = len(places)
        written = [s for s in places if not s.stub]
        if places and not written:
            found.blank.append(name)
        if written:  # a copy of the blank cell below the answer does not take it away
            for stub in (s for s in places if s.stub):
                statements.remove(stub)
    found.opaque = any(s.opaque for s in statements)
    chosen: set[_Statement] = set()
    for name in wanted:
        mine = _closure(name, statements)
        found.needed[name] = sorted({s.cell for s in mine})
        chosen |= mine
        if found.copies[name] == 1 and _certain(mine, every, handed_out):
            found.certain.append(name)
    for number, lines in sources.items():
        kept = [s for s in statements if s.cell == number and s in chosen]
        if kept:
            keep = {line for s in kept for line in range(s.first, s.last + 1)}
            found.cells[number] = "\n".join(line if i in keep else "" for i, line in enumerate(lines, start=1)).rstrip()
    return found


def python(cell: str) -> tuple[str, ast.Module]:
    r"""A cell as Python, and its tree: IPython's magics become calls. Raises SyntaxError."""
    wrapped = _WRAPPERS.match(cell)
    if wrapped:
        cell = "\n" + cell[wrapped.end() :]
    try:
        return cell, ast.parse(cell)
    except SyntaxError:
        if len(cell) > MOST_MAGIC:
            raise
        cell = _without_magics(cell)
        return cell, ast.parse(cell)


def _without_magics(cell: str) -> str:
    from IPython.core.inputtransformer2 import TransformerManager

    class Manager(TransformerManager):
        def do_token_transforms(self, lines: list[str]) -> list[str]:
            for _ in range(MOST_MAGICS + 1):
                changed, lines = self.do_one_token_transform(lines)
                if not changed:
                    return lines
            raise SyntaxError(f"more than {MOST_MAGICS} magics in one cell")

    return Manager().transform_cell(cell)


def _closure(name: str, statements: list[_Statement]) -> set[_Statement]:
    r"""All that the function `name` needs. A name means what it was bound to last before it is used, as in a notebook
    that is run from top to bottom; what is bound only further down counts too, for notebooks in another order.
    """
    order = {s: i for i, s in enumerate(statements)}
    binders: dict[str, list[_Statement]] = {}
    changers: dict[str, list[_Statement]] = {}
    for s in statements:
        for n in s.binds:
            binders.setdefault(n, []).append(s)
        for n in s.touches | s.changes:
            changers.setdefault(n, []).append(s)
    todo = [s for s in statements if s.opaque] + binders.get(name, [])[-1:]
    chosen: set[_Statement] = set()
    while todo:
        user = todo.pop()
        if user in chosen:
            continue
        chosen.add(user)
        for n in user.uses:
            before = [s for s in binders.get(n, ()) if s is not user and _reaches(s, user, order)]
            bound = _last(before) or binders.get(n, [])[:1]
            todo += bound
            since = min((order[s] for s in bound), default=0)
            data = any(s.is_data for s in bound)
            for s in changers.get(n, ()):
                if order[s] > since and _reaches(s, user, order) and (n in s.changes or data):
                    todo.append(s)
    return chosen


def _certain(mine: set[_Statement], every: list[_Statement], handed_out: Collection[int]) -> bool:
    r"""Whether nothing in a notebook can make another function of these statements than they do alone."""
    own = {n for s in mine for n in s.binds if not s.repeats}
    names = {n for s in mine for n in s.binds | s.uses}
    if not all(s.plain and not s.uses & _WINDOWS for s in mine) or not names <= set(vars(builtins)).union(
        *(s.binds for s in mine)
    ):
        return False
    texts = {s.repeats for s in mine}
    for s in every:
        if s in mine or (s.repeats and s.repeats in texts):
            continue
        if s.opaque or s.binds & names or s.changes & names:
            return False
        if s.cell not in handed_out and not s.looks and (s.uses & (own | _WINDOWS) or s.touches & names):
            return False
    return True


def _reaches(earlier: _Statement, user: _Statement, order: dict[_Statement, int]) -> bool:
    r"""Whether `user` may see what `earlier` did: it stands above, or beside a function called later."""
    return order[earlier] < order[user] or (earlier.cell == user.cell and not user.is_data)


def _last(bindings: list[_Statement]) -> list[_Statement]:
    r"""The last of them, with those before it where it binds only perhaps (`if`, `for`, `try`, `+=`)."""
    found: list[_Statement] = []
    for s in reversed(bindings):
        found.append(s)
        if not s.perhaps:
            break
    return found


def _on_shared_lines(body: list[ast.stmt]) -> set[ast.stmt]:
    r"""Statements that stand on one line with another: `a = 1; b = 2`."""
    pairs = [(a, b) for a, b in itertools.pairwise(body) if a.end_lineno == b.lineno]
    return {node for pair in pairs for node in pair}


def _statement(cell: int, node: ast.stmt, lines: list[str] | None, wanted: Sequence[str]) -> _Statement:
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
    text = "\n".join(lines[first - 1 : node.end_lineno]) if lines else ast.unparse(node)
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
        frozenset(_changed(node)),
        not imports and not defines,
        isinstance(node, ast.If | ast.For | ast.While | ast.With | ast.Try | ast.AugAssign),
        text if imports else "",
        _is_opaque(node, text),
        isinstance(node, ast.FunctionDef) and node.name in wanted and is_blank(node),
        _is_plain(node),
        isinstance(node, ast.Expr) and _calls(node) <= {*_LOOKERS, *wanted},
    )


def _calls(node: ast.stmt) -> set[str]:
    r"""What it calls; "" for what is no name."""
    calls = [n.func for n in ast.walk(node) if isinstance(n, ast.Call)]
    return {f.id if isinstance(f, ast.Name) else "" for f in calls}


def _is_plain(node: ast.stmt) -> bool:
    if isinstance(node, ast.Import | ast.ImportFrom):
        modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
        return all(module.partition(".")[0] in _INSTALLED for module in modules)
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return not node.decorator_list
    return isinstance(node, ast.Assign) and not any(isinstance(n, ast.Call | ast.Attribute) for n in ast.walk(node))


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
    r"""Names of values that a statement may change without binding them: `fit(model)`, `values.append(1)`."""
    if isinstance(node, ast.Expr):
        call = node.value.value if isinstance(node.value, ast.Await) else node.value
        if not isinstance(call, ast.Call) or (isinstance(call.func, ast.Name) and call.func.id in _LOOKERS):
            return set()
        receiver = [call.func] if isinstance(call.func, ast.Attribute) else []
        return {_root(a) for a in [*receiver, *call.args, *(k.value for k in call.keywords)]} - {None}
    if isinstance(node, ast.For | ast.With | ast.If | ast.While | ast.Try):
        inner = [n for n in ast.iter_child_nodes(node) if isinstance(n, ast.stmt)]
        return {name for n in inner for name in _touched(n) | _changed(n)}
    return set()


def _changed(node: ast.stmt) -> set[str]:
    r"""Names of whatever a statement changes for certain: `W[0] = 1`, `Layer.forward = f`, `torch.set_...(1)`."""
    if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign | ast.Delete):
        targets = node.targets if isinstance(node, ast.Assign | ast.Delete) else [node.target]
        return {_root(t) for t in targets if isinstance(t, ast.Attribute | ast.Subscript)} - {None}
    call = node.value if isinstance(node, ast.Expr) else None
    if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and _SETTERS.fullmatch(call.func.attr):
        return {_root(call.func)} - {None}
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


def _says(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return f"line {error.lineno} is not valid Python: {error.msg}" if error.lineno else str(error.msg)
    return "the cell is too deeply nested to be read"
