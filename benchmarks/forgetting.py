r"""What is learned and what is kept: the numbers of data/evidence/forgetting.csv, which notebook 01 reloads.

    python benchmarks/forgetting.py                       # what the file holds already is not run again
    python benchmarks/forgetting.py --seeds 5 --out more.csv

A small decoder is pre-trained on three domains and then learns a fourth, by each remedy against forgetting at several
strengths, in the same number of steps. One line a run: the remedy, its strength, the learning rate, the seed
(of the pre-training as well), the perplexity of each domain's test text, and the processor. The line `before` is the
pre-trained model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from table import Table
from tqdm.auto import tqdm

from coursekit.comparison.machine import device_name
from coursekit.device import pick_device
from coursekit.forgetting.domains import REMEDIES, Domains, load_domains, pretrained

OUT = Path(__file__).parents[1] / "data" / "evidence" / "forgetting.csv"
SETTINGS = ("remedy", "strength", "lr", "seed", "pretraining", "steps", "batch", "blocks")
MEASURED = ("film", "product", "newspaper", "tweet", "processor")


def measured(domains: Domains, model: Any, blocks: int) -> dict[str, Any]:
    r"""What a line has besides the settings of the run."""
    found = {name: f"{value:.3f}" for name, value in domains.perplexities(model, blocks).items()}
    return found | {"processor": device_name(pick_device())}


def main(
    seeds: Annotated[int, typer.Option(help="How many seeds.")] = 3,
    pretraining: Annotated[int, typer.Option(help="Steps of pre-training.")] = 600,
    steps: Annotated[int, typer.Option(help="Steps on the new domain.")] = 100,
    batch: Annotated[int, typer.Option(help="Blocks in a step.")] = 16,
    blocks: Annotated[int, typer.Option(help="Test blocks of each domain.")] = 200,
    out: Annotated[Path, typer.Option(help="The file to add lines to.")] = OUT,
) -> None:
    r"""Measure what the file does not hold yet."""
    table, domains = Table(out, SETTINGS, MEASURED), load_domains()
    for seed in range(seeds):
        common = dict(seed=seed, pretraining=pretraining, steps=steps, batch=batch, blocks=blocks)
        runs: list[tuple[Any, dict[str, Any]]] = [
            (None, dict(remedy="before", strength=0.0, lr=0.0) | common)
        ]
        runs += [(r, dict(remedy=r.kind, strength=float(r.strength), lr=r.rate) | common) for r in REMEDIES]
        todo = [run for run in runs if not table.has(run[1])]
        if not todo:
            continue
        model, _ = pretrained(domains, pretraining, batch, seed)
        for remedy, run in tqdm(todo, desc=f"seed {seed}"):
            tuned = model if remedy is None else remedy.tune(model, domains, steps, batch, seed)[0]
            table.add(run | measured(domains, tuned, blocks))


if __name__ == "__main__":
    typer.run(main)
