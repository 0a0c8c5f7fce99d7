r"""What SmolLM2 still knows of other text when a method has taught it to judge film sentences.

`product`, `newspaper`, `tweet`: nats a token on the first hundred test sentences of each other source, with the method
on; `before_product` and so on: the same before a step of training; `retention`: their mean change. Each method trains
as in `decoder`, at the rate tuned there; full fine-tuning, which `decoder` does not have, searches for its own.
"""

from collections.abc import Mapping
from dataclasses import replace
from statistics import fmean

from topics.decoder import SETTING
from torch import nn

from coursekit.comparison.candidates import CANDIDATES
from coursekit.evaluation.perplexity_of_texts import nats_by_text
from coursekit.experiments.bench import Bench
from coursekit.experiments.recipe import Arm, Grid, Recipe
from coursekit.experiments.run import train
from coursekit.experiments.table import Cell, Run
from coursekit.tasks.task import load_text
from coursekit.training.history import History

__all__ = ["GRID", "SETTING"]

OTHERS, TEXTS = ("product", "newspaper", "tweet"), 100
#: As data/evidence/decoder.csv found them.
RATES = {"lora": 3e-3, "ia3": 1e-2, "pfeiffer": 3e-4, "llama-adapter": 1e-2, "prompt": 1e-1}

GRID = Grid(
    topic="retention_decoder",
    arms=(
        Arm("full", Recipe(CANDIDATES["full"]), (1e-5, 3e-5, 1e-4)),
        *(Arm(name, Recipe(CANDIDATES[name]), (rate,)) for name, rate in RATES.items()),
    ),
    reference="full",
    steps=100,
    points=4,
)


def carry(bench: Bench, recipe: Recipe, cell: Cell) -> list[Run]:
    r"""Train as in `decoder`, and read the other sources before and after."""
    tokenizer = bench.prepared.tokenizer
    read: dict[str, float] = {}

    def measure(model: nn.Module, history: History | None) -> Mapping[str, object]:
        when, found = "" if history else "before_", {}
        for domain in OTHERS:
            # A sentence of one token has nothing to predict.
            texts = [text for text in load_text(domain)["test"]["text"] if len(tokenizer(text)["input_ids"]) > 1]
            nats, tokens = nats_by_text(model, tokenizer, texts[:TEXTS]).sum(0).tolist()
            found[when + domain] = read[when + domain] = nats / tokens
        return {name: f"{loss:.4f}" for name, loss in found.items()}

    (run,) = train(bench, recipe, cell, GRID.every(cell.steps), measure=measure)
    if run.why:
        return [run]
    return [replace(run, retention=fmean(read[domain] - read[f"before_{domain}"] for domain in OTHERS))]
