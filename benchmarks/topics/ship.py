r"""What lesson 12 ships, over three seeds: its two adapters of SmolLM2, trained by its cells, and what is made of them.

`film`: all 240 test sentences of at most eight words, graded with one of five words. `sums`: 130 sums, right where each
token of the answer and of the line end is the likeliest. A seed draws the starts of both LoRAs, the 128 film sentences
that are learned from, and the order of the 80 sums. States of a run: nothing trained (`released`); the `other` adapter
alone; both in one (`sum`, `factors added`, and two that the lesson leaves out: `TIES`, a fifth of each matrix kept, and
`TIES at rank 16`). Of film as well: merged in float32 and then rounded in memory, RoPE's frequencies too (`merged
first`), `beside NF4`, and trained beside it (`trained on NF4`). `nats`: mean divergence from the adapter beside float32
weights, on 40 sentences; `floor`: the largest of the lesson's three harmless changes. `sums again`: the sums adapter
trained once more, later and on another processor, for the same three ways out (`nats`: on the prompts of 40 sums). No
learning rate was searched: it is the lesson's. `sums` minus `film` says nothing: these are other questions.
"""

import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from datasets import DatasetDict
from topics._page import Page
from torch import nn

from coursekit import methods
from coursekit.evaluation import score_choices
from coursekit.experiments import machine
from coursekit.experiments.recipe import Arm, Grid
from coursekit.experiments.table import Cell, Run, state
from coursekit.methods import LoRA, Update, combine, to_lora, trainable

SETTING = None
#: Film sentences and sums that are asked; film sentences that divergences are measured on, as in the lesson.
SENTENCES, SUMS, COMPARED = 240, 130, 40

ARMS = (("film", 16), ("sums", 10), ("sums again", 10))
GRID = Grid("ship", tuple(Arm(name, name, (2e-3,), steps) for name, steps in ARMS), reference="film", steps=16)


def carry(bench: None, task: str, cell: Cell) -> list[Run]:
    r"""The runs of a seed, of both tasks at once: both adapters trained, then what is made of them."""
    if task == "sums again":
        return once_more(cell)
    marks, page = [time.perf_counter()], trained(cell.seed)
    model, processor = page["model"], machine.device_name(page["model"].device)
    runs: list[Run] = []

    def keep(name: str, network: nn.Module, tasks: str = "film sums", **more: float) -> None:
        chosen = score_choices(network, page["tokenizer"], page["prompts"], page["words"], 8).argmax(1)
        right = {"film": chosen == torch.tensor(page["test"]["label"]), "sums": page["right_sums"](network)}
        marks.append(time.perf_counter())
        kept = {key: f"{value:.4g}" for key, value in more.items()} | {"processor": processor}
        for arm in GRID.arms:
            if arm.name in tasks:
                own = Cell(state(arm.name, name) if name else arm.name, arm.steps or GRID.steps, cell.rate, cell.seed)
                answers, seconds = tuple(right[arm.name].tolist()), marks[-1] - marks[-2]
                runs.append(Run(own, (), answers, size.get(name, one), seconds, more=kept))

    one = trainable(methods.activate(model, "film"))  # both adapters are of one size
    size = {"released": 0} | dict.fromkeys(("sum", "factors added", "TIES", "TIES at rank 16"), 2 * one)
    for active, other in (("film", "sums"), ("sums", "film")):
        methods.activate(model, active)
        keep("", model, active)
        keep("other", model, other)
    ways = one_of_both(page)
    methods.activate(model, None)
    keep("released", model)
    for name, update in ways.items():
        with folded(model, update):
            keep(name, model)

    def again() -> None:
        batches = page["task"].for_decoder(page["tokenizer"]).batches("train", 8, device=model.device)
        page["train"]("film", LoRA(r=8, alpha=16, targets=page["targets"]), islice(batches, page["steps"]))

    for name, network, nats in shipped(page, page["prompts"], again):
        keep(name, network, "film", nats=nats, floor=page["floor"])
    return runs


