r"""`coursekit grade ...`: from a folder of submissions to a gradebook."""

from __future__ import annotations

import functools
from collections.abc import Collection
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer
from typer.core import TyperGroup

from coursekit.cli_errors import Commands, echo, end_children_too, exit_cleanly
from coursekit.errors import CourseError, number, one_of
from coursekit.grading import commands


class _Default(TyperGroup):
    r"""`coursekit grade FOLDER ...` is `coursekit grade all FOLDER ...`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands:
            args = ["all", *args]
        return super().resolve_command(ctx, args)

    @exit_cleanly
    def invoke(self, ctx: Any) -> Any:
        if find_spec("fcntl") is None:
            raise CourseError("grading needs Linux; on Windows run coursekit in WSL")
        return super().invoke(ctx)


app = Commands(
    help="Grade submissions: COURSEKIT GRADE FOLDER does all, the other commands are its parts.",
    cls=_Default,
    no_args_is_help=True,
    context_settings={"ignore_unknown_options": True},
    pretty_exceptions_enable=False,
)

Folder = Annotated[Path, typer.Argument(help="Folder of submissions: notebooks, zips, folders.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the marks.")]


@dataclass
class _Settings:
    r"""The options that the commands which grade have in common."""

    _told: ClassVar[set[str]] = set()

    roster: Annotated[
        Path | None, typer.Option(help="CSV file with a column id, and perhaps name, email and more of each person.")
    ] = None
    groups: Annotated[
        Path | None, typer.Option(help="CSV file with the columns group and id: one hands in for all of a group.")
    ] = None
    notebook: Annotated[Path | None, typer.Option(help="The course's own notebook. Default: guessed.")] = None
    variants: Annotated[
        bool, typer.Option("--variants", help="Each student has their own numbers: see `grade variants`.")
    ] = False
    box: Annotated[str, typer.Option(help="auto, bwrap, podman or runner.")] = "auto"
    unsafe: Annotated[
        bool, typer.Option("--unsafe-no-isolation", help="Run submissions with your own permissions. Never do this.")
    ] = False
    whole: Annotated[bool, typer.Option("--whole", help="Run the complete notebooks too.")] = False
    profile: Annotated[str | None, typer.Option(help="With --whole: smoke, gpu, or a papermill parameter file.")] = None
    seconds: Annotated[float | None, typer.Option(help="Time limit for the cells that exercises need, in seconds.")] = (
        None
    )
    exercise_seconds: Annotated[float | None, typer.Option(help="Time limit for one exercise, in seconds.")] = None
    memory: Annotated[float | None, typer.Option(help="Memory limit for one submission, in GB.")] = None
    whole_minutes: Annotated[
        float | None, typer.Option(help="With --whole: time limit for the complete notebook, in minutes.")
    ] = None

    counts: Annotated[
        str, typer.Option(help="Of several submissions by one student the `last` or the `best` counts.")
    ] = "last"

    def plan(self, batch: Any, submissions: Path, without: Collection[str] = ()) -> list[dict[str, Any]]:
        r"""Write the batch's manifest, after making sure of a box."""
        from coursekit.grading import boxes
        from coursekit.grading.folder import note
        from coursekit.grading.limits import Limits
        from coursekit.grading.plan import plan

        given = {"run": self.seconds, "exercise": self.exercise_seconds}
        given["memory"] = self.memory and int(self.memory * 2**30)
        given["whole"] = self.whole_minutes and 60 * self.whole_minutes
        limits = replace(Limits(), **{k: v for k, v in given.items() if v is not None})
        box = "none" if self.unsafe else boxes.pick(self.box)
        same = ("roster", "groups", "notebook", "whole", "profile", "variants")
        given = {name: getattr(self, name) for name in same}
        best = one_of("--counts", self.counts, ("last", "best")) == "best"
        lines, said = plan(submissions, batch, box, limits=limits, best=best, without=without, **given)
        for line in said:
            if line not in self._told:
                typer.echo(f"coursekit: {line}", err=True)
        self._told.update(said)
        note(batch.out, "planned", lines=len(lines), box=box, whole=self.whole, variants=self.variants)
        return lines


