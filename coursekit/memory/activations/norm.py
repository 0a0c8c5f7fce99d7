r"""A norm: what it keeps, and what its backward takes."""

from __future__ import annotations

from coursekit.architecture import Architecture
from coursekit.memory.activations.builder import Builder
from coursekit.memory.activations.setting import Setting
from coursekit.memory.activations.training import Training


def norm(b: Builder, name: str, what: str) -> None:
    r"""The norm called `name`, of `what`. It keeps its input for the input's gradient, whatever else is trained."""
    s, path = b.setting, b.path(name)
    trained = b.training.any_of(path)
    keeps = []
    if b.arch.norm == "rms":
        if b.flows:
            keeps.append(b.term(f"{what}, in fp32" if s.half else what, "T d", 4))
            keeps.append(b.small("1 / rms", "T", 4 * s.tokens))
        if b.training.weight(path):
            keeps.append(b.term("normalised", "T d"))
    elif b.flows or trained:
        size = s.full if b.training.copies_norm(path) else s.element
        sized = what if size == s.element else f"{what}, in fp32"
        keeps += [b.term(sized, "T d", size), b.small("mean, 1 / std", "2 T", 8 * s.tokens)]
    b.flows |= trained
    b.add(name, keeps, norm_work(b.arch, s, b.training, path))


def norm_of_heads(b: Builder, which: str) -> None:
    r"""The RMS norm of all heads of the queries or the keys, `which`: "q" or "k" (Qwen3)."""
    s, path = b.setting, b.path(f"self_attn.{which}_norm")
    heads, size = (b.arch.n_heads, "T q") if which == "q" else (b.arch.n_kv_heads, "T kv")
    keeps = []
    if b.flows:
        keeps.append(b.term(f"{which} before its norm", size, 4))
        keeps.append(b.small(f"{which}: 1 / rms", "T heads", 4 * s.tokens * heads))
    if b.training.weight(path):
        keeps.append(b.term(f"{which} normalised", size))
    b.flows |= b.training.weight(path)
    b.add(f"{which} norm", keeps, b.live("T d") + b.live(f"{5 if s.half else 3}*{size}", size=4))


def norm_work(arch: Architecture, s: Setting, training: Training, path: str) -> int:
    r"""Gradients alive in the backward of the norm at `path`. RMS norms are a chain of plain operations, in fp32."""
    td, trained = s.tokens * arch.d_model, training.any_of(path)
    if arch.norm == "rms" and s.half:
        return 5 * td * 4 - td * s.element * trained  # by then what the gradient of the weight needed is gone
    if training.copies_norm(path) and s.half:
        return td * s.element + 2 * td * 4
    return (3 if arch.norm == "rms" else 2) * td * s.element
