r"""Step time of coursekit's LoRA over peft's: same weights, same batch, interleaved in one process.

    python benchmarks/lora_step.py                 # both bundled models
    python benchmarks/lora_step.py --model smollm2 --targets paper --rounds 40

Machines are shared and clocks drift, so only ratios are reported: every round times one step of each, in an order
that alternates, and the median of the per-round ratios is printed with its spread. Both start from one checkpoint,
and the losses of both are compared at the end, so that speed is never bought with another result.
"""

from __future__ import annotations

import copy
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import nn

from coursekit.methods import LoRA
from coursekit.models import load_decoder, load_encoder

SHAPES = {"smollm2": (8, 48), "minilm": (32, 40)}  # rows, tokens: a batch of film sentences


def make_batch(name: str, model: nn.Module, seed: int = 0) -> dict[str, torch.Tensor]:
    r"""Random tokens of the model's usual batch shape; the time of a step does not depend on which."""
    rows, tokens = SHAPES[name]
    random = torch.Generator().manual_seed(seed)
    ids = torch.randint(1000, 20000, (rows, tokens), generator=random).to(model.device)
    labels = ids if name == "smollm2" else torch.randint(0, 2, (rows,), generator=random).to(model.device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def pair(name: str, method: LoRA) -> dict[str, nn.Module]:
    r"""The same adapter, once as ours and once as peft's, on two copies of the model."""
    import peft

    base = load_decoder(name)[0] if name == "smollm2" else load_encoder(name)[0]
    # The heads and factors come from one checkpoint, so both models are the same function.
    ours = method.attach(copy.deepcopy(base))
    with tempfile.TemporaryDirectory() as folder:
        method.save(ours, folder)
        theirs = peft.PeftModel.from_pretrained(base, folder, is_trainable=True)
    return {"coursekit": ours.train(), "peft": theirs.train()}


def stepper(model: nn.Module, batch: dict[str, torch.Tensor]):
    r"""A function that makes one training step and returns the loss and the seconds it took."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)

    def step() -> tuple[float, float]:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        start = time.perf_counter()
        torch.manual_seed(0)  # the base's own dropout, the same for both
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        value = loss.item()  # waits for the device
        return value, time.perf_counter() - start

    return step


def compare(name: str, method: LoRA, rounds: int) -> dict:
    r"""Median of the per-round ratios coursekit / peft, and how far the losses came apart."""
    models = pair(name, method)
    steps = {who: stepper(model, make_batch(name, model)) for who, model in models.items()}
    for step in steps.values():
        step(), step()  # warm up: allocator, thread pool, lazy optimizer state
    ratios, gap, seconds = [], 0.0, {who: [] for who in steps}
    for i in range(rounds):
        order = ("coursekit", "peft") if i % 2 == 0 else ("peft", "coursekit")
        result = {who: steps[who]() for who in order}
        gap = max(gap, abs(result["coursekit"][0] - result["peft"][0]))
        for who, (_, took) in result.items():
            seconds[who].append(took)
        ratios.append(result["coursekit"][1] / result["peft"][1])
    ratios.sort()
    return {
        "model": name,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "targets": method.targets or "paper",
        "r": method.r,
        "rounds": rounds,
        "ratio_median": round(statistics.median(ratios), 4),
        "ratio_of_medians": round(
            statistics.median(seconds["coursekit"]) / statistics.median(seconds["peft"]), 4
        ),
        "ratio_quartiles": [round(ratios[rounds // 4], 4), round(ratios[3 * rounds // 4], 4)],
        "largest_loss_gap": gap,
    }


def main(
    model: Annotated[list[str], typer.Option(help="smollm2 or minilm; both unless named")] = (
        "minilm",
        "smollm2",
    ),
    targets: Annotated[list[str], typer.Option(help="paper (query and value) or all-linear")] = (
        "paper",
        "all-linear",
    ),
    r: int = 8,
    rounds: int = 30,
    out: Annotated[Path | None, typer.Option(help="append one JSON line a comparison here")] = None,
) -> None:
    for name in model:
        for which in targets:
            method = LoRA(r=r, alpha=2 * r, targets=None if which == "paper" else "all-linear")
            row = json.dumps(compare(name, method, rounds))
            print(row, flush=True)
            if out is not None:
                with out.open("a") as file:
                    file.write(row + "\n")


if __name__ == "__main__":
    typer.run(main)
