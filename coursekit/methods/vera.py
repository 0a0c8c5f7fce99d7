r"""VeRA: Vector-based Random Matrix Adaptation (Kopiczko et al. 2023, arXiv:2310.11454).

$$h = W_0 x + \Lambda_b B \Lambda_d A x, \quad A \in \mathbb{R}^{r \times d_{in}}, B \in \mathbb{R}^{d_{out} \times r}$$

A and B are random, frozen and the same at all layers, of which a smaller one takes the first columns of A and the first
rows of B. Only the two diagonals learn: r + d_out parameters a layer, where LoRA has r (d_in + d_out).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from coursekit.errors import flag, keep, number, whole
from coursekit.methods.linear_layers import LinearLayersMethod
from coursekit.methods.mechanism.attachment import Attachment, add_module
from coursekit.methods.mechanism.branch import Branch, Branched, like
from coursekit.methods.mechanism.checkpoint import Setting
from coursekit.methods.mechanism.modules import AdapterState, AdapterWrapper, body_prefix
from coursekit.methods.mechanism.names import Names, checked_names


class VeRABranch(Branch):
    r"""The two vectors of one adapter at one frozen layer. b starts at 0, so that the start is exactly no change."""

    keys: ClassVar[dict[str, str]] = {"b": "vera_lambda_b", "d": "vera_lambda_d"}

    def __init__(self, layer: VeRALayer, method: VeRA):
        super().__init__()
        W = layer.W  # once: a base in 4 bits unpacks it each time
        self.d_out, self.d_in = W.shape
        self.b = nn.Parameter(torch.zeros(self.d_out, **like(W)))
        self.d = nn.Parameter(torch.full((method.r,), method.d_initial, **like(W)))
        self.dropout = nn.Dropout(method.dropout) if method.dropout else nn.Identity()
        self.shared: tuple[Projections, ...] = ()  # in a tuple: as an attribute it would be part of every branch

    def forward(self, y: Float[Tensor, "*batch out"], x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        r"""$h = W_0 x + b \odot B(d \odot Ax)$ (equation 2), where y is $W_0 x$."""
        dAx = F.linear(self.dropout(x), self.A) * self.d  # (*batch, in)(in, r) ⊙ (r,)
        return y + F.linear(dAx, self.B) * self.b  # (*batch, r)(r, out) ⊙ (out,)

    @property
    def A(self) -> Float[Tensor, "r in"]:
        r"""This layer's columns of the shared A."""
        return self.shared[0].A[:, : self.d_in]

    @property
    def B(self) -> Float[Tensor, "out r"]:
        r"""This layer's rows of the shared B."""
        return self.shared[0].B[: self.d_out]

    def merged(self, W: Float[Tensor, "out in"], b: Tensor | None) -> tuple[Tensor, Tensor | None]:
        r"""$W_0 + \Lambda_b B \Lambda_d A$, rounded once."""
        delta = (self.b[:, None] * self.B) @ (self.d[:, None] * self.A)  # (out, r)(r, in)
        return (W + delta).to(W.dtype), b


class Projections(nn.Module):
    r"""The frozen A and B of one adapter, as wide as the widest of its layers."""

    def __init__(self, method: VeRA, branches: list[VeRABranch], weight: Tensor):
        super().__init__()
        random = torch.Generator("cpu").manual_seed(method.seed)
        shapes = {
            "A": (method.r, max(branch.d_in for branch in branches)),
            "B": (max(branch.d_out for branch in branches), method.r),
        }
        for name, shape in shapes.items():
            drawn = _kaiming_uniform(shape, random)
            # By way of the base's precision, as in peft: from one seed both have the same numbers.
            self.register_parameter(name, nn.Parameter(drawn.to(weight).to(**like(weight)), requires_grad=False))


def _kaiming_uniform(shape: tuple[int, int], random: torch.Generator) -> Float[Tensor, "rows columns"]:
    r"""Kaiming's uniform start on the CPU, as the paper has it: the same numbers from one seed on every machine."""
    bound = math.sqrt(3.0) * (math.sqrt(2) / math.sqrt(shape[1]))
    return torch.empty(shape, device="cpu", dtype=torch.float32).uniform_(-bound, bound, generator=random)


class SharedProjections(AdapterWrapper):
    r"""A and B of all named adapters of a model, each there once."""

    def __init__(self, switch: AdapterState):
        super().__init__(None, switch)
        self.pairs = nn.ModuleDict()


class VeRALayer(Branched):
    r"""A frozen layer with the VeRA branches of all named adapters."""


@dataclass(frozen=True)
class VeRA(LinearLayersMethod):
    r"""VeRA on the modules that `targets` name.

    r: how many random directions A and B have. A direction costs one parameter a layer, so r is larger than LoRA's, and
    may be above the width: the paper takes 1024 for RoBERTa base, 768 wide. targets: names as in peft, such as
    ("q_proj", "v_proj"), or "all-linear"; None: query and value. dropout: on the input of the branch. d_initial: where
    d starts. seed: what A and B are drawn from (peft: projection_prng_key). save_projection: whether a checkpoint
    holds A and B; without them it is small, and who loads it draws them again.

    Raises CourseError for settings that make no sense and, on attaching, for a target that names nothing.
    """

    r: int = 256
    targets: Names = None
    dropout: float = 0.0
    d_initial: float = 0.1
    seed: int = 0
    save_projection: bool = True
    kind: ClassVar[str] = "VERA"
    layer: ClassVar[type[Branched]] = VeRALayer
    parts: ClassVar[tuple[str, ...]] = (".vera_lambda_b", ".vera_lambda_d")
    entries = (
        Setting("r"),
        Setting("targets", "target_modules", binding=False, read=tuple),
        Setting("dropout", "vera_dropout", absent=0.0, binding=False),
        Setting("d_initial", absent=0.1, binding=False),
        Setting("seed", "projection_prng_key", absent=0),
        Setting("save_projection", absent=True),
    )

    def __post_init__(self) -> None:
        keep(
            self,
            r=whole("r", self.r, least=1, such_as=256),
            targets=checked_names(self.targets, ("q_proj", "v_proj")),
            dropout=number("dropout", self.dropout, least=0, below=1, such_as=0.1),
            d_initial=number("d_initial", self.d_initial, such_as=0.1),
            seed=whole("seed", self.seed, least=0, most=2**63 - 1, such_as=0),
            save_projection=flag("save_projection", self.save_projection),
        )

    def count(self, config: Any) -> int:
        r"""$\sum (r + d_{out})$ over the adapted layers."""
        return sum(self.r + m.d_out for m in self.layers(config).values())

    def branch(self, path: str, layer: Branched, config: Any) -> VeRABranch:
        return VeRABranch(layer, self)

    def _insert(self, model: nn.Module, state: Attachment, name: str, found: Any) -> list[nn.Parameter]:
        trained = super()._insert(model, state, name, found)
        layers = [layer for _, layer in self.branches(model, name)]
        branches = [layer.branches[name] for layer in layers]
        shared = add_module(model, state, _path(model), SharedProjections(state.switch))
        shared.pairs[name] = pair = Projections(self, branches, layers[0].W)
        for branch in branches:
            branch.shared = (pair,)
        return trained

    def _tensors(self, model: nn.Module, name: str) -> dict[str, Tensor]:
        pair = model.get_submodule(_path(model)).pairs[name]
        projections = {"vera_A": pair.A, "vera_B": pair.B} if self.save_projection else {}
        return projections | super()._tensors(model, name)


def _path(model: nn.Module) -> str:
    r"""Where in `model` the shared matrices are."""
    return f"{body_prefix(model)}vera"
