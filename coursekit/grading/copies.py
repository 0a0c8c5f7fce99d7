r"""Each student's own copy of a notebook: as `coursekit release` makes it, with the student's `variant`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from coursekit.authoring.release import release
from coursekit.errors import CourseError
from coursekit.files import Folder, folder_at
from coursekit.grading import pages, pseudonyms
from coursekit.grading.folder import Batch, note
from coursekit.notebook.parameters import defaults

YOURS = "the numbers in your exercises follow from this: leave it as it is"


def write(out: Path, notebook: Path, ids: Iterable[str]) -> list[Path]:
    r"""Write copies/<student>/<notebook> in the batch's folder `out`, one for each of `ids`; returns them.

    Raises CourseError where the notebook has no parameter `variant`, or cannot be released, and where somebody has
    worked in a copy.
    """
    import nbformat

    blank = out / "copies" / notebook.name
    release(notebook, blank)
    if "variant" not in defaults(blank):
        raise CourseError(f"{notebook.name} has no parameter variant: all students have the same numbers in it.")
    secret, texts, folder = Batch(out).secret(), dict[str, str](), Folder(blank.parent)
    for id in ids:
        content = nbformat.read(blank, as_version=4)
        source = f"variant = {pseudonyms.variant(secret, id)}  # {YOURS}"
        # As papermill does, which puts another in its place when it runs the notebook with parameters.
        cell = nbformat.v4.new_code_cell(source, metadata={"tags": ["injected-parameters"]})
        at = next(i for i, c in enumerate(content.cells) if "parameters" in c.metadata.get("tags", ()))
        content.cells.insert(at + 1, cell)
        texts[f"{pages.file_name(id)}/{notebook.name}"] = nbformat.writes(content) + "\n"
    folder.refuse_to_harm(texts, [notebook])  # all of them before the first
    for name, text in texts.items():
        folder_at((folder.path / name).parent)
        folder.put_text(name, text)
    note(out, "wrote copies", notebook=notebook.stem, copies=len(texts))
    return [folder.path / name for name in texts]
