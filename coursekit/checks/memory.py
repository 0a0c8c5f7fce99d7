r"""The exercises of notebook 01_full_finetuning_memory."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from coursekit.checks.compare import Comparison
from coursekit.checks.core import Exercise
from coursekit.checks.draw import Draw
from coursekit.notebook import built

# memory-block ---------------------------------------------------------------------------------------------

Sizes = tuple[int, int, int, int, int, int]


def block(rows: int, seq: int, d: int, d_q: int, heads: int, f: int) -> int:
    r"""Bytes that a Llama block in fp32 keeps for the backward pass; `activations.block` has it step by step."""
    tokens = rows * seq
    norms = 2 * (2 * d + 1)  # x, 1 / rms and the normalised x
    inputs = 2 * d  # of q, k and v, and of gate and up
    attention = 4 * d_q + heads + seq  # q, k, v, result; sums; mask
    return 4 * tokens * (norms + inputs + attention + 4 * f)


#: Width -> (how many results of it one token leaves, which, by how much people miscount them).
_EACH: dict[str, tuple[int, str, tuple[int, ...]]] = {
    "1": (2, "s, once in each norm: x * s needs it", (-2,)),
    "seq": (1, "the mask, (rows, seq, seq)", (-1,)),
    "d": (6, "a norm and the matrices behind it keep three, each once; a sum keeps nothing", (-2, -4, 3, 1)),
    "d_q": (4, "what the kernel keeps; W_o reads its o", (-1, 1)),
    "heads": (1, "l, which the kernel keeps", (-1,)),
    "f": (4, "a product needs both factors, silu its input, W_down its own", (-1, -2, 1)),
}


def _miscounted(counts: dict[str, float]) -> str:
    each = ", ".join(f"{n:g} of width {width} ({_EACH[width][1]})" for width, n in counts.items())
    return f"for each token you count {each}"


def _besides(width: str, more: int) -> Callable[..., int]:
    r"""`block` with so many results more of that width."""
    i = list(_EACH).index(width)
    return lambda rows, *sizes: block(rows, *sizes) + 4 * rows * sizes[0] * more * (1, *sizes)[i]


class _Block(Exercise):
    r"""Where no mistake has a name, the answer's own counts say where to look."""

    def looked_at(self, answer: Callable[..., Any], variant: int) -> tuple[str, str, float]:
        status, message, share = super().looked_at(answer, variant)
        if message.startswith("of ("):
            with contextlib.suppress(Exception):  # whatever the answer does with other sizes
                counts = _wrong_counts(answer)
                message += f"; {_miscounted(counts)}" if counts else ""
        return status, message, share


def _wrong_counts(answer: Callable[..., Any]) -> dict[str, float]:
    r"""Of which widths `answer` counts how many, where that is wrong; nothing where no such counts explain it."""
    sizes = np.random.default_rng(0).integers(2, 200, (9, 5)).tolist()  # seq and the four widths
    each = np.array([answer(3, *row) / (4 * 3 * row[0]) for row in sizes])
    widths = np.array([(1, *row) for row in sizes])
    counts = np.linalg.lstsq(widths, each, rcond=None)[0]
    if np.abs(widths @ counts - each).max() > 1e-6:
        return {}
    found = zip(_EACH.items(), (counts.round(6) + 0.0).tolist(), strict=True)
    return {width: n for (width, (right, *_)), n in found if n != right}


