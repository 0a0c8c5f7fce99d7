r"""The open exercise of notebook 06b_intrinsic_dimension: find the smallest d that is enough, with few trainings."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from statistics import fmean, median

from coursekit.checks.core import Exercise, Mutant, register
from coursekit.checks.draw import Draw

Case = tuple[Callable[[int, int], float], list[int], list[int], float]


def trained(accuracies: dict[tuple[int, int], float], left: list[int], d: int, seed: int) -> float:
    r"""The accuracy of one training, from those that are stored. left: how many more may be asked for, one number.

    Raises RuntimeError for one too many.
    """
    if left[0] < 1:
        raise RuntimeError("all trainings that the exercise allows are made: find it with fewer")
    left[0] -= 1
    return accuracies[d, seed]


def search(train: Callable[[int, int], float], ds: list[int], seeds: list[int], mark: float) -> int:
    r"""The smallest d whose mean over the seeds reaches the mark, by halving what is left."""
    return _halved(fmean)(train, ds, seeds, mark)


def _halved(
    of: Callable[[Sequence[float]], float], first: int | None = None, back: int = 0
) -> Callable[..., int]:
    r"""The right search but for what it asks of a d's accuracies, how many seeds it looks at, and which d it gives."""

    def made(train: Callable[[int, int], float], ds: list[int], seeds: list[int], mark: float) -> int:
        low, high = 0, len(ds)  # all below `low` are too small, all from `high` on are enough
        while low < high:
            middle = (low + high) // 2
            if of([train(ds[middle], seed) for seed in seeds[:first]]) >= mark:
                high = middle
            else:
                low = middle + 1
        return ds[min(max(low - back, 0), len(ds) - 1)]

    return made


def _trainings(draw: Draw) -> Case:
    r"""Means that rise with d, single seeds that do not. Kind 0: a small d is enough; 1: only a large one, which is
    out of reach for who tries all from below.
    """
    while True:
        n, seeds = draw.pick((12, 16, 20)), [0, 1, 2]
        ds = [d := draw.whole(3, 12)]
        while len(ds) < n:
            ds.append(d := round(d * draw.real(1.3, 2.2)) + 1)
        heights = sorted(draw.real(0.55, 0.88, digits=3) for _ in ds)
        accuracies = {}
        for d, height in zip(ds, heights, strict=True):
            odd = draw.pick(seeds)
            # One seed far from the others: neither it nor the median is the mean.
            noise = [draw.real(-0.02, 0.02) + (i == odd) * draw.real(-0.1, 0.1) for i in seeds]
            for seed, one in zip(seeds, noise, strict=True):
                accuracies[d, seed] = round(height + one - fmean(noise), 4)
        means = [fmean(accuracies[d, seed] for seed in seeds) for d in ds]
        place = draw.whole(n - 4, n - 2) if draw.kind else draw.whole(2, 4)
        mark = round((means[place - 1] + means[place]) / 2, 4)
        # Neither the order of the means nor what reaches the mark may hang on rounding.
        if all(b - a > 2e-3 for a, b in zip(means, means[1:], strict=False)):
            budget = len(seeds) * math.ceil(math.log2(n + 1))
            return partial(trained, accuracies, [budget]), ds, seeds, mark


SEARCH = register(
    Exercise(
        id="intrinsic-search",
        points=4,
        difficulty=3,
        minutes=20,
        hints=(
            "Trying every d from below spends the budget. What does one d that is enough tell you of all larger ones?",
            "Keep two places in the list: all d before the first are too small, all from the second on are enough. Try "
            "the d in the middle, with all seeds, and move one of them.",
            "When the two places meet, that is the answer. Every training counts, so ask each d once only.",
        ),
        inputs=lambda seed: _trainings(Draw(b"the notebook's", f"{seed + 1}", kind=seed % 2)),
        secret=_trainings,
        reference=search,
        mutants=(
            Mutant(
                _halved(fmean, first=1),
                "one seed decides here; the mean over the seeds has to reach the mark",
            ),
            Mutant(_halved(max), "the best seed decides here; the mean over the seeds has to reach the mark"),
            Mutant(_halved(min), "every seed has to reach the mark here; asked is their mean"),
            Mutant(_halved(median), "the median of the seeds decides here; asked is their mean"),
            Mutant(_halved(fmean, back=1), "this is the d before: the largest that is not enough"),
        ),
        kinds=2,
    )
)
