r"""The exercises of notebooks 08_qlora and 08b_seven_billion."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import product
from typing import Any

import torch
from torch import Tensor

from coursekit.checks.compare import Comparison
from coursekit.checks.core import Exercise
from coursekit.checks.draw import Draw

# qlora-unpack ---------------------------------------------------------------------------------------------


def unpack(codes: Tensor, table: Tensor, absmax: Tensor, block: int) -> Tensor:
    r"""W (out, in): the level of each code, times the scale of its block of the flattened weight."""
    return (table[codes].reshape(-1, block) * absmax[:, None]).reshape(codes.shape)


def _codes(draw: Draw) -> tuple[Tensor, Tensor, Tensor, int]:
    r"""Kind 0: as many blocks as columns, so that scales along the wrong axis run without an error."""
    d = 2 * draw.whole(2, 4)
    rows, block = (d, d) if draw.kind == 0 else (d + draw.whole(1, 3), d // 2)
    table = torch.linspace(-1, 1, 16, dtype=torch.float64)
    table = table.sign() * table.abs() ** draw.real(1.5, 2.5)
    return draw.integers(0, 15, rows, d).int(), table, 0.5 + draw.uniform(rows * d // block), block


UNPACK = Exercise(
    id="qlora-unpack", points=2, difficulty=2, minutes=10,
    secret=_codes, reference=unpack,
    mutants={
        "the levels lie between -1 and 1: each block still has to be multiplied by its absmax":
            lambda codes, table, absmax, block: table[codes],
        "absmax runs along the columns; it belongs to blocks of the flattened weight, one row of blocks each":
            lambda codes, table, absmax, block: table[codes] * absmax[: codes.shape[1]],
        "the scales change from weight to weight; each belongs to a whole block, so many weights in a row":
            lambda codes, table, absmax, block: (table[codes].flatten() * absmax.repeat(block)).reshape(codes.shape),
        "a code is no number but an index: look it up in the table":
            lambda codes, table, absmax, block: unpack(codes, torch.arange(16, dtype=torch.float64), absmax, block),
        "this divides by absmax; dividing was done when the weight was quantized, now multiply":
            lambda codes, table, absmax, block: unpack(codes, table, 1 / absmax, block),
        "the blocks run down the columns here; the weight is flattened row by row":
            lambda codes, table, absmax, block: unpack(codes.T.contiguous(), table, absmax, block).T,
    },
    tolerance=1e-8, kinds=2,
)  # fmt: skip


# qlora-backward -------------------------------------------------------------------------------------------


def backward(g: Tensor, x: Tensor, W: Tensor, A: Tensor, B: Tensor, s: float) -> tuple[Tensor, Tensor, Tensor]:
    r"""(dL/dx, dL/dA, dL/dB) of h = W x + s B (A x), from g = dL/dh."""
    return g @ W + s * (g @ B) @ A, s * (g @ B).T @ x, s * g.T @ (x @ A.T)


def _gradients(draw: Draw) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, float]:
    # Sizes that differ, so that an error of shapes tells whose they are; in kind 0 W is square, and W^T runs as well.
    n = draw.whole(5, 6)
    out, into = (draw.whole(7, 9),) * 2 if draw.kind == 0 else (draw.whole(7, 9), draw.whole(3, 4))
    shapes = ((n, out), (n, into), (out, into), (2, into), (out, 2))
    return *(draw.normal(*shape) for shape in shapes), draw.real(1.2, 4)


def _wrong_gradients(change: Callable[..., tuple[Tensor, Tensor, Tensor]]) -> Callable[..., Any]:
    return lambda g, x, W, A, B, s: change(*backward(g, x, W, A, B, s), g=g, x=x, W=W, A=A, B=B, s=s)


BACKWARD = Exercise(
    id="qlora-backward", points=4, difficulty=4, minutes=20,
    secret=_gradients, reference=backward,
    mutants={
        "dx: the way through the frozen weight is missing: W gets no gradient, but passes one on":
            _wrong_gradients(lambda dx, dA, dB, g, W, **_: (dx - g @ W, dA, dB)),
        "dx: the way through the adapter is missing": _wrong_gradients(lambda dx, dA, dB, g, W, **_: (g @ W, dA, dB)),
        "dx: W is met the wrong way round: forward is x W^T, backward is g W":
            lambda g, x, W, A, B, s: (g @ W.T + s * (g @ B) @ A, *backward(g, x, W, A, B, s)[1:]),
        "the factor s is missing: the adapter's output is scaled by it, so every gradient of its way is too":
            lambda g, x, W, A, B, s: backward(g, x, W, A, B, 1.0),
        "dA and dB: the factor s is missing": _wrong_gradients(lambda dx, dA, dB, s, **_: (dx, dA / s, dB / s)),
        "dx: s scales the adapter's way alone, not the way through W":
            _wrong_gradients(lambda dx, dA, dB, g, W, s, **_: (dx + (s - 1) * g @ W, dA, dB)),
        "dA and dB are transposed: each has the shape of its matrix":
            _wrong_gradients(lambda dx, dA, dB, **_: (dx, dA.T, dB.T)),
        "dA and dB are in each other's place: return dx, dA, dB":
            _wrong_gradients(lambda dx, dA, dB, **_: (dx, dB, dA)),
    },
    tolerance=1e-8, kinds=2,
)  # fmt: skip


# qlora-bytes ----------------------------------------------------------------------------------------------


def total_bytes(in_codes: int, dense: int, trained: int) -> float:
    r"""Codes with their scales, 16-bit numbers, and 4 + 4 + 8 bytes for each number that trains."""
    bits = 4 + 8 / 64 + 32 / (64 * 256)
    return in_codes * bits / 8 + 2 * dense + 16 * trained


def _sizes(draw: Draw) -> tuple[int, int, int]:
    return 2**20 * draw.whole(2000, 16000), 2**20 * draw.whole(100, 800), 2**18 * draw.whole(40, 400)


def _base_bits(bits: float) -> Callable[..., float]:
    return lambda in_codes, dense, trained: total_bytes(0, dense, trained) + in_codes * bits / 8


BYTES = Exercise(
    id="qlora-bytes", points=2, difficulty=2, minutes=10,
    secret=_sizes, reference=total_bytes,
    mutants={
        "the scales are missing: a weight costs a little more than 4 bits": _base_bits(4),
        "this is without double quantization: one fp32 scale for 64 weights, 4.5 bits": _base_bits(4.5),
        "the scales of the scales are missing: 32 bits for 64 · 256 weights": _base_bits(4.125),
        "4.127 bits are rounded, and here every byte counts: 4 + 8/64 + 32/(64 · 256)": _base_bits(4.127),
        "A and B are counted as weights only; they have gradients and two moments as well":
            lambda in_codes, dense, trained: total_bytes(in_codes, dense, 0) + 4 * trained,
        "12 bytes are counted for each number of A and B; weight, gradient and two moments are 4 times 4":
            lambda in_codes, dense, trained: total_bytes(in_codes, dense, 0) + 12 * trained,
        "the weights of A and B take 16 bits here; they are in 32, as their gradients and moments":
            lambda in_codes, dense, trained: total_bytes(in_codes, dense, 0) + 14 * trained,
        "A and B take 16 bits here; weight, gradient and moments are in 32":
            lambda in_codes, dense, trained: total_bytes(in_codes, dense, 0) + 8 * trained,
        "what stays dense takes 4 bytes here; the model is in 16 bits, so 2":
            lambda in_codes, dense, trained: total_bytes(in_codes, 2 * dense, trained),
        "embeddings and norms are counted in 4 bits, too; they stay in 16":
            lambda in_codes, dense, trained: total_bytes(in_codes + dense, 0, trained),
        "these are bits; 8 of them are a byte":
            lambda in_codes, dense, trained: 8 * total_bytes(in_codes, dense, trained),
        "gradients and moments are counted for frozen weights; only A and B have them":
            lambda in_codes, dense, trained: total_bytes(in_codes, dense, trained) + 12 * (in_codes + dense),
    },
    tolerance=1e-6,
)  # fmt: skip


# qlora-plan -----------------------------------------------------------------------------------------------

#: (size, room, tokens of a row, time to unpack all weights, time to copy all states out and in again)
Case = tuple[str, int, int, float, float]
#: (rows of a batch, optimizer, whether activations are checkpointed)
Plan = tuple[int, str, bool]
#: A plan and the time that a row takes with it.
Answer = tuple[int, str, bool, float]
BATCHES = (1, 2, 4, 8, 16)
OPTIMIZERS = ("adamw", "adamw8bit", "paged_adamw")
#: How much slower than the best plan a right one may be, and how far from that mark a case keeps.
SLOWER, NEAR = 1.02, 0.02
DRIVER = 2**30


def row_time(plan: Plan, unpack: float, copy: float) -> float:
    r"""Of one row, in products of one row with all weights."""
    batch, optimizer, again = plan
    return (3 if again else 2) * (1 + unpack / batch) + (copy / batch if optimizer == "paged_adamw" else 0)


@lru_cache(maxsize=256)
def _needs(size: str, seq: int) -> dict[Plan, int]:
    r"""Bytes at the peak of every plan. Of the optimizers only the states differ."""
    from coursekit.qlora.memory import qlora_bill

    states = {name: qlora_bill(size, seq=seq, optimizer=name).optimizer for name in OPTIMIZERS}
    found = {}
    for batch, again in product(BATCHES, (False, True)):
        without = qlora_bill(size, batch=batch, seq=seq, checkpointing=again, optimizer="paged_adamw").peak
        found |= {(batch, name, again): without + bytes_ for name, bytes_ in states.items()}
    return found


def _fastest(
    time: Callable[[Plan, float, float], float] = row_time, of_a_step: bool = False, spare: int = DRIVER,
    tried: Callable[[Plan], bool] = lambda plan: True,
) -> Callable[..., Answer]:  # fmt: skip
    r"""The right search but for a row's time, for what is least (`of_a_step`: a step's time), for what is left free or
    for what is tried; where none fits, the smallest.
    """

    def made(size: str, room: int, seq: int, unpack: float, copy: float) -> Answer:
        needs = {plan: peak for plan, peak in _needs(size, seq).items() if tried(plan)}
        fit = [plan for plan, peak in needs.items() if peak + spare <= room] or [min(needs, key=needs.__getitem__)]
        best = min(fit, key=lambda plan: time(plan, unpack, copy) * (plan[0] if of_a_step else 1))
        return *best, time(best, unpack, copy)

    return made


def _by_a_rule(products: Callable[[int, bool, float], float]) -> Callable[..., Answer]:
    r"""The right search with another time of a row's products: of its rows, checkpointing and `unpack`."""

    def time(plan: Plan, unpack: float, copy: float) -> float:
        batch, optimizer, again = plan
        return products(batch, again, unpack) + (copy / batch if optimizer == "paged_adamw" else 0)

    return _fastest(time)


