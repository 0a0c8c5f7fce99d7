r"""The exercises of notebook 01_full_finetuning_memory."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from coursekit.checks.compare import Comparison
from coursekit.checks.core import Exercise, Mutant, register
from coursekit.checks.draw import Draw

# memory-adam8bit ------------------------------------------------------------------------------------------


def _tensor_sizes(seed: int) -> tuple[int]:
    return ((1_048_576, 100_000, 5_000)[seed],)


def adam8bit(n: int) -> int:
    r"""Two states of one byte each, and one fp32 scale for every block of 256 in each state."""
    return 2 * (n + 4 * math.ceil(n / 256))


def _secret_adam8bit(draw: Draw) -> tuple[int]:
    return (256 * draw.whole(20, 400_000) + (draw.whole(1, 255) if draw.kind == 0 else 0),)


ADAM8BIT = register(
    Exercise(
        id="memory-adam8bit",
        points=3,
        difficulty=3,
        minutes=10,
        hints=(
            "Adam has two states for every weight. In 8 bits each takes one byte.",
            "Each block of 256 numbers shares one scale, kept in 32 bits. The last may be shorter; it has one too.",
        ),
        inputs=_tensor_sizes,
        secret=_secret_adam8bit,
        reference=adam8bit,
        mutants=(
            Mutant(
                lambda n: 2 * n,
                "the scales are missing: every block of 256 has one, 4 bytes long, in both states",
            ),
            Mutant(
                lambda n: 2 * n + 4 * math.ceil(n / 256),
                "these are the scales of one state only: each of the two has scales of its own",
            ),
            Mutant(lambda n: 8 * n, "this is Adam in 32 bits"),
            Mutant(lambda n: n + 4 * math.ceil(n / 256), "this is one state; Adam has two"),
            Mutant(
                lambda n: 2 * (n + 4 * (n // 256)),
                "the last, shorter block has a scale too: round the number of blocks up",
            ),
            Mutant(lambda n: 2 * (n + math.ceil(n / 256)), "a scale is a 32-bit number: 4 bytes, not 1"),
            Mutant(
                lambda n: 2 * (n + 4 * math.ceil(n / 64)),
                "blocks of 64 are for 4-bit weights; the optimizer's have 256 numbers",
            ),
        ),
        tolerance=0.0,
        kinds=2,
    )
)


# memory-sharded -------------------------------------------------------------------------------------------


def _splits(seed: int) -> tuple[float, float, float, int, int]:
    return 20e9, 22e9, 120e9, (8, 4, 2)[seed], seed + 1


def sharded(weights: float, gradients: float, optimizer: float, gpus: int, stage: int) -> float:
    r"""Bytes on each GPU: stage 1 splits the optimizer, stage 2 the gradients too, stage 3 the weights too."""
    return (
        weights / (gpus if stage >= 3 else 1)
        + gradients / (gpus if stage >= 2 else 1)
        + optimizer / (gpus if stage >= 1 else 1)
    )


def _secret_sharded(draw: Draw) -> tuple[float, float, float, int, int]:
    weights = draw.whole(1000, 90_000) * 1e6
    return weights, weights * draw.real(1.1, 1.5), weights * draw.real(3, 7), draw.whole(2, 16), draw.kind + 1


SHARDED = register(
    Exercise(
        id="memory-sharded",
        points=3,
        difficulty=2,
        minutes=10,
        hints=(
            "What a stage does not split lies whole on every GPU.",
            "Stage 1: optimizer. Stage 2: optimizer and gradients. Stage 3: everything.",
        ),
        inputs=_splits,
        secret=_secret_sharded,
        reference=sharded,
        mutants=(
            Mutant(
                lambda w, g, o, n, stage: (w + g + o) / n,
                "this splits everything at every stage; that is stage 3 only",
            ),
            Mutant(
                lambda w, g, o, n, stage: o / n + (g / n if stage >= 2 else 0) + (w / n if stage >= 3 else 0),
                "what a stage does not split is still there, whole, on every GPU",
            ),
            Mutant(
                lambda w, g, o, n, stage: w + g + o,
                "nothing is split here: this is plain data parallel training",
            ),
            Mutant(
                lambda w, g, o, n, stage: sharded(w, g, o, n, stage - 1),
                "one stage behind: stage 1 already splits the optimizer",
            ),
            Mutant(
                lambda w, g, o, n, stage: sharded(o, g, w, n, stage),
                "the wrong way round: the optimizer is split first, being the largest; the weights last",
            ),
            Mutant(
                lambda w, g, o, n, stage: n * sharded(w, g, o, n, stage),
                "this is the sum over all GPUs; asked for is one of them",
            ),
        ),
        kinds=3,
    )
)


# memory-plan ----------------------------------------------------------------------------------------------

#: (name, weights, gradients, optimizer, activations of one sequence), in bytes
Bill = tuple[str, float, float, float, float]
#: (name, stage, sequences that a card takes in a step, bytes on a card)
Plan = tuple[str, int, int, float]
Score = Callable[[str, int, int], float]
Case = tuple[list[Bill], int, float, Score]
STAGES = (0, 1, 2, 3)
#: Of the course's own score, what a plan must reach; and sequences above which nobody asks.
ASKED, MOST = 0.9, 10**9


# It goes into a box by its source: it uses nothing of this file.
def worth(
    settings: dict[str, tuple[float, float]], wait: float, name: str, stage: int, sequences: int
) -> float:
    r"""Sequences in a unit of time. settings: name -> (what a sequence counts, the time that it takes).

    wait: the time in which the gradients travel between the cards; at stage 3 the weights travel as well.
    """
    counts, time = settings[name]
    return counts * sequences / (sequences * time + wait * (1.5 if stage == 3 else 1))


def _on_a_card(bill: Bill, cards: int, stage: int, sequences: int) -> float:
    _, weights, gradients, optimizer, activations = bill
    return sharded(weights, gradients, optimizer, cards, stage) + sequences * activations


def _room(bill: Bill, cards: int, stage: int, size: float) -> int:
    r"""Sequences that fit beside the model's part; less than 1 where that is too large already."""
    return math.floor((size - _on_a_card(bill, cards, stage, 0)) / bill[4])


