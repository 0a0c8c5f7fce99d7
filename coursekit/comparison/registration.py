r"""A comparison that is written down before it is run: the hypothesis, the arms, the seeds, what would matter.

What is decided afterwards, which seeds count, which difference is large, when to stop, can be decided so that it
pleases. A registration has a short name made of its words and numbers: whoever changes one of them has another name.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass

from coursekit.comparison import trial
from coursekit.comparison.bench import Bench, Setting
from coursekit.comparison.candidates import EVERY
from coursekit.comparison.evidence.results import Evidence
from coursekit.errors import CourseError, number, one_of, whole
from coursekit.evaluation.classification import accuracy

#: (method, seed, accuracy)
Runs = list[tuple[str, int, float]]
FEWEST = 3


@dataclass(frozen=True)
class Registration:
    r"""What is to be compared, and how it will be judged.

    hypothesis: a sentence that names both methods. one, other: of `candidates.EVERY`. smallest: the smallest difference
    of test accuracy that would matter. seeds: of the runs, three or more. pilot: seeds that gave the idea; none of them
    may be among `seeds`.
    """

    hypothesis: str
    one: str
    other: str
    smallest: float
    seeds: tuple[int, ...]
    pilot: tuple[int, ...] = ()

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
        number("smallest", self.smallest, above=0, below=0.5, such_as=0.02)
        object.__setattr__(
            self, "seeds", tuple(whole("seed", seed, least=0, such_as=3) for seed in self.seeds)
        )
        if len(set(self.seeds)) < max(FEWEST, len(self.seeds)):
            raise CourseError(f"seeds must be three or more different ones; got {self.seeds}.")
        if both := sorted(set(self.seeds) & set(self.pilot)):
            raise CourseError(
                f"seed {both[0]} was in the pilot: what gave the idea cannot confirm it as well."
            )

    @property
    def name(self) -> str:
        r"""Eight digits made of all that is registered."""
        return f"{zlib.crc32(repr(astuple(self)).encode()):08x}"

    def __repr__(self) -> str:
        return (
            f"registered as {self.name}: {self.hypothesis} ({self.one} against {self.other}, seeds "
            f"{', '.join(map(str, self.seeds))}; a difference below {self.smallest:g} would not matter)"
        )


def carry_out(
    registered: Registration, setting: Setting, rates: Mapping[str, float], bench: Bench | None = None
) -> Runs:
    r"""Run both methods with the registered seeds, and nothing else. rates: method -> learning rate.

    A training that fails leaves its run out, for whoever concludes to find.
    """
    bench = bench or Bench(setting)
    found: Runs = []
    for seed in registered.seeds:
        for name in (registered.one, registered.other):
            model = trial.attach(bench, EVERY[name], seed)
            try:
                bench.fit(model, seed, rates[name], bucket=bench.encoder)
            except CourseError:  # a loss that stopped being finite
                continue
            score = accuracy(model, bench.prepared, "test", bench.sentences("test"), progress=False)
            found.append((name, seed, score.value))
    return found


def pilot(evidence: Evidence, arms: Sequence[str]) -> Runs:
    r"""The validation accuracies of `arms` in a file of evidence: what a new comparison may be planned by."""
    return [(arm, run.cell.seed, run.validation or 0.0) for arm in arms for run in evidence.arms[arm]]
