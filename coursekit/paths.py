r"""Where the course's own data files lie: `data/` of a checkout, or the copy that the wheel carries."""

import csv
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_CARRIED = _PACKAGE / "data"

#: Folder with `sources.txt`, `instructions.jsonl` and `papers/*.csv`.
DATA: Path = _CARRIED if _CARRIED.is_dir() else _PACKAGE.parent / "data"


def table(name: str) -> list[dict[str, str]]:
    r"""The rows of a CSV file in `DATA`."""
    with (DATA / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
