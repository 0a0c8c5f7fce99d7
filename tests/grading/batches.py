r"""A batch's folder with results made up for a test."""

import hashlib
import json
from pathlib import Path
from typing import Any

SECRET = bytes(range(32))
#: The exercises of the made-up notebook, and their points.
OF = {"lora-truncate": 2, "lora-linear": 3, "lora-count": 1}
#: Ids that no CSV, page or file system may trip over.
HOSTILE = ("=cmd|' /C calc'!A0", "Doe, Jr.", "<script>alert(1)</script>", "../../etc/passwd", "Zoë", "x" * 300, "con",
           "a\u202eb", '"quoted"', "-1+1", "@SUM(A1)", "\tTab", "ANN", "ann")  # fmt: skip


def part(id: str, points: float, status: str | None = None, message: str = "", **more: Any) -> dict[str, Any]:
    of = OF[id]
    status = status or ("ok" if points == of else "wrong")
    told = {"cases": 8, "right": round(8 * points / of), "copies": 1}
    return {"id": id, "points": points, "of": of, "status": status, "message": message or "right", **told, **more}


def right() -> list[dict[str, Any]]:
    return [part(id, of) for id, of in OF.items()]


def batch(out: Path, work: dict[str, Any]) -> Path:
    r"""work: id -> exercises; or a dictionary to lie over a result; or None, where nothing was submitted.

    "submitted" and "person" in a dictionary go to the manifest; {"waiting": True} has no result yet.
    """
    (out / "results").mkdir(parents=True, exist_ok=True)
    (out / "secret").write_text(SECRET.hex() + "\n")
    lines = []
    for index, (id, given) in enumerate(work.items()):
        more = dict(given) if isinstance(given, dict) else {"exercises": given}
        line = {"index": index, "submission": id, "notebook": more.pop("notebook", "06_lora")}
        line |= {"key": hashlib.sha256(id.encode()).hexdigest()[:32], "path": more.pop("path", f"{index}.ipynb")}
        line |= {"submitted": more.pop("submitted", "2026-05-01T10:00:00+00:00"), "person": more.pop("person", {})}
        if given is None:
            line |= {"key": None, "path": None, "submitted": None}
        lines.append(json.dumps(line))
        if given is None or more.pop("waiting", False):
            continue
        exercises = more.pop("exercises", None) or right()
        status = "ok" if all(e["status"] == "ok" for e in exercises) else "wrong"
        result = {
            "schema": 1, "submission": id, "notebook": line["notebook"], "key": line["key"], "status": status,
            "message": "everything is correct" if status == "ok" else "something is wrong", "where": None,
            "ran": "exercises", "box": "bwrap", "unsafe": False, "exercises": exercises, "files": {}, "times": {},
        }  # fmt: skip
        (out / "results" / f"{line['key']}.json").write_text(json.dumps(result | more))
    (out / "manifest.jsonl").write_text("".join(line + "\n" for line in lines))
    return out
