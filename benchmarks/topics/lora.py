r"""What LoRA's settings do: rank at a fixed alpha/r, where it goes at equal parameters, the batch, against full; and
where it starts. PiSSA, OLoRA and EVA stand beside `all-r8`, LoftQ beside `qlora`, both on a base in NF4.
"""

import copy

from topics._film import SETTING, arm
from torch import nn

from coursekit.comparison.candidates import CANDIDATES, EVERY, Candidate
from coursekit.experiments.bench import Bench
from coursekit.experiments.recipe import Arm, Grid
from coursekit.methods import LoRA
from coursekit.qlora import quantize_model

__all__ = ["GRID", "SETTING"]

PAPER = LoRA().targets
ATTENTION = ("query", "key", "value", "attention.output.dense")
#: By layer, since "output.dense" alone is the attention's as well.
MLP = ("intermediate.dense", *(f"layer.{i}.output.dense" for i in range(6)))
FULL = CANDIDATES["full"]
LOFTQ = LoRA(r=8, alpha=16, targets="all-linear", init="loftq")


def lora(name: str, r: int, targets: object, rate: float, **of: object) -> Arm:
    r"""A LoRA whose update is scaled by 2 whatever its rank."""
    candidate = Candidate("reparameterised", LoRA(r=r, alpha=2 * r, targets=targets), rate)
    return arm(name, candidate, rate, **of)


def rounded_with(method: LoRA, model: nn.Module, bench: Bench, seed: int) -> nn.Module:
    r"""Attach beside weights in NF4 what starts at their rounding error."""
    return method.attach(quantize_model(copy.deepcopy(model)), exact=model)


GRID = Grid(
    topic="lora",
    arms=(
        arm("full", FULL, 1e-4),
        # The paper's targets; then more of them. Each at its own learning rate, as all that follows.
        lora("qv-r8", 8, PAPER, 3e-3),
        lora("all-r8", 8, "all-linear", 1e-3),
        *(lora(f"qv-r{r}", r, PAPER, 3e-3) for r in (1, 64)),
        # Where it goes, at 55,296 parameters as with all-r8 (in the MLP 53,760).
        lora("attention-r18", 18, ATTENTION, 1e-3),
        lora("mlp-r14", 14, MLP, 1e-3),
        # The batch: 4,800 examples seen, in 300 steps or in a quarter of them.
        arm("full-batch64", FULL, 1e-4, 75, batch_size=64),
        lora("all-r8-batch64", 8, "all-linear", 3e-3, steps=75, batch_size=64),
        # Twice the steps, each at a rate of its own for them: one found at 300 may be too high.
        arm("full-tuned-at-600", FULL, 1e-4, 600),
        lora("qv-r8-tuned-at-600", 8, PAPER, 3e-3, steps=600),
        # Other starts, of `all-r8` and of QLoRA.
        *(arm(f"all-r8-{init}", EVERY[init], 1e-3) for init in ("pissa", "olora", "eva")),
        arm("qlora", CANDIDATES["qlora"], 1e-3),
        arm("all-r8-loftq", Candidate("reparameterised", LOFTQ, 1e-3, rounded_with), 1e-3),
    ),
    reference="full",
)  # fmt: skip
