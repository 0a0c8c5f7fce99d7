r"""How many directions a task needs: the numbers of data/evidence/intrinsic.csv, for notebook
06b_intrinsic_dimension.

    python benchmarks/intrinsic.py                        # what the file holds already is not run again
    python benchmarks/intrinsic.py --d 30 --seeds 5 --out more.csv

MiniLM learns to tell good films from bad: with all its blocks (full), with none (head: the classifier alone), and
along d directions of them, with a factor for each block (SAID) and without (DID). The same steps, the same sentences
in the same order for all. One line a run: what trained, d, seed, accuracy on so many test sentences, loss of the last
ten steps, and the processor.
"""

from __future__ import annotations

import csv
import statistics
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch.optim import AdamW

from coursekit.comparison.machine import device_name
from coursekit.device import pick_device
from coursekit.evaluation import accuracy
from coursekit.files import replace_text
from coursekit.methods import IntrinsicSAID
from coursekit.models import load_encoder
from coursekit.tasks import load_task
from coursekit.training import fit

OUT = Path(__file__).parents[1] / "data" / "evidence" / "intrinsic.csv"
COLUMNS = ("trained", "d", "seed", "steps", "batch", "accuracy", "sentences", "loss", "processor")
SETTINGS = (
    "trained",
    "d",
    "seed",
    "steps",
    "batch",
    "sentences",
)  # of a run: what is there is not made again
#: Found with seed 0: the longest step in the weights, and the largest rates, that do not fall back.
STEP, RATE, FULL_RATE = 5.0, 5e-3, 1e-4


def prepare(trained: str, d: int, seed: int) -> tuple[Any, Any, list[dict[str, Any]]]:
    r"""A fresh model with what trains, its tokenizer, and the groups for the optimizer."""
    model, tokenizer = load_encoder("minilm", num_labels=2, seed=seed)
    torch.manual_seed(seed)
    if trained in ("SAID", "DID"):
        method = IntrinsicSAID(d=d, structure=trained == "SAID", parts="blocks", seed=seed)
        method.attach(model)
        return model, tokenizer, method.parameter_groups(model, STEP, RATE)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("classifier" in name or (trained == "full" and ".layer." in name))
    groups = [
        {"params": [p for n, p in model.named_parameters() if p.requires_grad and head == ("classifier" in n)],
         "lr": RATE if head else FULL_RATE}
        for head in (True, False)
    ]  # fmt: skip
    return model, tokenizer, [group for group in groups if group["params"]]


def run(trained: str, d: int, seed: int, steps: int, batch: int, sentences: int) -> dict[str, Any]:
    r"""One line of the file."""
    model, tokenizer, groups = prepare(trained, d, seed)
    data = load_task("film", "two").for_encoder(tokenizer)
    history = fit(
        model, data, steps=steps, batch_size=batch, seed=seed, progress=False,
        optimizer=lambda _: AdamW(groups, weight_decay=0.0, fused=True),
    )  # fmt: skip
    score = accuracy(model, data, limit=sentences, progress=False)
    values = (trained, d, seed, steps, batch, round(score.value, 4), sentences)
    values += (round(statistics.mean(history.loss[-10:]), 4), device_name(pick_device()))
    return dict(zip(COLUMNS, values, strict=True))


def resume(out: Path) -> set[tuple[str, ...]]:
    r"""The settings of the runs in `out`. A row that was torn is cut off; a file of something else is an error."""
    if not out.is_file():
        return set()
    text = out.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    reader = csv.DictReader(whole.splitlines())
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise typer.BadParameter(f"{out} is no table of this benchmark: give another file")
    if whole != text:
        replace_text(out, whole)
    return {tuple(row[c] for c in SETTINGS) for row in reader}


def main(
    d: Annotated[list[int], typer.Option(help="how many numbers train")] = (10, 100, 1000, 10_000),
    seeds: int = 3,
    steps: int = 200,
    batch: int = 8,
    sentences: int = 400,
    minutes: Annotated[float, typer.Option(help="start no run after so many; the next call goes on")] = 1e6,
    out: Path = OUT,
) -> None:
    start = time.perf_counter()
    done = resume(out)
    print(f"{device_name(pick_device())}, {torch.get_num_threads()} threads")
    for seed in range(seeds):
        wanted = [("full", 0), ("head", 0), *((kind, n) for n in d for kind in ("SAID", "DID"))]
        for trained, n in wanted:
            if tuple(map(str, (trained, n, seed, steps, batch, sentences))) in done:
                continue
            if time.perf_counter() - start > 60 * minutes:
                return
            row = run(trained, n, seed, steps, batch, sentences)
            print(row, flush=True)
            fresh = not out.is_file()
            with out.open("a", newline="") as file:  # after each run: it can be stopped and goes on
                writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
                if fresh:
                    writer.writeheader()
                writer.writerow(row)


if __name__ == "__main__":
    typer.run(main)
