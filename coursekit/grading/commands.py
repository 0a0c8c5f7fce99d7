r"""`coursekit grade ...`: what becomes of results. The commands that make them are in `cli`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from coursekit.errors import CourseError
from coursekit.polite import polite, tell

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)

Marks = Annotated[Path, typer.Argument(help="Folder of the marks, as given to `grade` with --out.")]
Anonymous = Annotated[bool, typer.Option("--anonymous", help="Pseudonyms instead of ids and names.")]


@app.command()
@polite
def collect(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the marks.")] = Path("marks"),
    anonymous: Anonymous = False,
) -> None:
    r"""Put the results together: gradebook.csv, summary.json, index.html."""
    from coursekit.grading.collect import collect as make

    entries = make(out, anonymous)
    waiting = sum(not e.counts for e in entries)
    tell(f"{len(entries)} submissions, {waiting} without a mark; see {out / 'index.html'}")


@app.command()
@polite
def feedback(marks: Marks, anonymous: Anonymous = False) -> None:
    r"""Write feedback/<id>.html for every student: marks, the mistake that was made, hints."""
    from coursekit.grading.feedback import write

    tell(f"{len(write(marks, anonymous))} pages in {marks / 'feedback'}")


@app.command()
@polite
def export(
    marks: Marks,
    to: Annotated[str, typer.Option(help="canvas, moodle, gradescope, nbgrader or csv.")],
    fill: Annotated[Path | None, typer.Option(help="Moodle: the worksheet that it exported.")] = None,
    id_column: Annotated[str | None, typer.Option(help="Moodle: the column that says who it is.")] = None,
    grade_column: Annotated[str | None, typer.Option(help="Moodle: default `Grade`.")] = None,
    maximum_column: Annotated[str | None, typer.Option(help="Moodle: default `Maximum grade`.")] = None,
    comment_column: Annotated[str | None, typer.Option(help="Moodle: default `Feedback comments`.")] = None,
    scale: Annotated[bool, typer.Option("--scale", help="Moodle: bring points to its maximum.")] = False,
    column: Annotated[str | None, typer.Option(help='Canvas: head of the column, "LoRA (4711)".')] = None,
) -> None:
    r"""Write the marks for another system, after lateness (policy.toml, extensions.csv)."""
    from coursekit.grading.export import Options
    from coursekit.grading.export import export as make

    options = Options(fill, id_column, grade_column, maximum_column, comment_column, scale, column)
    tell(f"wrote {make(marks, to, options)}")


@app.command()
@polite
def answers(
    marks: Marks,
    template: Annotated[Path, typer.Option(help="The student's copy, as `coursekit release` made it.")],
) -> None:
    r"""Write the students' functions as .py files, and say how to look for copied ones."""
    from coursekit.grading.answers import write

    folder, command = write(marks, template)
    tell(f"wrote {folder}; now run\n{command}")


@app.command()
@polite
def variants(
    marks: Marks,
    roster: Annotated[
        Path | None, typer.Option(help="CSV with a column id, before anything is handed in.")
    ] = None,
    notebook: Annotated[Path | None, typer.Option(help="Also write each student's own copy of it.")] = None,
) -> None:
    r"""Print each student's own number, the notebook's parameter `variant`. Grade with --variants then."""
    from coursekit.grading import collect, copies, folder, pseudonyms, submissions, tables

    folder.Batch(marks).make()
    secret = pseudonyms.secret_of(marks)
    ids = sorted(submissions.read_roster(roster) if roster else {entry.id for entry in collect.read(marks)})
    if notebook is not None:
        tell(f"{len(copies.write(marks, notebook, ids))} copies in {marks / 'copies'}")
    rows = [("id", "variant"), *((id, pseudonyms.variant(secret, id)) for id in ids)]
    tell(tables.text(rows).rstrip())


@app.command()
@polite
def runner(
    socket: Annotated[Path, typer.Option(help="Where to listen; COURSEKIT_RUNNER names it to the grader.")],
) -> None:
    r"""In a container of its own: run submissions for a grader in another (--box runner). Closes the package there."""
    from coursekit.grading.runner import serve

    serve(socket)


@app.command()
@polite
def selftest(
    notebooks: Annotated[list[Path] | None, typer.Argument(help="Default: all in notebooks/.")] = None,
    cases: Annotated[int, typer.Option(help="Secret cases for each exercise.")] = 8,
) -> None:
    r"""Try the checks on the course: a blank copy gets nothing, the solved one all, every mistake its message."""
    import secrets

    from coursekit.grading.selftest import selftest as run

    named = notebooks or sorted(Path("notebooks").glob("*.ipynb"))
    if not named:
        raise CourseError("no notebooks: name some, or run this in the folder that holds notebooks/")
    faults = 0
    for finding in run(named, secrets.token_bytes(32), cases):
        tell(str(finding))
        faults += len(finding.faults)
    if faults:
        raise typer.Exit(1)
