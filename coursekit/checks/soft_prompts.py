r"""The exercises of notebooks 04_soft_prompts and 04b_gate that ask for one right answer."""

from __future__ import annotations

import torch
from torch import Tensor

from coursekit.checks.core import Exercise
from coursekit.checks.draw import Draw

# soft-prompts-prepend -------------------------------------------------------------------------------------


def prepend(prompt: Tensor, x: Tensor, mask: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Vectors before every row, with 1 in the mask and -100 in the labels."""
    batch, n = len(x), len(prompt)
    return (
        torch.cat([prompt.expand(batch, -1, -1), x], dim=1),
        torch.cat([mask.new_ones(batch, n), mask], dim=1),
        torch.cat([labels.new_full((batch, n), -100), labels], dim=1),
    )


def _behind(prompt: Tensor, x: Tensor, mask: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(before.roll(-len(prompt), dims=1) for before in prepend(prompt, x, mask, labels))


def _with(mask_value: int | None = 1, label_value: int | None = -100):
    def wrong(prompt: Tensor, x: Tensor, mask: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        right, _, _ = prepend(prompt, x, mask, labels)
        batch, n = len(x), len(prompt)
        if mask_value is not None:
            mask = torch.cat([mask.new_full((batch, n), mask_value), mask], dim=1)
        if label_value is not None:
            labels = torch.cat([labels.new_full((batch, n), label_value), labels], dim=1)
        return right, mask, labels

    return wrong


def _secret_prepend(draw: Draw) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n, batch, seq, d = draw.whole(2, 4), draw.whole(2, 4), draw.whole(4, 7), draw.whole(4, 7)
    mask = torch.ones(batch, seq, dtype=torch.long)
    mask[draw.whole(0, batch - 1), draw.whole(2, seq - 1) :] = 0
    labels = draw.integers(5, 90, batch, seq).masked_fill(mask == 0, -100)
    prompt, x = (draw.normal(*shape, dtype=torch.float32) for shape in ((n, d), (batch, seq, d)))
    return prompt, x, mask, labels


PREPEND = Exercise(
    id="soft-prompts-prepend", points=2, difficulty=2, minutes=6,
    secret=_secret_prepend, reference=prepend,
    mutants={
        "the prompt stands behind the text, where a causal model reads it too late: put it first": _behind,
        "the vectors stand behind the text, and mask and labels count them before it: put the prompt first":
            lambda prompt, x, *rest: (_behind(prompt, x, *rest)[0], *prepend(prompt, x, *rest)[1:]),
        "0 in the mask hides the prompt from the model: virtual tokens need 1": _with(mask_value=0),
        "the mask is as long as before: the model would take the text's mask for the prompt's": _with(mask_value=None),
        "the labels are as long as before, so each would be compared with the wrong position": _with(label_value=None),
        "a label of 0 asks the virtual tokens to predict token 0: -100 leaves them out of the loss":
            _with(label_value=0),
    },
    tolerance=1e-6,
)  # fmt: skip


# soft-prompts-prefix-attention ----------------------------------------------------------------------------


def prefix_attention(q: Tensor, k: Tensor, v: Tensor, p_k: Tensor, p_v: Tensor) -> Tensor:
    r"""softmax(q [p_k; k]^T / sqrt(d)) [p_v; v]; a token sees the whole prefix, and the tokens up to itself."""
    return _prefixed(q, k, v, p_k, p_v, diagonal=len(p_k))


def _prefixed(
    q: Tensor, k: Tensor, v: Tensor, p_k: Tensor, p_v: Tensor, diagonal: int | None, scale: float | None = None,
    hidden: float = float("-inf"), over: int = -1,
) -> Tensor:  # fmt: skip
    keys, values = torch.cat([p_k, k]), torch.cat([p_v, v])
    scores = q @ keys.T * (q.shape[1] ** -0.5 if scale is None else scale)
    if diagonal is not None:
        seen = torch.ones_like(scores, dtype=torch.bool).tril(diagonal)
        scores = scores.masked_fill(~seen, hidden)
    return scores.softmax(over) @ values


def _plain(q: Tensor, k: Tensor, v: Tensor, p_k: Tensor, p_v: Tensor) -> Tensor:
    return _prefixed(q, k, v, p_k[:0], p_v[:0], diagonal=0)


def _secret_attention(draw: Draw) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    n, seq, d = draw.whole(2, 4), draw.whole(4, 6), draw.whole(3, 6)
    return tuple(draw.normal(rows, d, dtype=torch.float32) for rows in (seq, seq, seq, n, n))


PREFIX_ATTENTION = Exercise(
    id="soft-prompts-prefix-attention", points=3, difficulty=3, minutes=14,
    secret=_secret_attention, reference=prefix_attention,
    mutants={
        "this is attention without the prefix: p_k and p_v are not in it": _plain,
        "tokens see what comes after them: mask the later tokens, though not the prefix":
            lambda q, k, v, p_k, p_v: _prefixed(q, k, v, p_k, p_v, diagonal=None),
        "the causal mask starts at the first column, but that is the prefix: move its diagonal by n":
            lambda q, k, v, p_k, p_v: _prefixed(q, k, v, p_k, p_v, diagonal=0),
        "no token sees itself: token i sees the prefix and tokens 0 to i, so move the diagonal by n":
            lambda q, k, v, p_k, p_v: _prefixed(q, k, v, p_k, p_v, diagonal=len(p_k) - 1),
        "a score of 0 still gets a share of the softmax: hidden tokens need a score of minus infinity":
            lambda q, k, v, p_k, p_v: _prefixed(q, k, v, p_k, p_v, diagonal=len(p_k), hidden=0.0),
        "the prefix stands behind the text here, and the mask counts it before: [p_k; k] and [p_v; v]":
            lambda q, k, v, p_k, p_v: _prefixed(q, p_k, p_v, k, v, diagonal=len(p_k)),
        "the scores are divided by d, not by its root":
            lambda q, k, v, p_k, p_v: _prefixed(q, k, v, p_k, p_v, diagonal=len(p_k), scale=1 / q.shape[1]),
        "the scores are not divided by the root of d":
            lambda q, k, v, p_k, p_v: _prefixed(q, k, v, p_k, p_v, diagonal=len(p_k), scale=1.0),
        "the prefix takes attention but says nothing: p_v is missing from the values":
            lambda q, k, v, p_k, p_v: _prefixed(q, k, v, p_k, torch.zeros_like(p_v), diagonal=len(p_k)),
        "p_k and p_v are exchanged: p_k stands before the keys, p_v before the values":
            lambda q, k, v, p_k, p_v: _prefixed(q, k, v, p_v, p_k, diagonal=len(p_k)),
        "the softmax runs over the wrong dimension: each row of the scores must add up to 1, so take dim=-1":
            lambda q, k, v, p_k, p_v: _prefixed(q, k, v, p_k, p_v, diagonal=len(p_k), over=0),
        "these are two softmaxes, added; a prefix shares one softmax with the tokens":
            lambda q, k, v, p_k, p_v: _plain(q, k, v, p_k, p_v) + (q @ p_k.T * q.shape[1] ** -0.5).softmax(-1) @ p_v,
    },
)  # fmt: skip


# soft-prompts-gated-attention -----------------------------------------------------------------------------


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.T * q.shape[1] ** -0.5).softmax(-1) @ v


def gated_attention(q: Tensor, k: Tensor, v: Tensor, p_k: Tensor, p_v: Tensor, gate: float) -> Tensor:
    r"""causal softmax(q k^T / sqrt(d)) v + gate * softmax(q p_k^T / sqrt(d)) p_v."""
    return _plain(q, k, v, p_k, p_v) + gate * _attend(q, p_k, p_v)


def _secret_gated(draw: Draw) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, float]:
    gate = draw.pick((-1, 1)) * draw.real(0.2, 1.8) if draw.kind == 0 else 0.0
    return *_secret_attention(draw), gate


GATED_ATTENTION = Exercise(
    id="soft-prompts-gated-attention", points=3, difficulty=2, minutes=8,
    secret=_secret_gated, reference=gated_attention,
    mutants={
        "this multiplies the two outputs, as the slide does: with gate 0 the model says nothing; add them":
            lambda q, k, v, p_k, p_v, gate: _plain(q, k, v, p_k, p_v) * gate * _attend(q, p_k, p_v),
        "one softmax for both lets the prompts take attention from the tokens even with gate 0: use two":
            lambda q, k, v, p_k, p_v, gate: prefix_attention(q, k, v, p_k, gate * p_v),
        "the gate is on everything, so gate 0 silences the model: it belongs on the prompts' output alone":
            lambda q, k, v, p_k, p_v, gate: gate * (_plain(q, k, v, p_k, p_v) + _attend(q, p_k, p_v)),
        "the gate is on the wrong one of the two: it opens for the prompts, the tokens are always there":
            lambda q, k, v, p_k, p_v, gate: gate * _plain(q, k, v, p_k, p_v) + _attend(q, p_k, p_v),
        "the gate is missing: the random prompts speak from the first step":
            lambda q, k, v, p_k, p_v, gate: _plain(q, k, v, p_k, p_v) + _attend(q, p_k, p_v),
        "a gate on the keys does not silence the prompts: a softmax of zeros is an average, not zero":
            lambda q, k, v, p_k, p_v, gate: _plain(q, k, v, p_k, p_v) + _attend(q, gate * p_k, p_v),
        "this mixes the two, so an open gate takes from the tokens: their output is always there in full":
            lambda q, k, v, p_k, p_v, gate: (1 - gate) * _plain(q, k, v, p_k, p_v) + gate * _attend(q, p_k, p_v),
        "the prompts' scores are not divided by the root of d":
            lambda q, k, v, p_k, p_v, gate: _plain(q, k, v, p_k, p_v) + gate * (q @ p_k.T).softmax(-1) @ p_v,
        "the gated softmax holds the tokens too: it is over the prompts alone":
            lambda q, k, v, p_k, p_v, gate: _plain(q, k, v, p_k, p_v) + gate * prefix_attention(q, k, v, p_k, p_v),
        "tokens see what comes after them: the softmax over the text is causal":
            lambda q, k, v, p_k, p_v, gate: _attend(q, k, v) + gate * _attend(q, p_k, p_v),
        "the mask hides prompts too: each token sees all of them":
            lambda q, k, v, p_k, p_v, gate: _plain(q, k, v, p_k, p_v) + gate * _plain(q, p_k, p_v, p_k, p_v),
    },
    kinds=2,
)  # fmt: skip


# soft-prompts-gate-gradients ------------------------------------------------------------------------------


def _shares(q: Tensor, p_k: Tensor) -> Tensor:
    return (q @ p_k.T * q.shape[1] ** -0.5).softmax(-1)


def gate_gradients(grad_out: Tensor, q: Tensor, p_k: Tensor, p_v: Tensor, gate: float) -> tuple[float, Tensor]:
    r"""dL/dgate = <grad_out, S p_v> and dL/dp_v = gate S^T grad_out, with S = softmax(q p_k^T / sqrt(d))."""
    return _of_shares(_shares(q, p_k), grad_out, p_v, gate)


def _of_shares(S: Tensor, grad_out: Tensor, p_v: Tensor, gate: float) -> tuple[float, Tensor]:
    return (grad_out * (S @ p_v)).sum().item(), gate * S.T @ grad_out


def _secret_upstream(draw: Draw) -> tuple[Tensor, Tensor, Tensor, Tensor, float]:
    while True:  # a sum that nearly cancels has the rounding errors of its terms
        q, _, _, p_k, p_v, gate = _secret_gated(draw)
        g = draw.normal(*q.shape, dtype=torch.float32)
        if abs(gate_gradients(g, q, p_k, p_v, gate)[0]) > 0.5:
            return g, q, p_k, p_v, gate


GATE_GRADIENTS = Exercise(
    id="soft-prompts-gate-gradients", points=4, difficulty=3, minutes=10,
    secret=_secret_upstream, reference=gate_gradients,
    mutants={
        "the gate is missing from dL/dp_v: at gate 0 the prompts can change nothing, so they have no gradient":
            lambda g, q, p_k, p_v, gate: ((g * (_shares(q, p_k) @ p_v)).sum(), _shares(q, p_k).T @ g),
        "the gate multiplies its own gradient: then a gate of 0 could never open":
            lambda g, q, p_k, p_v, gate: (gate * (g * (_shares(q, p_k) @ p_v)).sum(), gate * _shares(q, p_k).T @ g),
        "this averages the gate's gradient: one number that acts in many places gets the sum":
            lambda g, q, p_k, p_v, gate: ((g * (_shares(q, p_k) @ p_v)).mean(), gate * _shares(q, p_k).T @ g),
        "this averages over the tokens; the mean, if there is one, is in grad_out already, so add them up":
            lambda g, q, p_k, p_v, gate: ((g * (_shares(q, p_k) @ p_v)).sum(), gate * _shares(q, p_k).T @ g / len(g)),
        "the gate's gradient needs what the gate multiplies: S p_v, entry by entry with grad_out":
            lambda g, q, p_k, p_v, gate: (g.sum(), gate * _shares(q, p_k).T @ g),
        "grad_out is missing from the gate's gradient: multiply S p_v by it, entry by entry, before the sum":
            lambda g, q, p_k, p_v, gate: ((_shares(q, p_k) @ p_v).sum(), gate * _shares(q, p_k).T @ g),
        "S needs the division of its scores by the root of d":
            lambda g, q, p_k, p_v, gate: _of_shares((q @ p_k.T).softmax(-1), g, p_v, gate),
        "the two are exchanged: first the gate's number, then the gradient of p_v":
            lambda g, q, p_k, p_v, gate: gate_gradients(g, q, p_k, p_v, gate)[::-1],
        "the gate is one number for all outputs as well: sum over the tokens and over the d outputs":
            lambda g, q, p_k, p_v, gate: ((g * (_shares(q, p_k) @ p_v)).sum(0), gate * _shares(q, p_k).T @ g),
        "the gradient of p_v is 0 only where the gate is 0: give it for any gate":
            lambda g, q, p_k, p_v, gate: ((g * (_shares(q, p_k) @ p_v)).sum(), torch.zeros_like(p_v)),
    },
    kinds=2,
)  # fmt: skip
