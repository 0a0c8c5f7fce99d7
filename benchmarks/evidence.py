r"""Evidence: runs the grid of a topic into data/evidence/, in several processes, and goes on where it was stopped.

    python benchmarks/evidence.py methods --processes 2      # hours; Ctrl-C whenever you like, the same command goes on
    python benchmarks/evidence.py methods --status           # what is left, and about how long it takes
    python benchmarks/evidence.py methods --card             # writes data/evidence/methods.md from what is there

A topic is a file in benchmarks/topics/ with a `GRID` and the `SETTING` that its runs share.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from coursekit.comparison import machine
from coursekit.comparison.bench import Bench
from coursekit.comparison.evidence import cell
from coursekit.comparison.evidence.card import card
from coursekit.comparison.evidence.cell import Recipe
from coursekit.comparison.evidence.grid import Arm
from coursekit.comparison.evidence.plan import Cell, Run
from coursekit.comparison.evidence.results import CONSTANT, UNTRAINED
from coursekit.comparison.evidence.store import Store
from coursekit.comparison.evidence.work import Workers, progress, work
from coursekit.errors import CourseError, whole
from coursekit.evaluation import accuracy
from coursekit.files import replace_text
from coursekit.tasks.task import task_of

ROOT = Path(__file__).resolve().parents[1]
TOPICS = sorted(path.stem for path in (ROOT / "benchmarks" / "topics").glob("[!_]*.py"))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("topic", choices=TOPICS)
    parser.add_argument("--processes", type=int, default=1, help="side by side, one thread each")
    parser.add_argument("--status", action="store_true", help="only say what is left")
    parser.add_argument("--card", action="store_true", help="only take over runs and write the card")
    parser.add_argument(
        "--evidence", type=Path, default=ROOT / "data" / "evidence", help="folder of the files"
    )
    asked = parser.parse_args(arguments)
    topic = importlib.import_module(f"topics.{asked.topic}")
    store = Store(asked.evidence / f"{asked.topic}.csv", ROOT / "runs" / "evidence" / asked.topic)
    whole("--processes", asked.processes, least=1, such_as=2)
    if asked.status:
        print(progress(topic.GRID, store.runs(), asked.processes))
        return 0
    if taken := borrowed(asked, topic, store):
        print(f"{taken} runs of the same recipe taken over from other topics", flush=True)
    if asked.card:
        return write_card(asked, topic, store, Bench(topic.SETTING))
    print(progress(topic.GRID, store.runs(), asked.processes), flush=True)
    if asked.processes > 1:
        command = [sys.executable, __file__, asked.topic, "--evidence", str(asked.evidence)]
        return Workers(command, asked.processes, dict(os.environ)).run()
    bench = Bench(topic.SETTING)
    work(
        topic.GRID,
        store,
        lambda make, one: cell.train(bench, make, one, topic.GRID.every(one.steps)),
        partial(print, flush=True),
    )
    return write_card(asked, topic, store, bench)


def borrowed(asked: argparse.Namespace, topic: object, store: Store) -> int:
    r"""Take over what another topic has measured of the very same recipe in the same setting; the number of runs."""
    there, taken = {run.cell for run in store.runs()}, 0
    for name in TOPICS:
        other = importlib.import_module(f"topics.{name}")
        file = asked.evidence / f"{name}.csv"
        if name == asked.topic or not file.exists() or other.SETTING != topic.SETTING:
            continue
        same = {
            theirs.name: own.name
            for own in topic.GRID.arms
            for theirs in other.GRID.arms
            if _recipe(own) == _recipe(theirs) and topic.GRID.points == other.GRID.points
        }
        for run in Store(file, store.claims.with_name(name)).runs():
            if run.cell.arm in same and (cell := replace(run.cell, arm=same[run.cell.arm])) not in there:
                store.add(replace(run, cell=cell))
                there.add(cell)
                taken += 1
    return taken


def _recipe(arm: Arm) -> Recipe:
    r"""What a run depends on: where nothing is searched, a candidate's own learning rate, does not matter here."""
    return replace(arm.make, candidate=replace(arm.make.candidate, rate=0.0))


def constant(bench: Bench) -> Run:
    r"""Trains nothing, the same for any seed: the best constant answer on those very test sentences."""
    right = {}
    for split in ("validation", "test"):
        # The classes, not the "labels" of the rows: a decoder's are tokens.
        labels = task_of(bench.prepared).data[split][: bench.sentences(split)]["label"]
        most = Counter(labels).most_common(1)[0][0]
        right[split] = tuple(label == most for label in labels)
    curve = ((0, sum(right["validation"]) / len(right["validation"])),)
    return Run(Cell(CONSTANT, 0, 0.0, 0), curve, right["test"], 0, 0.0)


def untrained(bench: Bench, bf16: bool) -> Run:
    r"""The decoder as it was released, on the sentences that the trained ones were asked."""
    start, model, right = time.perf_counter(), bench.model(0), {}
    with cell.autocast(bench.device.type, bf16):
        for split in ("validation", "test"):
            score = accuracy(model, bench.prepared, split, bench.sentences(split), progress=False)
            right[split] = tuple(score.correct.tolist())
    curve = ((0, sum(right["validation"]) / len(right["validation"])),)
    return Run(Cell(UNTRAINED, 0, 0.0, 0), curve, right["test"], 0, time.perf_counter() - start)


def baselines(topic: object, store: Store, bench: Bench) -> Iterator[Run]:
    r"""What needs no training: the best constant answer, and of a decoder its own, if that is not there yet."""
    yield constant(bench)
    if not bench.encoder and not any(run.cell.arm == UNTRAINED for run in store.runs()):
        yield untrained(bench, topic.GRID.arms[0].make.autocast)


def write_card(asked: argparse.Namespace, topic: object, store: Store, bench: Bench) -> int:
    r"""The card beside the runs, from what there is of them now and the baselines that need no training."""
    idle = list(baselines(topic, store, bench))
    for baseline in idle:
        for seed in topic.GRID.seeds:
            store.add(replace(baseline, cell=replace(baseline.cell, seed=seed)))
    setting, same = topic.SETTING, idle[0].correct
    about = {
        "command": f"`python benchmarks/evidence.py {asked.topic} --processes 2`",
        "task": f"{setting.domain}/{setting.labels}, {bench.sentences('validation')} validation and "
        f"{bench.sentences('test')} test sentences, batches of {setting.batch_size}",
        "model": setting.model,
        "machine": f"{machine.device_name(bench.device)}, one thread a process",
        "versions": machine.versions_said(),
    }
    replace_text(
        asked.evidence / f"{asked.topic}.md", card(topic.GRID, store.runs(), about, sum(same) / len(same))
    )
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except CourseError as error:
        sys.exit(f"evidence: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
