r"""A comparison that is written down before it is run: the hypothesis, the arms, the seeds, what would matter.

What is decided afterwards, which seeds count, which difference is large, when to stop, can be decided so that it
pleases. A registration has a short name made of its words and numbers, and is written to a file under it: whoever
changes a word has another name, no such file, and no run.
"""

from __future__ import annotations

import json
import statistics
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path
from random import Random

from scipy import special

from coursekit.comparison.candidates import EVERY
from coursekit.errors import CourseError, number, one_of, whole
from coursekit.evaluation.classification import accuracy
from coursekit.experiments.bench import Bench, Setting
from coursekit.experiments.run import attach
from coursekit.experiments.verdict import non_inferior
from coursekit.tasks.prepared import Prepared

#: (method, seed, accuracy)
Runs = list[tuple[str, int, float]]
FEWEST = 3


@dataclass(frozen=True)
class Registration:
    r"""What is to be compared, how it is run, and how it will be judged.

    hypothesis: a sentence that names both methods. one, other: of `candidates.EVERY`. rates: their learning rates.
    smallest: the smallest difference of test accuracy that would matter. seeds: of the runs, three or more. pilot:
    seeds that gave the idea; none of them may be among `seeds`. setting: of all runs. longest: tokens of a sentence;
    longer ones are neither trained on nor tested.
    """

    hypothesis: str
    one: str
    other: str
    rates: tuple[float, float]
    smallest: float
    seeds: tuple[int, ...]
    pilot: tuple[int, ...] = ()
    setting: Setting = Setting()
    longest: int | None = None

    def __post_init__(self) -> None:
        for name in ("one", "other"):
            one_of("method", getattr(self, name), EVERY)
        if self.one == self.other:
            raise CourseError(f"both arms are {self.one!r}: name two methods.")
        missing = [name for name in (self.one, self.other) if name not in self.hypothesis]
        if missing:
            raise CourseError(
                f"the hypothesis must name both methods, as in 'lora beats bitfit'; {missing[0]!r} is not in it."
            )
        if len(self.rates) != 2:
            raise CourseError(f"rates must be two, one for each method, such as (0.003, 0.1); got {self.rates}.")
        for rate in self.rates:
            number("rate", rate, above=0, such_as=0.003)
        number("smallest", self.smallest, above=0, below=0.5, such_as=0.02)
        object.__setattr__(self, "rates", tuple(self.rates))
        object.__setattr__(self, "seeds", tuple(whole("seed", seed, least=0, such_as=3) for seed in self.seeds))
        if len(set(self.seeds)) < max(FEWEST, len(self.seeds)):
            raise CourseError(f"seeds must be three or more different ones; got {self.seeds}.")
        if both := sorted(set(self.seeds) & set(self.pilot)):
            raise CourseError(f"seed {both[0]} was in the pilot: what gave the idea cannot confirm it as well.")

    @property
    def name(self) -> str:
        r"""Eight digits made of all that is registered."""
        return f"{zlib.crc32(repr(astuple(self)).encode()):08x}"

    def write(self, folder: str | Path) -> Path:
        r"""Put it down in `folder`, under its name; the same once more changes nothing."""
        path = self._file(folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return path

    def check_written(self, folder: str | Path) -> None:
        r"""Raise CourseError where it was not written to `folder` as it is now."""
        if not self._file(folder).exists():
            raise CourseError(
                f"{self.name} is not registered in this folder: something in it was changed after `write`, or it was "
                "never written. Write the new one first; it has another name."
            )

    def _file(self, folder: str | Path) -> Path:
        return Path(folder) / f"{self.name}.json"

    def __repr__(self) -> str:
        return (
            f"registered as {self.name}: {self.hypothesis} ({self.one} against {self.other}, seeds "
            f"{', '.join(map(str, self.seeds))}, {self.setting.steps} steps)"
        )


def carry_out(registered: Registration, folder: str | Path, bench: Bench | None = None) -> Runs:
    r"""Run both methods with the registered seeds, and nothing else.

    A training that fails leaves its run out, for whoever concludes to find. Raises CourseError where `registered` does
    not lie in `folder`, and where every run of a method fails.
    """
    registered.check_written(folder)
    bench = bench or Bench(registered.setting)
    if registered.longest is not None:
        bench.prepared = _short(bench.prepared, registered.longest)
    found: Runs = []
    for seed in registered.seeds:
        for name, rate in zip((registered.one, registered.other), registered.rates, strict=True):
            model = attach(bench, EVERY[name], seed)
            try:
                bench.fit(model, seed, rate)
            except CourseError:  # a loss that stopped being finite
                continue
            score = accuracy(model, bench.prepared, "test", bench.sentences("test"), progress=False)
            found.append((name, seed, score.value))
    for name in (registered.one, registered.other):
        if not any(method == name for method, *_ in found):
            raise CourseError(f"every run of {name} failed: register a lower learning rate for it.")
    return found


def _short(prepared: Prepared, longest: int) -> Prepared:
    r"""Only rows of at most so many tokens, in every split."""
    data = dict(prepared.data)
    for split, rows in data.items():
        data[split] = rows.select([i for i, n in enumerate(prepared.lengths(split)) if n <= longest])
    return replace(prepared, data=type(prepared.data)(data))


# What so many seeds can tell -----------------------------------------------------------------------------------------


def standard_errors(n: int) -> float:
    r"""Standard errors that the difference of two means of n seeds each exceeds by chance in 1 of 20 cases: Student's
    $t$ with $2n - 2$ degrees of freedom. With many seeds it is the 1.96 of a variance that is known.
    """
    return float(special.stdtrit(2 * whole("n", n, least=2, such_as=3) - 2, 0.975))


def not_inferior(
    pilot: Sequence[tuple[str, int, float]], n: int, difference: float, smallest: float, draws: int = 2000
) -> float:
    r"""How often the first method is shown to lose less than `smallest`: the low end of the interval lies above that.
    Simulated, with normal runs that scatter as in `pilot`, judged by `standard_errors`.
    """
    return statistics.fmean(
        non_inferior(gap - margin, smallest) for gap, margin in _imagined(pilot, n, difference, draws)
    )


def _imagined(
    pilot: Sequence[tuple[str, int, float]], n: int, difference: float, draws: int
) -> Iterator[tuple[float, float]]:
    r"""(difference of the means, its margin) of one simulated comparison after the other."""
    random, errors = Random(0), standard_errors(n)
    arms = dict.fromkeys(arm for arm, *_ in pilot)
    spreads = [statistics.stdev([v for own, _, v in pilot if own == arm]) for arm in arms]
    for _ in range(draws):
        one, other = (
            [random.gauss(mean, spread) for _ in range(n)]
            for mean, spread in zip((difference, 0.0), spreads, strict=True)
        )
        variance = (statistics.variance(one) + statistics.variance(other)) / n
        yield statistics.fmean(one) - statistics.fmean(other), errors * variance**0.5
