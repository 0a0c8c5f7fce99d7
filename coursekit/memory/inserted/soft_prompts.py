r"""Soft prompts: virtual tokens before the text, keys and values before those of each block, gated prompts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from coursekit.architecture import Architecture
from coursekit.memory.activations.builder import Builder
from coursekit.memory.activations.training import Part, Training
from coursekit.memory.breakdown import Term
from coursekit.memory.inserted.parts import BEFORE, Added, Inserted, each_block, frozen

_FROZEN = Training(frozen)


def prompt_tuning(method: Any, arch: Architecture, config: Any) -> Inserted:
    r"""n vectors before the text: everything is n tokens longer, and a gradient reaches the first block."""
    return Inserted(_FROZEN, (Added(method.n * arch.d_embed, BEFORE),), prompt=method.n)


def p_tuning(method: Any, arch: Architecture, config: Any) -> Inserted:
    r"""The same with a network that makes the vectors; in a template they take the places of tokens."""
    n, d, h = method.n, arch.d_embed, method._hidden(arch.d_embed)
    if method.encoder == "mlp":
        sizes = [h * d, h, h * h, h, d * h, d]
        kept = Term("prompt encoder", "2 n h", 4 * 2 * n * h)
    else:
        sizes = [
            size
            for layer in range(method.layers)
            for _ in range(2)  # directions
            for size in (4 * h * (2 * h if layer else d), 4 * h * h, 4 * h, 4 * h)
        ]
        sizes += [2 * h * 2 * h, 2 * h, d * 2 * h, d]
        inputs = [2 * h if layer else d for layer in range(method.layers) for _ in range(2)]
        kept = Term("prompt encoder", "see `_lstm_keeps`", sum(_lstm_keeps(n, width, h) for width in inputs))
    added = tuple(Added(size, BEFORE) for size in (n * d, *sizes))
    if method.placeholder is None:
        return Inserted(_FROZEN, added, prompt=n, before=(kept,))
    return Inserted(_FROZEN, added, vectors=n, before=(kept,))


def _lstm_keeps(n: int, d: int, h: int) -> int:
    r"""One direction of one layer: oneDNN's workspace, gates and states with room for their gradients.

    Read off its growth with n, d and h; its 7 parts begin at new pages of 4096 bytes.
    """
    return 4 * (n + 1) * (9 * h + 6 * max(d, h)) + 7 * 4096 // 2


def prefix_tuning(method: Any, arch: Architecture, config: Any) -> Inserted:
    r"""n keys and n values in each block; with `hidden` the network that makes them, shared but for its last map."""
    n, h, blocks = method.n, method.hidden, range(arch.n_layers)
    if h is None:
        return Inserted(_FROZEN, tuple(each_block([n * 2 * arch.d_kv], blocks)), prefix=n)
    last = arch.n_layers - 1  # the backward pass comes there first, and the sum of gradients stays
    shared = [Added(size, last) for size in (n * arch.d_kv, h * arch.d_kv, h)]
    own = each_block([2 * arch.d_kv * h, 2 * arch.d_kv], blocks)
    training = Training(frozen, parts=(PrefixNetwork(frozenset(blocks), n, h),))
    return Inserted(training, (*shared, *own), prefix=n)


@dataclass(frozen=True)
class PrefixNetwork(Part):
    r"""tanh(Linear(Emb)), computed in each block anew."""

    blocks: frozenset[int]
    n: int
    hidden: int
    place: str = "attention"

    def write(self, b: Builder) -> None:
        kept = self.n * self.hidden * b.setting.full
        b.add("prefix", [b.small("prefix: hidden units", "n h", kept)], b.live("T d"), forward=0)


def llama_adapter(method: Any, arch: Architecture, config: Any) -> Inserted:
    r"""n prompts and the gates in each of the topmost blocks."""
    gates = method.gates(arch)
    blocks = range(arch.n_layers - method.blocks(arch), arch.n_layers)
    sizes = [method.n * arch.d_model, *([gates] if gates else [])]
    place = "attention output" if arch.family == "gpt2" else "attention"
    training = Training(frozen, parts=(Prompts(place, frozenset(blocks), method.n, bool(gates)),))
    return Inserted(training, tuple(each_block(sizes, blocks)))


@dataclass(frozen=True)
class Prompts(Part):
    r"""Attention of all tokens over n prompts."""

    place: str
    blocks: frozenset[int]
    n: int
    gated: bool

    def write(self, b: Builder) -> None:
        s, a = b.setting, b.arch
        shares = s.tokens * a.n_heads * self.n
        # gated values; values for the gradient of the gate; keys for that of the queries
        small = 1 + self.gated + b.flows
        keeps = [
            b.small("prompts: softmax", "T heads n", shares * s.full),
            b.small("prompts: keys, values", f"{small} n q", small * self.n * a.d_q * s.element),
        ]
        if s.element < 4:
            keeps.append(b.small("prompts: softmax, rounded", "T heads n", shares * s.element))
        keeps += self._queries(b)
        b.flows = True
        b.step("prompts", keeps, "T d", "2*T q")

    def _queries(self, b: Builder) -> list[Term]:
        r"""The queries, unless the attention itself keeps that very tensor."""
        s, a = b.setting, b.arch
        # OPT scales the queries and Llama rotates them: the attention has its own. PyTorch's unfused kernel copies.
        if s.attention == "flash" and a.family not in ("opt", "llama", "qwen3") and b.keeps("q"):
            return []
        if a.family == "gpt2":  # a view, which keeps the keys and values beside it
            return [b.small("prompts: q, k, v", "3 T q", 3 * s.tokens * a.d_q * s.element)]
        return [b.term("prompts: q", "T q")]