def _secret_block(draw: Draw) -> Sizes:
    heads, size = draw.whole(2, 40), 8 * draw.whole(2, 16)
    d_q = heads * size
    d = d_q + 8 * draw.whole(1, 60)
    return draw.whole(2, 12), draw.whole(10, 400), d, d_q, heads, 8 * draw.whole(d // 4, d // 2)


BLOCK = _Block(
    id="memory-block", points=5, difficulty=4, minutes=20,
    secret=_secret_block, reference=block,
    mutants={
        "these are numbers; in fp32 each takes 4 bytes": lambda *sizes: block(*sizes) // 4,
        "this is one row of the batch": lambda rows, *sizes: block(1, *sizes),
        **{
            _miscounted({width: right + more}): _besides(width, more)
            for width, (right, _, often) in _EACH.items()
            for more in often
        },
        "the attention weights, seq numbers for each token and head, are what the fused kernel does not keep":
            lambda rows, seq, d, d_q, heads, f: block(rows, seq, d, d_q, heads, f) + 4 * rows * seq * seq * heads,
    },
    tolerance=0.0,
)  # fmt: skip


# memory-checkpoint ----------------------------------------------------------------------------------------


class Recompute(torch.autograd.Function):
    r"""run(x) that keeps x alone and runs again in the backward pass."""

    @staticmethod
    def forward(ctx, run, x):
        r"""The result, and no graph: autograd does not look into a Function."""
        ctx.run = run
        ctx.save_for_backward(x)
        return run(x)

    @staticmethod
    def backward(ctx, g):
        r"""Gradients of (run, x); the weights inside get theirs on the way."""
        x = ctx.saved_tensors[0].detach().requires_grad_()
        with torch.enable_grad():
            y = ctx.run(x)
        y.backward(g)
        return None, x.grad


def _going_back(backward: Callable[..., Any]) -> type[Recompute]:
    r"""Recompute with another backward pass."""
    return type("Wrong", (Recompute,), {"backward": staticmethod(backward)})


def _of_x_alone(ctx: Any, g: Tensor) -> tuple[None, Tensor]:
    x = ctx.saved_tensors[0].detach().requires_grad_()
    with torch.enable_grad():
        y = ctx.run(x)
    return None, torch.autograd.grad(y, x, g)[0]


class _Keeping(Recompute):
    @staticmethod
    def forward(ctx, run, x):
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            y = run(x)
        ctx.both = x, y
        return y.detach()

    @staticmethod
    def backward(ctx, g):
        x, y = ctx.both
        y.backward(g)
        return None, x.grad


def _checkpointed(kind: type[torch.autograd.Function]) -> Callable[..., Any]:
    def recomputed(*arguments: Any) -> Any:
        return built.recomputed(kind, *arguments)

    return recomputed


def _secret_checkpoint(draw: Draw) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    d, f, tokens = draw.whole(2, 5), draw.whole(6, 9), draw.whole(2, 4)
    # A small x: where every tanh is saturated, little but rounding is left of x's gradient.
    return draw.normal(f, d), draw.normal(d, f), 0.3 * draw.normal(tokens, d), draw.normal(tokens, d)


CHECKPOINT = Exercise(
    id="memory-checkpoint", points=4, difficulty=4, minutes=15,
    secret=_secret_checkpoint, reference=_checkpointed(Recompute), part=Recompute,
    mutants={
        "the weights inside get no gradient: carry g through the second run with y.backward(g)":
            _checkpointed(_going_back(_of_x_alone)),
        "the gradient that arrives, g, is not used":
            _checkpointed(_going_back(lambda ctx, g: Recompute.backward(ctx, torch.ones_like(g)))),
        "the graph of the first run is kept, and with it all that was to be saved": _checkpointed(_Keeping),
        "the gradient ends here: hand x's on to what stands before the block":
            _checkpointed(_going_back(lambda ctx, g: (Recompute.backward(ctx, g)[0], None))),
        "x gets its gradient twice: detach x before the second run":
            _checkpointed(_going_back(lambda ctx, g: (None, 2 * Recompute.backward(ctx, g)[1]))),
    },
)  # fmt: skip


# memory-sharded -------------------------------------------------------------------------------------------


def sharded(weights: float, gradients: float, optimizer: float, gpus: int, stage: int) -> float:
    r"""Bytes on each GPU: stage 1 splits the optimizer, stage 2 the gradients too, stage 3 the weights too."""
    return (
        weights / (gpus if stage >= 3 else 1)
        + gradients / (gpus if stage >= 2 else 1)
        + optimizer / (gpus if stage >= 1 else 1)
    )


def _secret_sharded(draw: Draw) -> tuple[float, float, float, int, int]:
    weights = draw.whole(1000, 90_000) * 1e6
    return weights, weights * draw.real(1.1, 1.5), weights * draw.real(3, 7), draw.whole(2, 16), draw.kind


SHARDED = Exercise(
    id="memory-sharded", points=2, difficulty=3, minutes=8,
    secret=_secret_sharded, reference=sharded,
    mutants={
        "this splits everything at every stage; that is stage 3 only": lambda w, g, o, n, stage: (w + g + o) / n,
        "what a stage does not split is still there, whole, on every GPU":
            lambda w, g, o, n, stage: o / n + (g / n if stage >= 2 else 0) + (w / n if stage >= 3 else 0),
        "nothing is split here: this is plain data parallel training": lambda w, g, o, n, stage: w + g + o,
        "one stage behind: stage 1 already splits the optimizer":
            lambda w, g, o, n, stage: sharded(w, g, o, n, stage - 1),
        "the wrong way round: the optimizer is split first, as a card needs that of its own weights only; the "
        "weights last": lambda w, g, o, n, stage: sharded(o, g, w, n, stage),
        "the optimizer is split before the gradients: stage 1 splits its states, stage 2 the gradients as well":
            lambda w, g, o, n, stage: sharded(w, o, g, n, stage),
        "each stage splits one part more, and goes on splitting those of the stages before":
            lambda w, g, o, n, stage: (
                w / (n if stage == 3 else 1) + g / (n if stage == 2 else 1) + o / (n if stage == 1 else 1)
            ),
        "this is the sum over all GPUs; asked for is one of them":
            lambda w, g, o, n, stage: n * sharded(w, g, o, n, stage),
    },
    kinds=4,
)  # fmt: skip


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
def worth(settings: dict[str, tuple[float, float]], wait: float, name: str, stage: int, sequences: int) -> float:
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
    bills: Sequence[Bill], cards: int, size: float, stages: Sequence[int] = STAGES,
    most: Callable[[Bill, int, int, float], int] = _room,
) -> list[Plan]:  # fmt: skip
    r"""Each bill at each stage at which it fits, with as many sequences as it has room for."""
    found = ((bill, stage, most(bill, cards, stage, size)) for bill in bills for stage in stages)
    return [(bill[0], stage, n, _on_a_card(bill, cards, stage, n)) for bill, stage, n in found if n >= 1]


