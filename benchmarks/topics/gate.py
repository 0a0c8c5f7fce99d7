r"""The first hundred steps of LLaMA-Adapter with and without its gate, on short film reviews, with SmolLM2.

Ten prompts in each of the top 28 blocks: behind a gate that starts at 0 (`gate`) or at 1 (`gate from 1`), with a fixed
1 in its place (`open`), and with that and prompts a fiftieth as large (`open-small`), so that a gate is not taken for
a small start. Prompts and batches of a seed are the same in all four. A rate is judged by the mean loss of the last
twenty steps: no row comes twice, so these rows had not been seen before. `bare`: loss of the frozen model on the first
batch; `losses`: of every step, in nats; `largest_gate`: after the last, 1 where there is none; `constant`: the
constant answer's share. The first runs with a `processor` had not kept their `parameters`, which were counted later
from the model's config; the fourteen without did not keep their machine, and took 130 to 1,628 seconds, where the
others took 70 to 94.
"""

import statistics
import time

import torch

from coursekit.errors import CourseError
from coursekit.evaluation import accuracy
from coursekit.experiments import machine
from coursekit.experiments.bench import Bench, Setting
from coursekit.experiments.recipe import Arm, Grid, neighbours
from coursekit.experiments.table import Cell, Run
from coursekit.methods import LlamaAdapter, trainable
from coursekit.tasks import load_task
from coursekit.training import fit, rows_of_step

WORDS, BATCH = 8, 4
SETTING = Setting("film", "two", "smollm2", batch_size=BATCH)
#: Factor of the prompts at the start.
STARTS = {"gate": 1.0, "gate from 1": 1.0, "open": 1.0, "open-small": 0.02}

GRID = Grid(
    topic="gate",
    arms=tuple(Arm(name, name, neighbours(1e-2)) for name in STARTS),
    reference="gate",
    steps=100,
    judge=lambda run: None if run.loss is None else -run.loss,
    judged_by="the mean training loss of the last twenty steps",
)


def carry(bench: Bench, arm: str, cell: Cell) -> list[Run]:
    r"""One run. A loss that stops being finite leaves `losses` and the answers empty."""
    start, model = time.perf_counter(), bench.model(cell.seed)
    task = load_task("film", "two").short(WORDS)
    data = task.for_decoder(bench.prepared.tokenizer)
    rows = data.split("train").select(rows_of_step(len(data.split("train")), BATCH, cell.seed, 0))
    first = {key: tensor.to(model.device) for key, tensor in data.collate(rows.to_list()).items()}
    with torch.no_grad():
        bare = model(**first).loss.item()
    torch.manual_seed(cell.seed)
    LlamaAdapter(n=10, gate="raw" if arm.startswith("gate") else "none").attach(model)
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if path.endswith(".prompt"):
                parameter *= STARTS[arm]
            if path.endswith(".gate"):
                parameter += arm == "gate from 1"
    losses, correct, late, why = "", (), None, ""
    try:
        history = fit(
            model, data, steps=cell.steps, batch_size=BATCH, lr=cell.rate, warmup=0, seed=cell.seed, progress=False
        )
        losses, late = " ".join(f"{loss:.4f}" for loss in history.loss), statistics.fmean(history.loss[-20:])
        correct = tuple(accuracy(model, data, progress=False).correct.tolist())
    except CourseError as error:
        why = str(error)
    gates = [p.abs().max().item() for path, p in model.named_parameters() if path.endswith(".gate")]
    more = {
        "batch": BATCH, "words": WORDS, "bare": round(bare, 4), "losses": losses, "constant": round(task.majority, 4),
        "largest_gate": round(max(gates, default=1.0), 4), "processor": machine.device_name(model.device),
    }  # fmt: skip
    kept = {name: str(value) for name, value in more.items()}
    seconds = time.perf_counter() - start
    return [Run(cell, (), correct, trainable(model), seconds, why, loss=late, more=kept)]
