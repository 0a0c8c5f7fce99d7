r"""One transformer block, step by step, in the order of its forward pass: a pre-norm one and BERT's side by side.

GPT-2, OPT, Llama   norm  q,k,v  attention  output projection (+)  norm  feed-forward (+)
BERT                      q,k,v  attention  output projection (+)  norm  feed-forward (+)  norm
"""

from __future__ import annotations

from collections.abc import Sequence

from coursekit.architecture import Architecture, Matrix
from coursekit.memory.activations.attention import attention
from coursekit.memory.activations.builder import Builder, Product
from coursekit.memory.activations.feed_forward import feed_forward
from coursekit.memory.activations.linear import linear
from coursekit.memory.activations.norm import norm, norm_of_heads
from coursekit.memory.activations.setting import Setting
from coursekit.memory.activations.step import Step
from coursekit.memory.activations.training import Training


def block_steps(
    arch: Architecture, setting: Setting, training: Training, layer: int, flows: bool
) -> tuple[list[Step], list[Step], bool]:
    r"""The steps of block `layer`, those behind it, and whether its output needs a gradient; `flows`: its input.

    Behind it stands what a method does to the block's output. A checkpoint of the block does not reach that far.
    """
    b = Builder(arch, setting, training, layer, flows)
    qkv, out, up, down = _roles([m for m in arch.matrices if m.per_layer])
    if training.moved:
        _move(b, qkv)
    if arch.pre_norm:
        norm(b, arch.norms[0], "residual stream")
    flowed = b.flows
    linear(b, Product(qkv, "q, k, v", "T d", False, ["2*T d"], ["T q", "2*T kv"]))
    if arch.normed_heads:
        norm_of_heads(b, "q")
        norm_of_heads(b, "k")
    shared = attention(b, qkv, flowed)
    b.insert("attention")
    linear(b, Product([out], "output projection", "T q", shared, ["T d"], b.own_gradient("attention output")))
    # DistilBERT drops out at the end of its feed-forward only.
    _end(b, "attention output", "attention dropout" if arch.family != "distilbert" else None)
    if arch.pre_norm:
        norm(b, arch.norms[1], "residual stream")
    else:
        norm(b, arch.norms[0], "sum before the norm")
    feed_forward(b, up, down)
    _end(b, "feed-forward output", "feed-forward dropout")
    if not arch.pre_norm:
        norm(b, arch.norms[1], "sum before the norm")
    inside, b.steps = b.steps, []
    b.insert("block output")
    return inside, b.steps, b.flows


def _roles(matrices: Sequence[Matrix]) -> tuple[list[str], str, list[str], str]:
    r"""Names of (query, key, value), output projection, up projections, down projection: the order of `describe`."""
    names = [m.name for m in matrices]
    n_up = 2 if len(names) == 7 else 1
    return names[: -n_up - 2], names[-n_up - 2], names[-n_up - 1 : -1], names[-1]


def _end(b: Builder, place: str, dropout: str | None) -> None:
    r"""The end of a sublayer: its dropout, if it has one, and what the method inserts there."""
    if b.drops_late:
        b.insert(place)
    if dropout and b.arch.dropout and b.flows:
        b.step(dropout, [b.term("dropout mask", "T d", b.setting.noise)], "2*T d")
    if not b.drops_late:
        b.insert(place)


def _move(b: Builder, qkv: Sequence[str]) -> None:
    r"""The moved weights of the block: they, and then their gradients, stay until its backward has ended."""
    s, moved = b.setting, b.training.moved
    used = moved.used
    if not (b.flows or b.arch.pre_norm):  # nobody asks for the gradient of what they read
        used -= sum(b.matrix(n).d_in * b.matrix(n).d_out for n in qkv)
    keeps = [b.small("moved weights", "weights of a block", s.element * used)]
    biases = s.element * (moved.groups[b.layer] - used)
    work = b.live("T d") + biases + moved.backward(b.layer, s)
    b.add("moved weights", keeps, work, forward=moved.forward(b.layer, s))
