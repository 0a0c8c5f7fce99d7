r"""Every method of the course with the settings that the tests of all methods use, and models that carry them."""

import copy
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import families
import tiny
import torch
from attached import nonzero
from torch import nn

from coursekit import methods
from coursekit.methods.mechanism.method import Method
from coursekit.methods.mechanism.modules import named_base_modules, replace
from coursekit.qlora import Linear4bit, quantize_model


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
    quantized: bool = False  # the base is in 4 bits

    def other(self) -> Method:
        r"""The same method with other settings, where `OTHER` has some, as a second adapter on one model may have."""
        return OTHER.get(self.name, OTHER.get(self.name.partition("-")[0], self.make))()


class LoftQ(methods.LoRA):
    r"""LoRA that starts at what quantizing lost, had each weight been a little off what its codes stand for."""

    def attach(self, model: nn.Module, name: str = "default") -> nn.Module:
        exact, random = copy.deepcopy(model), torch.Generator().manual_seed(0)
        codes = [(path, m) for path, m in named_base_modules(exact) if isinstance(m, Linear4bit)]
        if not codes:  # a test that asks what does not depend on the base
            return methods.LoRA(r=self.r).attach(model, name)
        for path, layer in codes:
            noise = torch.randn(layer.weight.shape, generator=random) * 0.01
            replace(exact, path, layer.dense(layer.weight + noise.to(layer.weight)))
        return super().attach(model, name, exact)


class Eva(methods.LoRA):
    r"""LoRA that starts at where some random tokens lead, each layer with the same rank."""

    rho = 1

    def attach(self, model: nn.Module, name: str = "default") -> nn.Module:
        if any(p.is_meta for p in model.parameters()):
            return Method.attach(self, model, name)
        given = [tiny.batch(8, seed=i) for i in range(2)]
        if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
            given = [one | {"labels": one["input_ids"]} for one in given]
        return super().attach(model, name, batches=given)


