r"""Pages for people, made with jinja2. Every text is escaped; the only script is the one here, known by its hash."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable
from functools import cache
from typing import Any

from coursekit.grading.statuses import STATUSES

#: What a status is called on a page, and which of four colours it has.
STATUS = {
    **{status: (name, colour) for status, (name, colour, _) in STATUSES.items()},
    "waiting": ("not graded yet", "grader"),
    "not_handed_in": ("not handed in", "idle"),
    "manual": ("graded by hand", "good"),
    "to_be_marked": ("to be graded by hand", "grader"),
}


def file_names(entries: Iterable[Any]) -> dict[tuple[str, str], str]:
    r"""(id, notebook) -> name of the feedback page; the notebook is part of it only where there are several."""
    entries = list(entries)
    several = len({e.notebook for e in entries}) > 1
    return {
        (e.id, e.notebook): f"{file_name(e.id)}{f'.{file_name(e.notebook)}' if several else ''}.html" for e in entries
    }


def file_name(id: str) -> str:
    r"""Safe on every file system, and nobody else's: a plain id in lower case stays as it is.

    Of any other stays what is plain, with a hash that keeps it apart; no id that stays has a hyphen.
    """
    if re.fullmatch(r"[a-z0-9][a-z0-9_]{0,63}", id) and not _DEVICE.fullmatch(id):
        return id
    plain = re.sub(r"[^a-z0-9]+", "_", id.lower()).strip("_")[:32]
    return f"{plain or 'id'}-{hashlib.sha256(id.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"


#: Names that Windows gives to devices, whatever their ending.
_DEVICE = re.compile(r"con|prn|aux|nul|com\d|lpt\d")


def shown(value: float | None) -> str:
    r"""Points with at most two digits behind the point; a dash where there is no mark."""
    return "–" if value is None else f"{round(value, 2):g}"


def printable(text: Any) -> str:
    r"""A stranger's text as it may stand on a page: nothing that cannot be printed or turns the writing round."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text))


def listing(text: str) -> str:
    r"""A stranger's program as it may stand on a page: `printable`, line by line."""
    return "\n".join(printable(line.replace("\t", "    ")) for line in text.split("\n"))


def page(template: str, code: str = "index.js", **values: Any) -> str:
    r"""One of templates/ with its script `code`; `values` are what it names."""
    environment = _environment()
    script, _, _ = environment.loader.get_source(environment, code)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template(template).render(script=script, script_hash=digest, **values)


@cache
def _environment() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("coursekit.grading"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"points": shown, "printable": printable, "listing": listing, "status": _status}
    return environment


def _status(status: str) -> tuple[str, str]:
    return STATUS.get(status, (printable(status).replace("_", " "), "bad"))
