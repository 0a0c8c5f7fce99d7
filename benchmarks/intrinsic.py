r"""How many directions a task needs: the numbers of data/evidence/intrinsic.csv, for notebook
06b_intrinsic_dimension.

    python benchmarks/intrinsic.py                        # what the file holds already is not run again
    python benchmarks/intrinsic.py --d 30 --seeds 5 --out more.csv
    python benchmarks/intrinsic.py --card                 # only the card beside the file, from what is there

MiniLM learns to tell good films from bad: with all its blocks (full), with none (head: the classifier alone), and
along d directions of them, with a factor for each block (SAID) and without (DID). The same steps, the same sentences
in the same order for all. One line a run: what trained, d, seed, accuracy on so many test sentences, loss of the last
ten steps, the processor, and seconds by the clock (empty for the first runs, which were not timed).
"""

from __future__ import annotations

import csv
import statistics
import time
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch.optim import AdamW

from coursekit.comparison.machine import device_name, versions_said
from coursekit.device import pick_device
from coursekit.evaluation import accuracy, best_constant
from coursekit.files import replace_text
from coursekit.methods import IntrinsicSAID
from coursekit.models import load_encoder
from coursekit.tasks import load_task
from coursekit.training import fit

OUT = Path(__file__).parents[1] / "data" / "evidence" / "intrinsic.csv"
UNTIMED = ("trained", "d", "seed", "steps", "batch", "accuracy", "sentences", "loss", "processor")
COLUMNS = (*UNTIMED, "seconds")
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
    start = time.perf_counter()
    model, tokenizer, groups = prepare(trained, d, seed)
    data = load_task("film", "two").for_encoder(tokenizer)
    history = fit(
        model, data, steps=steps, batch_size=batch, seed=seed, progress=False,
        optimizer=lambda _: AdamW(groups, weight_decay=0.0, fused=True),
    )  # fmt: skip
    score = accuracy(model, data, limit=sentences, progress=False)
    values = (trained, d, seed, steps, batch, round(score.value, 4), sentences)
    values += (round(statistics.mean(history.loss[-10:]), 4), device_name(pick_device()))
    values += (round(time.perf_counter() - start),)
    return dict(zip(COLUMNS, values, strict=True))


def resume(out: Path) -> set[tuple[str, ...]]:
    r"""The settings of the runs in `out`. A row that was torn is cut off, and a file from before the runs were timed
    gets the column; a file of something else is an error.
    """
    return {tuple(row[c] for c in SETTINGS) for row in rows(out)}


def rows(out: Path) -> list[dict[str, str]]:
    r"""The whole rows of `out`, which is put in order as `resume` says."""
    if not out.is_file():
        return []
    text = out.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    reader = csv.DictReader(whole.splitlines())
    if tuple(reader.fieldnames or ()) not in (UNTIMED, COLUMNS):
        raise typer.BadParameter(f"{out} is no table of this benchmark: give another file")
    found = [{column: row.get(column) or "" for column in COLUMNS} for row in reader]
    lines = [",".join(COLUMNS), *(",".join(row.values()) for row in found)]
    if (ordered := "\n".join(lines) + "\n") != text:
        replace_text(out, ordered)
    return found


def card(name: str, runs: Sequence[Mapping[str, str]], constant: float) -> str:
    r"""Markdown beside the file `name`: how it was made, on what, and how many runs each mean has.

    constant: accuracy of the best constant answer on those very test sentences.
    """

    def every(column: str) -> str:
        return ", ".join(dict.fromkeys(run[column] for run in runs))

    points: dict[tuple[str, int], list[float]] = {}
    for run in runs:
        points.setdefault((run["trained"], int(run["d"])), []).append(float(run["accuracy"]))
    timed = [float(run["seconds"]) for run in runs if run["seconds"]]
    counts = {len(values) for values in points.values()}
    lines = [
        f"# `{name}`: how many random directions film reviews need",
        "",
        "Written by the command below; not to be edited.",
        "",
        "- **command**: `python benchmarks/intrinsic.py`",
        f"- **task**: film/two, {every('sentences')} test sentences, {every('steps')} steps of {every('batch')}",
        "- **model**: minilm",
        f"- **machine**: {every('processor')}",
        f"- **versions** when this card was written: {versions_said()}",
        f"- **seeds**: {every('seed')}; {' to '.join(map(str, sorted({min(counts), max(counts)})))} runs a point",
        f"- **step length**: {STEP:g}; **learning rates**: {FULL_RATE:g} for the weights of the blocks, {RATE:g} for "
        "the head and the factors; found with seed 0 and the same for all d",
        f"- **runs**: {len(runs)}, of which {len(timed)} were timed: {sum(timed) / 60:.0f} minutes by the clock",
        f"- **written**: {date.today().isoformat()}",
        f"- **constant answer** on the same test sentences: {constant:.3f}",
        "",
        "`full` trains all weights of the blocks and the head, `head` the head alone at the same learning rate, `SAID` "
        "and `DID` move the blocks along d directions, with a factor for each block and without.",
        "",
        "| trained | d | runs | mean accuracy | lowest | highest |",
        "|---|---|---|---|---|---|",
        *(
            f"| {trained} | {d or ''} | {len(values)} | {statistics.fmean(values):.3f} | {min(values):.3f} "
            f"| {max(values):.3f} |"
            for (trained, d), values in sorted(
                points.items(), key=lambda item: (item[0][0].lower(), item[0][1])
            )
        ),
    ]
    return "\n".join(lines) + "\n"


def write_card(out: Path) -> None:
    r"""The card beside `out`, from the runs that are there."""
    if not (runs := rows(out)):
        return
    data = load_task("film", "two").for_encoder(load_encoder("minilm", num_labels=2)[1])
    constant = best_constant(data, limit=max(int(run["sentences"]) for run in runs))
    replace_text(out.with_suffix(".md"), card(out.name, runs, constant))


def main(
    d: Annotated[list[int], typer.Option(help="how many numbers train")] = (10, 100, 1000, 10_000),
    seeds: int = 3,
    steps: int = 200,
    batch: int = 8,
    sentences: int = 400,
    minutes: Annotated[float, typer.Option(help="start no run after so many; the next call goes on")] = 1e6,
    out: Path = OUT,
    only_card: Annotated[bool, typer.Option("--card", help="only write the card")] = False,
) -> None:
    if not only_card:
        measure(d, seeds, steps, batch, sentences, minutes, out)
    write_card(out)


def measure(
    d: Sequence[int], seeds: int, steps: int, batch: int, sentences: int, minutes: float, out: Path
) -> None:
    r"""Make the runs that `out` lacks, and add each as it ends."""
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
