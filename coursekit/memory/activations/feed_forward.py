r"""The feed-forward: up, activation, down; with a gate (SwiGLU) the product of two results."""

from __future__ import annotations

from collections.abc import Sequence

from coursekit.memory.activations.builder import Builder, Product
from coursekit.memory.activations.forward import alive
from coursekit.memory.activations.linear import linear

#: Tensors that an activation keeps, and those alive in its backward; 1 and 2 for one fused operation.
_ACTIVATION = {"gelu_new": (4, 3), "relu": (1, 2)}
#: Tensors alive in the forward of an activation, its input and its result among them; 2 for one fused operation.
_MADE = {"gelu_new": 4}


def feed_forward(b: Builder, up: Sequence[str], down: str) -> None:
    r"""The steps from the input of the matrices `up` to the result of `down`."""
    a = b.arch
    rising, gate = b.flows or b.touches(up[-1]), b.flows or b.touches(up[0])
    name, width = ("gate, up", "2*T f") if a.gated else ("up", "T f")
    linear(b, Product(up, name, "T d", False, ["2*T d"], [width]))
    if not b.flows:  # nothing is kept, but for a moment as much is there
        made = 3 if a.gated else _MADE.get(a.activation, 2)
        b.add(f"{a.activation} without a gradient", [], 0, alive(b, "feed-forward") + b.live(f"{made}*T f"))
    elif a.gated:
        if gate:
            b.step("silu", [b.term("gate", "T f")], "T d", "3*T f")
        factors = [b.term("silu(gate)", "T f")] * rising + [b.term("up", "T f")] * gate
        b.step("product", factors, "T d", "3*T f")
    else:
        kept, back = _ACTIVATION.get(a.activation, (1, 2))
        b.step(a.activation, [b.term(f"{a.activation}: kept", f"{kept}*T f")], "T d", f"{back}*T f")
    here = a.activation == "relu" and not a.gated and b.flows  # relu keeps its result, which is the next input
    linear(b, Product([down], "down", "T f", here, ["T d"], b.own_gradient("feed-forward output")))
