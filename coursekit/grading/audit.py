r"""audit.jsonl: who did what to the marks, and when. Lines are added and never changed."""

from __future__ import annotations

import getpass
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


def note(out: Path, did: str, **more: Any) -> None:
    r"""Add a line. One write to a file opened for appending: two graders' lines never run into each other."""
    line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "by": _who(), "did": did, **more}
    descriptor = os.open(out / "audit.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(json.dumps(line).encode() + b"\n")


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no name for this number, as in a container
        return str(os.getuid())
