r"""What penalties for leaving the old weights share: they store the start, and add the distance from it to the loss."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coursekit.autocast import without_autocast
from coursekit.errors import CourseError, number
from coursekit.training.objective import own_loss


class Anchor(ABC):
    r"""An objective for `fit`: the model's own loss plus `penalty()`, which is noted as "penalty".

    start: by name, where each parameter that trains stood when this was made. One copy of them, in float32 (float64
    for parameters in it), which is also what the penalty is computed in, autocast or not.

    Whatever trains is held: the whole model, or what a method trains. It is held as this very parameter object: what is
    put into the model later, such as a new task head, is free.

    Raises CourseError where nothing trains and, in training, where nothing that is held does.
    """

    def __init__(self, model: nn.Module) -> None:
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not self.parameters:
            raise CourseError(
                f"{type(self).__name__} has nothing to hold: no parameter of the model has requires_grad=True; attach "
                "a method first"
            )
        self.start = {name: p.detach().to(_wide(p), copy=True) for name, p in self.parameters.items()}

    @abstractmethod
    def penalty(self) -> Float[Tensor, ""]:
        r"""What the weights, as they stand, cost."""

    def __call__(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        # `fit` may pass a wrapper that spreads the model over processes: its parameters are the same.
        held = set(map(id, self.parameters.values()))
        if not any(p.requires_grad and id(p) in held for p in model.parameters()):
            raise CourseError(
                f"{type(self).__name__} was made for another model, or before a method was attached: nothing that it "
                "holds trains here; make it anew from this model, with the weights that are to be kept"
            )
        loss = own_loss(model, batch)
        with without_autocast(loss):
            penalty = self.penalty()
        return loss + penalty, {"penalty": penalty}

    def moved(self, name: str) -> Float[Tensor, "*shape"]:
        r"""$\theta - \theta^*$ of one parameter."""
        parameter = self.parameters[name]
        return parameter.to(self.start[name].dtype) - on_its_device(self.start, name, parameter)


def on_its_device(kept: dict[str, Tensor], name: str, parameter: nn.Parameter) -> Tensor:
    r"""`kept[name]`, moved for good to where `parameter` is: the model may have moved to another device since."""
    kept[name] = kept[name].to(parameter.device)
    return kept[name]


def factor(name: str, value: float) -> float:
    r"""`value`, the weight of a penalty. Raises CourseError below 0, where it would reward leaving the start."""
    return float(number(name, value, least=0))


def _wide(parameter: Tensor) -> torch.dtype:
    return torch.float64 if parameter.dtype == torch.float64 else torch.float32
