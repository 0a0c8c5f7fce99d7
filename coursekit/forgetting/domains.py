r"""A model that learned some domains and then a new one: what it learns, and what it keeps of the old ones.

The model is pre-trained from scratch on the old domains. So we know everything it has learned, have its old data to
rehearse, and a whole comparison takes minutes. Large models forget in the same way, but the data that they learned from
is rarely at hand.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from statistics import geometric_mean
from typing import Any

import torch
from datasets import Dataset
from torch import nn
from transformers import LlamaForCausalLM

from coursekit.errors import CourseError, one_of
from coursekit.forgetting.penalties import EWC, L2SP
from coursekit.forgetting.rehearsal import replay
from coursekit.methods import OFT, FullFineTuning, LoRA
from coursekit.methods.mechanism.modules import all_linear
from coursekit.modes import in_mode
from coursekit.tasks.prepared import Prepared
from coursekit.tasks.task import load_text
from coursekit.training.history import History
from coursekit.training.loop import fit
from coursekit.training.order import seed_everything
from coursekit.training.pretraining import adamw, prepare_text, small_decoder, train_tokenizer

#: Blocks of old text that EWC's Fisher information is measured on.
_SEEN = 128
#: The learning rate that all weights learn the new domain best with, and those of LoRA's factors and OFT's rotations:
#: chosen on validation text, by the mean over three seeds (data/evidence/forgetting.csv).
RATE, LORA_RATE, OFT_RATE = 3e-3, 1e-2, 1e-2
#: What is learned first, unless somebody says otherwise.
OLDS = ("film", "product", "newspaper")
#: Tokens that the tokenizer knows, and those of a block.
VOCAB, BLOCK = 512, 64


@dataclass(frozen=True)
class Domains:
    r"""Text of several domains in blocks: `old`, all old ones together, `new`, and `tests`, each one's test text."""

    tokenizer: Any
    old: Prepared
    new: Prepared
    tests: dict[str, Dataset]
    olds: tuple[str, ...]
    name: str

    def perplexities(self, model: nn.Module, blocks: int = 100) -> dict[str, float]:
        r"""exp(mean loss of a token) on the first `blocks` test blocks of each domain."""
        return {name: _perplexity(model, rows, blocks) for name, rows in self.tests.items()}

    def validation(self, model: nn.Module, blocks: int = 100) -> float:
        r"""The perplexity of the new domain's validation text, on which learning rates are chosen."""
        return _perplexity(model, self.new.split("validation"), blocks)

    def kept(self, perplexities: dict[str, float]) -> float:
        r"""One number for the old domains: the geometric mean of their perplexities, so that each counts the same."""
        return geometric_mean(perplexities[name] for name in self.olds)


def _perplexity(model: nn.Module, rows: Dataset, blocks: int) -> float:
    ids = torch.tensor(rows[:blocks]["input_ids"], device=next(model.parameters()).device)
    with in_mode(model, training=False), torch.inference_mode():
        return math.exp(model(input_ids=ids, labels=ids, use_cache=False).loss.item())


def load_domains(new: str = "tweet", olds: Sequence[str] = OLDS) -> Domains:
    r"""The course's domains in blocks of `BLOCK` tokens, with a tokenizer that was made for the old ones.

    Raises CourseError for an unknown domain, and where the new one is among the old.
    """
    if new in olds or not olds:
        raise CourseError(f"new={new!r}, olds={tuple(olds)}: give old domains, and a new one that is none of them")
    texts = {name: {split: rows["text"][:] for split, rows in load_text(name).items()} for name in (*olds, new)}
    together = {split: [t for name in olds for t in texts[name][split]] for split in ("train", "test")}
    random.Random(0).shuffle(together["train"])  # they lie domain by domain
    tokenizer = train_tokenizer(together["train"], VOCAB)
    tests = {
        name: prepare_text({"test": found["test"]}, tokenizer, BLOCK).data["test"] for name, found in texts.items()
    }
    return Domains(
        tokenizer, prepare_text(together, tokenizer, BLOCK), prepare_text(texts[new], tokenizer, BLOCK), tests,
        tuple(olds), new,
    )  # fmt: skip


