r"""The command `coursekit`. Each command imports what it needs when it runs: `--help` answers at once."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Annotated

import typer

from coursekit.cli_errors import Commands, echo, end_children_too
from coursekit.errors import CourseError, machine
from coursekit.grading import cli as grading

# jsonschema, which nbformat brings, does without it: a grammar for addresses, of which notebooks have none, and two
# seconds of each command.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]

app = Commands(
    help="The course on fine-tuning language models: get its models, run its notebooks.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
Jobs = Annotated[
    int | None, typer.Option(help="Notebooks at a time, each in a process of its own. Default: as many as fit.")
]
app.add_typer(grading.app, name="grade")


def _notebooks(named: list[Path] | None) -> list[Path]:
    paths = named or sorted(Path("notebooks").glob("*.ipynb"))
    if not paths:
        raise CourseError("no notebooks: name some, or run this in the folder that holds notebooks/")
    return paths


def _need_papermill() -> None:
    from importlib.util import find_spec

    if missing := [name for name in ("papermill", "nbconvert") if find_spec(name) is None]:
        raise machine(
            f"{' and '.join(missing)} is not installed: run pip install -e '.[notebooks]' in the course's folder"
        )


@app.command()
def fetch() -> None:
    r"""Download, verify and convert the models and texts of the course (once)."""
    from coursekit.models import sources

    end_children_too()
    for name, folder in sources.fetch_all().items():
        echo(f"{name:10} {folder}")


@app.command()
def run(
    notebooks: Annotated[list[Path] | None, typer.Argument(help="Default: all in notebooks/.")] = None,
    profile: Annotated[str | None, typer.Option(help="smoke, gpu, or a papermill parameter file.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")] = Path("runs"),
    parameter: Annotated[list[str] | None, typer.Option("-p", help="name=value, may be repeated.")] = None,
    timeout: Annotated[float | None, typer.Option(help="Minutes that a notebook may take.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Run finished notebooks again.")] = False,
    jobs: Jobs = None,
) -> None:
    r"""Run notebooks through papermill; write them, their pages, summary.json and index.html."""
    _need_papermill()
    from coursekit.batch.runner import run_notebooks
    from coursekit.notebook.parameters import parse

    end_children_too()
    given = dict(map(parse, parameter or []))
    results = run_notebooks(_notebooks(notebooks), out, profile, given, force=force, timeout=timeout, jobs=jobs)
    echo(f"{sum(r.ok for r in results)} of {len(results)} ok; read {out / 'index.html'}")
    if not all(r.ok for r in results):
        raise typer.Exit(1)


@app.command()
def refresh(
    notebooks: Annotated[list[Path] | None, typer.Argument(help="Default: all in notebooks/.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")] = Path("runs"),
    jobs: Jobs = None,
) -> None:
    r"""Put the outputs of a run with default parameters into the notebooks, ready to be committed."""
    _need_papermill()
    from coursekit.authoring.refresh import refresh as put

    end_children_too()
    for path in put(_notebooks(notebooks), out, jobs=jobs):
        echo(f"refreshed {path}")
    if Path("pyproject.toml").is_file():  # the checkout, whose README says how long a lesson takes
        generate()


@app.command()
def generate(
    check: Annotated[bool, typer.Option("--check", help="Change nothing; status 1 if out of step.")] = False,
) -> None:
    r"""Write what is generated: set-up cells, badges, times, lines on exercises, README's tables."""
    from coursekit.authoring.generated import update

    changed = update(Path.cwd(), write=not check)
    for path in changed:
        echo(f"{'out of step' if check else 'updated'}: {path.relative_to(Path.cwd())}")
    if check and changed:
        raise CourseError("run `coursekit generate` and commit")


@app.command()
def solve(
    notebook: Annotated[Path, typer.Argument(help="A notebook with exercises.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the solved notebook goes.")],
) -> None:
    r"""Make the solved notebook: every exercise answered by its reference solution."""
    from coursekit.authoring.solve import solve as make

    echo(f"{out}: {', '.join(make(notebook, out))}")


@app.command()
def release(
    notebooks: Annotated[list[Path], typer.Argument(help="Notebooks with exercises.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="A folder; for one notebook also a file.")],
) -> None:
    r"""Make the students' copies: no outputs, no answers, locked checks."""
    from coursekit.authoring.release import release as make

    if out.suffix == ".ipynb" and len(notebooks) > 1:
        raise CourseError(f"{out} is one file for {len(notebooks)} notebooks: give a folder.")
    targets = {out if out.suffix == ".ipynb" else out / path.name: path for path in notebooks}
    if len(targets) < len(notebooks):
        raise CourseError("two of the notebooks have one name, and would become one file: release them apart")
    for target, notebook in targets.items():
        echo(f"{target}: {', '.join(make(notebook, target))}")


@app.command()
def compare(
    out: Annotated[Path, typer.Option("--out", "-o", help="CSV of the runs, one line each.")],
    task: Annotated[str, typer.Option(help="film, product, tweet or newspaper.")] = "film",
    labels: Annotated[str, typer.Option(help="two or five.")] = "two",
    methods: Annotated[str, typer.Option(help="Names with commas between them, or all.")] = "all",
    seeds: Annotated[str, typer.Option(help="Numbers with commas between them.")] = "0,1,2",
    model: Annotated[str, typer.Option(help="minilm, smollm2, a folder, or an id on the hub.")] = "minilm",
    steps: Annotated[int, typer.Option(help="Training steps of each run.")] = 40,
    batch_size: Annotated[int, typer.Option(help="Sentences in a step.")] = 16,
    sentences: Annotated[int, typer.Option(help="Test sentences.")] = 500,
    validation: Annotated[int, typer.Option(help="Validation sentences, to choose learning rates.")] = 300,
    rates: Annotated[
        str | None, typer.Option(help="Learning rates to choose from, or `around` each method's own. Default: its own.")
    ] = None,
    csv: Annotated[Path | None, typer.Option(help="File for a table, one row a method.")] = None,
) -> None:
    r"""Train every method of the course on one task and compare size, memory, time and quality.

    Stop it with Ctrl-C; the same command goes on from there.
    """
    from coursekit import comparison
    from coursekit.notebook.parameters import listed

    if csv is not None:  # before the work, not after
        if csv.resolve() == out.resolve():
            raise CourseError(f"--out and --csv are both {csv}: give the table a file of its own")
        comparison.check_target(csv)
    setting = comparison.Setting(task, labels, model, steps, batch_size, sentences, validation)
    runs = comparison.compare(
        out,
        setting,
        None if methods == "all" else listed(methods, str, "methods"),
        listed(seeds, int, "seeds"),
        rates if rates in (None, comparison.AROUND) else listed(rates, float, "rates"),
        say=functools.partial(typer.echo, err=True),
    )
    rows = comparison.summary(runs)
    if csv is not None:
        comparison.to_csv(rows, csv)
    echo(comparison.table(rows))


@app.command()
def doctor() -> None:
    r"""Look at everything the course needs on this machine, and name the command that mends what is wrong."""
    from coursekit.doctor import examine

    found = []
    for finding in examine():
        echo(finding)
        found.append(finding)
    if any(finding.mend and finding.needed for finding in found):
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