@app.command("all")
@commands.with_fields(_Settings, "settings")
def grade_all(
    submissions: Folder,
    settings: _Settings,
    out: Out = Path("marks"),
    jobs: Annotated[int, typer.Option(help="Number of submissions graded at the same time.")] = 1,
    only: Annotated[list[str] | None, typer.Option(help="Only this submission; may be repeated.")] = None,
    regrade: Annotated[str, typer.Option(help="`changed`, or `all` to grade again what has a mark.")] = "changed",
    anonymous: commands.Anonymous = False,
) -> None:
    r"""Grade a folder of submissions: plan, run each in a box of its own, collect. Run it again to go on."""
    from coursekit.grading.batch import grade_lines, summary
    from coursekit.grading.collect import collect
    from coursekit.grading.folder import Batch

    one_of("--regrade", regrade, ("changed", "all"))
    end_children_too()
    batch = Batch(out)
    batch.make()
    with batch.lock():
        settings.plan(batch, submissions)
        results = grade_lines(batch, jobs=jobs, only=only or (), everything=regrade == "all")
        collect(out, anonymous)
    typer.echo(summary(out, results))
    failed = [line for line in batch.lines() if line["key"] and batch.result(line["key"]) is None]
    if failed and not only:
        typer.echo(
            f"coursekit: no mark for {len(failed)} of them, because the grader itself failed: {batch.why()}; "
            f"see {out / 'events.jsonl'}, then run the same command again",
            err=True,
        )
        raise typer.Exit(3)


@app.command("watch")
@commands.with_fields(_Settings, "settings")
def watch_folder(
    submissions: Folder,
    settings: _Settings,
    out: Out = Path("marks"),
    every: Annotated[float, typer.Option(help="Seconds between two looks at the folder.")] = 5.0,
    jobs: Annotated[int, typer.Option(help="Number of submissions graded at the same time.")] = 1,
    anonymous: commands.Anonymous = False,
) -> None:
    r"""Marks on arrival: grade what comes into a folder, until Ctrl-C. What is still being copied is waited for.

    Whoever hands in again is graded again; --counts says which counts. The gradebook is written anew each time.
    """
    from coursekit.grading.folder import Batch
    from coursekit.grading.watch import watch

    end_children_too()
    number("--every", every, above=0, such_as=5)
    batch = Batch(out)
    batch.make()
    with batch.lock():
        typer.echo(f"watching {submissions}; marks go to {out}; Ctrl-C ends it")
        plan = functools.partial(settings.plan, batch, submissions)
        watch(submissions, batch, plan, echo, seconds=every, jobs=jobs, anonymous=anonymous)


@app.command("autograder")
@commands.with_fields(_Settings, "settings")
def autograder(
    repository: Annotated[Path, typer.Argument(help="The student's checkout.")],
    settings: _Settings,
    result: Annotated[Path, typer.Option("--result", help="File to write.")] = Path("result.json"),
) -> None:
    r"""For classrooms on GitHub: grade one checkout and write result.json, as Classroom 50 reads it.

    Scores are whole numbers there: hundredths of a point. Status 0 whatever the mark; 1 where the grader itself failed.
    """
    from coursekit.grading.autograder import UNIT, grade

    end_children_too()
    found = grade(repository, result, settings.plan)
    echo(f"{found['score'] / UNIT:g} of {found['max-score'] / UNIT:g}: {found['message']}; see {result}")


@app.command("plan")
@commands.with_fields(_Settings, "settings")
def plan_only(submissions: Folder, settings: _Settings, out: Out = Path("marks")) -> None:
    r"""Write manifest.jsonl, one line a submission, for `grade one`. Prints how many there are."""
    from coursekit.grading.folder import Batch

    batch = Batch(out)
    batch.make()
    with batch.lock():
        lines = settings.plan(batch, submissions)
    typer.echo(sum(line["key"] is not None for line in lines))


@app.command("one")
def grade_one(
    out: Out = Path("marks"),
    index: Annotated[int, typer.Option(help="Line of the manifest, from 0.")] = 0,
    again: Annotated[bool, typer.Option("--again", help="Even if it already has a mark.")] = False,
) -> None:
    r"""Grade one line of the manifest in a process of its own; does nothing where it has a mark."""
    from coursekit.grading import bench
    from coursekit.grading.folder import Batch

    end_children_too()
    batch = Batch(out)
    lines = batch.lines()
    if not 0 <= index < len(lines):
        raise CourseError(f"--index {index}: the manifest has the lines 0 to {len(lines) - 1}")
    line = lines[index]
    if line["key"] is None:
        return typer.echo(f"{line['submission']}: nothing was submitted")
    with batch.lock(shared=True):
        result = None if again else batch.result(line["key"])
        if result is None:
            try:
                result = bench.grade_index(str(batch.out), index)
            finally:
                bench.close(batch.out)
    typer.echo(f"{result['submission']}: {result['status']}")
    if result["status"] == "infrastructure":
        typer.echo(f"coursekit: the grader itself failed: {batch.why()}", err=True)
        raise typer.Exit(3)
    return None


# What becomes of results: collect, export, feedback and so on.
app.registered_commands += commands.app.registered_commands
