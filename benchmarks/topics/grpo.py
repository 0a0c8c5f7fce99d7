r"""What a reward changes: lesson 11's three trainings on small sums, as its cells run them, on held-out sums.

`GRPO`: eight steps of eight sums with eight drawn answers each. `shown the answers`: cross-entropy of the right answers
to the same sums; `for as long`, to the same 64 sums again until it took GRPO's time, 18 steps. `with r = 1`: LoRA of
rank 1. `at 0.0006`, `at 0.006`: other learning rates. `careless rule`: six steps of GRPO with the rule that pays for
everything but a wrong number. `as released`: nothing trained. A seed draws LoRA's start, the answers, and which 64 of
146 sums are learned from; the 64 held-out sums are the same for all. Right is a sum whose *likeliest* answer has the
right first number. For each held-out sum, of eight drawn answers: `right`, `first`: share with the right line, and with
the right first number; `paid`: what the careless rule pays; `eight`: 1 where one of the eight has the right first
number; `kl`: mean of ln π/π₀ of the whole answer, in nats, which estimates KL(π‖π₀). `likeliest_right`: 1 where the
likeliest answer is the right line. `rewards`: what the rule paid at each step of the training.
"""

from __future__ import annotations

import ast
import random
import time
from functools import partial
from typing import Any

import torch
from topics._page import Page

from coursekit.evaluation import generate
from coursekit.experiments import machine
from coursekit.experiments.recipe import Arm, Grid
from coursekit.experiments.table import Cell, Run
from coursekit.methods import trainable
from coursekit.training.dpo import logps_of, reference_of
from coursekit.training.grpo import rewards_of
from coursekit.training.rollouts import sample, shared_logits

SETTING = None
#: Sums to learn from, sums to measure on; answers drawn to each of these, and sums at a time.
POOL, HELD, DRAWN, AT_ONCE = 146, 64, 8, 16

GRID = Grid(
    topic="grpo",
    arms=(
        Arm("as released", "", (0.0,), 0),
        Arm("GRPO", "right", (2e-3,)),
        Arm("shown the answers", "answers", (2e-3,)),
        Arm("careless rule", "careless", (2e-3,), 6),
        # GRPO's eight steps take 2.2 times as long as eight of these.
        Arm("shown the answers for as long", "answers", (2e-3,), 18),
        Arm("GRPO with r = 1", "right", (2e-3,)),
        *(Arm(f"GRPO at {rate:g}", "right", (rate,)) for rate in (6e-4, 6e-3)),
    ),
    reference="GRPO",
    steps=8,
)


def carry(bench: None, learns_from: str, cell: Cell) -> list[Run]:
    r"""One run. learns_from: the lesson's name of the rule; "answers", which are shown; or nothing."""
    start, page = time.perf_counter(), Page("11_reinforcement")
    page.run("11-004", "11-005", "11-007", "11-011", "11-014", "11-017", "11-020", "11-022")
    page.run("11-024", "11-026", only=ast.FunctionDef)
    learn, held = page["sums"](POOL, HELD)
    random.Random(cell.seed).shuffle(learn)
    total = {one.prompt: str(one.total) for one in learn + held}
    # The 64 sums of eight steps, again for those who take more.
    page.update(seed=cell.seed, learn=learn[: page["prompts"] * GRID.steps] * 3, total=total)
    page["fresh_lora"] = partial(page["fresh_lora"], r=1 if cell.arm.endswith("r = 1") else 8, lr=cell.rate or 2e-3)
    model, rewards = page["model"], ()
    if learns_from == "answers":
        page["show_answers"](cell.steps)
    elif learns_from:
        rewards, *_ = page["reinforce"](page[learns_from], cell.steps)
    else:
        page["fresh_lora"]()  # which changes nothing yet
    found = measured(page, [one.prompt for one in held])
    correct = tuple(bool(x) for x in found.pop("likeliest_first"))
    more = {name: " ".join(f"{x:.4g}" for x in values) for name, values in found.items()}
    more |= {"rewards": " ".join(f"{x:.4g}" for x in rewards), "processor": machine.device_name(model.device)}
    seconds = time.perf_counter() - start
    return [Run(cell, (), correct, trainable(model) if cell.steps else 0, seconds, more=more)]


def measured(page: Page, asked: list[str]) -> dict[str, list[float]]:
    r"""Each measure -> one number for each sum."""
    model, tokenizer, longest = (page[name] for name in ("model", "tokenizer", "longest"))
    rules = {"right": page["right"], "first": page["first_number"], "paid": page["careless"]}
    found: dict[str, list[float]] = {name: [] for name in (*rules, "kl")}
    torch.manual_seed(page["seed"] + 1)
    for i in range(0, len(asked), AT_ONCE):
        few = asked[i : i + AT_ONCE]
        answers = sample(model, tokenizer, few, DRAWN, longest)
        for name, rule in rules.items():
            found[name] += rewards_of(rule, few, answers).mean(1).tolist()
        with torch.no_grad(), reference_of(model) as network:
            reference = logps_of(shared_logits(network, answers), answers.ids)  # (answers, seq)
        apart = ((answers.logps - reference) * answers.mask).sum(1)
        found["kl"] += apart.reshape(-1, DRAWN).mean(1).tolist()
    found["eight"] = [float(share > 0) for share in found["first"]]
    settings: dict[str, Any] = {"max_new_tokens": longest, "batch_size": 64, "add_special_tokens": False}
    likeliest = generate(model, tokenizer, asked, progress=False, **settings)
    for name, rule in (("likeliest_right", page["right"]), ("likeliest_first", page["first_number"])):
        found[name] = [rule(prompt, answer) for prompt, answer in zip(asked, likeliest, strict=True)]
    return found
