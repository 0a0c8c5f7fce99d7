r"""Every method on one task: a grid of `experiments`, with the costs of each run in further columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from coursekit import memory
from coursekit.comparison import trial
from coursekit.comparison.candidates import CANDIDATES, EVERY
from coursekit.errors import CourseError, number, one_of, whole
from coursekit.experiments import machine
from coursekit.experiments.bench import Bench, Setting
from coursekit.experiments.recipe import Arm, Grid, Recipe, neighbours
from coursekit.experiments.run import train
from coursekit.experiments.table import Cell, Run, Store
from coursekit.experiments.work import work
from coursekit.methods import FullFineTuning

#: Instead of learning rates to try: a method's own rate, its neighbours, and on where the best is at an end.
AROUND = "around"


def compare(
    out: str | Path, setting: Setting, methods: Sequence[str] | None = None, seeds: Sequence[int] = (0, 1, 2),
    try_rates: str | Sequence[float] | None = None, *, say: Callable[[str], Any] = print,
) -> list[Run]:  # fmt: skip
    r"""Train `methods` (default: all of `CANDIDATES`) with every seed; give back their runs, old and new.

    out: a CSV as `experiments.table` has it; runs that are in it already are not made again, and several processes may
    share it. try_rates: learning rates to choose from, for each method by accuracy on validation sentences; "around":
    the candidate's rate and its neighbours, and on where the best is at an end; None: the candidate's rate as it is.
    say: gets a line a run, and which method does not fit the model.

    Raises CourseError, before anything is trained, for unknown names, settings that make no sense, a batch that the
    memory does not hold, a file that cannot be written or has runs of other settings; and where no method fits.
    """
    names = list(dict.fromkeys(CANDIDATES if methods is None else methods))
    seeds = list(dict.fromkeys(seeds))
    _check(setting, names, seeds, try_rates)
    store = Store(out)
    shared = asdict(setting)
    shared["tested"] = shared.pop("sentences")  # `sentences` is a column of every table
    common = {name: str(value) for name, value in shared.items() if name not in ("domain", "labels", "steps")}
    common |= {"task": f"{setting.domain}/{setting.labels}"}
    _agree(store, common | {"steps": str(setting.steps)}, names)
    bench = Bench(setting)
    here = machine.describe(bench.device) | {"dtype": str(bench.dtype).removeprefix("torch.")}
    common |= {name: str(value) for name, value in (here | here.pop("versions")).items()}
    _agree(store, common, names)
    _check_memory(bench)
    rates = {name: _rates(try_rates, EVERY[name].rate) for name in names}
    grid = Grid(
        topic=store.path.stem, reference=names[0], seeds=tuple(seeds), best_seeds=0, steps=setting.steps, points=1,
        arms=tuple(
            Arm(name, Recipe(EVERY[name], bucket=False, autocast=False), rates[name], grows=try_rates == AROUND)
            for name in names
        ),
    )  # fmt: skip

    def carry(recipe: Recipe, cell: Cell) -> Sequence[Run]:
        about = common | {"family": recipe.candidate.family, "settings": recipe.candidate.settings}
        measure = partial(trial.costs, bench, recipe.candidate)
        return train(
            bench, recipe, cell, cell.steps,
            measure=lambda model, history: (about if history is None else {}) | measure(model, history),
        )  # fmt: skip

    fitting = {arm.name for arm in work(grid, store, carry, say).arms}
    runs = [run for run in store.runs() if run.cell.arm in fitting and run.cell.seed in seeds]
    return sorted(runs, key=lambda run: names.index(run.cell.arm))


def _rates(asked: str | Sequence[float] | None, own: float) -> tuple[float, ...]:
    if asked is None:
        return (own,)
    return neighbours(own) if isinstance(asked, str) else tuple(asked)


def _agree(store: Store, wanted: Mapping[str, str], names: Sequence[str]) -> None:
    r"""Raise CourseError for the first run in the file that has something else than is `wanted`, or other settings."""
    for run in store.runs():
        held = dict(run.more) | {"steps": str(run.cell.steps)}
        asked = dict(wanted)
        if run.cell.arm in names:
            asked["settings"] = EVERY[run.cell.arm].settings
        for key, value in asked.items():
            if held.get(key) != value:
                what = f"{run.cell.arm} with " if key == "settings" else ""
                raise CourseError(
                    f"{store.path} holds runs of {what}{key} = {held.get(key)}, and now it is {value}: give the "
                    "settings of then, or another file"
                )


def _check_memory(bench: Bench) -> None:
    r"""Raise CourseError where a step of full fine-tuning, which all are measured beside, does not fit the memory."""
    if bench.device.type != "cpu":
        return
    lengths = bench.prepared.lengths("train")
    rows = bench.setting.batch_size
    try:
        needed = memory.predict(
            bench.config, FullFineTuning(), batch=rows, seq=round(sum(lengths) / len(lengths)), device="cpu"
        ).peak
    except CourseError:  # a family whose activations are not modelled
        return
    if needed > (free := psutil.virtual_memory().available):
        raise CourseError(
            f"a step of {rows} sentences needs about {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free: take a "
            "smaller batch_size"
        )


def _check(
    setting: Setting, names: Sequence[str], seeds: Sequence[int], try_rates: str | Sequence[float] | None
) -> None:
    for name in names:
        one_of("method", name, EVERY)
    if not names or not seeds:
        raise CourseError("nothing to compare: name at least one method and one seed")
    one_of("labels", setting.labels, ("two", "five"))
    for key in ("steps", "batch_size", "sentences", "validation"):
        whole(key, getattr(setting, key), least=1)
    for seed in seeds:
        whole("seed", seed, least=0, most=2**32 - 1)
    if isinstance(try_rates, str) and try_rates != AROUND:
        raise CourseError(f"learning rates {try_rates!r}: give numbers, such as 0.001 and 0.01, or {AROUND!r}")
    if try_rates is not None and not isinstance(try_rates, str):
        if not list(try_rates):
            raise CourseError(f"no learning rate to choose from: give some, such as 0.001 and 0.01, or {AROUND!r}")
        for lr in try_rates:
            number("learning rate", lr, above=0, such_as=0.001)
