r"""What LoRA's starts cost, and what sampling gains: the seconds and megabytes of PiSSA and OLoRA, the tokens a second.

    OMP_NUM_THREADS=1 python benchmarks/starts.py

starts: attaching LoRA (r = 8) to all 210 linear layers of SmolLM2 from each start, seconds by the clock and of this
process's CPU time; extra_mb: the most that was alive at once above what stays attached (LAPACK's own workspace is not
seen), and largest_matrix_mb, the largest weight. sampling: eight answers of 16 tokens to each of eight prompts, drawn
in one batch over a shared cache, against one answer after the other; ratio: tokens a second, the median of the rounds
and quartiles.
"""

import json
import time
from itertools import accumulate
from typing import Any

import torch
import typer
from stepping import Step, Took, interleaved
from torch import nn
from twins import load

from coursekit.live import Live
from coursekit.methods import LoRA
from coursekit.models import load_decoder
from coursekit.training.rollouts import sample


def started(init: str | None) -> dict[str, Any]:
    r"""One start, on a model of its own."""
    method = LoRA(r=8, alpha=16, targets="all-linear", init=init)
    model = load("smollm2")
    start, cpu = time.perf_counter(), time.process_time()
    method.attach(model)
    row = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}
    model = load("smollm2")
    largest = max(matrix.numel() for matrix in model.model.layers.parameters())
    with Live() as live:
        method.attach(model)
        kept = sum(event.change for event in live.events)
        most = max(accumulate(event.change for event in live.events))
    row |= {"extra_mb": (most - kept) / 1e6, "largest_matrix_mb": 4 * largest / 1e6}
    return {"start": init or "random"} | {name: round(value, 2) for name, value in row.items()}


def drawing(model: nn.Module, tokenizer: Any, prompts: list[str], group: int) -> Step:
    r"""A function that draws `group` answers to each of the prompts: all at once, or, of a list of one, in its turn."""

    def step() -> Took:
        torch.manual_seed(0)
        start, cpu = time.perf_counter(), time.process_time()
        tokens = 0
        for few in [prompts] if group > 1 else [[p] for p in prompts for _ in range(8)]:
            tokens += int(sample(model, tokenizer, few, group, 16).mask.sum())
        took = time.perf_counter() - start, time.process_time() - cpu
        return Took(float(tokens), *(seconds / tokens for seconds in took))

    return step


def main(rounds: int = 5) -> None:
    for init in (None, "pissa", "olora"):
        print(json.dumps(started(init)))
    model, tokenizer = load_decoder("smollm2")
    prompts = [f"A number and the next: {i}," for i in range(8)]
    together, alone = drawing(model, tokenizer, prompts, 8), drawing(model, tokenizer, prompts, 1)
    # Seconds a token of one at a time over those of all at once are tokens a second the other way round.
    print(json.dumps({"answers": 64} | interleaved(alone, together, rounds)))


if __name__ == "__main__":
    typer.run(main)
