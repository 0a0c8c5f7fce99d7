r"""`coursekit grade ...`: what becomes of results. The commands that make them are in `cli`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from coursekit.cli_errors import Commands, echo
from coursekit.errors import CourseError
from coursekit.grading.export import Options

app = Commands(no_args_is_help=True, pretty_exceptions_enable=False)

Marks = Annotated[Path, typer.Argument(help="Folder of the marks, as given to `grade` with --out.")]
Anonymous = Annotated[bool, typer.Option("--anonymous", help="Pseudonyms instead of ids and names.")]


def with_fields(kind: type, name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    r"""A command whose argument `name` is a dataclass `kind`, as one that has each of its fields as an option."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        fields = inspect.signature(kind, eval_str=True).parameters
        own = inspect.signature(command, eval_str=True).parameters

        @functools.wraps(command)
        def wrapped(**given: Any) -> None:
            command(**{name: kind(**{n: given.pop(n) for n in fields})}, **given)

        options = [p for n, p in own.items() if n != name] + list(fields.values())
        options = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in options]
        wrapped.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
        wrapped.__annotations__ = {p.name: p.annotation for p in options}
        return wrapped

    return decorate


@app.command()
def collect(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the marks.")] = Path("marks"),
    anonymous: Anonymous = False,
) -> None:
    r"""Put the results together: gradebook.csv, summary.json, index.html."""
    from coursekit.grading.collect import collect as make

    entries = make(out, anonymous)
    waiting = sum(not e.counts for e in entries)
    echo(f"{len(entries)} submissions, {waiting} without a mark; see {out / 'index.html'}")


@app.command()
def feedback(marks: Marks, anonymous: Anonymous = False) -> None:
    r"""Write feedback/<id>.html for every student: marks, the mistake that was made, hints."""
    from coursekit.grading.feedback import write

    echo(f"{len(write(marks, anonymous))} pages in {marks / 'feedback'}")


@app.command()
@with_fields(Options, "options")
def export(
    marks: Marks,
    options: Options,
    to: Annotated[str, typer.Option(help="canvas, moodle, gradescope, nbgrader or csv.")],
) -> None:
    r"""Write the marks for another system, after lateness (policy.toml, extensions.csv).

    For Moodle also moodle-feedback.zip, to upload there as feedback files.
    """
    from coursekit.grading.export import export as make

    echo(f"wrote {make(marks, to, options)}")


@app.command()
def answers(
    marks: Marks, template: Annotated[Path, typer.Option(help="The student's copy, as `coursekit release` made it.")]
) -> None:
    r"""Write the students' functions as .py files, and say how to look for copied ones with JPlag."""
    from coursekit.grading.similarity import write

    folder, command = write(marks, template)
    echo(f"wrote {folder}; now run\n{command}")


@app.command()
def similarity(
    marks: Marks,
    notebook: Annotated[Path, typer.Option(help="The notebook with the exercises: the course's or a student's copy.")],
    least: Annotated[float, typer.Option(help="How alike two answers must be to be listed, from 0 to 1.")] = 0.8,
    anonymous: Anonymous = False,
) -> None:
    r"""Which answers are alike within an exercise: similarity.html, two programs beside each other, and similarity.csv.

    Names of variables, comments and layout do not count. Short answers and what most wrote are left out. Alike is no
    proof. What does not parse is said.
    """
    from coursekit.grading.similarity import report

    pairs, said = report(marks, notebook, least, anonymous)
    for line in said:
        typer.echo(f"coursekit: {line}", err=True)
    echo(f"{len(pairs)} pairs of answers alike by {least:.0%} or more; see {marks / 'similarity.html'}")


@app.command()
def marking(
    marks: Marks,
    exercise: Annotated[str, typer.Option(help="The grade_id of its cell, such as lora-essay.")],
    of: Annotated[float | None, typer.Option(help="Its points, where the grader does not know it.")] = None,
    anonymous: Anonymous = False,
) -> None:
    r"""A page to mark an answer by hand, in its context, with comments to use again; it gives you manual.csv.

    Open it in a browser, type, save manual.csv into the folder of the marks, and run `coursekit grade collect`.
    """
    from coursekit.grading.marking import write

    echo(f"open {write(marks, exercise, of, anonymous)}")


@app.command()
def variants(
    marks: Marks,
    roster: Annotated[Path | None, typer.Option(help="CSV with a column id, before anything is handed in.")] = None,
    notebook: Annotated[Path | None, typer.Option(help="Also write each student's own copy of it.")] = None,
) -> None:
    r"""Print each student's own number, the notebook's parameter `variant`. Grade with --variants then."""
    from coursekit.grading import collect, copies, folder, pseudonyms, tables

    batch = folder.Batch(marks)
    batch.make()
    secret = batch.secret()
    ids = sorted(tables.by_id(roster) if roster else {entry.id for entry in collect.read(marks)})
    if notebook is not None:
        echo(f"{len(copies.write(marks, notebook, ids))} copies in {marks / 'copies'}")
    rows = [("id", "variant"), *((id, pseudonyms.variant(secret, id)) for id in ids)]
    echo(tables.text(rows).rstrip())


@app.command()
def runner(
    socket: Annotated[Path, typer.Option(help="Where to listen; COURSEKIT_RUNNER names it to the grader.")],
) -> None:
    r"""In a container of its own: run submissions for a grader in another (--box runner). Closes the package there."""
    from coursekit.grading.remote_runner import serve

    serve(socket)


@app.command()
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
        echo(str(finding))
        faults += len(finding.faults)
    if faults:
        raise typer.Exit(1)
