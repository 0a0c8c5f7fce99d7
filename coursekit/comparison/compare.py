r"""Many runs into one file, which can be stopped and gone on with at any time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from coursekit.comparison import files, machine, rates, trial
from coursekit.comparison.bench import Bench, Setting
from coursekit.comparison.contenders import CONTENDERS
from coursekit.comparison.files import Line
from coursekit.errors import CourseError, unknown

#: Instead of learning rates to try: a method's own rate, its neighbours, and on where the best is at an end.
AROUND = "around"


def compare(
    out: str | Path,
    setting: Setting,
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    try_rates: str | Sequence[float] | None = None,
    *,
    say: Callable[[str], Any] = tqdm.write,
    progress: bool = True,
) -> list[Line]:
    r"""Train `methods` (default: all of `CONTENDERS`) with every seed; give back their runs, old and new.

    out: a file of JSON lines. Runs that are in it already are not made again. try_rates: learning rates to choose
    from, for each method by accuracy on validation sentences, with the first seed; "around": the contender's rate and
    its neighbours, and on where the best is at an end; None: the contender's rate as it is. Lines of that search have
    the purpose "sweep", those of the comparison "run". say: gets notices, such as which method does not fit the model.

    Raises CourseError, before anything is trained, for unknown names, settings that make no sense, and a file of
    runs with other settings.
    """
    names = list(dict.fromkeys(CONTENDERS if methods is None else methods))
    seeds = list(dict.fromkeys(seeds))
    _check(setting, names, seeds, try_rates)
    lines, torn = files.resume(Path(out))
    made = _Made(Path(out), lines, setting)
    made.agree_with(made.common)
    for name in names:
        made.agree_with({"settings": CONTENDERS[name].settings}, method=name)
    chosen = {name: CONTENDERS[name].rate for name in names}
    if not try_rates:
        made.agree_on_rates(chosen)
    if torn:
        say(f"{out} ended in the middle of a run, which is made again")
    made.load()

    fitting = list(names)
    with tqdm(total=len(names) * (len(seeds) + bool(try_rates)), unit="run", disable=not progress) as bar:

        def each(purpose: str, seed: int, do: Callable[[str], Any]) -> None:
            r"""`do` for every method that fits the model."""
            for name in list(fitting):
                bar.set_postfix_str(f"{name}, {purpose}, seed {seed}")
                try:
                    do(name)
                except trial.Unfit as error:
                    fitting.remove(name)
                    say(f"{name} is left out: {error}")
                bar.update()

        if try_rates:

            def search(name: str) -> None:
                chosen[name] = _best(
                    try_rates, CONTENDERS[name].rate, lambda lr: made.sweep(name, seeds[0], lr)
                )

            each("sweep", seeds[0], search)
            made.agree_on_rates(chosen)
        for seed in seeds:
            each("run", seed, lambda name, seed=seed: made.run(name, seed, chosen[name]))
    return [line for line in made.lines if line["method"] in fitting]


class _Made:
    r"""What has been made so far, in a file, under one setting; and how to make more of it."""

    def __init__(self, path: Path, lines: list[Line], setting: Setting):
        self.path, self.lines, self.setting = path, lines, setting
        shared = asdict(setting)
        self.common = {"task": f"{shared.pop('domain')}/{shared.pop('labels')}"} | shared

    def load(self) -> None:
        r"""Load model and task. Raises CourseError where the file is from another device or precision."""
        self.bench = Bench(self.setting)
        self.here = machine.describe(self.bench.device) | {
            "dtype": str(self.bench.dtype).removeprefix("torch.")
        }
        self.agree_with({key: self.here[key] for key in ("device", "dtype")})

    def agree_with(self, wanted: Mapping[str, Any], **where: Any) -> None:
        r"""Raise CourseError for the first line, of those with `where`, that has something else than is `wanted`."""
        for line in self.lines:
            if where.items() <= line.items():
                for key, value in wanted.items():
                    if line.get(key) != value:
                        what = f"{where['method']} with " if "method" in where else ""
                        raise CourseError(
                            f"{self.path} holds runs of {what}{key} = {line.get(key)!r}, and now it is {value!r}: give "
                            "the settings of then, or another file"
                        )

    def agree_on_rates(self, chosen: Mapping[str, float]) -> None:
        r"""Raise CourseError where a method was run at another learning rate before: its seeds would not compare."""
        for name, lr in chosen.items():
            self.agree_with({"lr": lr}, purpose="run", method=name)

    def sweep(self, name: str, seed: int, lr: float) -> float | None:
        r"""Accuracy on validation sentences at `lr`."""
        return self._made("sweep", trial.validated, name, seed, lr)["accuracy"]

    def run(self, name: str, seed: int, lr: float) -> None:
        r"""One run of the comparison itself."""
        self._made("run", trial.run, name, seed, lr)

    def _made(self, purpose: str, make: Callable[..., Line], name: str, seed: int, lr: float) -> Line:
        key = {"purpose": purpose, "method": name, "seed": seed, "lr": lr}
        for line in self.lines:
            if key.items() <= line.items():
                return line
        contender = CONTENDERS[name]
        about = {"family": contender.family, "settings": contender.settings}
        line = key | about | self.common | make(self.bench, contender, seed, lr) | self.here
        files.append(self.path, line)
        self.lines.append(line)
        return line


def _best(try_rates: str | Sequence[float], own: float, accuracy: Callable[[float], float | None]) -> float:
    around = try_rates == AROUND
    found = {lr: accuracy(lr) for lr in (rates.around(own) if around else try_rates)}
    while around and (lr := rates.beyond(found)) is not None:
        found[lr] = accuracy(lr)
    return rates.best(found)


def _check(
    setting: Setting, names: Sequence[str], seeds: Sequence[int], try_rates: str | Sequence[float] | None
) -> None:
    for name in names:
        if name not in CONTENDERS:
            raise unknown("method", name, CONTENDERS)
    if not names or not seeds:
        raise CourseError("nothing to compare: name at least one method and one seed")
    for key, value in asdict(setting).items():
        if isinstance(value, int) and value < 1:
            raise CourseError(f"{key}={value}: it must be at least 1")
    if min(seeds) < 0:
        raise CourseError(f"seed {min(seeds)}: give whole numbers from 0 up")
    if isinstance(try_rates, str) and try_rates != AROUND:
        raise CourseError(
            f"learning rates {try_rates!r}: give numbers, such as 0.001 and 0.01, or {AROUND!r}"
        )
    for lr in try_rates or () if not isinstance(try_rates, str) else ():
        if not (math.isfinite(lr) and lr > 0):
            raise CourseError(f"learning rate {lr}: it must be above 0")
