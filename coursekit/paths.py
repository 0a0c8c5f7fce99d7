r"""Where the course's own data files lie: `data/` of a checkout, or the copy that the wheel carries; and its cache."""

import csv
import os
from pathlib import Path

from coursekit.errors import CourseError

_PACKAGE = Path(__file__).resolve().parent
_CARRIED = _PACKAGE / "data"

#: Folder with `sources.txt`, `instructions.jsonl` and `papers/*.csv`.
DATA: Path = _CARRIED if _CARRIED.is_dir() else _PACKAGE.parent / "data"


def table(name: str) -> list[dict[str, str]]:
    r"""The rows of a CSV file in `DATA`."""
    with (DATA / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def home() -> Path:
    r"""The cache folder: `$COURSEKIT_HOME`, else `coursekit` in the user's cache. It need not exist yet."""
    chosen = os.environ.get("COURSEKIT_HOME")
    if chosen:
        try:
            return Path(chosen).expanduser().absolute()
        except RuntimeError as error:
            raise CourseError(f"COURSEKIT_HOME={chosen}: there is no such user; give a folder") from error
    import platformdirs

    return Path(platformdirs.user_cache_dir("coursekit", appauthor=False))