plan = _fastest()
_copied_for_every_row = _fastest(lambda plan, unpack, copy: row_time(plan, unpack, plan[0] * copy))
_POOR: dict[str, Callable[..., Answer]] = {
    "this fills the card to the end; the driver takes some of it, so leave 1 GiB": _fastest(spare=0),
    "this is the plan with the fastest step; asked is the time of a row, a step's divided by its rows":
        _fastest(of_a_step=True),
    "checkpointing is always on: it lets more rows in, and each of them costs three products, not two":
        _fastest(tried=lambda plan: plan[2]),
    "checkpointing is never on: more rows fit with it, and they share the unpacking":
        _fastest(tried=lambda plan: not plan[2]),
    "the states never leave the card or shrink: the room that they leave can hold more rows":
        _fastest(tried=lambda plan: plan[1] == "adamw"),
    "the states are always paged out: copying them costs time, and a plan that keeps them may fit":
        _fastest(tried=lambda plan: plan[1] == "paged_adamw"),
    "the states are never paged out: 8-bit states keep a quarter of them on the card":
        _fastest(tried=lambda plan: plan[1] != "paged_adamw"),
    "`copy` is there once a step, whatever its rows: of a row's time it is copy / rows": _copied_for_every_row,
    "a frozen weight takes a product forward and one for its input's gradient, and gets no gradient of its own":
        _by_a_rule(lambda batch, again, unpack: (4 if again else 3) * (1 + unpack / batch)),
    "checkpointing repeats the product of the forward pass alone: 3 a row, not 4":
        _by_a_rule(lambda batch, again, unpack: (4 if again else 2) * (1 + unpack / batch)),
    "the weights are unpacked for each product, since none is kept from the one before":
        _by_a_rule(lambda batch, again, unpack: (3 if again else 2) + unpack / batch),
    "the rows of a batch share the unpacking: of a row's time it is unpack / rows":
        _by_a_rule(lambda batch, again, unpack: (3 if again else 2) * (1 + unpack)),
}  # fmt: skip