def once_more(cell: Cell) -> list[Run]:
    r"""The runs of a seed's sums adapter: alone, and each way out of it."""
    begun, page = time.perf_counter(), trained(cell.seed, steps=0)  # an untrained film: sums has its own start
    model, runs = page["model"], []
    size, more = trainable(model), {"processor": machine.device_name(model.device)}

    def keep(name: str, network: nn.Module, **found: float) -> None:
        nonlocal begun
        answers, now = tuple(page["right_sums"](network).tolist()), time.perf_counter()
        own = replace(cell, arm=state(cell.arm, name) if name else cell.arm)
        told = {key: f"{value:.4g}" for key, value in found.items()} | more
        runs.append(Run(own, (), answers, size, now - begun, more=told))
        begun = now

    def again() -> None:
        LoRA(r=8, alpha=16, targets=page["targets"]).attach(page["model"], "film")  # as above, for the same start
        page.run("12-039")

    keep("", model)
    lora = methods.attached(model)["sums"]
    with tempfile.TemporaryDirectory() as folder:  # from here on the lesson's cells ship it, under their name
        lora.save(model, folder, "sums")
        methods.remove(model, "film")
        lora.load(model, folder, "film")
        methods.remove(model, "sums")
    for name, network, nats in shipped(page, [asked.prompt for asked in page["held"]], again):
        keep(name, network, nats=nats, floor=page["floor"])
    return runs


def trained(seed: int, **changed: int) -> Page:
    r"""The lesson up to its two trained adapters."""
    page = Page("12_ship_it")
    page.run("12-004", "12-005")
    page.update(seed=seed, film_sentences=SENTENCES, held_out_sums=SUMS, **changed)
    page.run("12-007")
    task = page["task"]
    page["task"] = replace(task, data=DatasetDict(task.data | {"train": task.data["train"].shuffle(seed=seed)}))
    draw = page["sums"]

    def drawn(learned: int, held: int) -> tuple[list[Any], list[Any]]:
        learn, test = draw(learned, held)
        return random.Random(seed).sample(learn, len(learn)), test

    page["sums"] = drawn
    page.run("12-008", "12-039")
    return page


def one_of_both(page: Page) -> dict[str, Update]:
    r"""Name -> the update that both adapters make together."""
    page.run("12-023", "12-026")
    film, sums = page["film"], page["other"]
    ways = {
        way: Update({path: B @ A for path, (A, B) in made.items()}, film.base)
        for way, made in zip(("sum", "factors added"), page["made"].values(), strict=True)
    }
    ways["TIES"] = combine([film, sums], [1.0, 1.0], "ties", 0.2)
    model = page["model"]
    to_lora(model, ways["TIES"], r=16, name="both")
    ways["TIES at rank 16"] = methods.update_of(model, "both")
    methods.remove(model, "both")
    return ways


@contextmanager
def folded(model: nn.Module, update: Update) -> Iterator[None]:
    r"""Meanwhile the update is in the base's weights."""
    weights = {path: model.get_submodule(path).weight.data for path in update.deltas}
    kept = {path: weight.clone() for path, weight in weights.items()}
    for path, delta in update.deltas.items():
        weights[path] += delta
    try:
        yield
    finally:
        for path, weight in kept.items():
            weights[path].copy_(weight)


def shipped(page: Page, prompts: list[str], again: Callable[[], None]) -> Iterator[tuple[str, nn.Module, float]]:
    r"""Each way out of the adapter called film: its name, its model, and the mean divergence from the exact one, on
    `prompts`. again: train it once more, on the page's model.
    """
    asked = {name: page[name] for name in ("prompts", "test")}
    few = {column: values[:COMPARED] for column, values in asked["test"].items()}
    model = methods.activate(page["model"], "film")
    page.update(prompts=prompts[:COMPARED], test=few, labels=torch.tensor(few["label"]))
    rows = page["tokenizer"](page["prompts"], padding=True, padding_side="right", return_tensors="pt").to(model.device)
    page.update(rows=rows, mask=rows["attention_mask"])
    page.run("12-007a")
    page.run("12-012", "12-016")
    page.update(asked)
    beside, nats = page["beside"], page["nats"]
    page["floor"] = max(nats.values())

    def told(name: str, network: nn.Module) -> tuple[str, nn.Module, float]:
        page["compare"](name, page["logits"](network))
        return name, network, nats[name]

    whole = beside()
    merged = methods.attached(whole)["default"].merge(whole, undo=False)
    yield told("merged first", merged.bfloat16())
    yield told("beside NF4", beside(quantize="nf4"))
    page["model"] = page["load_decoder"]("smollm2", dtype="float32", quantize="nf4")[0]
    again()
    yield told("trained on NF4", page["model"])
    page["model"] = model
