r"""What the optimizers here share: settings that make sense, gradients that can be used, states that fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from coursekit.errors import CourseError

#: Above this a squared gradient is no finite float32.
LARGEST = math.sqrt(torch.finfo(torch.float32).max)


def check_settings(lr: float, betas: tuple[float, float], eps: float, weight_decay: float) -> None:
    r"""CourseError for settings of AdamW that make no sense."""
    for name, value in (("lr", lr), ("eps", eps), ("weight_decay", weight_decay)):
        if not value >= 0:
            raise CourseError(f"{name}={value!r}: it must be at least 0")
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise CourseError(f"betas={betas!r}: give two numbers from 0 to below 1, such as (0.9, 0.999)")


def check_parameters(parameters: list[nn.Parameter]) -> None:
    r"""CourseError for parameters that AdamW cannot update."""
    for p in parameters:
        if not p.is_floating_point():
            raise CourseError(f"a parameter of {p.dtype} has no gradient to follow: leave it out")


def evaluated(closure: Callable[[], Any] | None) -> Any:
    r"""What `closure` returns, computed with gradients as PyTorch's optimizers do; None without one."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def with_gradients(optimizer: Optimizer) -> list[tuple[dict[str, Any], nn.Parameter]]:
    r"""Every parameter to update, with its group. CourseError, before any update, for a gradient that is no use."""
    found = [
        (group, p)
        for group in optimizer.param_groups
        for p in group["params"]
        if p.grad is not None and p.numel()
    ]
    if any(p.grad.layout is not torch.strided for _, p in found):
        raise CourseError(
            "a gradient is sparse, and this optimizer keeps dense states: "
            "make the embedding with sparse=False, or train it with torch.optim.SparseAdam"
        )
    return found


def check_finite(gradients: list[Tensor]) -> None:
    r"""CourseError where a gradient is infinite, NaN, or too large to square: blocks cannot be scaled by that."""
    # Gathered first, so that the host waits for a device once.
    largest = [
        torch.linalg.vector_norm(g, ord=math.inf).to(gradients[0].device, torch.float32) for g in gradients
    ]
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
    p: Float[Tensor, "*shape"],
    m: Float[Tensor, "*shape"],
    v: Float[Tensor, "*shape"],
    step: int,
    group: Mapping[str, Any],
) -> None:
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


def saved_states(
    optimizer: Optimizer, state_dict: Mapping[str, Any]
) -> Iterator[tuple[nn.Parameter, dict[str, Any]]]:
    r"""Each parameter of `optimizer` that has a state in `state_dict`, with that state.

    CourseError where the groups are others than those of `optimizer`.
    """
    here, there = optimizer.param_groups, state_dict["param_groups"]
    sizes, saved = ([len(group["params"]) for group in groups] for groups in (here, there))
    if sizes != saved:
        raise CourseError(
            f"this state is of other parameters: groups of {saved} tensors, and here they are of {sizes}"
        )
    for group, saved_group in zip(here, there, strict=True):
        for p, number in zip(group["params"], saved_group["params"], strict=True):
            if number in state_dict["state"]:
                yield p, state_dict["state"][number]


def check_state(
    p: nn.Parameter, saved: Mapping[str, Any], shapes: Mapping[str, tuple[torch.Size, str]]
) -> None:
    r"""CourseError unless `saved` has each named tensor in its shape and kind ("whole numbers", "fractions")."""
    for name, (shape, kind) in shapes.items():
        value = saved.get(name)
        right = (
            isinstance(value, Tensor)
            and value.shape == shape
            and value.is_floating_point() == (kind == "fractions")
        )
        if not right:
            found = f"{value.dtype} of {tuple(value.shape)}" if isinstance(value, Tensor) else "missing"
            raise CourseError(
                f"this state does not fit a parameter of {tuple(p.shape)}: {name} is {found}, and should be "
                f"{kind} of {tuple(shape)}; load it into the optimizer that wrote it"
            )
