r"""A benchmark's table: one CSV line a run, written after each, so that what is there is not measured again."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from coursekit.files import replace_text


class Table:
    r"""The runs in `path`. settings: the columns that tell one run from another; measured: all others."""

    def __init__(self, path: Path, settings: Sequence[str], measured: Sequence[str]):
        self.path, self.settings, self.columns = path, tuple(settings), (*settings, *measured)
        self.rows = self._read()

    def has(self, run: Mapping[str, Any]) -> bool:
        r"""Whether a run of these settings, numbers as they are written, is there."""
        return self.find(run) is not None

    def find(self, run: Mapping[str, Any]) -> dict[str, str] | None:
        r"""The row of a run of these settings; None where it is not there."""
        return next((row for row in self.rows if self._key(row) == self._key(run)), None)

    def add(self, row: Mapping[str, Any]) -> None:
        r"""Write the file anew with one run more, whole or not at all."""
        self.rows.append({column: written(row[column]) for column in self.columns})
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        replace_text(self.path, text.getvalue())

    def _key(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(written(row[column]) for column in self.settings)

    def _read(self) -> list[dict[str, str]]:
        r"""The whole rows: one that was torn is made again. A file of something else is an error and stays."""
        if not self.path.is_file():
            return []
        text = self.path.read_text(encoding="utf-8")
        reader = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]))
        if tuple(reader.fieldnames or ()) != self.columns:
            raise typer.BadParameter(f"{self.path} is no table of this benchmark: give another file")
        return [dict(row) for row in reader]


def written(value: Any) -> str:
    r"""As it stands in the file: the shortest form of a number that has no other."""
    return f"{value:g}" if isinstance(value, float) else str(value)
