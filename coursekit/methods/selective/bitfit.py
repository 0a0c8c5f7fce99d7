r"""BitFit (Ben Zaken, Ravfogel and Goldberg 2022, arXiv:2106.10199): only the biases train.

$$y = W_0 x + b, \quad b \in \mathbb{R}^{d_{out}} \text{ trains, at the start } b_0$$
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from coursekit.errors import CourseError, flag, one_of
from coursekit.methods.mechanism.anatomy import Anatomy, anatomy, anatomy_of, linear_in_blocks
from coursekit.methods.mechanism.checkpoint import Setting
from coursekit.methods.mechanism.modules import all_linear, unwrap
from coursekit.methods.mechanism.names import matches
from coursekit.methods.selective.part_layer import PartLayer, Parts
from coursekit.methods.selective.parts import Entries
from coursekit.methods.selective.whole import Whole, WholeMethod

#: $b_q$ and $b_{m2}$ of the paper (section 4), whose $m_2$ widens to the hidden units of the feed-forward: in its
#: equations $m_1$ is the output projection of the attention, and $m_3$ leads back to the width of the model.
QUERY_AND_SECOND_MLP = {
    "bert": ("query", "intermediate.dense"),
    "roberta": ("query", "intermediate.dense"),
    "gpt2": ("c_attn", "c_fc"),
    "opt": ("q_proj", "fc1"),
    "llama": ("q_proj", "up_proj"),
    "electra": ("query", "intermediate.dense"),
    "deberta-v2": ("query_proj", "intermediate.dense"),
    "distilbert": ("q_lin", "lin1"),
    "qwen3": ("q_proj", "up_proj"),
    "smollm3": ("q_proj", "up_proj"),
    "t5": ("q", "wi"),
}
BIASES = ("all", "query-and-second-mlp")


@dataclass(frozen=True)
class BitFit(WholeMethod):
    r"""Every bias of the body trains, those of the norms too; nothing else but the task head.

    biases: "all", or "query-and-second-mlp", the two of each block with which the paper comes nearly as far. In
    GPT-2, where one bias serves query, key and value, its first third trains then.
    add_biases: give each linear map of the blocks that has no bias one of zeros, which then trains.

    BERT base has 102,912, of which 768 are the pooler's. A classifier on RoBERTa base has no pooler: 102,144.

    Raises CourseError for other biases and, on attaching, for a model that has none of them (Llama has no biases at
    all) unless they are to be added.
    """

    biases: str = "all"
    add_biases: bool = False
    kind: ClassVar[str] = "BITFIT"

    entries = (Setting("biases"), Setting("add_biases"))

    def __post_init__(self) -> None:
        one_of("set of biases", self.biases, BIASES)
        flag("add_biases", self.add_biases)

    def picks(self, path: str, shapes: Anatomy) -> bool:
        module, _, key = path.rpartition(".")
        return key == "bias" and self._wants(module, shapes)

    def sizes(self, config: Any) -> dict[str, int]:
        sizes, shapes = super().sizes(config), anatomy_of(config)
        if self._fused(shapes):  # of query, key and value only the first
            sizes |= {path: size // 3 for path, size in sizes.items() if path.endswith("c_attn.bias")}
        if self.add_biases:
            layers, inside = linear_in_blocks(config).items(), (*shapes.attention, *shapes.feedforward)
            without = {p: m for p in inside for path, m in layers if matches(path, p) and not m.bias}
            sizes |= {f"{p}.bias": m.d_out for p, m in without.items() if self._wants(p, shapes)}
        return sizes

    def _wants(self, module: str, shapes: Anatomy) -> bool:
        r"""Whether the bias of `module` trains, if there is one."""
        if self.biases == "all":
            return True
        if shapes.family not in QUERY_AND_SECOND_MLP:
            raise CourseError(
                f"which biases of a {shapes.family} model are {self.biases!r} is not known: take biases='all'"
            )
        return any(matches(module, name) for name in QUERY_AND_SECOND_MLP[shapes.family])

    def _fused(self, shapes: Anatomy) -> bool:
        return shapes.family == "gpt2" and self.biases != "all"

    def _check(self, model: nn.Module) -> None:
        if not (self.add_biases and self._new(model)):
            super()._check(model)

    def _nothing(self, shapes: Anatomy) -> CourseError:
        return CourseError(
            f"BitFit trains biases, and this {shapes.family} model has none to train: its linear layers and norms are "
            "without; BitFit(add_biases=True) gives every linear layer one of zeros, or take another method"
        )

    def _new(self, model: nn.Module) -> dict[str, nn.Module]:
        r"""The layers that get a bias, by path."""
        shapes = anatomy(model)
        layers = all_linear(model, (nn.Linear, Conv1D, PartLayer)).items()
        leaves = {p: unwrap(m) for p, m in layers if self._wants(p, shapes)}
        # A norm in a wrapper is none of them.
        linear = {p: m for p, m in leaves.items() if isinstance(m, (nn.Linear, Conv1D))}
        return {p: m for p, m in linear.items() if m.bias is None}

    def _parts(self, model: nn.Module) -> Parts:
        parts = super()._parts(model)
        if self._fused(anatomy(model)):
            for path, (module, _) in self._picked(model).items():
                if matches(path, "c_attn"):
                    first = torch.arange(len(module.bias) // 3)
                    parts[path] = {"bias": Entries(module.bias, first)}
        if self.add_biases:
            for path, layer in self._new(model).items():
                weight = layer.weight
                zeros = torch.zeros(weight.shape[0], device=weight.device, dtype=weight.dtype)
                parts[path] = {"bias": Whole(zeros)}
        return parts

    def touched(self, model: nn.Module) -> set[str]:
        return super().touched(model) | {f"{p}.bias" for p in (self._new(model) if self.add_biases else ())}
