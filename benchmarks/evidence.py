r"""Evidence: runs the grid of a topic into data/evidence/, in several processes, and goes on where it was stopped.

    python benchmarks/evidence.py methods --processes 2      # hours; Ctrl-C whenever you like, the same command goes on
    python benchmarks/evidence.py methods --status           # what is left, and about how long it takes
    python benchmarks/evidence.py methods --card             # writes data/evidence/methods.md from what is there

A topic is a file in benchmarks/topics/ with a `GRID` and the `SETTING` that its runs share; where its arms are no
`Recipe`, with a `carry` that makes their runs; where its task is its own, with a `task`.
"""

import importlib
import re
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from coursekit.batch.processes import side_by_side
from coursekit.cli_errors import exit_cleanly
from coursekit.errors import one_of, whole
from coursekit.experiments import machine, work
from coursekit.experiments.bench import Bench
from coursekit.experiments.card import card
from coursekit.experiments.recipe import Arm, Recipe
from coursekit.experiments.run import baselines, train
from coursekit.experiments.table import Cell, Run, Store, read_csv
from coursekit.files import replace_text
from coursekit.tasks.task import Task, load_task

ROOT = Path(__file__).resolve().parents[1]
TOPICS = sorted(path.stem for path in (ROOT / "benchmarks" / "topics").glob("[!_]*.py"))


@exit_cleanly
def main(
    topic: Annotated[str, typer.Argument(help=", ".join(TOPICS))],
    processes: Annotated[int, typer.Option(help="Side by side, one thread each.")] = 1,
    status: Annotated[bool, typer.Option("--status", help="Only say what is left.")] = False,
    only_card: Annotated[bool, typer.Option("--card", help="Only take over runs and write the card.")] = False,
    evidence: Annotated[Path, typer.Option(help="Folder of the files.")] = ROOT / "data" / "evidence",
) -> None:
    r"""Run what is left of a topic's grid, and write its card."""
    one_of("topic", topic, TOPICS)
    whole("--processes", processes, least=1, such_as=2)
    asked = importlib.import_module(f"topics.{topic}")
    store = Store(evidence / f"{topic}.csv")
    if not status and (taken := borrowed(topic, asked, store)):
        print(f"{taken} runs of the same recipe taken over from other topics", flush=True)
    print(work.progress(asked.GRID, store.runs(), processes), flush=True)
    if status:
        return
    if processes > 1 and not only_card:
        raise typer.Exit(side_by_side([sys.executable, __file__, topic, "--evidence", str(evidence)], processes))
    if not only_card:
        torch.set_num_threads(1)  # on more, sums are taken in another order, and a run ends elsewhere
        bench = Bench(asked.SETTING, task(asked)) if asked.SETTING else None
        if not hasattr(asked, "carry"):
            store.add(idle(asked, store, bench))
        work.work(asked.GRID, store, carry(asked, bench), partial(print, flush=True))
    write_card(topic, asked, store)


def task(asked: Any) -> Task:
    r"""The topic's own, or the one that its setting names."""
    return asked.task() if hasattr(asked, "task") else load_task(asked.SETTING.domain, asked.SETTING.labels)


def carry(asked: Any, bench: Bench) -> work.Carry:
    r"""What makes the topic's runs."""
    if hasattr(asked, "carry"):
        return partial(asked.carry, bench)
    return lambda recipe, cell: train(bench, recipe, cell, asked.GRID.every(cell.steps))


def borrowed(topic: str, asked: Any, store: Store) -> int:
    r"""Take over what another topic has measured of the very same recipe in the same setting; the number of runs.

    A topic with a `carry` of its own asks its runs something else.
    """
    there, new = {run.cell for run in store.runs()}, []
    for name in TOPICS:
        other = importlib.import_module(f"topics.{name}")
        file = store.path.with_name(f"{name}.csv")
        differs = hasattr(asked, "carry") or hasattr(other, "carry")
        if differs or name == topic or not file.exists() or other.SETTING != asked.SETTING:
            continue
        same = {
            theirs.name: own.name
            for own in asked.GRID.arms
            for theirs in other.GRID.arms
            if _depends_on(own) == _depends_on(theirs) and asked.GRID.points == other.GRID.points
        }
        for run in read_csv(file):
            if run.cell.arm in same and (cell := replace(run.cell, arm=same[run.cell.arm])) not in there:
                new.append(replace(run, cell=cell))
                there.add(cell)
    store.add(new)
    return len(new)


def _depends_on(arm: Arm) -> Any:
    r"""What a run depends on: where nothing is searched, a candidate's own learning rate, does not matter here."""
    recipe = arm.recipe
    return replace(recipe, candidate=replace(recipe.candidate, rate=0.0)) if isinstance(recipe, Recipe) else recipe


def idle(asked: Any, store: Store, bench: Bench) -> list[Run]:
    r"""What needs no training and is not there yet, once for each seed."""
    there = {run.cell.arm for run in store.runs()}
    recipe = asked.GRID.arms[0].recipe
    bf16 = not isinstance(recipe, Recipe) or recipe.autocast
    return [
        replace(run, cell=Cell(run.cell.arm, 0, 0.0, seed))
        for run in baselines(bench, there, bf16)
        for seed in asked.GRID.seeds
    ]


def write_card(topic: str, asked: Any, store: Store) -> None:
    r"""The card beside the runs, from what there is of them now."""
    about = {"command": f"`python benchmarks/evidence.py {topic} --processes 2`"}
    if (setting := asked.SETTING) is not None and not hasattr(asked, "carry"):
        data = task(asked).data
        sizes = {split: len(data[split]) for split in ("train", "validation", "test")}
        shown = asked.GRID.steps * setting.batch_size / sizes["train"]
        about |= {
            "task": f"{setting.domain}/{setting.labels}, {min(setting.validation, sizes['validation'])} validation and "
            f"{min(setting.sentences, sizes['test'])} test sentences",
            "training": f"AdamW, warm-up over 10 % of the steps, linear decay to 0, gradients clipped at norm 1, "
            f"batches of {setting.batch_size}; {asked.GRID.steps} steps are {shown:.2f} of the {sizes['train']:,} "
            "training sentences; weights in float32, matrix products in bfloat16",
            "model": setting.model,
        }
    path, runs = store.path.with_suffix(".md"), store.runs()
    machines = {run.more["processor"] for run in runs if run.more.get("processor")}
    about |= {
        "machine": f"{', '.join(sorted(machines | _named_before(path)))}, one thread a process",
        "versions when this card was written": ", ".join(map(" ".join, machine.versions().items())),
    }
    replace_text(path, card(asked.GRID, runs, about, asked.__doc__))


def _named_before(path: Path) -> set[str]:
    r"""The processors that the card names already: the first runs did not keep theirs."""
    found = re.search(r"^- \*\*machine\*\*: (.+?), one thread", path.read_text() if path.exists() else "", re.MULTILINE)
    return set(found[1].split(", ")) if found else set()


if __name__ == "__main__":
    typer.run(main)
