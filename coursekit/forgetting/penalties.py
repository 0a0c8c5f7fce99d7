r"""Penalties for leaving the old weights: they store the start, and add the distance from it to the loss.

L2-SP is weight decay towards the pre-trained weights instead of towards zero; elastic weight consolidation holds each
weight as firmly as it matters to the old task.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coursekit.autocast import without_autocast
from coursekit.errors import CourseError, number
from coursekit.fingerprint import fingerprint
from coursekit.methods import FullFineTuning, attached
from coursekit.methods.mechanism.modules import head_names
from coursekit.methods.selective import importance
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


class L2SP(Anchor):
    r"""$\frac{\alpha}{2} \lVert w_S - w_S^0 \rVert^2 + \frac{\beta}{2} \lVert w_{\bar S} \rVert^2$ beside the loss.

    Li, Grandvalet & Davoine 2018, "Explicit Inductive Bias for Transfer Learning with Convolutional Networks"
    (arXiv:1802.01483), section 3. $w^0$ are the weights when this was made (SP: the starting point). $\bar S$ is the
    task head, which is new and has nothing to go back to: it decays towards 0. $S$ is everything else that trains.

    Raises CourseError for a weight below 0, and for a beta where no head trains.
    """

    def __init__(self, model: nn.Module, alpha: float, beta: float = 0.0) -> None:
        self.alpha, self.beta = factor("alpha", alpha), factor("beta", beta)
        super().__init__(model)
        heads = head_names(model)
        self.head = [name for name in self.parameters if name.partition(".")[0] in heads]
        self.body = [name for name in self.parameters if name not in self.head]
        if beta and not self.head:
            raise CourseError(f"beta={beta} is for a task head, and none of this model trains: leave beta at 0")
        # The head is not among them: drawn anew each time, it would tell a run that is resumed from itself.
        self._checksum = fingerprint({name: self.start[name] for name in self.body})

    def penalty(self) -> Float[Tensor, ""]:
        body = sum(self.moved(name).square().sum() for name in self.body)
        head = sum(self.parameters[name].to(self.start[name].dtype).square().sum() for name in self.head)
        return self.alpha / 2 * body + self.beta / 2 * head

    def __repr__(self) -> str:
        return f"L2SP(alpha={self.alpha}, beta={self.beta}, start={self._checksum})"


class EWC(Anchor):
    r"""$\sum_i \frac{\lambda}{2} F_i (\theta_i - \theta^*_i)^2$ beside the loss; `strength` is $\lambda$.

    Kirkpatrick et al. 2017, "Overcoming catastrophic forgetting in neural networks" (PNAS 114, arXiv:1612.00796),
    equation 3. $\theta^*$ are the weights when this was made, those that the old task left. $F$ is the diagonal of the
    Fisher information there, the one that `FishMask` scores by (`importance.fisher`), over `batches` of the old task.
    Their own labels stand in for labels drawn from the model, the "empirical" Fisher. A few hundred examples do; each
    goes through the model alone.

    The loss of a decoder is a mean over the tokens of an example: of longer examples $F$ is smaller, so $\lambda$ goes
    with their length.

    fisher: $F$ by name of the parameter and in its shape. A number whose $F$ is 0 is free.

    For full fine-tuning, or a model without any method: the Fisher is that of the bare model.

    Raises CourseError where another method is attached, for a strength below 0, and for batches that are none, have no
    labels, or do not tell anything (every $F$ is 0, or one is not finite).
    """

    def __init__(self, model: nn.Module, batches: importance.Batches, strength: float) -> None:
        self.strength = factor("strength", strength)
        other = next((m for m in attached(model).values() if not isinstance(m, FullFineTuning)), None)
        if other is not None:
            raise CourseError(
                f"EWC holds the weights of the model itself, and {type(other).__name__} trains others beside them: "
                "call detach(model), or merge it for good with method.merge(model, undo=False)"
            )
        batches = list(batches)
        if not batches:
            raise CourseError("batches: EWC looks at the old task: give some batches of it with labels")
        super().__init__(model)
        found = importance.fisher(model, list(self.parameters.values()), batches, seed=0)
        importance.telling("fisher", found)
        self.fisher = dict(zip(self.parameters, found, strict=True))
        self.examples = sum(len(next(iter(batch.values()))) for batch in batches)
        # Of what the Fisher is made from, not of its values: on a GPU their last bits differ from run to run.
        seen = {f"{i}.{key}": value for i, batch in enumerate(batches) for key, value in batch.items()}
        self._checksum = fingerprint(self.start | seen)

    def penalty(self) -> Float[Tensor, ""]:
        held = self.parameters.items()
        apart = (on_its_device(self.fisher, name, p) * self.moved(name).square() for name, p in held)
        return self.strength / 2 * sum(part.sum() for part in apart)

    def __repr__(self) -> str:
        return f"EWC(strength={self.strength}, examples={self.examples}, fisher={self._checksum})"
