r"""The open exercise of notebook 09_hybrid: which of several comparisons is worth its runs?"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from functools import lru_cache

from coursekit.checks.core import Exercise, Mutant, register
from coursekit.checks.draw import Draw
from coursekit.checks.hybrid import Pilot, new_seeds, of_each_method, plan

#: One method, the other, the seeds, and whether there are runs enough.
Choice = tuple[str, str, tuple[int, ...], bool]


def gap(pilot: Pilot) -> float:
    r"""How far the two means are apart."""
    one, other = of_each_method(pilot, statistics.fmean)
    return abs(one - other)


@lru_cache(maxsize=256)
def _seeds(pilot: Pilot) -> tuple[int, ...]:
    return plan(pilot, gap(pilot))


def _runs(pilot: Pilot) -> int:
    return 2 * len(_seeds(pilot))


def chosen(pilots: Sequence[Pilot], most: int) -> Choice:
    r"""The pair whose difference takes fewest runs to be found, and whether these are at most `most`."""
    return _picked()(pilots, most)


def _picked(
    best: Callable[[Pilot], float] = _runs,
    seeds: Callable[[Pilot, Sequence[Pilot]], tuple[int, ...]] = lambda pilot, _: _seeds(pilot),
    otherwise: bool = False,
) -> Callable[..., Choice]:
    r"""The right choice but for one thing."""

    def made(pilots: Sequence[Pilot], most: int) -> Choice:
        pilots = [tuple(pilot) for pilot in pilots]  # lists, in the notebook
        fits = [pilot for pilot in pilots if _runs(pilot) <= most]
        pilot = min(fits or pilots, key=best if fits else _runs)
        one, other = dict.fromkeys(method for method, _, _ in pilot)
        return one, other, seeds(pilot, pilots), bool(fits) or otherwise

    return made


def _unused_by_any(pilot: Pilot, pilots: Sequence[Pilot]) -> tuple[int, ...]:
    return new_seeds(tuple(run for other in pilots for run in other), len(_seeds(pilot)))


#: Wrong where a pair fits, each with what is wrong.
_WRONG_PAIRS: dict[str, Callable[..., Choice]] = {
    "the largest difference is not the easiest to find: how many seeds it takes depends on the scatter too": _picked(
        best=lambda pilot: -gap(pilot)
    ),
    "the pair that scatters least is not the easiest to tell apart: its difference may be small": _picked(
        best=lambda pilot: sum(of_each_method(pilot))
    ),
    "this is the first pair that there are runs for; take the one with fewest": _picked(best=lambda pilot: 0),
    "this takes the pair that needs most seeds; take the one with the fewest": _picked(
        best=lambda pilot: -_runs(pilot)
    ),
    "seeds of the pilot are among them: what gave you the idea cannot confirm it as well": _picked(
        seeds=lambda pilot, _: tuple(range(len(_seeds(pilot))))
    ),
    "this leaves out the seeds of every pilot; those of the other pairs are new to this one": _picked(
        seeds=_unused_by_any
    ),
}
_PAIRS = (("lora", "pfeiffer"), ("ia3", "norms"), ("bitfit", "far"), ("prefix", "mam"), ("dora", "compacter"))
Range = tuple[float, float]
#: How far apart two means are, and how far runs are from their mean: a pair that few runs settle; a larger difference
#: with more scatter; a smaller one with less; two that take many runs.
_KINDS_OF_PAIRS: tuple[tuple[Range, Range], ...] = (
    ((0.055, 0.065), (0.02, 0.03)),
    ((0.085, 0.1), (0.09, 0.12)),
    ((0.012, 0.016), (0.012, 0.016)),
    ((0.04, 0.05), (0.05, 0.06)),
    ((0.03, 0.035), (0.06, 0.08)),
)


def _pilot(draw: Draw, pair: tuple[str, str], apart: Range, spread: Range) -> Pilot:
    one = draw.real(0.7, 0.8)
    means, far = (one, one + draw.pick((-1, 1)) * draw.real(*apart)), draw.real(*spread)
    used = draw.order(8)[:3]
    runs = [
        (m, seed, round(mean + draw.real(-far, far), 4))
        for m, mean in zip(pair, means, strict=True)
        for seed in used
    ]
    return tuple(runs)


def _pilots(draw: Draw) -> tuple[list[Pilot], int]:
    r"""Five pilots and a number of runs. Kinds 0 and 1: runs are enough for four of the pairs; 2: for none of them."""
    while True:
        kinds = [_KINDS_OF_PAIRS[i] for i in draw.order(len(_KINDS_OF_PAIRS))]
        if draw.kind >= 2:  # many runs for each, so that their number differs from case to case
            kinds = [((0.03, 0.06), (0.05, 0.09))] * len(_PAIRS)
        pilots = [
            _pilot(draw, _PAIRS[i], *kind) for i, kind in zip(draw.order(len(_PAIRS)), kinds, strict=True)
        ]
        need = sorted(_runs(pilot) for pilot in pilots if gap(pilot) > 0.008)
        if len(need) < len(pilots) or need[0] == need[1] or need[-2] == need[-1] or need[-1] > 200:
            continue
        if draw.kind >= 2:
            return pilots, need[0] - 1
        most = need[-1] - 1
        if chosen(pilots, most) not in [wrong(pilots, most) for wrong in _WRONG_PAIRS.values()]:
            return pilots, most


REGISTER = register(
    Exercise(
        id="hybrid-register",
        points=3,
        difficulty=3,
        minutes=20,
        hints=(
            "For each pilot: the difference of its two means, without the sign, is what the comparison has to find. "
            "Your hybrid_plan says which seeds that takes.",
            "Take the pair with the fewest seeds, whatever its difference or its scatter is alone.",
            "Both methods run with each of the seeds: that makes two runs a seed.",
        ),
        inputs=lambda seed: _pilots(Draw(b"the notebook's", f"pilots 0 {seed}", kind=seed)),
        secret=_pilots,
        reference=chosen,
        mutants=(
            *(Mutant(wrong, message) for message, wrong in _WRONG_PAIRS.items()),
            Mutant(
                _picked(otherwise=True),
                "these are more than `most` runs: both methods run with each of the seeds",
            ),
        ),
        tolerance=0.0,
        kinds=3,
    )
)
