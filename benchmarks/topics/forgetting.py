r"""What is learned and what is kept: a small decoder, pre-trained on three domains, learns a fourth.

`before`: the pre-trained model. Then each remedy against forgetting at several strengths, in the same number of
steps: `full` (strength: the learning rate), `WiSE-FT` (share of the update that is kept, after training at 0.003),
`multi-task` and `replay` (share of old rows), `L2-SP` (α), `EWC` (λ), `LoRA` (r), `OFT` (size of a block), and
`linear layers` (the learning rate: all weights of the layers that LoRA adapts, and no others). The rate of each kind
is searched at one strength, by the perplexity of the new domain's validation text, and the others take it. `film`,
`product`, `newspaper`, `tweet`: perplexity of the test texts. Old rows that replay and multi-task show again are from
the pre-training's own text; EWC's Fisher information is from 128 blocks of it.
"""

import math
import time
from functools import cache
from typing import Any

from coursekit.experiments import machine
from coursekit.experiments.forgetting import SEARCHED
from coursekit.experiments.recipe import Arm, Grid
from coursekit.experiments.table import Cell, Run
from coursekit.forgetting.domains import REMEDIES, Remedy, load_domains, pretrained
from coursekit.methods import trainable

SETTING = None
PRETRAINING, STEPS, BATCH, BLOCKS = 600, 100, 16, 200
#: Of perplexities with the first seed: a rate that is so much above the best is not run with other seeds.
FAR = 1.03


def named(remedy: Remedy) -> str:
    r"""The arm of a remedy."""
    return f"{remedy.kind} {float(remedy.strength):g}"


def arm(remedy: Remedy) -> Arm:
    r"""Searched where its kind is, or at that rate."""
    at = SEARCHED.get(remedy.kind)
    if at is None:
        return Arm(named(remedy), remedy, (float(remedy.rate),))
    if at == remedy.strength:
        return Arm(named(remedy), remedy, (1e-3, 3e-3, 1e-2))
    return Arm(named(remedy), remedy, (), like=named(Remedy(remedy.kind, at)))


GRID = Grid(
    topic="forgetting",
    arms=(Arm("before 0", None, (0.0,), 0), *(arm(remedy) for remedy in REMEDIES)),
    reference="before 0",
    steps=STEPS,
    judge=lambda run: -math.log(float(run.more["validation"])),
    behind=math.log(FAR),
)


@cache
def start(seed: int) -> tuple[Any, Any, float]:
    clock, domains = time.perf_counter(), load_domains()
    return domains, pretrained(domains, PRETRAINING, BATCH, seed)[0], time.perf_counter() - clock


def carry(bench: None, remedy: Remedy | None, cell: Cell) -> list[Run]:
    r"""One run; the seconds of `before` are those of the pre-training."""
    domains, model, seconds = start(cell.seed)
    if remedy is not None:
        clock = time.perf_counter()
        model = remedy.tune(model, domains, cell.steps, BATCH, cell.seed, lr=cell.rate)[0]
        seconds = time.perf_counter() - clock
    found = domains.perplexities(model, BLOCKS) | {"validation": domains.validation(model, BLOCKS)}
    more = {name: f"{value:.3f}" for name, value in found.items()}
    more |= {"pretraining": str(PRETRAINING), "batch": str(BATCH), "blocks": str(BLOCKS)}
    more["processor"] = machine.device_name(model.device)
    return [Run(cell, (), (), trainable(model) if remedy else 0, seconds, more=more)]
