r"""Examples in the prompt against examples in training: data/evidence/in_context.csv, which notebook 00 reloads.

    python benchmarks/in_context.py                       # what the file holds already is not run again
    python benchmarks/in_context.py --seeds 5 --out more.csv

SmolLM2 grades film reviews in five grades. `shots`: so many fixed examples stand in the prompt, nothing is trained.
`LoRA`: it is trained on the first so many examples. `LoRA-same`: on the very ones of the prompt; its learning rate is
searched (`LoRA-same-search`) by the mean accuracy over the seeds on validation sentences, until the best of those tried
has a neighbour on both sides. One line a run: how many of the sentences were right, tokens in a prompt and seconds for
a query that shares nothing with others, and the processor. A call that made runs also writes the card beside the file.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from table import Table

from coursekit import methods
from coursekit.comparison.evidence.in_context import FIRST, SAME, SEARCH, SHOTS, card, searched
from coursekit.comparison.machine import device_name, versions_said
from coursekit.comparison.rates import best, beyond
from coursekit.device import pick_device
from coursekit.evaluation.in_context import Asked, ask, prompt_examples
from coursekit.files import replace_text
from coursekit.methods import LoRA
from coursekit.models import load_decoder
from coursekit.tasks import PreparedTask, load_task
from coursekit.training import fit, seed_everything

OUT = Path(__file__).parents[1] / "data" / "evidence" / "in_context.csv"
SETTINGS = ("way", "examples", "lr", "seed", "steps", "batch", "sentences")
MEASURED = ("correct", "tokens", "seconds", "processor")
IN_PROMPT = (0, 1, 2, 5, 10)
#: Examples -> steps of 8: at least one time through, and enough to learn anything from few.
STEPS = {10: 20, 100: 40, 1000: 125}
BATCH, RATE, TIMED = 8, 1e-3, 16
#: The prompt's own examples, and the learning rates that their search begins with.
OWN, RATES = 10, (3e-4, 1e-3, 3e-3)


def measured(found: Asked) -> dict[str, Any]:
    r"""What a line has besides the settings of the run."""
    times = {"tokens": f"{found.tokens:.1f}", "seconds": f"{found.seconds:.4f}"}
    return {"correct": int(found.score.correct.sum())} | times | {"processor": device_name(pick_device())}


def wanted(table: Table, seeds: int, sentences: int) -> Iterator[dict[str, Any]]:
    r"""All runs in their order. Which rates are searched, and which is the best, is asked of the table on the way."""

    def trained(way: str, n: int, rate: float, seed: int) -> dict[str, Any]:
        return dict(way=way, examples=n, lr=rate, seed=seed, steps=STEPS[n], batch=BATCH, sentences=sentences)

    def tried() -> dict[float, float | None]:
        own = searched([row for row in table.rows if row["sentences"] == str(sentences)])
        return {rate: own[rate] for rate in rates}

    rates = list(RATES)
    for k in IN_PROMPT:
        yield dict(way=SHOTS, examples=k, lr=0.0, seed=0, steps=0, batch=0, sentences=sentences)
    for seed in range(seeds):
        yield from (trained(FIRST, n, RATE, seed) for n in STEPS)
    for rate in rates:
        yield from (trained(SEARCH, OWN, rate, seed) for seed in range(seeds))
        if rate == rates[-1] and (further := beyond(tried())):
            rates.append(further)
    yield from (trained(SAME, OWN, best(tried()), seed) for seed in range(seeds))


def main(
    seeds: Annotated[int, typer.Option(help="How many seeds.")] = 3,
    sentences: Annotated[
        int, typer.Option(help="Test sentences, and validation sentences of a search.")
    ] = 300,
    out: Annotated[Path, typer.Option(help="The file to add lines to.")] = OUT,
) -> None:
    r"""Measure what the file does not hold yet."""
    start, table = time.perf_counter(), Table(out, SETTINGS, MEASURED)
    before = len(table.rows)
    model, tokenizer = load_decoder("smollm2")
    prepared = load_task("film", "five").for_decoder(tokenizer, max_length=64)
    for run in wanted(table, seeds, sentences):
        if table.has(run):
            continue
        table.add(run | measured(made(run, model, prepared)))
        print(table.rows[-1], flush=True)
    if len(table.rows) > before:
        text = card(table.rows, about(table, len(table.rows) - before, time.perf_counter() - start))
        replace_text(out.with_suffix(".md"), text)


def made(run: dict[str, Any], model: torch.nn.Module, prepared: PreparedTask) -> Asked:
    r"""Train as `run` says, ask, and leave the model as it was."""
    n, seed = run["examples"], run["seed"]
    if run["way"] == SHOTS:
        return ask(model, prepared, n, run["sentences"], TIMED)
    few = prepared.take(n) if run["way"] == FIRST else prompt_examples(prepared, n)
    seed_everything(seed)  # of LoRA's start
    LoRA(r=8, targets="all-linear").attach(model)
    fit(model, few, steps=run["steps"], batch_size=BATCH, lr=run["lr"], seed=seed, progress=False)
    split = "validation" if run["way"] == SEARCH else "test"
    found = ask(model, prepared, 0, run["sentences"], TIMED, split)
    methods.detach(model)
    return found


def about(table: Table, runs: int, seconds: float) -> dict[str, str]:
    r"""How the lines were made, for the card."""
    machines = ", ".join(sorted({row["processor"] for row in table.rows}))
    return {
        "command": "`OMP_NUM_THREADS=1 python benchmarks/in_context.py`",
        "machine": f"{machines}; the last {runs} runs with {torch.get_num_threads()} threads",
        "versions": versions_said(),
        "runs": f"{len(table.rows)}; the last {runs} took {seconds / 60:.0f} minutes by the clock",
        "written": date.today().isoformat(),
    }


if __name__ == "__main__":
    typer.run(main)
