r"""What the optimizers here share: settings that make sense, gradients that can be used, states that fit."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from coursekit.errors import CourseError, number

#: Above this a squared gradient is no finite float32.
LARGEST = math.sqrt(torch.finfo(torch.float32).max)


class CheckedAdamW(Optimizer, ABC):
    r"""AdamW's settings, groups and closures, checked; how the states are kept is for subclasses to say."""

    def __init__(
        self, params: Iterable[nn.Parameter] | Iterable[dict[str, Any]], lr: float, betas: tuple[float, float],
        eps: float, weight_decay: float, **kernel: bool,
    ):  # fmt: skip
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, **kernel))

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        r"""Train more parameters, with settings of their own where the group names them.

        Raises CourseError for settings that make no sense and for parameters that cannot be updated.
        """
        super().add_param_group(param_group)
        try:
            self.check_group(param_group)
        except Exception:
            self.param_groups.pop()
            raise

    def check_group(self, group: dict[str, Any]) -> None:
        r"""CourseError for a group that cannot be trained."""
        for name in ("lr", "eps", "weight_decay"):
            value = group[name]  # PyTorch takes a learning rate in a tensor, too
            found = number(name, value.item() if isinstance(value, Tensor) else value, least=0)
            if not isinstance(value, Tensor):
                group[name] = found
        betas = group["betas"]
        if not isinstance(betas, (tuple, list)) or len(betas) != 2:
            raise CourseError(f"betas must be two numbers, such as (0.9, 0.999); got {betas!r}.")
        group["betas"] = tuple(number(f"betas[{i}]", beta, least=0, below=1) for i, beta in enumerate(betas))
        for p in group["params"]:
            if not p.is_floating_point():
                raise CourseError(f"a parameter of {p.dtype} has no gradient to follow: leave it out")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        r"""Update every parameter that has a gradient; returns what `closure`, if there is one, returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.update(with_gradients(self.param_groups))
        return loss

    @abstractmethod
    def update(self, work: Sequence[tuple[dict[str, Any], nn.Parameter]]) -> None:
        r"""One update of each parameter in `work`, with the settings of its group."""


def with_gradients(groups: Iterable[dict[str, Any]]) -> list[tuple[dict[str, Any], nn.Parameter]]:
    r"""Every parameter to update, with its group. CourseError, before any update, for a gradient that is no use."""
    found = [(group, p) for group in groups for p in group["params"] if p.grad is not None and p.numel()]
    if any(p.grad.layout is not torch.strided for _, p in found):
        raise CourseError(
            "a gradient is sparse, and this optimizer keeps dense states: "
            "make the embedding with sparse=False, or train it with torch.optim.SparseAdam"
        )
    return found


def check_finite(gradients: list[Tensor]) -> None:
    r"""CourseError where a gradient is infinite, NaN, or too large to square: blocks cannot be scaled by that."""
    # Gathered first, so that the host waits for a device once.
    largest = [torch.linalg.vector_norm(g, ord=math.inf).to(gradients[0].device, torch.float32) for g in gradients]
    if largest and not bool((torch.stack(largest) < LARGEST).all()):
        raise CourseError(
            "a gradient holds infinities or NaN, so nothing was updated; "
            "likely a learning rate that is too high, or broken inputs"
        )


@contextmanager
def flat(p: nn.Parameter) -> Iterator[Tensor]:
    r"""The weights of `p` in one row, to be changed in place, whatever their layout."""
    row = p.detach().reshape(-1)
    yield row
    if not p.is_contiguous():  # then it is a copy
        p.copy_(row.view_as(p))


def step_(
    p: Float[Tensor, "*shape"], m: Float[Tensor, "*shape"], v: Float[Tensor, "*shape"], step: int,
    group: Mapping[str, Any],
) -> None:  # fmt: skip
    r"""AdamW's step on the weights p from the moments m and v, in place (Loshchilov & Hutter 2019, algorithm 2).

    $$p \leftarrow (1 - \eta\lambda)\,p - \eta\,\frac{m/(1-\beta_1^t)}{\sqrt{v/(1-\beta_2^t)} + \epsilon}$$

    In the order of `torch.optim.AdamW` and of bitsandbytes on the CPU, so that the bits are theirs.
    bitsandbytes' CUDA kernel decays after the step: another 1 - lr * weight_decay on the step alone.
    """
    beta1, beta2 = group["betas"]
    lr = float(group["lr"])
    p.mul_(1 - lr * group["weight_decay"])
    denominator = v.sqrt().div_(math.sqrt(1 - beta2**step)).add_(group["eps"])
    p.addcdiv_(m, denominator, value=-lr / (1 - beta1**step))


def saved_states(optimizer: Optimizer, state_dict: Mapping[str, Any]) -> Iterator[tuple[nn.Parameter, dict[str, Any]]]:
    r"""Each parameter of `optimizer` that has a state in `state_dict`, with that state.

    CourseError where the groups are others than those of `optimizer`.
    """
    here, there = optimizer.param_groups, state_dict["param_groups"]
    sizes, saved = ([len(group["params"]) for group in groups] for groups in (here, there))
    if sizes != saved:
        raise CourseError(f"this state is of other parameters: groups of {saved} tensors, and here they are of {sizes}")
    for group, saved_group in zip(here, there, strict=True):
        for p, key in zip(group["params"], saved_group["params"], strict=True):
            if key in state_dict["state"]:
                yield p, state_dict["state"][key]


def check_state(p: nn.Parameter, saved: Mapping[str, Any], shapes: Mapping[str, tuple[torch.Size, str]]) -> None:
    r"""CourseError unless `saved` has each named tensor in its shape and kind ("integers", "fractions")."""
    for name, (shape, kind) in shapes.items():
        value = saved.get(name)
        right = (
            isinstance(value, Tensor) and value.shape == shape and value.is_floating_point() == (kind == "fractions")
        )
        if not right:
            found = f"{value.dtype} of {tuple(value.shape)}" if isinstance(value, Tensor) else "missing"
            raise CourseError(
                f"this state does not fit a parameter of {tuple(p.shape)}: {name} is {found}, and should be "
                f"{kind} of {tuple(shape)}; load it into the optimizer that wrote it"
            )
