r"""How many directions a task needs: MiniLM learns to tell good films from bad along d directions of its blocks.

`SAID 100`: along 100 directions, with a factor for each block; `DID 100`: without; `full`: all weights of the blocks
and the head; `head`: the head alone. The same steps, the same sentences in the same order for all. `rate`: of the
weights of the blocks, of the head where it trains alone, or the step length along directions; the head's is 0.005
everywhere, which is too low for the head alone (`methods` found 0.3 for it). All were found with seed 0, in a search
that was not stored, and are the same for all d. The first runs kept how many answers were right (`count:`), and not
which.
"""

import statistics
import time
from typing import NamedTuple

import torch
from torch.optim import AdamW

from coursekit.evaluation import accuracy
from coursekit.experiments.bench import Bench, Setting
from coursekit.experiments.recipe import Arm, Grid
from coursekit.experiments.table import Cell, Run
from coursekit.methods import IntrinsicSAID, trainable
from coursekit.training import fit

SETTING = Setting("film", "two", "minilm", batch_size=8, sentences=400)
#: The longest step in the weights, and the largest rates, that do not fall back.
STEP, RATE, FULL_RATE = 5.0, 5e-3, 1e-4


class Moves(NamedTuple):
    r"""What trains: "SAID", "DID", "full" or "head"; along so many directions."""

    what: str
    d: int = 0


GRID = Grid(
    topic="intrinsic",
    arms=(
        Arm("full", Moves("full"), (FULL_RATE,)),
        Arm("head", Moves("head"), (RATE,)),
        *(Arm(f"{kind} {d}", Moves(kind, d), (STEP,)) for d in (10, 100, 1000, 10_000) for kind in ("SAID", "DID")),
    ),
    reference="full",
    steps=200,
)


def carry(bench: Bench, moves: Moves, cell: Cell) -> list[Run]:
    r"""Train and test."""
    start, model = time.perf_counter(), bench.model(cell.seed)
    torch.manual_seed(cell.seed)
    if moves.d:
        method = IntrinsicSAID(d=moves.d, structure=moves.what == "SAID", parts="blocks", seed=cell.seed)
        method.attach(model)
        groups = method.parameter_groups(model, cell.rate, RATE)
    else:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("classifier" in name or (moves.what == "full" and ".layer." in name))
        groups = [
            {"params": [p for n, p in model.named_parameters() if p.requires_grad and head == ("classifier" in n)],
             "lr": RATE if head else cell.rate}
            for head in (True, False)
        ]  # fmt: skip
        groups = [group for group in groups if group["params"]]
    history = fit(
        model, bench.prepared, steps=cell.steps, batch_size=SETTING.batch_size, seed=cell.seed, progress=False,
        optimizer=lambda _: AdamW(groups, weight_decay=0.0, fused=True),
    )  # fmt: skip
    correct = tuple(accuracy(model, bench.prepared, limit=SETTING.sentences, progress=False).correct.tolist())
    late = statistics.fmean(history.loss[-10:])
    return [Run(cell, (), correct, trainable(model), time.perf_counter() - start, loss=late, more={"d": str(moves.d)})]
