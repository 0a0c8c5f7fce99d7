r"""What is learned and what is kept: the numbers of data/evidence/forgetting.csv, which notebook 01 reloads.

    python benchmarks/forgetting.py                       # what the file holds already is not run again
    python benchmarks/forgetting.py --seeds 5 --out more.csv

A small decoder is pre-trained on three domains and then learns a fourth, by each remedy against forgetting at several
strengths, in the same number of steps. First the learning rate of each kind of remedy is searched, at one of its
strengths: the best by the mean over the seeds on validation text of the new domain, with both its neighbours on the
ladder run. A rate far behind with the first seed is not run with the others. Then the other strengths run at that
learning rate. One line a run: the remedy, its strength, the learning rate, the seed (of the pre-training as well), the
perplexity of the new domain's validation text and of each domain's test text, seconds, and the processor. The line
`before` is the pre-trained model; its seconds are those of the pre-training. At the end comes the card, a .md beside
the file.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import date
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import torch
import typer
from table import Table

from coursekit.comparison import machine
from coursekit.comparison.evidence.forgetting import SEARCHED, chosen, searches
from coursekit.device import pick_device
from coursekit.files import replace_text
from coursekit.forgetting.domains import REMEDIES, Domains, Remedy, load_domains, pretrained

OUT = Path(__file__).parents[1] / "data" / "evidence" / "forgetting.csv"
SETTINGS = ("remedy", "strength", "lr", "seed", "pretraining", "steps", "batch", "blocks")
MEASURED = ("validation", "film", "product", "newspaper", "tweet", "seconds", "processor")
#: The learning rates that there are, and those that every search begins with.
LADDER = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
BEGIN = (1e-3, 3e-3, 1e-2)
#: Of perplexities with the first seed: a learning rate that is so much above the best is not run with other seeds.
FAR = 1.03
#: For the card.
COLUMNS = {
    "`remedy`, `strength`": "how it learned: `full` (strength: the learning rate), `multi-task` and `replay` (the "
    "share of old rows), `L2-SP` (α), `EWC` (λ), `LoRA` (r); `before` is the pre-trained model",
    "`lr`": "learning rate on the new domain; 0 before",
    "`pretraining`, `steps`, `batch`": "steps of pre-training, steps on the new domain, blocks in a step",
    "`blocks`": "blocks of each text that are measured, or all where it has fewer",
    "`validation`": "perplexity of the validation text of tweets",
    "`film`, `product`, `newspaper`, `tweet`": "perplexity of the test texts",
    "`seconds`": "of training, and for `before` of pre-training",
    "`processor`": "what it ran on",
}


def measured(domains: Domains, model: Any, blocks: int) -> dict[str, Any]:
    r"""What a line has besides the settings of the run, and the time that it took."""
    found = domains.perplexities(model, blocks) | {"validation": domains.validation(model, blocks)}
    return {name: f"{value:.3f}" for name, value in found.items()} | {
        "processor": machine.device_name(pick_device())
    }


def search(measure: Callable[[float, int], float], seeds: int, rates: tuple[float, ...] = BEGIN) -> float:
    r"""The learning rate with the least mean of `measure(rate, seed)`, once both its neighbours were measured."""
    while True:
        first = {rate: measure(rate, 0) for rate in rates}
        near = [rate for rate in rates if first[rate] <= FAR * min(first.values())]
        means = {rate: fmean(measure(rate, seed) for seed in range(seeds)) for rate in near}
        at = LADDER.index(min(means, key=means.__getitem__))
        wider = tuple(sorted({*rates, *LADDER[max(at - 1, 0) : at + 2]}))
        if wider == tuple(sorted(rates)):
            return LADDER[at]
        rates = wider


def main(
    seeds: Annotated[int, typer.Option(help="How many seeds.")] = 3,
    pretraining: Annotated[int, typer.Option(help="Steps of pre-training.")] = 600,
    steps: Annotated[int, typer.Option(help="Steps on the new domain.")] = 100,
    batch: Annotated[int, typer.Option(help="Blocks in a step.")] = 16,
    blocks: Annotated[int, typer.Option(help="Test blocks of each domain.")] = 200,
    out: Annotated[Path, typer.Option(help="The file to add lines to.")] = OUT,
) -> None:
    r"""Measure what the file does not hold yet, and write the card."""
    table, domains = Table(out, SETTINGS, MEASURED), load_domains()

    @cache
    def start(seed: int) -> tuple[Any, float]:
        clock = time.perf_counter()
        return pretrained(domains, pretraining, batch, seed)[0], time.perf_counter() - clock

    def run(remedy: Remedy | None, lr: float, seed: int) -> float:
        r"""The validation perplexity of a run, which is made where the file does not have it."""
        kind, strength = (remedy.kind, float(remedy.strength)) if remedy else ("before", 0.0)
        asked = dict(
            remedy=kind, strength=strength, lr=lr, seed=seed,
            pretraining=pretraining, steps=steps, batch=batch, blocks=blocks,
        )  # fmt: skip
        if not table.has(asked):
            model, seconds = start(seed)
            if remedy:
                clock = time.perf_counter()
                model = remedy.tune(model, domains, steps, batch, seed, lr=lr)[0]
                seconds = time.perf_counter() - clock
            table.add(asked | measured(domains, model, blocks) | {"seconds": f"{seconds:.1f}"})
            print(*(table.rows[-1][name] for name in (*SETTINGS[:4], *MEASURED[:-1])), flush=True)
        return float(table.find(asked)["validation"])

    for seed in range(seeds):
        run(None, 0.0, seed)
    plain = tuple(r.rate for r in REMEDIES if r.kind == "full")
    search(lambda rate, seed: run(Remedy("full", rate), rate, seed), seeds, plain)
    rates = {
        kind: search(lambda rate, seed, way=(kind, strength): run(Remedy(*way), rate, seed), seeds)
        for kind, strength in SEARCHED.items()
    }
    for remedy in REMEDIES:
        for seed in range(seeds):
            run(remedy, rates.get(remedy.kind, remedy.rate), seed)
    replace_text(out.with_suffix(".md"), card(table.rows))


def card(rows: list[dict[str, str]]) -> str:
    r"""Markdown: what the file has, how and on what it was made, and the searches of the learning rates."""
    first, best = rows[0], chosen(rows)
    machines, seeds = (", ".join(sorted({row[name] for row in rows})) for name in ("processor", "seed"))
    minutes = sum(float(row["seconds"]) for row in rows) / 60
    lines = [
        "# `forgetting.csv`: what is learned and what is kept",
        "",
        "Written by the command below; not to be edited.",
        "",
        "- **command**: `OMP_NUM_THREADS=1 python benchmarks/forgetting.py`",
        f"- **task**: {first['steps']} steps of {first['batch']} blocks of 64 tokens on tweets",
        "- **model**: a small decoder (two blocks of width 192, 512 tokens of vocabulary), pre-trained from nothing on "
        f"film reviews, product reviews and newspaper editorials in {first['pretraining']} steps",
        f"- **machine**: {machines}, {torch.get_num_threads()} thread, with other work beside it",
        f"- **versions**: {machine.versions_said()}",
        f"- **seeds**: {seeds}, of the pre-training and of the order of what follows",
        f"- **runs**: {len(rows)}, {minutes:.0f} minutes of training by the clock",
        f"- **written**: {date.today().isoformat()}",
        "",
        "| column | meaning |",
        "|---|---|",
        *(f"| {column} | {meaning} |" for column, meaning in COLUMNS.items()),
        "",
        "Every remedy has the same number of steps and rows. Old rows that replay and multi-task show again are from "
        "the pre-training's own text. EWC's Fisher information is from 128 blocks of it.",
        "",
        "The learning rate of each kind of remedy was searched at one of its strengths, and its others have the same: "
        "the best mean validation perplexity over the seeds, with both neighbours on the ladder "
        f"{', '.join(f'{rate:g}' for rate in LADDER)} run. A learning rate that is more than {FAR - 1:.0%} behind with "
        "the first seed was not run with the others, `full` aside, whose strengths they are.",
        "",
        "| remedy | searched at | learning rate | validation, mean | seeds | |",
        "|---|---|---|---|---|---|",
    ]
    for kind, found in searches(rows).items():
        at = f"{SEARCHED[kind]:g}" if kind in SEARCHED else ""
        for rate, (mean, n) in sorted(found.items()):
            mark = "chosen" if rate == best[kind] else ""
            lines.append(f"| {kind} | {at} | {rate:g} | {mean:.2f} | {n} | {mark} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    typer.run(main)
