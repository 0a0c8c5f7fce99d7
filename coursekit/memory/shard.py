r"""The bill of one GPU when several share the work: ZeRO (Rajbhandari et al. 2020, arXiv:1910.02054) and FSDP."""

from __future__ import annotations

from dataclasses import replace

from coursekit.errors import CourseError, number, whole
from coursekit.memory.breakdown import GB, Breakdown
from coursekit.memory.hardware import Card, card

#: What each stage divides. FSDP's `FULL_SHARD` is stage 3, `SHARD_GRAD_OP` stage 2, `NO_SHARD` stage 0.
STAGES: dict[int, tuple[str, ...]] = {
    0: (),
    1: ("optimizer", "master"),
    2: ("optimizer", "master", "gradients"),
    3: ("optimizer", "master", "gradients", "weights"),
}


def shard(bill: Breakdown, n_gpus: int, stage: int = 3) -> Breakdown:
    r"""What each of `n_gpus` holds under ZeRO stage 0, 1, 2 or 3.

    Activations are not divided: each GPU computes a batch of its own, the one that `bill` was made for. In stage 3 a
    layer's weights are gathered while it computes, and its gradient is whole before it is divided. That comes on top,
    `max` over the layers, and is not counted here.
    """
    n_gpus = whole("n_gpus", n_gpus, least=1, such_as=8)
    if stage not in STAGES:
        raise CourseError(f"stage={stage!r}: ZeRO has the stages 1, 2 and 3; 0 means that nothing is divided")
    # Rounded up: the shards are made equally long by padding.
    return replace(bill, timeline=(), **{name: -(-getattr(bill, name) // n_gpus) for name in STAGES[stage]})


def gpus_needed(
    bill: Breakdown | float, gpu: str | Card, *, unit: str = "GiB", stage: int | None = None
) -> int:
    r"""How many of `gpu` hold `bill`, a Breakdown or a number of bytes.

    stage None: as if memory could be cut anywhere, which is the lecture's division and a lower bound:
    `gpus_needed(160e9, "RTX 4090", unit="GB")` is 7. With a stage: the fewest GPUs on which `shard` fits.
    unit: "GiB", what a card really has, or "GB", as the lecture counts.

    Raises CourseError where no number of GPUs is enough, since a part that is not divided is too large.
    """
    size = card(gpu).capacity(unit)
    if stage is None:
        total = bill.total if isinstance(bill, Breakdown) else number("bill", bill, least=0, such_as=160e9)
        return max(1, -(-int(total) // size))
    if not isinstance(bill, Breakdown):
        raise CourseError(
            "a stage divides some categories and not others: pass a Breakdown, not a number of bytes"
        )
    everywhere = shard(bill, 2**62, stage).total
    if everywhere > size:
        raise CourseError(
            f"no number of {card(gpu).name} is enough at stage {stage}: {everywhere / GB:.1f} GB stay on every card; "
            "take a higher stage, a smaller batch, or activation checkpointing"
        )
    low, high = 1, 2
    while shard(bill, high, stage).total > size:
        low, high = high, 2 * high
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if shard(bill, middle, stage).total <= size else (middle + 1, high)
    return low