def _fast_enough(compare: Comparison, given: Any, case: Any, own: Any) -> str | None:
    r"""Right is every plan that fits and is at most SLOWER than the course's own."""
    if type(given) not in (tuple, list) or len(given) != len(own):
        return compare.difference(given, own)  # it says of which kind it is
    size, room, seq, unpack, copy = case
    batch, optimizer, again, time = given
    if type(batch) is not int or batch not in BATCHES:
        return "value 1 of 4 is no number of rows: these are 1, 2, 4, 8 and 16"
    if type(optimizer) is not str or optimizer not in OPTIMIZERS:
        return f"value 2 of 4 is no optimizer: these are {', '.join(OPTIMIZERS)}"
    if type(again) is not bool:
        return "value 3 of 4 must be True or False"
    if _needs(size, seq)[batch, optimizer, again] + DRIVER > room:
        return "the plan does not fit, with 1 GiB left for the driver"
    right = row_time((batch, optimizer, again), unpack, copy)
    found = compare.difference((batch, optimizer, again, time), (batch, optimizer, again, right))
    if found is not None:
        return found
    slower = right / own[-1]
    if slower <= SLOWER:
        return None
    return "the plan fits, and another one is faster" + compare.exactly(f": by {slower - 1:.0%}")


def _card(draw: Draw) -> Case:
    r"""Each kind is a case in which some of the poor plans are poor enough; together all of them."""
    poor = tuple(_POOR.values())
    asked = ((0, 2, 5), (1, 3, 4), (6, 0))[draw.kind]
    while True:
        size, seq = draw.pick(("7B", "13B")), draw.pick((512, 1024))
        needs = _needs(size, seq)
        for _ in range(100):
            room = draw.pick(sorted(needs.values())) + int(draw.real(1.0, 2.0) * 2**30)
            unpack, copy = draw.real(0.2, 4, digits=2), draw.real(0.05, 3, digits=2)
            case = size, room, seq, unpack, copy
            if room > 96 * 2**30 or any(abs(peak + DRIVER - room) < 2**22 for peak in needs.values()):
                continue
            best = plan(*case)[-1]
            fits = {p: peak + DRIVER <= room for p, peak in needs.items()}
            if not any(fits.values()):
                continue
            ratios = [row_time(p, unpack, copy) / best for p, ok in fits.items() if ok]
            wrong = [poor[i](*case) for i in asked]
            rows, optimizer, *_ = _copied_for_every_row(*case)
            if draw.kind == 2 and (rows == 1 or optimizer != "paged_adamw"):
                continue  # its time is right there
            if any(fits[tuple(p)] and time < (SLOWER + NEAR) * best for *p, time in wrong):
                continue
            if not any(abs(ratio - SLOWER) < NEAR / 4 for ratio in ratios):
                return case


