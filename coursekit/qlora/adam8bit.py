r"""AdamW with 8-bit states (Dettmers et al. 2022, "8-bit Optimizers via Block-wise Quantization", arXiv:2110.02861).

The states are 8-bit codes between steps, and a part of them is fp32 while it is updated: dequantize, update, quantize.
Two bytes a parameter instead of eight, and 4/256 for each state's scales.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from coursekit.qlora.optimizer import CheckedAdamW, check_finite, check_state, flat, saved_states, step_
from coursekit.quantization.dynamic import BLOCK, SMALLEST, dequantize_8bit, dynamic_map, quantize_8bit

#: Elements that are fp32 at a time, a multiple of the block: so the peak is no multiple of the largest tensor.
PART = 2**20


class AdamW8bit(CheckedAdamW):
    r"""AdamW whose two states are block-wise 8-bit codes: the mean of the gradient in the signed dynamic map, the mean
    of its square in the unsigned one, in blocks of 256 with an fp32 absmax each.

    Tensors below 4096 elements keep fp32 states, as in bitsandbytes: they cost little. Parameters may have any
    floating-point precision; the arithmetic is fp32, or fp64 for weights in fp64.

    A parameter's state, named as in bitsandbytes: `step`, `state1`, `state2` (uint8, or fp32 for a small tensor), and
    with codes `absmax1`, `absmax2`.

    Every value gets its nearest code, as in the paper, with one exception. A variance below 1.6e-7 of its block's
    largest would become 0 while the mean of that gradient does not: the next step is divided by next to nothing.
    Steps of over a thousand learning rates come of it. So code 0 is not used in state 2 (Li et al. 2023,
    arXiv:2309.01507, "zero-point problem").

    bitsandbytes on the CPU is neither: it looks the code up in a table of 65536 equal cells over [-1, 1], which is
    coarser than the smallest codes. Codes 0 to 6 of state 2 are never used there, so it, too, never divides by 0.

    Raises CourseError for settings that make no sense and, before anything has changed, for gradients that are
    sparse, infinite or NaN.
    """

    def __init__(
        self, params: Iterable[nn.Parameter] | Iterable[dict[str, Any]], lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 1e-2,
    ):  # fmt: skip
        #: The two code tables, one pair for each device. Constants, so no part of the state that is saved.
        self.maps: dict[torch.device, tuple[Tensor, Tensor]] = {}
        super().__init__(params, lr, betas, eps, weight_decay)

    def update(self, work: Sequence[tuple[dict[str, Any], nn.Parameter]]) -> None:
        r"""Each parameter part by part: its states from codes to fp32, AdamW's step, and back to codes."""
        check_finite([p.grad for _, p in work])
        for group, p in work:
            self._update(p, group)

    def _update(self, p: nn.Parameter, group: dict[str, Any]) -> None:
        state = self.state[p] or self._start(p)
        state["step"] += 1
        with flat(p) as weight:
            gradient = p.grad.reshape(-1)
            for start in range(0, p.numel(), PART):
                part = slice(start, min(start + PART, p.numel()))
                self._update_part(weight[part], gradient[part].float(), state, part, group)

    def _update_part(
        self, weight: Tensor, gradient: Tensor, state: dict[str, Any], part: slice, group: dict[str, Any]
    ) -> None:
        beta1, beta2 = group["betas"]
        m, v = self._moments(state, part)
        m.mul_(beta1).add_(gradient, alpha=1 - beta1)
        v.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        wide = weight.to(torch.promote_types(weight.dtype, torch.float32))  # a copy only where it has 16 bits
        step_(wide, m, v, state["step"], group)
        if wide.dtype != weight.dtype:
            weight.copy_(wide)
        if "absmax1" in state:
            self._keep(state, part, m, v)

    def _start(self, p: nn.Parameter) -> dict[str, Any]:
        r"""Moments of 0."""
        state = self.state[p]
        state["step"] = 0
        for number, code in zip("12", self._codes(p.device), strict=True):
            zeros = torch.zeros(p.shape, dtype=torch.float32, device=p.device)
            if p.numel() < SMALLEST:
                state[f"state{number}"] = zeros
            else:
                state[f"state{number}"], state[f"absmax{number}"] = quantize_8bit(zeros, code, BLOCK)
        return state

    def _moments(self, state: dict[str, Any], part: slice) -> list[Tensor]:
        r"""Both moments of a part, in fp32: the states themselves, or copies where they are codes."""
        parts = [state[f"state{number}"].view(-1)[part] for number in "12"]
        if "absmax1" not in state:
            return parts
        return [
            dequantize_8bit(codes, state[f"absmax{number}"][_blocks(part)], code, BLOCK)
            for codes, number, code in zip(parts, "12", self._codes(parts[0].device), strict=True)
        ]

    def _keep(self, state: dict[str, Any], part: slice, m: Tensor, v: Tensor) -> None:
        r"""Both moments of a part as codes."""
        for number, moment, code in zip("12", (m, v), self._codes(m.device), strict=True):
            codes, absmax = quantize_8bit(moment, code, BLOCK)
            if number == "2":
                codes.clamp_(min=1)
            state[f"state{number}"].view(-1)[part] = codes
            state[f"absmax{number}"][_blocks(part)] = absmax

    def _codes(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if device not in self.maps:
            self.maps[device] = (dynamic_map(signed=True).to(device), dynamic_map(signed=False).to(device))
        return self.maps[device]

    @property
    def nbytes(self) -> int:
        r"""Bytes of the states and of the code tables, read off the tensors."""
        tables = self.maps.values() if any("absmax1" in state for state in self.state.values()) else []
        kept = [state.values() for state in self.state.values()] + list(tables)
        return sum(value.nbytes for values in kept for value in values if isinstance(value, Tensor))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        r"""Go on from a `state_dict()`. CourseError for one of other parameters; nothing has changed then."""
        states = {}
        for p, saved in saved_states(self, state_dict):
            check_state(p, saved, _shapes(p))
            states[p] = {"step": int(saved["step"])} | {
                name: saved[name].to(p.device, copy=True).contiguous() for name in _shapes(p)
            }
        # PyTorch would cast the codes to the parameter's precision, so it only gets the groups.
        super().load_state_dict({"state": {}, "param_groups": state_dict["param_groups"]})
        self.state.update(states)


def _blocks(part: slice) -> slice:
    r"""The blocks of the elements in `part`, which begins with a block."""
    return slice(part.start // BLOCK, -(-part.stop // BLOCK))


def _shapes(p: nn.Parameter) -> dict[str, tuple[torch.Size, str]]:
    if p.numel() < SMALLEST:
        return {name: (p.shape, "fractions") for name in ("state1", "state2")}
    blocks = torch.Size([-(-p.numel() // BLOCK)])
    return {name: (p.shape, "integers") for name in ("state1", "state2")} | {
        name: (blocks, "fractions") for name in ("absmax1", "absmax2")
    }