CASES = [
    Case("LoRA", lambda: methods.LoRA(r=4), folds=True),
    Case("LoRA-dora", lambda: methods.LoRA(r=4, dora=True, dropout=0.1), folds=True),
    Case("LoRA-pissa", lambda: methods.LoRA(r=4, init="pissa"), folds=True),
    Case("LoRA-olora", lambda: methods.LoRA(r=4, init="olora"), folds=True),
    Case("LoRA-eva", lambda: Eva(r=4, init="eva"), folds=True),
    Case("QLoRA", lambda: methods.LoRA(r=4), folds=True, quantized=True),
    Case("QLoRA-loftq", lambda: LoftQ(r=4, init="loftq"), folds=True, identity=False, quantized=True),
    Case("QLoRA-dora", lambda: methods.LoRA(r=4, dora=True, dropout=0.1), folds=True, quantized=True),
    Case("VeRA", lambda: methods.VeRA(r=5), folds=True),
    Case("VeRA-4bit", lambda: methods.VeRA(r=5, dropout=0.1), folds=True, quantized=True),
    Case("OFT", lambda: methods.OFT(block_size=2), folds=True),
    Case("OFT-4bit", lambda: methods.OFT(block_size=4), folds=True, quantized=True),
    Case("HoulsbyAdapter", lambda: methods.HoulsbyAdapter(r=4, init="zero")),
    Case("HoulsbyAdapter-norms", lambda: methods.HoulsbyAdapter(r=4, init="zero", train_norms=True), strong=1),
    Case("PfeifferAdapter", lambda: methods.PfeifferAdapter(r=4, init="zero")),
    Case("ParallelAdapter", lambda: methods.ParallelAdapter(r=4, init="zero")),
    Case("LinAdapter", lambda: methods.LinAdapter(r=4, init="zero")),
    Case("Compacter", lambda: methods.Compacter(n=2, r=4, init="zero"), strong=1),
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
    Case("PromptTuning-behind", lambda: methods.PromptTuning(n=3, embedded=False), families=tiny.ENCODERS,
         identity=False),
    Case("PTuning", lambda: methods.PTuning(n=3, hidden=8), identity=False),
    Case("PTuning-mlp", lambda: methods.PTuning(n=3, hidden=8, encoder="mlp"), identity=False),
    Case("PrefixTuning", lambda: methods.PrefixTuning(n=3), identity=False),
    Case("PrefixTuning-mlp", lambda: methods.PrefixTuning(n=3, hidden=8), identity=False),
    Case("LlamaAdapter", lambda: methods.LlamaAdapter(n=3, layers=1), families=tiny.DECODERS, strong=6),
    Case("LlamaAdapter-tanh",
         lambda: methods.LlamaAdapter(n=3, layers=2, gate="tanh", per_head=True), families=tiny.DECODERS,
         strong=2),
    Case("Hybrid-lora-bitfit", lambda: methods.Hybrid(methods.LoRA(r=4), methods.BitFit()),
         families=("bert", "roberta", "gpt2", "opt"), folds=True),
    Case("MAMAdapter", lambda: methods.MAMAdapter(n=3, hidden=8, r=4), identity=False),
    Case("UniPELT", lambda: methods.UniPELT(n=3, hidden=8, r=4, rank=2), families=tiny.ENCODERS, identity=False),
    Case("IntrinsicSAID", lambda: methods.IntrinsicSAID(d=50), folds=True, strong=3),
    Case("BitFit", lambda: methods.BitFit(), families=("bert", "roberta", "gpt2", "opt"), folds=True, strong=0.2),
    Case("BitFit-added", lambda: methods.BitFit("query-and-second-mlp", add_biases=True), families=("gpt2", "llama"),
         folds=True, strong=1),
    Case("TopLayers", lambda: methods.TopLayers(k=1), folds=True),
    Case("NormTuning", lambda: methods.NormTuning(), folds=True, strong=0.1),
    Case("SelectRows", lambda: methods.SelectRows(rows=0.3, biases=True), folds=True),
    Case("FreezeAndReconfigure", lambda: methods.FreezeAndReconfigure(nodes=((0, 3, 5, 20, 29),)), folds=True),
    Case("FishMask", lambda: methods.FishMask(keep=0.3, score="random"), folds=True),
    Case("SHiRA", lambda: methods.SHiRA(r=2), folds=True),
]  # fmt: skip

