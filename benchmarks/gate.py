r"""What LLaMA-Adapter's gate is for: the first hundred steps with and without it, the numbers of
data/evidence/gate.csv, for notebook 04_soft_prompts.

    python benchmarks/gate.py                        # what the file holds already is not run again
    python benchmarks/gate.py --seeds 5 --out more.csv

SmolLM2 learns to say whether a short film review is negative or positive, with ten prompts in each of its top 28
blocks: once with the gate that starts at 0, once with a fixed 1 in its place. Prompts and batches of a seed are the
same in both. One line a run: the loss of the frozen model on the first batch, the loss of every step, and the largest
gate at the end (1 where there is none).
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from table import Table

from coursekit.comparison.machine import device_name
from coursekit.device import pick_device
from coursekit.evaluation import accuracy
from coursekit.methods import LlamaAdapter
from coursekit.models import load_decoder
from coursekit.tasks import load_task
from coursekit.training import fit, rows_of_step

OUT = Path(__file__).parents[1] / "data" / "evidence" / "gate.csv"
SETTINGS = ("gate", "seed", "steps", "batch", "rate", "words")
MEASURED = ("bare", "losses", "accuracy", "sentences", "largest_gate", "seconds", "processor")


def run(
    gate: str, seed: int, steps: int, batch: int, rate: float, words: int, sentences: int
) -> dict[str, Any]:
    r"""One line of the file."""
    start = time.perf_counter()
    model, tokenizer = load_decoder("smollm2")
    data = load_task("film", "two").short(words).for_decoder(tokenizer)
    rows = data.split("train").select(rows_of_step(len(data.split("train")), batch, seed, 0))
    first = {key: tensor.to(model.device) for key, tensor in data.collate(rows.to_list()).items()}
    with torch.no_grad():
        bare = model(**first).loss.item()
    torch.manual_seed(seed)
    LlamaAdapter(n=10, gate=gate).attach(model)
    history = fit(model, data, steps=steps, batch_size=batch, lr=rate, warmup=0, seed=seed, progress=False)
    score = accuracy(model, data, limit=sentences, progress=False)
    gates = [p.abs().max().item() for path, p in model.named_parameters() if path.endswith(".gate")]
    losses = " ".join(f"{loss:.4f}" for loss in history.loss)
    values = (gate, seed, steps, batch, rate, words, round(bare, 4), losses, round(score.value, 4), sentences)
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
    rate: float = 1e-2,
    words: Annotated[int, typer.Option(help="of a review at most: short ones make cheap steps")] = 6,
    sentences: int = 40,
    out: Path = OUT,
) -> None:
    table = Table(out, SETTINGS, MEASURED)
    print(f"{device_name(pick_device())}, {torch.get_num_threads()} threads")
    for seed in range(seeds):
        for gate in ("raw", "none"):
            if table.has(dict(zip(SETTINGS, (gate, seed, steps, batch, rate, words), strict=True))):
                continue
            row = run(gate, seed, steps, batch, rate, words, sentences)
            print({name: value for name, value in row.items() if name != "losses"}, flush=True)
            table.add(row)  # after each run: it can be stopped and goes on


if __name__ == "__main__":
    typer.run(main)
