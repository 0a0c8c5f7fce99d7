r"""softmax(q k) v: queries, keys and values, and the attention weights where no fused kernel does without them."""

from __future__ import annotations

from collections.abc import Sequence

from coursekit.memory.activations.builder import Builder
from coursekit.memory.activations.forward import alive


def attention(b: Builder, qkv: Sequence[str], flowed: bool) -> bool:
    r"""The attention over the results of the matrices `qkv`. `flowed`: whether their input needs a gradient.

    Returns whether its result is kept, for the output projection to share.
    """
    a, s = b.arch, b.setting
    if not (b.flows or s.prefix):
        b.add("attention without a gradient", [], 0, *_without_gradient(b))
        return False
    b.flows = True
    repeats = a.n_heads != a.n_kv_heads and (s.attention != "flash" or s.padded or bool(s.prefix))
    kv = ("K" if s.prefix else "T") + (" q" if repeats else " kv")
    if s.attention == "flash":
        _fused(b, kv)
        return True
    _unfused(b, kv, *_gradients(b, qkv, flowed))
    return False


def _gradients(b: Builder, qkv: Sequence[str], flowed: bool) -> tuple[bool, bool, bool]:
    r"""Whether queries, keys and values need gradients. Those of a prefix train; GPT-2 has one matrix for all."""
    q, k, v = (flowed or b.touches(n) for n in (qkv if len(qkv) == 3 else (qkv[0],) * 3))
    return q, k or bool(b.setting.prefix), v or bool(b.setting.prefix)


def _fused(b: Builder, kv: str) -> None:
    r"""A fused kernel computes the attention weights again, from their sums."""
    s = b.setting
    keeps = [
        b.term("q", "T q"), b.term("k", kv), b.term("v", kv), b.term("attention output", "T q"),
        b.small("log sum exp", "T heads", 4 * s.tokens * b.arch.n_heads),
    ]  # fmt: skip
    if s.padded and not s.prefix:  # a prefix has one mask for all blocks
        keeps.append(b.small("mask", "T seq", s.tokens * s.seq * s.element))
    b.step("attention", keeps, "T d", "2*T q", "2*K q")


def _unfused(b: Builder, kv: str, q: bool, k: bool, v: bool) -> None:
    r"""Scores, softmax, dropout and weighted sum. A product keeps one factor for the gradient of the other."""
    a, s = b.arch, b.setting
    # PyTorch's unfused kernel computes in fp32 throughout; transformers' own only the softmax, and not BERT's.
    size = 4 if s.attention == "math" else s.element
    upcast = s.attention == "eager" and a.family in ("llama", "qwen3", "opt")
    heads, td, tq = b.live("S", size=size), b.live("T d"), b.live("T q")
    b.add("scores", [b.term("q", "T q", size)] * k + [b.term("k", kv, size)] * q, td + 3 * tq + heads)
    weights = [b.term("softmax", "S", 4 if upcast else size)] * (q or k)
    b.add("softmax", weights, td + tq + 2 * heads)
    if a.attention_dropout and (q or k):
        noise = b.term("dropout mask", "S", 1 if s.on_gpu else size)
        b.add("softmax dropout", [noise], td + tq + 2 * heads)
    product = [b.term("v", kv, size)] * (q or k)
    if v and a.attention_dropout:
        product.append(b.term("dropped softmax", "S", size))
    elif v and (not weights or (upcast and s.half)):
        product.append(b.term("softmax, rounded" if upcast else "softmax", "S", size))
    b.add("weighted sum", product, td + 2 * tq + heads, _rounded(b))


def _without_gradient(b: Builder) -> tuple[int, int]:
    r"""(most bytes alive in an attention that keeps nothing, those that stay until the block ends)."""
    a, s = b.arch, b.setting
    if s.attention == "flash":
        return alive(b, "attention") + b.live("3*T q", "2*T kv"), 0
    size = 4 if s.attention == "math" else s.element
    heads, q = b.live("S", size=size), b.live("T q", size=size)
    mask = s.tokens * s.seq * s.element * s.padded
    if s.attention == "math":  # the scaled queries, and in 16 bits fp32 copies of all three
        extra = q + mask + (3 * q if s.half else 0)
    else:  # the weights are handed up, though nobody asks for them
        extra = b.live("2*T q") * (a.n_heads != a.n_kv_heads)
    # Scores and softmax, or softmax, dropout's mask and result; Llama and OPT have the softmax in fp32 in any case.
    weights = 3 * heads if a.attention_dropout else 2 * heads
    if s.half and a.family in ("llama", "qwen3", "opt") and s.attention == "eager":
        weights = heads + 2 * b.live("S", size=4)
    most = alive(b, "attention") + b.live("T q", "2*T kv") + extra + weights
    return most, heads if s.attention == "eager" else 0


def _rounded(b: Builder) -> int | None:
    r"""PyTorch's unfused kernel on 16-bit tensors: fp32 copies of q, k and v, q scaled, the result; weights rounded."""
    s = b.setting
    if s.attention != "math" or not s.half:
        return None
    rounded = b.live("2*T q", "2*K kv", "S") + s.keys * s.seq * s.element * s.padded
    # Behind a prefix the copy of v is the tensor that is kept.
    copies = b.live("3*T q", "K kv" if s.prefix else "2*K kv", size=4)
    return alive(b, "attention") + rounded + copies