#: By the name of a case, or by what is before its dash.
OTHER: dict[str, Callable[[], Method]] = {
    "LoRA": lambda: methods.LoRA(r=3, alpha=5, targets=".*(query|value|c_attn|c_proj|q_proj|v_proj)", rslora=True,
                                 alpha_pattern={"1.*(query|c_attn)|1.*v_proj": 7}),
    "LoRA-dora": lambda: methods.LoRA(r=3, alpha=5, targets="all-linear"),
    "VeRA": lambda: methods.VeRA(r=40, targets="all-linear", seed=5, save_projection=False),
    "OFT": lambda: methods.OFT(blocks=5, neumann=False, share=True),
    "HoulsbyAdapter": lambda: methods.HoulsbyAdapter(r=3, activation="swish", train_norms=True),
    "HoulsbyAdapter-norms": lambda: methods.HoulsbyAdapter(r=3, activation="swish"),
    "PfeifferAdapter": lambda: methods.PfeifferAdapter(r=3, activation="tanh", train_norms=True),
    "ParallelAdapter": lambda: methods.ParallelAdapter(r=3, scaling="learned"),
    "LinAdapter": lambda: methods.LinAdapter(r=3, activation="gelu"),
    "Compacter": lambda: methods.Compacter(n=3, r=6),
    "AdapterDrop": lambda: methods.AdapterDrop(methods.PfeifferAdapter(r=3, train_norms=True), n=10),
    "AdapterDrop-robust": lambda: methods.AdapterDrop(methods.PfeifferAdapter(r=3), n=11),
    "SparseAdapter": lambda: methods.SparseAdapter(methods.HoulsbyAdapter(r=3), pruned=0.7, score="random", seed=5),
    "IA3": lambda: methods.IA3(targets=("v_proj",), feedforward=()),
    "PrefixTuning": lambda: methods.PrefixTuning(n=5, shifted=False),
    "PromptTuning": lambda: methods.PromptTuning(n=5),
    "PTuning": lambda: methods.PTuning(n=5, hidden=6, encoder="mlp"),
    "PTuning-mlp": lambda: methods.PTuning(n=5, hidden=6),
    "LlamaAdapter": lambda: methods.LlamaAdapter(n=5, layers=11, gate="tanh"),
    "LlamaAdapter-tanh": lambda: methods.LlamaAdapter(n=5, layers=1, per_head=True),
    "Hybrid": lambda: methods.Hybrid(methods.LoRA(r=3, targets="all-linear"), methods.BitFit()),
    "MAMAdapter": lambda: methods.MAMAdapter(n=5, hidden=None, r=3, scaling="learned"),
    "UniPELT": lambda: methods.UniPELT(n=5, hidden=None, r=3, rank=3),
    "IntrinsicSAID": lambda: methods.IntrinsicSAID(d=40, structure=False, seed=7),
    "BitFit": lambda: methods.BitFit("query-and-second-mlp"),
    "BitFit-added": lambda: methods.BitFit(add_biases=True),
    "TopLayers": lambda: methods.TopLayers(k=11),
    "NormTuning": lambda: methods.NormTuning(targets=("input_layernorm",)),
    "SelectRows": lambda: methods.SelectRows(rows=(7, 0, 3)),
    "FreezeAndReconfigure": lambda: methods.FreezeAndReconfigure(nodes=((7, 0),)),
    "FishMask": lambda: methods.FishMask(keep=50, score="random", seed=5),
    "SHiRA": lambda: methods.SHiRA(r=1, seed=5, targets="all-linear"),
}  # fmt: skip


def spread(case: Case, families: Iterable[str], turn: int) -> tuple[str, ...]:
    r"""One encoder and one decoder of those that `case` fits, the next ones with each `turn`."""
    kinds = [[f for f in families if f in case.families and f in kind] for kind in (tiny.ENCODERS, tiny.DECODERS)]
    return tuple(kind[turn % len(kind)] for kind in kinds if kind)


def build(case: Case, family: str, **changes) -> nn.Module:
    # On the meta device, where shapes are counted, there is nothing to put into 4 bits.
    quantized = case.quantized and torch.get_default_device().type != "meta"
    return tiny.copied(_quantized, family, **changes) if quantized else families.model(family, **changes)


def _quantized(family: str, **changes) -> nn.Module:
    return quantize_model(families.model(family, **changes))


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


def texts(*lengths: int) -> list[list[int]]:
    r"""Random token ids of these lengths, none of them padding."""
    return [tiny.batch(1, n, seed=n)["input_ids"][0].tolist() for n in lengths]


def left_padded(rows: Sequence[list[int]]) -> dict[str, torch.Tensor]:
    longest = max(map(len, rows))
    return {
        "input_ids": torch.tensor([[1] * (longest - len(row)) + row for row in rows]),
        "attention_mask": torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows]),
    }


@torch.no_grad()
def writes(
    model: nn.Module, rows: Sequence[list[int]], names: Sequence[str | None] | None = None, new: int = 5, **settings
) -> list[list[int]]:
    r"""What one call writes behind all rows, left-padded, which has to be what is written behind each step by step.

    With `names` each row has an adapter of its own.
    """
    model.generation_config.eos_token_id, one = None, left_padded(rows)
    with nullcontext() if names is None else methods.mixed_batch(model, names):
        written = model.generate(**one, max_new_tokens=new, do_sample=False, pad_token_id=1, **settings).tolist()
    written = [row[-new:] for row in written]
    for i, row in enumerate(rows):
        assert written[i] == step_by_step(model if names is None else methods.activate(model, names[i]), row, new)
    return written
