r"""feedback/<id>.html: what a student gets back. The name of the file is the id where that is safe, never a name."""

from __future__ import annotations

from pathlib import Path

from coursekit.files import folder_at, replace_text
from coursekit.grading import collect, pages, policy
from coursekit.grading.folder import Batch, note


def write(out: Path, anonymous: bool = False) -> list[Path]:
    r"""Write the page of every submission in the batch's folder `out`; returns them, in the gradebook's order.

    anonymous: as in collect.collect.
    """
    entries = collect.read(out)
    rules = policy.read(out, entries)
    lateness = [rules.late(e.id, e.notebook, e.submitted) if rules else None for e in entries]
    shown = collect.without_names(out, entries) if anonymous else entries
    names, hints = pages.file_names(shown), Batch(out).hints()
    folder = folder_at(out / "feedback")
    written = []
    for entry, late in zip(shown, lateness, strict=True):
        written.append(folder / names[entry.id, entry.notebook])
        replace_text(written[-1], pages.page("feedback.html", entry=entry, late=late, hints=hints))
    note(out, "wrote feedback", pages=len(written))
    return written