def _filled(
    bills: Sequence[Bill],
    cards: int,
    size: float,
    stages: Sequence[int] = STAGES,
    most: Callable[[Bill, int, int, float], int] = _room,
) -> list[Plan]:
    r"""Each bill at each stage at which it fits, with as many sequences as it has room for."""
    found = ((bill, stage, most(bill, cards, stage, size)) for bill in bills for stage in stages)
    return [(bill[0], stage, n, _on_a_card(bill, cards, stage, n)) for bill, stage, n in found if n >= 1]


def _planned(
    best: Callable[[Plan, Score], float] = lambda plan, score: score(*plan[:3]),
    lowest: bool = False,
    **tried: Any,
) -> Callable[..., Plan]:
    r"""The right search but for what is best, or for what is tried: each bill at its lowest stage only, or `tried`."""

    def made(bills: Sequence[Bill], cards: int, size: float, score: Score) -> Plan:
        plans = _filled(bills, cards, size, **tried)
        if lowest:
            plans = list({plan[0]: plan for plan in reversed(plans)}.values())
        return max(plans, key=lambda plan: best(plan, score))

    return made


def plan(bills: Sequence[Bill], cards: int, size: float, score: Score) -> Plan:
    r"""The highest score of all that fit: with more sequences it rises, so only full cards are looked at."""
    return _planned()(bills, cards, size, score)


def _one_at_a_time(bill: Bill, cards: int, stage: int, size: float) -> int:
    return min(1, _room(bill, cards, stage, size))


def _divided(bills: Sequence[Bill], cards: int, size: float, score: Score) -> Plan:
    name, stage, n, _ = plan([(*bill[:4], bill[4] / cards) for bill in bills], cards, size, score)
    (bill,) = (bill for bill in bills if bill[0] == name)
    return name, stage, n, _on_a_card((*bill[:4], bill[4] / cards), cards, stage, n)


