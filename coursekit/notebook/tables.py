r"""Small tables, for a notebook and for a terminal."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any


class Table:
    r"""Rows under column names; Jupyter shows it as a table, a terminal as aligned text.

    Numbers stand on the right. Give numbers as text where their form matters. note: a sentence under the table.
    """

    def __init__(self, columns: Sequence[str], rows: Sequence[Sequence[Any]], note: str = "") -> None:
        self.note = note
        self.columns = list(columns)
        self.rows = [[_text(value) for value in row] for row in rows]
        self._right = [all(_NUMBER.fullmatch(row[i]) for row in self.rows) for i in range(len(columns))]

    def _repr_markdown_(self) -> str:
        rule = ["--:" if right else ":--" for right in self._right]
        lines = [self.columns, rule, *([value.replace("|", "\\|") for value in row] for row in self.rows)]
        table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        return f"{table}\n\n{self.note}" if self.note else table

    def folded(self, title: str) -> Folded:
        r"""The same table, folded away under `title`."""
        return Folded(self, title)

    def __repr__(self) -> str:
        lines = [self.columns, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.columns))]
        rows = [
            "  ".join(
                value.rjust(width) if right else value.ljust(width)
                for value, width, right in zip(line, widths, self._right, strict=True)
            ).rstrip()
            for line in lines
        ]
        return "\n".join([*rows, *([self.note] if self.note else [])])


class Folded:
    r"""A table under a line that opens it."""

    def __init__(self, table: Table, title: str) -> None:
        self.table, self.title = table, title

    def _repr_markdown_(self) -> str:
        inside = self.table._repr_markdown_()
        return f"<details><summary>{self.title}</summary>\n\n{inside}\n\n</details>"

    def __repr__(self) -> str:
        return f"{self.title}\n{self.table!r}"


def _text(value: Any) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.4g}"
        case None:
            return "–"
    return str(value)


#: A number with thousands separators, a unit of one sign, or the dash that stands for none.
_NUMBER = re.compile(r"–|[+\-−×]?\d[\d,]*(\.\d+)?(e[+-]?\d+)?\s?%?")
