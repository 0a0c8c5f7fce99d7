r"""Many runs into one file, which can be stopped and gone on with at any time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from coursekit.comparison import files, machine, rates, trial
from coursekit.comparison.bench import Bench, Setting
from coursekit.comparison.candidates import CANDIDATES, EVERY
from coursekit.comparison.files import Line
from coursekit.errors import CourseError, number, one_of, unknown, whole

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
    r"""Train `methods` (default: all of `CANDIDATES`) with every seed; give back their runs, old and new.

    out: a file of JSON lines. Runs that are in it already are not made again. try_rates: learning rates to choose
    from, for each method by accuracy on validation sentences, with the first seed; "around": the candidate's rate and
    its neighbours, and on where the best is at an end; None: the candidate's rate as it is. Lines of that search have
    the purpose "sweep", those of the comparison "run". say: gets notices, such as which method does not fit the model,
    or which run failed: its line has the accuracy None.

    Raises CourseError, before anything is trained, for unknown names, settings that make no sense, a file that cannot
    be written, one that another process is adding to, and one of runs with other settings; and where no method fits
    the model.
    """
    names = list(dict.fromkeys(CANDIDATES if methods is None else methods))
    seeds = list(dict.fromkeys(seeds))
    _check(setting, names, seeds, try_rates)
    with files.added_to(out) as runs:
        return _compare(_Made(runs, setting), names, seeds, try_rates, say, progress)


def _compare(
    made: _Made,
    names: list[str],
    seeds: list[int],
    try_rates: str | Sequence[float] | None,
    say: Callable[[str], Any],
    progress: bool,
) -> list[Line]:
    made.agree_with(made.common)
    for name in names:
        made.agree_with({"settings": EVERY[name].settings}, method=name)
    chosen = {name: EVERY[name].rate for name in names}
    if not try_rates:
        made.agree_on_rates(chosen)
    if made.runs.torn:
        say(f"{made.runs.path} ended in the middle of a run, which is made again")
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
                chosen[name] = _best(try_rates, EVERY[name].rate, lambda lr: made.sweep(name, seeds[0], lr))
                made.agree_on_rates({name: chosen[name]})

            each("sweep", seeds[0], search)
        for seed in seeds:
            each("run", seed, lambda name, seed=seed: made.run(name, seed, chosen[name], say))
    if not fitting:
        raise CourseError(
            f"none of these methods fits {made.setting.model}: take another model or other methods"
        )
    # Of a search, all lines; of runs those that were asked for.
    return [
        line
        for line in made.runs.lines
        if line["method"] in fitting and (line["purpose"] != "run" or line["seed"] in seeds)
    ]


class _Made:
    r"""What has been made so far, in a file, under one setting; and how to make more of it."""

    def __init__(self, runs: files.Runs, setting: Setting):
        self.runs, self.setting = runs, setting
        shared = asdict(setting)
        self.common = {"task": f"{shared.pop('domain')}/{shared.pop('labels')}"} | shared

    def load(self) -> None:
        r"""Load model and task. Raises CourseError where the file is from another device or other versions."""
        self.bench = Bench(self.setting)
        self.here = machine.describe(self.bench.device) | {
            "dtype": str(self.bench.dtype).removeprefix("torch.")
        }
        self.agree_with(self.here)

    def agree_with(self, wanted: Mapping[str, Any], **where: Any) -> None:
        r"""Raise CourseError for the first line, of those with `where`, that has something else than is `wanted`."""
        for line in self.runs.lines:
            if where.items() <= line.items():
                for key, value in wanted.items():
                    if line.get(key) != value:
                        what = f"{where['method']} with " if "method" in where else ""
                        raise CourseError(
                            f"{self.runs.path} holds runs of {what}{key} = {line.get(key)!r}, and now it is "
                            f"{value!r}: give the settings of then, or another file"
                        )

    def agree_on_rates(self, chosen: Mapping[str, float]) -> None:
        r"""Raise CourseError where a method was run at another learning rate before: its seeds would not compare."""
        for name, lr in chosen.items():
            self.agree_with({"lr": lr}, purpose="run", method=name)

    def sweep(self, name: str, seed: int, lr: float) -> float | None:
        r"""Accuracy on validation sentences at `lr`."""
        return self._made("sweep", trial.validated, name, seed, lr)["accuracy"]

    def run(self, name: str, seed: int, lr: float, say: Callable[[str], Any]) -> None:
        r"""One run of the comparison itself."""
        line = self._made("run", trial.run, name, seed, lr)
        if line["accuracy"] is None:
            say(f"{name} with seed {seed} failed at the rate {lr:g}: {line['why']}")

    def _made(self, purpose: str, make: Callable[..., Line], name: str, seed: int, lr: float) -> Line:
        key = {"purpose": purpose, "method": name, "seed": seed, "lr": lr}
        for line in self.runs.lines:
            if key.items() <= line.items():
                return line
        candidate = EVERY[name]
        about = {"family": candidate.family, "settings": candidate.settings}
        line = key | about | self.common | make(self.bench, candidate, seed, lr) | self.here
        self.runs.append(line)
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
        if name not in EVERY:
            raise unknown("method", name, EVERY)
    if not names or not seeds:
        raise CourseError("nothing to compare: name at least one method and one seed")
    one_of("labels", setting.labels, ("two", "five"))  # a rating is no class
    for key in ("steps", "batch_size", "sentences", "validation"):
        whole(key, getattr(setting, key), least=1)
    for seed in seeds:
        whole("seed", seed, least=0, most=2**32 - 1)
    if isinstance(try_rates, str) and try_rates != AROUND:
        raise CourseError(
            f"learning rates {try_rates!r}: give numbers, such as 0.001 and 0.01, or {AROUND!r}"
        )
    if try_rates is not None and not isinstance(try_rates, str):
        if not list(try_rates):
            raise CourseError(
                f"no learning rate to choose from: give some, such as 0.001 and 0.01, or {AROUND!r}"
            )
        for lr in try_rates:
            number("learning rate", lr, above=0, such_as=0.001)