def _of_all_cards(bills: Sequence[Bill], cards: int, size: float, score: Score) -> Plan:
    name, stage, n, needed = plan(bills, cards, size, score)
    return name, stage, n, cards * needed


def _to_spare(bills: Sequence[Bill], cards: int, size: float, score: Score) -> Plan:
    name, stage, n, needed = plan(bills, cards, size, score)
    return name, stage, n, size - needed


#: Plans that fit and are worth too little, each with what is wrong with it.
_POOR: dict[str, Callable[..., Plan]] = {
    "everything is divided here: at stage 3 the weights travel too, and a lower stage may be worth more": _planned(
        stages=(3,)
    ),
    "this takes the plan with the most sequences; look at the score, which counts what they cost as well": _planned(
        best=lambda plan, score: plan[2]
    ),
    "this takes each setting at the first stage at which it fits; a higher one leaves room for more sequences": (
        _planned(lowest=True)
    ),
    "this takes the first setting that fits; another one may be worth more": _planned(
        best=lambda plan, score: 0
    ),
    "this gives each card one sequence: where there is room for more, the cards wait less for each of them": (
        _planned(most=_one_at_a_time)
    ),
}


@dataclass(frozen=True)
class _Best:
    r"""What an answer is held against: its case, and the course's own plan."""

    case: Case
    plan: Plan


@dataclass(frozen=True)
class _Plans(Comparison):
    r"""Right is every plan that fits and is worth ASKED of the course's own. Two plans are compared as other values."""

    def difference(self, given: Any, expected: Any) -> str | None:
        r"""As in Comparison."""
        if not isinstance(expected, _Best):
            return super().difference(given, expected)
        if isinstance(given, _Best):
            given = given.plan
        if type(given) not in (tuple, list) or len(given) != len(expected.plan):
            return super().difference(given, expected.plan)  # it says of which kind it is
        bills, cards, size, score = expected.case
        name, stage, sequences = given[0], _as_int(given[1]), _as_int(given[2])
        bill = next((bill for bill in bills if type(name) is str and bill[0] == name), None)
        if bill is None:
            return "value 1 of 4 is the name of none of the bills"
        if type(stage) is not int or stage not in STAGES:
            return "value 2 of 4 is no stage: these are 0, 1, 2 and 3"
        if type(sequences) is not int or not 1 <= sequences <= MOST:
            return "value 3 of 4 is no number of sequences: a whole number, at least 1"
        right = name, stage, sequences, _on_a_card(bill, cards, stage, sequences)
        found = super().difference((name, stage, sequences, given[3]), right)
        if found is not None:
            return found
        if right[3] > size * (1 + 1e-9):
            return "the plan does not fit" + self._exactly(
                f": it needs {right[3] / 1e9:.1f} GB, and a card has {size / 1e9:.1f}"
            )
        reached = score(name, stage, sequences) / score(*expected.plan[:3])
        if reached >= ASKED:
            return None
        return "the plan fits, but its score is too low" + self._exactly(
            f": {reached:.1%} of the best that the course found, and {ASKED:.0%} are asked"
        )

    def _exactly(self, numbers: str) -> str:
        return "" if self.discreet else numbers


def _as_int(value: Any) -> Any:
    r"""A number of NumPy's, or a float without a fraction as `//` gives it, as int; anything else as it is."""
    value = value.item() if isinstance(value, np.generic) else value
    return int(value) if type(value) is float and value.is_integer() else value


@dataclass(frozen=True)
class _Open(Exercise):
    r"""An exercise with many right plans."""

    def comparison(self, discreet: bool = False) -> _Plans:
        r"""As in Exercise."""
        return _Plans(self.tolerance, discreet=discreet)

    def answer(self, arguments: Any) -> _Best:
        r"""As in Exercise."""
        return _Best(arguments, super().answer(arguments))


