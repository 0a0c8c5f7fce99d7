r"""Tokens a second: one batch for three adapters, beside the same batch for one of them.

    OMP_NUM_THREADS=1 python benchmarks/mixed.py
    OMP_NUM_THREADS=1 python benchmarks/mixed.py --tokens 1 --rounds 60      # a token a row, as in generation

SmolLM2 with three LoRAs (r = 8 on query and value) answers rows of random tokens, each adapter a third of them. Every
round times one pass of each, in an order that alternates. ratio: tokens a second for three over those for one, the
median of the rounds and quartiles; cpu_ratio: the same for a second of this process's CPU time. first_loss_gap: how far
the first row, the same adapter's in both, is apart.
"""

import json
import time

import torch
import typer
from stepping import Step, Took, interleaved
from torch import nn
from twins import load

from coursekit import methods


def passing(model: nn.Module, ids: torch.Tensor, names: list[str] | None = None) -> Step:
    r"""A function that makes one forward pass; names: each row's adapter, instead of the active one."""

    @torch.no_grad()
    def step() -> Took:
        start, cpu = time.perf_counter(), time.process_time()
        if names is None:
            logits = model(ids).logits
        else:
            with methods.mixed_batch(model, names):
                logits = model(ids).logits
        value = logits[0].mean().item()  # waits for the device
        return Took(value, time.perf_counter() - start, time.process_time() - cpu)

    return step


def main(rows: int = 9, tokens: int = 16, rounds: int = 20) -> None:
    model, names = load("smollm2"), ["one", "two", "three"]
    torch.manual_seed(0)
    for name in names:
        methods.LoRA(r=8, alpha=16).attach(model, name)
        for parameter in methods.trained(model).values():
            nn.init.normal_(parameter, std=0.02)  # B as well, which starts at 0
    ids = torch.randint(1000, 20000, (rows, tokens), device=model.device)
    one = passing(methods.activate(model, "one"), ids)
    three = passing(model, ids, [names[i % 3] for i in range(rows)])
    print(json.dumps({"rows": rows, "tokens": tokens} | interleaved(one, three, rounds)))


if __name__ == "__main__":
    typer.run(main)
