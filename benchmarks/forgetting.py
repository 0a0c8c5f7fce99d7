r"""What is learned and what is kept: the numbers of data/forgetting.csv, which notebook 01 reloads.

    python benchmarks/forgetting.py                       # what the file holds already is not run again
    python benchmarks/forgetting.py --seeds 5 --out more.csv

A small decoder is pre-trained on three domains and then learns a fourth, by each remedy against forgetting at several
strengths, in the same number of steps. One line a run: the remedy, its strength, the seed (of the pre-training as
well), the perplexity of each domain's test text, and the processor. The line `before` is the pre-trained model.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Annotated, Any

import typer
from tqdm.auto import tqdm

from coursekit.comparison.machine import device_name
from coursekit.device import pick_device
from coursekit.files import replace_text
from coursekit.forgetting.domains import REMEDIES, Domains, load_domains, pretrained

OUT = Path(__file__).parents[1] / "data" / "forgetting.csv"
SETTINGS = (
    "remedy",
    "strength",
    "seed",
    "pretraining",
    "steps",
    "batch",
    "blocks",
)  # what is there is not made again
COLUMNS = (*SETTINGS, "film", "product", "newspaper", "tweet", "processor")


def read(out: Path) -> list[dict[str, str]]:
    r"""The lines that are there."""
    if not out.exists():
        return []
    with out.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write(out: Path, rows: list[dict[str, Any]]) -> None:
    r"""All lines anew, whole or not at all."""
    lines = [",".join(COLUMNS), *(",".join(str(row[column]) for column in COLUMNS) for row in rows)]
    replace_text(out, "\n".join(lines) + "\n")


def line(domains: Domains, model: Any, blocks: int, **settings: Any) -> dict[str, Any]:
    r"""One line of the file."""
    found = {name: f"{value:.3f}" for name, value in domains.perplexities(model, blocks).items()}
    return settings | {"blocks": blocks} | found | {"processor": device_name(pick_device())}


def main(
    seeds: Annotated[int, typer.Option(help="How many seeds.")] = 3,
    pretraining: Annotated[int, typer.Option(help="Steps of pre-training.")] = 600,
    steps: Annotated[int, typer.Option(help="Steps on the new domain.")] = 100,
    batch: Annotated[int, typer.Option(help="Blocks in a step.")] = 16,
    blocks: Annotated[int, typer.Option(help="Test blocks of each domain.")] = 200,
    out: Annotated[Path, typer.Option(help="The file to add lines to.")] = OUT,
) -> None:
    r"""Measure what the file does not hold yet."""
    rows: list[dict[str, Any]] = read(out)
    domains = load_domains()
    for seed in range(seeds):
        common = dict(seed=seed, pretraining=pretraining, steps=steps, batch=batch)
        there = {tuple(str(row[key]) for key in SETTINGS) for row in rows}
        names = [("before", 0.0, None), *((r.kind, r.strength, r) for r in REMEDIES)]

        def missing(kind: str, strength: float, common: dict = common, there: set = there) -> bool:
            settings = dict(remedy=kind, strength=f"{strength:g}", blocks=blocks) | common
            return tuple(str(settings[key]) for key in SETTINGS) not in there

        todo = [name for name in names if missing(*name[:2])]
        if not todo:
            continue
        model, _ = pretrained(domains, pretraining, batch, seed)
        for kind, strength, remedy in tqdm(todo, desc=f"seed {seed}"):
            tuned = model if remedy is None else remedy.tune(model, domains, steps, batch, seed)[0]
            rows.append(line(domains, tuned, blocks, remedy=kind, strength=f"{strength:g}", **common))
            write(out, rows)


if __name__ == "__main__":
    typer.run(main)
