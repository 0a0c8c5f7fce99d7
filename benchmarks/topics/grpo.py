r"""What a reward changes: lesson 11's three trainings on small sums, as its cells run them, on held-out sums.

`GRPO`: eight steps of eight sums with eight drawn answers each. `shown the answers`: cross-entropy of the right answers
to the same sums; `for as long`, to the same 64 sums again until it took GRPO's time, 18 steps. `with r = 1`: LoRA of
rank 1. `of all weights`: without LoRA. `at 0.0006` and the like: other learning rates. `careless rule`: six steps of
GRPO with the rule that pays for everything but a wrong number; `mended rule`: with the course's answer to the open
exercise. `as released`: nothing trained. A seed draws LoRA's
start, the answers, and which 64 of 146 sums are learned from; the 64 held-out sums are the same for all. Right is a sum
whose *likeliest* answer has the right first number. For each held-out sum, of eight drawn answers: `right`, `first`:
share with the right line, and with the right first number; `paid`: what the careless rule pays; `eight`: 1 where one of
the eight has the right first number; `kl`: mean of ln π/π₀ of the whole answer, in nats, which estimates KL(π‖π₀).
`likeliest_right`: 1 where the likeliest answer is the right line. `rewards`: what the rule paid at each step of the
training.
"""

import ast
import random
import time
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from topics._page import Page
from torch import nn

from coursekit.checks import exercises
from coursekit.evaluation import generate
from coursekit.experiments import machine
from coursekit.experiments.recipe import Arm, Grid
from coursekit.experiments.table import Cell, Run
from coursekit.methods import FullFineTuning, trainable
from coursekit.models import load_decoder
from coursekit.training.dpo import logps_of, reference_of
from coursekit.training.grpo import rewards_of
from coursekit.training.rollouts import sample, shared_logits

SETTING = None
#: Sums to learn from, sums to measure on; answers drawn to each of these, and sums at a time.
POOL, HELD, DRAWN, AT_ONCE = 146, 64, 8, 16

RIVAL = "shown the answers for as long"
#: Seeds of the arms that the lesson's question is about; the others have three.
TEN = tuple(range(10))


class Way(NamedTuple):
    r"""What a training learns from, by the lesson's name: a rule, "answers", which are shown, or nothing; and LoRA's
    rank, None for all weights.
    """

    learns_from: str
    r: int | None = 8


GRID = Grid(
    topic="grpo",
    arms=(
        Arm("as released", Way(""), (0.0,), 0, seeds=TEN),
        Arm("GRPO", Way("right"), (2e-3,), seeds=TEN),
        Arm("shown the answers", Way("answers"), (2e-3,), seeds=TEN),
        Arm("careless rule", Way("careless"), (2e-3,), 6),
        # GRPO's eight steps took 2.2 times as long as eight of these (AMD EPYC; 2.7 on a Xeon with AMX).
        Arm(RIVAL, Way("answers"), (2e-3,), 18, seeds=TEN),
        Arm("GRPO with r = 1", Way("right", 1), (2e-3,)),
        *(Arm(f"GRPO at {rate:g}", Way("right"), (rate,)) for rate in (6e-4, 6e-3)),
        *(Arm(f"{RIVAL} at {rate:g}", Way("answers"), (rate,), 18) for rate in (6e-4, 6e-3)),
        Arm("mended rule", Way("mine"), (2e-3,), 6),
        *(Arm(f"GRPO of all weights at {rate:g}", Way("right", None), (rate,)) for rate in (6e-6, 2e-5, 6e-5, 2e-4)),
    ),
    reference="GRPO",
    steps=8,
)


def carry(bench: None, way: Way, cell: Cell) -> list[Run]:
    r"""One run."""
    start, page = time.perf_counter(), Page("11_reinforcement")
    page.run("11-004", "11-005", "11-007", "11-011", "11-014", "11-020", "11-022")
    page.run("11-024", "11-026", "11-041", only=ast.FunctionDef)
    page["paying"] = exercises()["reinforcement-rule"].reference
    learn, held = page["sums"](POOL, HELD)
    random.Random(cell.seed).shuffle(learn)
    total = {one.prompt: str(one.total) for one in learn + held}
    # The 64 sums of eight steps, again for those who take more.
    page.update(seed=cell.seed, learn=learn[: page["prompts"] * GRID.steps] * 3, total=total)
    model, rewards = page["model"], ()
    released = None if way.r else load_decoder("smollm2")[0]
    fresh = partial(page["fresh_lora"], r=way.r) if way.r else partial(all_weights, model)
    page["fresh_lora"] = partial(fresh, lr=cell.rate or 2e-3)
    if way.learns_from == "answers":
        page["show_answers"](cell.steps)
    elif way.learns_from:
        rewards, *_ = page["reinforce"](page[way.learns_from], cell.steps)
    else:
        page["fresh_lora"]()  # which changes nothing yet
    found = measured(page, [one.prompt for one in held], released)
    correct = tuple(bool(x) for x in found.pop("likeliest_first"))
    more = {name: " ".join(f"{x:.4g}" for x in values) for name, values in found.items()}
    more |= {"rewards": " ".join(f"{x:.4g}" for x in rewards), "processor": machine.device_name(model.device)}
    seconds = time.perf_counter() - start
    return [Run(cell, (), correct, trainable(model) if cell.steps else 0, seconds, more=more)]


def all_weights(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    r"""In the place of the lesson's `fresh_lora`."""
    FullFineTuning().attach(model)
    return torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)


def measured(page: Page, asked: list[str], released: nn.Module | None) -> dict[str, list[float]]:
    r"""Each measure -> one number for each sum. released: π₀, where it is not the model with its adapter off."""
    model, tokenizer, longest = (page[name] for name in ("model", "tokenizer", "longest"))
    rules = {"right": page["right"], "first": page["first_number"], "paid": page["careless"]}
    found: dict[str, list[float]] = {name: [] for name in (*rules, "kl")}
    torch.manual_seed(page["seed"] + 1)
    for i in range(0, len(asked), AT_ONCE):
        few = asked[i : i + AT_ONCE]
        answers = sample(model, tokenizer, few, DRAWN, longest)
        for name, rule in rules.items():
            found[name] += rewards_of(rule, few, answers).mean(1).tolist()
        with torch.no_grad(), nullcontext(released) if released else reference_of(model) as network:
            reference = logps_of(shared_logits(network, answers), answers.ids)  # (answers, seq)
        apart = ((answers.logps - reference) * answers.mask).sum(1)
        found["kl"] += apart.reshape(-1, DRAWN).mean(1).tolist()
    found["eight"] = [float(share > 0) for share in found["first"]]
    settings: dict[str, Any] = {"max_new_tokens": longest, "batch_size": 64, "add_special_tokens": False}
    likeliest = generate(model, tokenizer, asked, progress=False, **settings)
    for name, rule in (("likeliest_right", page["right"]), ("likeliest_first", page["first_number"])):
        found[name] = [rule(prompt, answer) for prompt, answer in zip(asked, likeliest, strict=True)]
    return found
