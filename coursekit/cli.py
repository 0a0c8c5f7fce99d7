r"""The command `coursekit`. Each command imports what it needs when it runs: `--help` answers at once."""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from coursekit.errors import CourseError
from coursekit.grading import cli as grading
from coursekit.polite import end_children_too, polite, tell

app = typer.Typer(
    help="The course on fine-tuning language models: get its models, run its notebooks.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(grading.app, name="grade")


def _notebooks(named: list[Path] | None) -> list[Path]:
    paths = named or sorted(Path("notebooks").glob("*.ipynb"))
    if not paths:
        raise CourseError("no notebooks: name some, or run this in the folder that holds notebooks/")
    return paths


def _need_papermill() -> None:
    from importlib.util import find_spec

    if missing := [name for name in ("papermill", "nbconvert") if find_spec(name) is None]:
        raise CourseError(
            f"{' and '.join(missing)} is not installed: run pip install -e '.[notebooks]' in the course's folder"
        )


def _share_cores(jobs: int) -> None:
    r"""Threads for each of several notebooks at a time, unless OMP_NUM_THREADS says it already.

    PyTorch gives every process all cores; two that do so wait for each other and take several times as long.
    """
    if jobs > 1:
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))


@app.command()
@polite
def fetch() -> None:
    r"""Download, verify and convert the models and texts of the course (once)."""
    from coursekit.models import sources

    end_children_too()
    for name, folder in sources.fetch_all().items():
        tell(f"{name:10} {folder}")


@app.command()
@polite
def run(
    notebooks: Annotated[list[Path] | None, typer.Argument(help="Default: all in notebooks/.")] = None,
    profile: Annotated[str | None, typer.Option(help="smoke, gpu, or a papermill parameter file.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")] = Path("runs"),
    parameter: Annotated[list[str] | None, typer.Option("-p", help="name=value, may be repeated.")] = None,
    timeout: Annotated[float | None, typer.Option(help="Minutes that a notebook may take.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Run finished notebooks again.")] = False,
    jobs: Annotated[int, typer.Option(help="Notebooks at a time, each in a process of its own.")] = 1,
) -> None:
    r"""Run notebooks through papermill; write them, their pages, summary.json and index.html."""
    _need_papermill()
    from coursekit.batch.runner import run_notebooks
    from coursekit.notebook.parameters import parse

    end_children_too()
    _share_cores(jobs)
    given = dict(map(parse, parameter or []))
    results = run_notebooks(
        _notebooks(notebooks), out, profile, given, force=force, timeout=timeout, jobs=jobs
    )
    tell(f"{sum(r.ok for r in results)} of {len(results)} ok; read {out / 'index.html'}")
    if not all(r.ok for r in results):
        raise typer.Exit(1)


@app.command()
@polite
def refresh(
    notebooks: Annotated[list[Path] | None, typer.Argument(help="Default: all in notebooks/.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")] = Path("runs"),
    jobs: Annotated[int, typer.Option(help="Notebooks at a time, each in a process of its own.")] = 1,
) -> None:
    r"""Put the outputs of a run with default parameters into the notebooks, ready to be committed."""
    _need_papermill()
    from coursekit.authoring.refresh import refresh as put

    end_children_too()
    _share_cores(jobs)
    for path in put(_notebooks(notebooks), out, jobs=jobs):
        tell(f"refreshed {path}")


@app.command()
@polite
def colab(
    check: Annotated[bool, typer.Option("--check", help="Change nothing; status 1 if out of step.")] = False,
) -> None:
    r"""Write the repository's address in pyproject.toml into all set-up cells and badges."""
    from coursekit.authoring.colab import update

    changed = update(Path.cwd(), write=not check)
    for path in changed:
        tell(f"{'out of step' if check else 'updated'}: {path.relative_to(Path.cwd())}")
    if check and changed:
        raise CourseError("run `coursekit colab` and commit")


@app.command()
@polite
def solve(
    notebook: Annotated[Path, typer.Argument(help="A notebook with exercises.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the solved notebook goes.")],
) -> None:
    r"""Make the solved notebook: every exercise answered by its reference solution."""
    from coursekit.authoring.solve import solve as make

    tell(f"{out}: {', '.join(make(notebook, out))}")


@app.command()
@polite
def release(
    notebooks: Annotated[list[Path], typer.Argument(help="Notebooks with exercises.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="A folder; for one notebook also a file.")],
) -> None:
    r"""Make the students' copies: no outputs, no answers, locked checks."""
    from coursekit.authoring.release import release as make

    if out.suffix == ".ipynb" and len(notebooks) > 1:
        raise CourseError(f"{out} is one file for {len(notebooks)} notebooks: give a folder.")
    for notebook in notebooks:
        target = out if out.suffix == ".ipynb" else out / notebook.name
        typer.echo(f"{target}: {', '.join(make(notebook, target))}")


@app.command()
@polite
def compare(
    out: Annotated[Path, typer.Option("--out", "-o", help="File for the runs, one JSON line each.")],
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
        str | None,
        typer.Option(help="Learning rates to choose from, or `around` each method's own. Default: its own."),
    ] = None,
    csv: Annotated[Path | None, typer.Option(help="File for a table, one row a method.")] = None,
) -> None:
    r"""Train every method of the course on one task and compare size, memory, time and quality.

    Stop it with Ctrl-C; the same command goes on from there.
    """
    from tqdm import tqdm

    from coursekit import comparison
    from coursekit.notebook.parameters import listed

    if csv is not None:  # before the work, not after
        if csv.resolve() == out.resolve():
            raise CourseError(f"--out and --csv are both {csv}: give the table a file of its own")
        comparison.check_target(csv)
    setting = comparison.Setting(task, labels, model, steps, batch_size, sentences, validation)
    lines = comparison.compare(
        out,
        setting,
        None if methods == "all" else listed(methods, str, "methods"),
        listed(seeds, int, "seeds"),
        rates if rates in (None, comparison.AROUND) else listed(rates, float, "rates"),
        say=functools.partial(tqdm.write, file=sys.stderr),
    )
    rows = comparison.summary(lines)
    if csv is not None:
        comparison.to_csv(rows, csv)
    tell(comparison.table(rows))


@app.command()
@polite
def info() -> None:
    r"""Show versions, the device, and what the cache holds."""
    import platform
    from importlib import metadata

    import coursekit
    from coursekit.device import pick_device, pick_dtype
    from coursekit.models.cache import home

    tell(f"coursekit     {coursekit.__version__} ({Path(coursekit.__file__).parent})")
    tell(f"Python        {platform.python_version()} ({platform.platform()})")
    for project in ("torch", "transformers", "peft", "accelerate", "datasets", "bitsandbytes", "papermill"):
        try:
            version = metadata.version(project)
        except metadata.PackageNotFoundError:
            version = "not installed"
        tell(f"{project:13} {version}")
    device = pick_device()
    tell(f"device        {device}, {str(pick_dtype(device)).removeprefix('torch.')}")
    tell(f"cache         {home()}")
    for folder in sorted(p for p in home().glob("[!.]*") if p.is_dir()):
        size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
        tell(f"  {folder.name:20} {size / 1e6:7.1f} MB")


if __name__ == "__main__":
    app()
