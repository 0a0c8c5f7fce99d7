r"""What LLaMA-Adapter's gate is for: the first hundred steps with and without it, the numbers of
data/evidence/gate.csv, for notebook 04_soft_prompts.

    python benchmarks/gate.py                        # what the file holds already is not run again
    python benchmarks/gate.py --seeds 5              # more of them, into the same file

SmolLM2 learns to say whether a short film review is negative or positive, with ten prompts in each of its top 28
blocks: behind a gate that starts at 0, with a fixed 1 in its place, and with that and prompts a fiftieth as large, so
that a gate is not taken for a small start. Prompts and batches of a seed are the same in all three. Each arm's learning
rate is searched with the first seed (1 and 3 in each power of ten, until the best has a neighbour on both sides), then
the other seeds run at the best. It is chosen by the mean loss of the last twenty steps: no row comes twice, so these
rows had not been seen before.

One line a run: the loss of the frozen model on the first batch, the loss of every step, which test sentences were right
in the end and how many the constant answer gets, and the largest gate (1 where there is none).
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from table import Table

from coursekit.comparison import gate
from coursekit.comparison.machine import device_name
from coursekit.device import pick_device
from coursekit.errors import CourseError
from coursekit.evaluation import accuracy
from coursekit.methods import LlamaAdapter
from coursekit.models import load_decoder
from coursekit.tasks import load_task
from coursekit.training import fit, rows_of_step

OUT = Path(__file__).parents[1] / "data" / "evidence" / "gate.csv"
SETTINGS = ("arm", "seed", "rate", "steps", "batch", "words")
MEASURED = ("bare", "losses", "correct", "constant", "largest_gate", "seconds", "processor")


def run(arm: str, seed: int, rate: float, steps: int, batch: int, words: int) -> dict[str, Any]:
    r"""One line of the file. A loss that stops being finite leaves `losses` and `correct` empty."""
    start = time.perf_counter()
    model, tokenizer = load_decoder("smollm2")
    task = load_task("film", "two").short(words)
    data = task.for_decoder(tokenizer)
    if steps * batch > len(data.split("train")):
        raise typer.BadParameter(
            f"{steps} steps of {batch} need more rows than there are: they would come twice"
        )
    rows = data.split("train").select(rows_of_step(len(data.split("train")), batch, seed, 0))
    first = {key: tensor.to(model.device) for key, tensor in data.collate(rows.to_list()).items()}
    with torch.no_grad():
        bare = model(**first).loss.item()
    torch.manual_seed(seed)
    LlamaAdapter(n=10, gate="raw" if arm == "gate" else "none").attach(model)
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if path.endswith(".prompt"):
                parameter *= gate.ARMS[arm].std
    losses, right = "", ""
    try:
        history = fit(
            model, data, steps=steps, batch_size=batch, lr=rate, warmup=0, seed=seed, progress=False
        )
        losses = " ".join(f"{loss:.4f}" for loss in history.loss)
        right = "".join(str(int(one)) for one in accuracy(model, data, progress=False).correct)
    except CourseError as error:
        print(f"{arm}, seed {seed}, learning rate {rate:g}: {error}")
    gates = [p.abs().max().item() for path, p in model.named_parameters() if path.endswith(".gate")]
    values = (arm, seed, rate, steps, batch, words, round(bare, 4), losses, right, round(task.majority, 4))
    values += (
        round(max(gates, default=1.0), 4),
        round(time.perf_counter() - start),
        device_name(pick_device()),
    )
    return dict(zip((*SETTINGS, *MEASURED), values, strict=True))


def main(
    seeds: int = 3,
    steps: int = 100,
    batch: int = 4,
    words: Annotated[int, typer.Option(help="of a review at most: short ones make cheap steps")] = 8,
    most: Annotated[int, typer.Option(help="runs at most, 0 for all")] = 0,
    out: Path = OUT,
) -> None:
    table, made = Table(out, SETTINGS, MEASURED), 0
    common = {"steps": str(steps), "batch": str(batch), "words": str(words)}
    if any({name: row[name] for name in common} != common for row in table.rows):
        raise typer.BadParameter(f"{out} has runs of other steps, batches or words: give another file")
    print(f"{device_name(pick_device())}, {torch.get_num_threads()} threads")
    while (cell := gate.next_run([gate.parse(row) for row in table.rows], seeds)) and made < (most or 10**6):
        row = run(*cell, steps, batch, words)
        print({name: value for name, value in row.items() if name not in ("losses", "correct")}, flush=True)
        table.add(row)  # after each run: it can be stopped and goes on
        made += 1


if __name__ == "__main__":
    typer.run(main)