def _planned(
    best: Callable[[Plan, Score], float] = lambda plan, score: score(*plan[:3]), lowest: bool = False, **tried: Any
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


def _one_at_least(bill: Bill, cards: int, stage: int, size: float) -> int:
    return max(1, _room(bill, cards, stage, size))


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
    "everything is divided here: at stage 3 the weights travel too, and a lower stage may be worth more":
        _planned(stages=(3,)),
    "this takes the plan with the most sequences; look at the score, which counts what they cost as well":
        _planned(best=lambda plan, score: plan[2]),
    "this takes each setting at the first stage at which it fits; a higher one leaves room for more sequences":
        _planned(lowest=True),
    "this takes the first setting that fits; another one may be worth more": _planned(best=lambda plan, score: 0),
    "this gives each card one sequence: where there is room for more, the cards wait less for each of them":
        _planned(most=lambda *given: min(1, _room(*given))),
}  # fmt: skip


def _worth_enough(compare: Comparison, given: Any, case: Any, own: Any) -> str | None:
    r"""Right is every plan that fits and is worth ASKED of the course's own."""
    if type(given) not in (tuple, list) or len(given) != len(own):
        return compare.difference(given, own)  # it says of which kind it is
    bills, cards, size, score = case
    name, stage, sequences = given[0], _as_int(given[1]), _as_int(given[2])
    bill = next((bill for bill in bills if type(name) is str and bill[0] == name), None)
    if bill is None:
        return "value 1 of 4 is the name of none of the bills"
    if type(stage) is not int or stage not in STAGES:
        return "value 2 of 4 is no stage: these are 0, 1, 2 and 3"
    if type(sequences) is not int or not 1 <= sequences <= MOST:
        return "value 3 of 4 is no number of sequences: a whole number, at least 1"
    right = name, stage, sequences, _on_a_card(bill, cards, stage, sequences)
    found = compare.difference((name, stage, sequences, given[3]), right)
    if found is not None:
        return found
    if right[3] > size * (1 + 1e-9):
        return "the plan does not fit" + compare.exactly(
            f": it needs {right[3] / 1e9:.1f} GB, and a card has {size / 1e9:.1f}"
        )
    reached = score(name, stage, sequences) / score(*own[:3])
    if reached >= ASKED:
        return None
    return "the plan fits, but its score is too low" + compare.exactly(
        f": {reached:.1%} of the best that the course found, and {ASKED:.0%} are asked"
    )


def _as_int(value: Any) -> Any:
    r"""A number of NumPy's, or a float without a fraction as `//` gives it, as int; anything else as it is."""
    value = value.item() if isinstance(value, np.generic) else value
    return int(value) if type(value) is float and value.is_integer() else value


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
    r"""Kind 0: neither stage 3 nor the most sequences is worth enough; 1: stage 3 is best, and little is not enough;
    2: what looks best is too large for a card.
    """
    poor = (tuple(_POOR.values())[:2], tuple(_POOR.values())[2:], ())[draw.kind]
    while True:
        weights, cards = draw.whole(2000, 18_000) * 1e6, draw.whole(2, 8)
        size = weights * draw.real(*((5, 10), (1.5, 4), (0.7, 1.5))[draw.kind])
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
        near = any(score(*found[:3]) > 0.99 * mark for found in wrong)
        if draw.kind == 2 and _planned(most=_one_at_least)(bills, cards, size, score)[3] < 1.01 * size:
            continue
        if len(right) > 1 and not near and (draw.kind != 1 or best[1] == 3):
            return bills, cards, size, score


PLAN = Exercise(
    id="memory-plan", points=3, difficulty=3, minutes=12,
    secret=_planning, reference=plan, judge=_worth_enough,
    mutants={
        **_POOR,
        "where not even one sequence has room, that setting does not fit at that stage: leave it out":
            _planned(most=_one_at_least),
        "activations are not divided: each card computes sequences of its own": _divided,
        "the activations alone fill the card here; the model's part lies there as well":
            _planned(most=lambda bill, cards, stage, size: math.floor(size / bill[4])),
        "this compares with the memory of all cards together; what lies on one card has to fit into one":
            lambda bills, cards, size, score: plan(bills, cards, cards * size, score),
        "these are the bytes on all cards together; asked are those on one": _of_all_cards,
        "these are the bytes that are left on a card; asked are those that are needed": _to_spare,
    },
    kinds=3,
)  # fmt: skip
