r"""Examples in the prompt against examples in training: data/evidence/in_context.csv, which notebook 00 reloads.

    python benchmarks/in_context.py                       # what the file holds already is not run again
    python benchmarks/in_context.py --seeds 5 --out more.csv

SmolLM2 grades film reviews in five grades. `shots`: so many fixed examples stand in the prompt, nothing is trained.
`LoRA`: it is trained on the first so many examples. One line a run: how many of the test sentences were right, tokens
in a prompt and seconds for a query that shares nothing with others, and the processor.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from table import Table
from tqdm.auto import tqdm

from coursekit import methods
from coursekit.comparison.machine import device_name
from coursekit.device import pick_device
from coursekit.evaluation.in_context import Asked, ask
from coursekit.methods import LoRA
from coursekit.models import load_decoder
from coursekit.tasks import load_task
from coursekit.training import fit, seed_everything

OUT = Path(__file__).parents[1] / "data" / "evidence" / "in_context.csv"
SETTINGS = ("way", "examples", "lr", "seed", "steps", "batch", "sentences")
MEASURED = ("correct", "tokens", "seconds", "processor")
SHOTS = (0, 1, 2, 5, 10)
#: Examples -> steps of 8: at least one time through, and enough to learn anything from few.
STEPS = {10: 20, 100: 40, 1000: 125}
BATCH, RATE, TIMED = 8, 1e-3, 16


def measured(found: Asked) -> dict[str, Any]:
    r"""What a line has besides the settings of the run."""
    times = {"tokens": f"{found.tokens:.1f}", "seconds": f"{found.seconds:.4f}"}
    return {"correct": int(found.score.correct.sum())} | times | {"processor": device_name(pick_device())}


def main(
    seeds: Annotated[int, typer.Option(help="How many seeds.")] = 3,
    sentences: Annotated[int, typer.Option(help="Test sentences.")] = 300,
    out: Annotated[Path, typer.Option(help="The file to add lines to.")] = OUT,
) -> None:
    r"""Measure what the file does not hold yet."""
    table = Table(out, SETTINGS, MEASURED)
    model, tokenizer = load_decoder("smollm2")
    prepared = load_task("film", "five").for_decoder(tokenizer, max_length=64)
    common = {"sentences": sentences}
    runs = [dict(way="shots", examples=k, lr=0.0, seed=0, steps=0, batch=0) | common for k in SHOTS]
    runs += [
        dict(way="LoRA", examples=n, lr=RATE, seed=seed, steps=steps, batch=BATCH) | common
        for seed in range(seeds)
        for n, steps in STEPS.items()
    ]
    for run in tqdm([run for run in runs if not table.has(run)]):
        if run["way"] == "shots":
            table.add(run | measured(ask(model, prepared, run["examples"], sentences, TIMED)))
            continue
        seed_everything(run["seed"])  # of LoRA's start
        LoRA(r=8, targets="all-linear").attach(model)
        few = prepared.take(run["examples"])
        fit(model, few, steps=run["steps"], batch_size=BATCH, lr=RATE, seed=run["seed"], progress=False)
        table.add(run | measured(ask(model, prepared, 0, sentences, TIMED)))
        methods.detach(model)


if __name__ == "__main__":
    typer.run(main)
