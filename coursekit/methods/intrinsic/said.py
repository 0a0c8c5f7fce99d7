r"""Training in a random subspace, with and without structure (Li et al. 2018; Aghajanyan et al. 2020).

$$\theta_i = \theta_{0,i} + \lambda_i\, F(v)_i, \qquad v \in \mathbb{R}^{d-m},\ \lambda \in \mathbb{R}^m$$

All weights of a model move, but only along d - m random directions; i counts the groups of weights, one for each block
and one for the rest. The smallest d that reaches 90 % of what full fine-tuning reaches is the *intrinsic dimension* of
the task.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from coursekit import interop
from coursekit.errors import CourseError, flag, keep, one_of, whole
from coursekit.methods.intrinsic.displaced import (
    Directions,
    Displace,
    Group,
    Held,
    Place,
    ReparametrizedLayer,
    frozen_modules,
    groups_of,
    size,
)
from coursekit.methods.intrinsic.fastfood import Fastfood
from coursekit.methods.mechanism.anatomy import anatomy_of, sizes_of
from coursekit.methods.mechanism.attachment import Attachment, add_module, attached, wrap
from coursekit.methods.mechanism.branch import like
from coursekit.methods.mechanism.checkpoint import Setting
from coursekit.methods.mechanism.method import Method
from coursekit.methods.mechanism.modules import body_prefix, in_codes, named_base_modules

PARTS = ("all", "blocks")


class Subspace(nn.Module):
    r"""v and λ of one adapter, and the weights that they make."""

    def __init__(self, F: Fastfood, scales: int, **where: Any):
        super().__init__()
        self.F = F
        self.v = nn.Parameter(torch.zeros(F.d, **where))  # (d - m,): nothing has moved yet
        self.scales = nn.Parameter(torch.ones(scales, **where)) if scales else None  # (m,)

    def forward(self, i: int, *frozen: Tensor) -> tuple[Tensor, ...]:
        r"""$\theta_i$ of the equation above: the tensors of group i, in the shapes of the frozen ones."""
        scale = 1 if self.scales is None else self.scales[i]
        moved = scale * self.F.group(self.v, i)  # (number of weights of group i,)
        parts = moved.split([theta.numel() for theta in frozen])
        return tuple(theta + part.view(theta.shape) for theta, part in zip(frozen, parts, strict=True))

    def fast(self, i: int, *frozen: Tensor) -> tuple[Tensor, ...]:
        r"""The same as one operation, which keeps neither F(v) nor the gradients of the weights: a model runs this."""
        return Displace.apply(self.v, None if self.scales is None else self.scales[i], self.F, i, *frozen)


@dataclass(frozen=True)
class IntrinsicSAID(Method):
    r"""All weights of the body, moved along d directions that are drawn once and never train.

    d: number of trained parameters. structure: m of them are factors $\lambda$, one for each block and one for all that
    is outside of the blocks ("structure aware", SAID); without it every one of them is a direction (DID). parts: "all"
    moves every parameter of the body, as in the paper; "blocks" leaves embeddings, a last norm and a pooler alone,
    half of the work for a small model with many words. seed: of the directions; another one gives another subspace.

    The weights have to be made anew at each step, and their gradient is computed as in full fine-tuning: this saves
    optimizer states and storage, not time. It measures how many parameters a task needs; it is no way to save.

    Raises CourseError for a d that leaves no direction, or, on attaching, one that exceeds the number of weights.
    """

    d: int = 1000
    structure: bool = True
    parts: str = "all"
    seed: int = 0
    kind: ClassVar[str] = "INTRINSIC_SAID"
    entries = (Setting("d"), Setting("structure"), Setting("parts"), Setting("seed"))

    def __post_init__(self) -> None:
        keep(self, d=whole("d", self.d, least=1, such_as=1000))
        keep(self, seed=whole("seed", self.seed, least=0, most=2**63 - 1))
        flag("structure", self.structure)
        one_of("parts", self.parts, PARTS)

    def count(self, config: Any) -> int:
        r"""d, whatever the model: $d - m$ directions and $m$ factors."""
        shapes, everything = anatomy_of(config), self.parts == "all"
        sizes = [size for path, size in sizes_of(config).items() if everything or shapes.inside(path) is not None]
        self._check_size(len(shapes.blocks) + everything, sum(sizes))
        return self.d

    # ------------------------------------------------------------------------------------------------------------

    def _check_size(self, groups: int, weights: int) -> None:
        r"""Raise CourseError where d does not fit a model with so many groups of weights and so many weights."""
        if self.structure and self.d <= groups:
            raise CourseError(
                f"d={self.d} leaves no direction: {groups} of them are the factors λ of this model; take a larger d, "
                "or structure=False"
            )
        if self.d > weights:
            raise CourseError(f"d={self.d} directions are more than the {weights:,} weights they would move")

    def _check(self, model: nn.Module) -> None:
        if any(in_codes(module) for module in model.modules()):
            raise CourseError(
                "weights in 4 bits cannot move by small steps, there is nothing between two levels: attach LoRA beside "
                "them, or load the model without quantizing it"
            )
        others: dict[str, Any] = attached(model)
        for name, other in others.items():
            if other.parts != self.parts:  # one set of wrappers moves the weights of all adapters
                raise CourseError(
                    f"adapter {name!r} on this model moves parts={other.parts!r}, this one is to move {self.parts!r}: "
                    "take the same, or detach first"
                )
        groups = groups_of(model, self.parts)
        self._check_size(len(groups), sum(map(size, groups)))

    def _insert(self, model: nn.Module, state: Attachment, name: str, found: Any) -> list[nn.Parameter]:
        if _here(model) not in state.added:
            self._wrap(model, state)
        directions = _directions(model)
        groups, others = directions.groups, directions.subspaces.values()
        F = self._fastfood(groups)
        F = next((other.F for other in others if other.F == F), F)  # the same directions are drawn once
        module, key = groups[0][0]
        scales = len(groups) if self.structure else 0
        subspace = directions.subspaces[name] = Subspace(F, scales, **like(module._parameters[key]))
        return list(subspace.parameters())

    def _fastfood(self, groups: list[Group]) -> Fastfood:
        d = self.d - len(groups) if self.structure else self.d
        return Fastfood(d, tuple(map(size, groups)), self.seed)

    def _wrap(self, model: nn.Module, state: Attachment) -> None:
        r"""Put every layer with a tensor that moves, also one outside the body that shares it, into a wrapper."""
        groups = groups_of(model, self.parts)
        places = {
            id(module._parameters[key]): Place(group, index)
            for group, members in enumerate(groups)
            for index, (module, key) in enumerate(members)
        }
        directions = Directions(groups, state.switch)
        for path, module in frozen_modules(model).items():
            own = {k: places[id(p)] for k, p in module.named_parameters(recurse=False) if id(p) in places}
            if own:
                wrap(model, state, path, ReparametrizedLayer, own, directions)
        add_module(model, state, _here(model), directions)
        state.hooks += directions.hook(model)

    def _tensors(self, model: nn.Module, name: str) -> dict[str, Tensor]:
        here, subspace = _here(model), _directions(model).subspaces[name]
        scales = {} if subspace.scales is None else {f"{here}.lambda": subspace.scales}
        return {f"{here}.v": subspace.v} | scales

    def _load(self, model: nn.Module, name: str, tensors: dict[str, Tensor], folder: Any) -> None:
        interop.same_tensors(self._learned(model, name), tensors, folder)
        config, F = interop.read(folder)[0], _directions(model).subspaces[name].F
        if config["groups"] != list(F.groups):
            raise CourseError(
                f"the checkpoint in {folder} is of another model: the blocks it moves have other sizes than the "
                f"{len(F.groups)} groups here, {F.size:,} weights"
            )
        if config["drawn"] != F.fingerprint():
            raise CourseError(
                f"the checkpoint in {folder} was made by a PyTorch that draws other numbers for seed {self.seed}, so "
                "its directions are lost here: load it there, merge it, and save the whole model"
            )
        super()._load(model, name, tensors, folder)

    def _merged_weights(self, model: nn.Module, name: str) -> dict[str, dict[str, Tensor]]:
        folded = {path: layer.moved(name) for path, layer in _layers(model).items()}
        _directions(model).held = Held()  # from here on these tensors are the model's
        return folded

    def _config(self, model: nn.Module) -> dict[str, Any]:
        F = self._fastfood(_directions(model).groups)
        return super()._config(model) | {"groups": list(F.groups), "drawn": F.fingerprint()}


def _layers(model: nn.Module) -> dict[str, ReparametrizedLayer]:
    return {path: module for path, module in named_base_modules(model) if isinstance(module, ReparametrizedLayer)}


def _here(model: nn.Module) -> str:
    return f"{body_prefix(model)}intrinsic"


def _directions(model: nn.Module) -> Directions:
    return model.base_model.intrinsic