Range = tuple[float, float]
#: (name, what a sequence counts, the time that it takes, bytes of the optimizer's state and of the activations of a
#: sequence), the bytes as multiples of the weights: ranges to draw from.
_RECIPES: tuple[tuple[str, Range, Range, Range, Range], ...] = (
    ("AdamW", (1.0, 1.0), (1.0, 1.0), (5.5, 6.5), (0.8, 2.4)),
    ("AdamW, checkpointing", (1.0, 1.0), (1.25, 1.4), (5.5, 6.5), (0.2, 0.6)),
    ("8-bit AdamW", (0.9, 0.98), (1.0, 1.0), (2.5, 3.5), (0.8, 2.4)),
    ("8-bit AdamW, checkpointing", (0.9, 0.98), (1.25, 1.4), (2.5, 3.5), (0.2, 0.6)),
    ("SGD", (0.4, 0.6), (1.0, 1.0), (1.8, 2.2), (0.8, 2.4)),
    ("SGD, checkpointing", (0.4, 0.6), (1.25, 1.4), (1.8, 2.2), (0.2, 0.6)),
)


def _planning(draw: Draw) -> Case:
    r"""Kind 0: neither stage 3 nor the most sequences is worth enough; 1: stage 3 is best, and little is not enough."""
    poor = tuple(_POOR.values())[:2] if draw.kind == 0 else tuple(_POOR.values())[2:]
    while True:
        weights, cards = draw.whole(2000, 18_000) * 1e6, draw.whole(2, 8)
        size = weights * draw.real(*((5, 10), (1.5, 4))[draw.kind])
        settings: dict[str, tuple[float, float]] = {}
        bills: list[Bill] = []
        for i in draw.order(len(_RECIPES)):
            name, counts, time, *others = _RECIPES[i]
            settings[name] = draw.real(*counts), draw.real(*time)
            gradients, optimizer, activations = (weights * draw.real(*r) for r in ((1.0, 1.2), *others))
            bills.append((name, weights, gradients, optimizer, activations))
        score = functools.partial(worth, settings, draw.real(8, 20))
        rooms = [(size - _on_a_card(bill, cards, stage, 0)) / bill[4] for bill in bills for stage in STAGES]
        # No number of sequences may hang on rounding.
        if max(rooms) < 1 or any(abs(room - round(room)) < 1e-3 for room in rooms):
            continue
        best = plan(bills, cards, size, score)
        mark = ASKED * score(*best[:3])
        right = [found for found in _filled(bills, cards, size) if score(*found[:3]) > mark]
        wrong = [made(bills, cards, size, score) for made in poor]
        near = max(score(*found[:3]) for found in wrong) > 0.99 * mark
        if len(right) > 1 and not near and (draw.kind == 0 or best[1] == 3):
            return bills, cards, size, score


PLAN = register(
    _Open(
        id="memory-plan",
        points=5,
        difficulty=3,
        minutes=25,
        hints=(
            "The model's part of a card is what `memory_sharded` gives. The room that it leaves of `size` is for "
            "activations: how many sequences go into it?",
            "Of one setting at one stage the score rises with the number of sequences, so only the most that fit are "
            "worth a look.",
            "Two loops, over the bills and over the stages 0 to 3. Leave out what has no room for one sequence, and "
            "keep the plan with the highest score so far.",
        ),
        inputs=lambda seed: _planning(Draw(b"the notebook's", f"plans {seed}", kind=seed % 2)),
        secret=_planning,
        reference=plan,
        mutants=(
            *(Mutant(wrong, message) for message, wrong in _POOR.items()),
            Mutant(_divided, "activations are not divided: each card computes sequences of its own"),
            Mutant(
                _planned(most=lambda bill, cards, stage, size: math.floor(size / bill[4])),
                "the activations alone fill the card here; the model's part lies there as well",
            ),
            Mutant(
                lambda bills, cards, size, score: plan(bills, cards, cards * size, score),
                "this compares with the memory of all cards together; what lies on one card has to fit into one",
            ),
            Mutant(_of_all_cards, "these are the bytes on all cards together; asked are those on one"),
            Mutant(_to_spare, "these are the bytes that are left on a card; asked are those that are needed"),
        ),
        kinds=2,
    )
)
