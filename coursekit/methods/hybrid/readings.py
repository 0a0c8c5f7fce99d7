r"""The gates of a model from outside: what they say for some sentences, and another function in their place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coursekit.methods.hybrid.gates import Gate

#: What a gate is called by, from its path in an encoder of BERT's kind.
KINDS = {"prefix": "self.gates", "query": "query", "value": "value", "adapter": "pfeiffer"}

#: (x, w, b, mask) -> gates: (batch, seq, d), (d,), (), (batch, seq) -> (batch,).
Rule = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@torch.no_grad()
def read(model: nn.Module, batches: Iterable[Mapping[str, Any]]) -> dict[str, Float[Tensor, "layers sentences"]]:
    r"""Kind of gate -> its values in each layer for each sentence; `model` is left in evaluation mode."""
    found: dict[str, list[Tensor]] = {}

    def remember(path: str) -> Callable[..., None]:
        return lambda _module, _inputs, g: found.setdefault(path, []).append(g.flatten().float().cpu())

    hooks = [m.register_forward_hook(remember(p)) for p, m in model.named_modules() if isinstance(m, Gate)]
    try:
        model.eval()
        for batch in batches:
            model(**batch)
    finally:
        for hook in hooks:
            hook.remove()
    return {
        kind: torch.stack([torch.cat(values) for path, values in found.items() if sign in path])
        for kind, sign in KINDS.items()
    }


def use(model: nn.Module, rule: Rule) -> int:
    r"""Let every gate of `model` answer with `rule`, from its own weights; the number of gates."""
    gates = [module for module in model.modules() if isinstance(module, Gate)]
    for gate in gates:
        gate.forward = _with(gate, rule)  # type: ignore[method-assign, assignment]
    return len(gates)


def _with(gate: Gate, rule: Rule) -> Callable[[Tensor, Tensor | None], Tensor]:
    def forward(x: Tensor, real: Tensor | None) -> Tensor:
        x = x.to(gate.weight.dtype)
        mask = x.new_ones(x.shape[:2]) if real is None else real.to(x.dtype)
        return rule(x, gate.weight[0], gate.bias[0], mask)[:, None, None]  # (batch,) -> (batch, 1, 1)

    return forward
