r"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from coursekit.errors import CourseError


def replace_text(path: Path, text: str) -> None:
    r"""Write `text` to `path`, whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def folder_at(path: str | Path) -> Path:
    r"""The folder `path`, made where there is none. CourseError where a file is in its place, or it cannot be made."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CourseError(
            f"{folder} cannot be a folder to write to ({error.strerror}); give another."
        ) from error
    return folder
