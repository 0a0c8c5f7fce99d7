r"""The exercises of notebook 01_full_finetuning_memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from coursekit.checks.core import Exercise, Mutant, register
from coursekit.checks.draw import Draw

# memory-training-bytes ------------------------------------------------------------------------------------


def _models(seed: int) -> tuple[int, int]:
    return ((10_000_000_000, 500_000_000), (7_000_000_000, 40_000_000), (134_515_008, 2_442_240))[seed]


def training_bytes(n: int, trained: int) -> int:
    r"""2 for every weight; for each that is trained 2 for its gradient, 4 each for master copy, momentum, variance."""
    return 2 * n + 2 * trained + 3 * 4 * trained


def _secret_training_bytes(draw: Draw) -> tuple[int, int]:
    n = draw.whole(10**7, 10**11)
    return n, n * draw.whole(1, 90) // 100


TRAINING_BYTES = register(
    Exercise(
        id="memory-training-bytes",
        points=2,
        difficulty=1,
        minutes=5,
        hints=(
            "A frozen parameter is only read: no gradient arrives at it, and the optimizer does not know of it.",
            "Add what all n have to what only the trained ones have. 16 bits are 2 bytes, 32 bits are 4.",
        ),
        inputs=_models,
        secret=_secret_training_bytes,
        reference=training_bytes,
        mutants=(
            Mutant(
                lambda n, trained: 16 * n,
                "16 bytes for every parameter: a frozen one has neither gradient nor optimizer state",
            ),
            Mutant(
                lambda n, trained: 16 * trained,
                "the frozen weights are missing: the forward pass needs them as well",
            ),
            Mutant(
                lambda n, trained: 2 * n + 10 * trained,
                "the 32-bit master copy of the trained weights is missing",
            ),
            Mutant(
                lambda n, trained: 2 * n + 12 * trained, "the gradients of the trained weights are missing"
            ),
            Mutant(
                lambda n, trained: 2 * n + 8 * trained,
                "master copy, momentum and variance are 32-bit, 4 bytes each, not 2",
            ),
            Mutant(
                lambda n, trained: 2 * n + 16 * trained, "the 16-bit weights of the trained ones count twice"
            ),
            Mutant(
                lambda n, trained: 6 * n + 10 * trained,
                "a master copy of all weights: frozen ones never change, and need none",
            ),
            Mutant(
                lambda n, trained: 2 * n,
                "these are the weights alone; training also keeps gradients and optimizer state",
            ),
            Mutant(
                lambda n, trained: training_bytes(n, trained) / 1e9,
                "the answer is asked for in bytes, not in GB",
            ),
            Mutant(
                lambda n, trained: 8 * training_bytes(n, trained), "this is in bits: a byte has eight of them"
            ),
        ),
        tolerance=0.0,
    )
)


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

#: (name, weights, gradients, optimizer, activations), in bytes
Bill = tuple[str, float, float, float, float]
Plan = tuple[str, int, float]
STAGES = (0, 1, 2, 3)


def _on_a_card(bill: Bill, cards: int, stage: int) -> float:
    _, weights, gradients, optimizer, activations = bill
    return activations + sharded(weights, gradients, optimizer, cards, stage)


def plan(bills: Sequence[Bill], cards: int, size: float) -> Plan:
    r"""The first bill that fits, at its lowest stage; where none does, the fewest bytes that any needs."""
    for bill in bills:
        for stage in STAGES:
            needed = _on_a_card(bill, cards, stage)
            if needed <= size:
                return bill[0], stage, needed
    return "none", STAGES[-1], min(_on_a_card(bill, cards, STAGES[-1]) for bill in bills)


def _planned(
    needs: Callable[[Bill, int, int], float] = _on_a_card, stages: Sequence[int] = STAGES
) -> Callable[..., Plan]:
    r"""The right plan but for what decides whether a bill fits, or for the stages that are tried."""

    def made(bills: Sequence[Bill], cards: int, size: float) -> Plan:
        for bill in bills:
            for stage in stages:
                if needs(bill, cards, stage) <= size:
                    return bill[0], stage, needs(bill, cards, stage)
        return "none", stages[-1], min(needs(bill, cards, stages[-1]) for bill in bills)

    return made


def _stages_first(bills: Sequence[Bill], cards: int, size: float) -> Plan:
    fits = [
        (stage, i) for stage in STAGES for i, b in enumerate(bills) if _on_a_card(b, cards, stage) <= size
    ]
    if not fits:
        return plan(bills, cards, size)
    stage, i = fits[0]
    return bills[i][0], stage, _on_a_card(bills[i], cards, stage)


def _smallest(bills: Sequence[Bill], cards: int, size: float) -> Plan:
    return plan([min(bills, key=lambda bill: _on_a_card(bill, cards, 3))], cards, size)


def _whatever_it_needs(bills: Sequence[Bill], cards: int, size: float) -> Plan:
    found = plan(bills, cards, size)
    return found if found[0] != "none" else ("none", 3, _on_a_card(bills[0], cards, 3))


def _of_all_cards(bills: Sequence[Bill], cards: int, size: float) -> Plan:
    name, stage, needed = plan(bills, cards, size)
    return name, stage, cards * needed


def _to_spare(bills: Sequence[Bill], cards: int, size: float) -> Plan:
    name, stage, needed = plan(bills, cards, size)
    return name, stage, size - needed


Range = tuple[float, float]
#: (name, bytes of the optimizer's state, activations), as ranges of multiples of the weights
_RECIPES: tuple[tuple[str, Range, Range], ...] = (
    ("AdamW", (5.5, 6.5), (0.8, 2.5)),
    ("AdamW, checkpointing", (5.5, 6.5), (0.1, 0.5)),
    ("8-bit AdamW", (2.5, 3.5), (0.8, 2.5)),
    ("8-bit AdamW, checkpointing", (2.5, 3.5), (0.1, 0.5)),
)


def _bills(draw: Draw) -> tuple[list[Bill], int, float]:
    r"""Kind 0: a bill fits as it is, which is not the first; 1: one fits at a stage from 1 to 3; 2: none fits."""
    while True:
        weights, cards = draw.whole(1000, 90_000) * 1e6, draw.whole(2, 8)
        bills: list[Bill] = []
        for i in draw.order(len(_RECIPES)):
            name, *others = _RECIPES[i]
            gradients, optimizer, activations = (weights * draw.real(*r) for r in ((1.0, 1.2), *others))
            bills.append((name, weights, gradients, optimizer, activations))
        size = weights * draw.real(*((3.5, 8), (0.6, 5), (0.3, 3))[draw.kind])
        name, stage, _ = found = plan(bills, cards, size)
        if draw.kind == 0:
            wanted = stage == 0 and name != bills[0][0]
        elif (
            draw.kind == 1
        ):  # where going through the stages first is wrong, and taking the smallest is wrong as well
            wrong = {_stages_first(bills, cards, size), _smallest(bills, cards, size)}
            wanted = name != "none" and stage > 0 and len(wrong - {found}) == 2
        else:
            wanted = name == "none" and _whatever_it_needs(bills, cards, size) != found
        # No fit may hang on rounding.
        near = (_on_a_card(bill, cards, stage) / size for bill in bills for stage in STAGES)
        if wanted and all(abs(share - 1) > 0.01 for share in near):
            return bills, cards, size


PLAN = register(
    Exercise(
        id="memory-plan",
        points=4,
        difficulty=3,
        minutes=20,
        hints=(
            "What lies on a card at a stage is what `memory_sharded` gives, and the activations.",
            "Two loops: over the bills, and inside it over the stages 0 to 3. Return as soon as it fits.",
            "After both loops nothing has fitted: take the minimum over the bills at stage 3.",
        ),
        inputs=lambda seed: _bills(Draw(b"the notebook's", f"bills {seed}", kind=seed)),
        secret=_bills,
        reference=plan,
        mutants=(
            Mutant(
                _planned(lambda bill, cards, stage: sharded(*bill[1:4], cards, stage)),
                "the activations are missing: they lie on every card as well",
            ),
            Mutant(
                _planned(
                    lambda bill, cards, stage: (
                        sharded(*bill[1:4], cards, stage) + bill[4] / (cards if stage else 1)
                    )
                ),
                "activations are not divided: each card computes a batch of its own",
            ),
            Mutant(
                _planned(stages=(3,)),
                "everything is divided at once; asked is the lowest stage at which the bill fits",
            ),
            Mutant(_planned(stages=(1, 2, 3)), "stage 0 is missing: a bill may fit as it is"),
            Mutant(
                _stages_first,
                "this tries all bills at one stage before the next stage; a bill earlier in the list goes first, "
                "whatever its stage",
            ),
            Mutant(_smallest, "this takes the smallest bill; asked is the first in the list that fits"),
            Mutant(
                _whatever_it_needs,
                "where none fits, this has the bytes of the first bill; asked are those of the one that needs fewest",
            ),
            Mutant(
                lambda bills, cards, size: plan(bills, cards, cards * size),
                "this compares with the memory of all cards together; what lies on one card has to fit into one",
            ),
            Mutant(_of_all_cards, "these are the bytes on all cards together; asked are those on one"),
            Mutant(_to_spare, "these are the bytes that are left on a card; asked are those that are needed"),
        ),
        kinds=3,
    )
)