PLAN = Exercise(
    id="qlora-plan", points=4, difficulty=3, minutes=20,
    secret=_card, reference=plan, mutants=_POOR, kinds=3, judge=_fast_enough,
)  # fmt: skip


# qlora-noise ----------------------------------------------------------------------------------------------


def _neighbours(M: Tensor, levels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""The level below each number, that above, and its place between them: 0 to 1, less or more beyond the ends."""
    upper = torch.bucketize(M, levels).clamp(1, len(levels) - 1)
    below, above = levels[upper - 1], levels[upper]
    return below, above, (M - below) / (above - below)


def noise(M: Tensor, levels: Tensor, u: Tensor) -> Tensor:
    r"""Each number at one of the two levels around it, the upper one where u < its place between them: M on average."""
    below, above, place = _neighbours(M, levels)
    return torch.where(u < place, above, below)


def _between(draw: Draw) -> tuple[Tensor, Tensor, Tensor]:
    r"""A tenth of the numbers are on a level, some beyond the ends; no two neighbours are equally far apart."""
    k, rows, columns = draw.whole(9, 16), draw.whole(6, 8), draw.whole(9, 12)
    levels = (0.1 + draw.uniform(k)).cumsum(0)
    levels = 2 * (levels - levels[0]) / (levels[-1] - levels[0]) - 1
    M = levels[draw.integers(0, k - 1, rows, columns)] + 0.1 * draw.normal(rows, columns)
    M[0] = levels[draw.integers(0, k - 1, columns)]
    M[1, :2] = torch.tensor([-1.2, 1.2], dtype=M.dtype)
    return M, levels, draw.uniform(rows, columns)


def _wrong_chance(chance: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    r"""Up where `chance(below, above, place, u)`."""

    def made(M: Tensor, levels: Tensor, u: Tensor) -> Tensor:
        below, above, place = _neighbours(M, levels)
        return torch.where(chance(below, above, place, u), above, below)

    return made


NOISE = Exercise(
    id="qlora-noise", points=2, difficulty=3, minutes=10,
    secret=_between, reference=noise,
    mutants={
        "u has no say here: the nearest level sends a small update back whatever u is":
            _wrong_chance(lambda below, above, place, u: place > 0.5),
        "the chances are swapped: a number close to its lower level goes there most of the time":
            _wrong_chance(lambda below, above, place, u: u < 1 - place),
        "the chance is right, but it is a small u that goes up":
            _wrong_chance(lambda below, above, place, u: u > 1 - place),
        "a coin decides here; the nearer of the two levels must be the more likely one":
            _wrong_chance(lambda below, above, place, u: u < 0.5),
        "the chance is the distance from the lower level; divide it by the distance of the two levels":
            _wrong_chance(lambda below, above, place, u: u < place * (above - below)),
        "all numbers go to their lower level": lambda M, levels, u: _neighbours(M, levels)[0],
        "this is M again; only levels can be stored": lambda M, levels, u: M.clamp(levels[0], levels[-1]),
        "these are indices; what is asked for is the levels that they stand for":
            lambda M, levels, u: torch.bucketize(noise(M, levels, u), levels),
        "noise of one width is too wide between close levels and too narrow between distant ones":
            lambda M, levels, u: levels[
                torch.bucketize(M + (0.5 - u) * levels.diff().mean(), (levels[1:] + levels[:-1]) / 2)
            ],
        "torch.bucketize gives the upper level; the lower one is the one before":
            lambda M, levels, u: torch.where(
                u < _neighbours(M, levels)[2],
                levels[torch.bucketize(M, levels).clamp(1, len(levels) - 2) + 1],
                _neighbours(M, levels)[1],
            ),
    },
    tolerance=1e-8,
)  # fmt: skip
