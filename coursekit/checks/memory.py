r"""The exercises of notebook 01_full_finetuning_memory."""

from __future__ import annotations

import math

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


# memory-cards ---------------------------------------------------------------------------------------------


def _needs(seed: int) -> tuple[float, float]:
    return ((160e9, 24e9), (270e9, 80e9), (48e9, 16e9))[seed]


def cards(needed: float, card: float) -> int:
    r"""The smallest whole number of cards that holds `needed` bytes."""
    return math.ceil(needed / card)


def _secret_cards(draw: Draw) -> tuple[float, float]:
    # It fits exactly; a little is left over; a lot is.
    card = draw.whole(8, 96) * 10**9
    rest = (0, draw.whole(5, 45), draw.whole(55, 95))[draw.kind]
    return float(draw.whole(2, 400) * card + rest * card // 100), float(card)


CARDS = register(
    Exercise(
        id="memory-cards",
        points=1,
        difficulty=1,
        minutes=3,
        hints=(
            "6.67 cards cannot be bought.",
            "math.ceil rounds up; exact multiples must not be rounded further up.",
        ),
        inputs=_needs,
        secret=_secret_cards,
        reference=cards,
        mutants=(
            Mutant(lambda needed, card: needed / card, "cards come whole: round up"),
            Mutant(
                lambda needed, card: int(needed // card),
                "rounded down: the last part of the model has no card",
            ),
            Mutant(
                lambda needed, card: int(needed // card) + 1,
                "one card too many where it fits exactly: use math.ceil",
            ),
            Mutant(lambda needed, card: round(needed / card), "rounded to the nearest: 3.4 cards need 4"),
        ),
        tolerance=0.0,
        kinds=3,
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
