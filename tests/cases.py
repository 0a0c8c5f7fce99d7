r"""Every method of the course with the settings that the tests of all methods use, and models that carry them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import tiny
import torch
from attached import nonzero
from torch import nn

from coursekit import methods
from coursekit.methods.mechanism.method import Method
from coursekit.qlora import quantize_model


@dataclass(frozen=True)
class Case:
    r"""A method with its settings, and what it does not promise."""

    name: str
    make: Callable[[], Method]
    families: tuple[str, ...] = tiny.FAMILIES
    identity: bool = True  # leaves the model's answers as they are until the first step
    folds: bool = False  # into the weights
    #: How far from the start its parameters must be to change what is written, and not to what.
    strong: float = 0.3
    options: dict = field(default_factory=dict)  # of the tiny model
    quantized: bool = False  # the base is in 4 bits


CASES = [
    Case("LoRA", lambda: methods.LoRA(r=4), folds=True),
    Case("LoRA-dora", lambda: methods.LoRA(r=4, dora=True, dropout=0.1), folds=True),
    Case("QLoRA", lambda: methods.LoRA(r=4), folds=True, quantized=True),
    Case("QLoRA-dora", lambda: methods.LoRA(r=4, dora=True, dropout=0.1), folds=True, quantized=True),
    Case("HoulsbyAdapter", lambda: methods.HoulsbyAdapter(r=4, init="zero")),
    Case("HoulsbyAdapter-norms", lambda: methods.HoulsbyAdapter(r=4, train_norms=True), identity=False),
    Case("PfeifferAdapter", lambda: methods.PfeifferAdapter(r=4, init="zero")),
    Case("ParallelAdapter", lambda: methods.ParallelAdapter(r=4, init="zero")),
    Case("LinAdapter", lambda: methods.LinAdapter(r=4, init="zero")),
    Case("Compacter", lambda: methods.Compacter(n=2, reduction=8, init="zero"), strong=1),
    Case("AdapterDrop", lambda: methods.AdapterDrop(methods.PfeifferAdapter(r=4, init="zero"), n=1)),
    Case("AdapterDrop-robust",
         lambda: methods.AdapterDrop(methods.PfeifferAdapter(r=4, init="zero"), robust=True)),
    # "random" draws from the method's seed: two models get the same masks, as these tests need.
    Case("SparseAdapter", lambda: methods.SparseAdapter(methods.HoulsbyAdapter(r=4, init="zero"), pruned=0.5,
                                                        score="random")),
    Case("IA3", lambda: methods.IA3(), folds=True),
    Case("IA3-4bit", lambda: methods.IA3(), folds=True, quantized=True),
    Case("PrefixTuning-4bit", lambda: methods.PrefixTuning(n=3), identity=False, quantized=True),
    Case("PfeifferAdapter-4bit", lambda: methods.PfeifferAdapter(r=4, init="zero"), quantized=True),
    Case("PromptTuning", lambda: methods.PromptTuning(n=3), identity=False),
    Case("PTuning", lambda: methods.PTuning(n=3, hidden=8), identity=False),
    Case("PTuning-mlp", lambda: methods.PTuning(n=3, hidden=8, encoder="mlp"), identity=False),
    Case("PrefixTuning", lambda: methods.PrefixTuning(n=3), identity=False),
    Case("PrefixTuning-mlp", lambda: methods.PrefixTuning(n=3, hidden=8), identity=False),
    Case("LlamaAdapter", lambda: methods.LlamaAdapter(n=3, layers=1), families=tiny.DECODERS, strong=6),
    Case("LlamaAdapter-tanh",
         lambda: methods.LlamaAdapter(n=3, layers=2, gate="tanh", per_head=True), families=tiny.DECODERS),
    Case("Hybrid-lora-bitfit", lambda: methods.Hybrid(methods.LoRA(r=4), methods.BitFit()),
         families=("bert", "roberta", "gpt2", "opt"), folds=True),
    Case("MAMAdapter", lambda: methods.MAMAdapter(n=3, hidden=8, r=4), identity=False),
    Case("UniPELT", lambda: methods.UniPELT(n=3, hidden=8, r=4, rank=2), families=tiny.ENCODERS, identity=False),
    Case("IntrinsicSAID", lambda: methods.IntrinsicSAID(d=50), folds=True, strong=6),
    Case("BitFit", lambda: methods.BitFit(), families=("bert", "roberta", "gpt2", "opt"), folds=True, strong=0.6),
    Case("BitFit-added", lambda: methods.BitFit("query-and-second-mlp", add_biases=True), families=("gpt2", "llama"),
         folds=True, strong=3),
    Case("TopLayers", lambda: methods.TopLayers(k=1), folds=True),
    Case("NormTuning", lambda: methods.NormTuning(), folds=True, strong=0.1),
    Case("SelectRows", lambda: methods.SelectRows(rows=0.3, biases=True), folds=True),
    Case("FreezeAndReconfigure", lambda: methods.FreezeAndReconfigure(nodes=((0, 3, 5, 20, 31),)), folds=True),
    Case("FishMask", lambda: methods.FishMask(keep=0.3, score="random"), folds=True),
    Case("SHiRA", lambda: methods.SHiRA(r=2), folds=True),
]  # fmt: skip


def build(case: Case, family: str, **changes) -> nn.Module:
    model = tiny.model(family, **(case.options | changes))
    # On the meta device, where shapes are counted, there is nothing to put into 4 bits.
    return quantize_model(model) if case.quantized and model.device.type != "meta" else model


def attach(case: Case, family: str, seed: int = 3, scale: float = 0.2, **changes) -> nn.Module:
    r"""A model with the method on it, its parameters away from their start."""
    return nonzero(case.make().attach(build(case, family, **changes)), seed, scale)


def lively(family: str) -> dict[str, float | bool]:
    r"""Settings of a tiny model that does not write one token over and over."""
    return {"init_std" if family == "opt" else "initializer_range": 0.3, "tie_word_embeddings": False}


def step_by_step(model: nn.Module, ids: list[int], new: int) -> list[int]:
    r"""Greedy writing that computes everything anew for each token: nothing could be forgotten."""
    for _ in range(new):
        ids = [*ids, int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())]
    return ids[-new:]