def pretrained(
    domains: Domains, steps: int = 600, batch_size: int = 16, seed: int = 0, *, progress: bool = True
) -> tuple[LlamaForCausalLM, History]:
    r"""A small decoder that has learned the old domains."""
    model = small_decoder(len(domains.tokenizer), context=domains.old.max_length, seed=seed)
    history = fit(
        model, domains.old, steps=steps, batch_size=batch_size, seed=seed, warmup=0.05, optimizer=adamw(),
        progress=progress,
    )  # fmt: skip
    return model, history


@dataclass(frozen=True)
class Remedy:
    r"""One way to learn the new domain. `strength` is what its name says: the share of old rows of "replay" and
    "multi-task", α of "L2-SP", λ of "EWC", the share of the update that "WiSE-FT" keeps (Wortsman et al. 2022), r of
    "LoRA", the block size of "OFT", and the learning rate of "full" and of "linear layers": those that LoRA adapts.

    Raises CourseError for an unknown kind.
    """

    kind: str
    strength: float

    def __post_init__(self) -> None:
        one_of("remedy", self.kind, KINDS)

    def __str__(self) -> str:
        return f"{self.kind}, {KINDS[self.kind].format(self.strength)}"

    @property
    def rate(self) -> float:
        r"""The learning rate that `tune` trains at."""
        if self.kind in ("full", "linear layers"):
            return self.strength
        return {"LoRA": LORA_RATE, "OFT": OFT_RATE}.get(self.kind, RATE)

    def tune(
        self, model: LlamaForCausalLM, domains: Domains, steps: int = 100, batch_size: int = 16, seed: int = 0, *,
        lr: float | None = None, progress: bool = False,
    ) -> tuple[LlamaForCausalLM, History]:  # fmt: skip
        r"""A copy of `model` that has learned the new domain this way, in `steps` steps whatever the way.

        lr: instead of `rate`.
        """
        start, model = model, deepcopy(model)
        data, objective, rows = domains.new, None, steps * batch_size
        seed_everything(seed)  # of LoRA's start
        whole, method = int(self.strength), FullFineTuning()
        match self.kind:
            case "LoRA":
                method = LoRA(r=whole, alpha=whole, targets="all-linear")
            case "OFT":
                method = OFT(block_size=whole, targets="all-linear")
        method.attach(model)
        match self.kind:
            case "linear layers":
                model.requires_grad_(False)
                for layer in all_linear(model).values():
                    layer.requires_grad_(True)
            case "multi-task" | "replay":
                data = replay(domains.new, domains.old, self.strength, rows, seed=seed)
            case "L2-SP":
                objective = L2SP(model, self.strength)
            case "EWC":
                seen = domains.old.data["train"].select(range(_SEEN)).to_list()
                objective = EWC(model, [domains.old.collate(seen)], self.strength)
        history = fit(
            model, data, steps=steps, batch_size=batch_size, lr=self.rate if lr is None else lr, seed=seed,
            objective=objective, progress=progress,
        )  # fmt: skip
        if self.kind == "WiSE-FT":  # θ⁰ + c (θ − θ⁰)
            for old, new in zip(start.parameters(), model.parameters(), strict=True):
                new.data.lerp_(old.data, 1 - self.strength)
        return model.eval(), history


#: Every kind of remedy, and how its strength is written.
KINDS = {
    "full": "rate {:g}",
    "WiSE-FT": "c = {:g}",
    "multi-task": "{:.0%} old",
    "replay": "{:.0%} old",
    "L2-SP": "α = {:g}",
    "EWC": "λ = {:g}",
    "LoRA": "r = {:g}",
    "OFT": "b = {:g}",
    "linear layers": "rate {:g}",
}
#: What is compared: each remedy at several strengths.
REMEDIES = tuple(
    Remedy(kind, strength)
    for kind, strengths in {
        "full": (3e-4, 6e-4, 1e-3, 1.7e-3, RATE, 1e-2),
        "WiSE-FT": (0.3, 0.5, 0.7, 0.8, 0.9),
        "multi-task": (0.5,),
        "replay": (0.01, 0.05, 0.2),
        "L2-SP": (0.003, 0.01, 0.03, 0.1),
        "EWC": (300, 1000, 3000, 10_000),
        "LoRA": (4, 16, 64),
        "OFT": (8, 32),
        "linear layers": (3e-4, 1e-3, RATE, 1e-2),
    }.items()
    for strength in strengths
)
