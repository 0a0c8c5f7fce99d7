r"""The exercises of notebook 09_hybrid."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from coursekit.checks.core import Exercise
from coursekit.checks.draw import Draw

# hybrid-share ---------------------------------------------------------------------------------------------


def _weights(q: Tensor, k: Tensor, p_k: Tensor, scale: float | None = None, over: int = -1) -> Tensor:
    scores = q @ torch.cat([p_k, k]).T * (q.shape[1] ** -0.5 if scale is None else scale)
    return scores.softmax(over)[:, : len(p_k)]


def share(q: Tensor, k: Tensor, p_k: Tensor) -> Tensor:
    r"""For each query, the attention weights on the prefix, added up: (seq,)."""
    return _weights(q, k, p_k).sum(-1)


def _secret_share(draw: Draw) -> tuple[Tensor, Tensor, Tensor]:
    d, seq, n = draw.whole(3, 7), draw.whole(4, 7), draw.whole(2, 4)
    return tuple(2 * draw.normal(rows, d) for rows in (seq, seq, n))


SHARE = Exercise(
    id="hybrid-share", points=2, difficulty=3, minutes=8,
    secret=_secret_share, reference=share,
    mutants={
        "this is what the text keeps; asked is what goes to the prefix": lambda q, k, p_k: 1 - share(q, k, p_k),
        "the scores are not divided by the root of d_h": lambda q, k, p_k: _weights(q, k, p_k, scale=1.0).sum(-1),
        "this is the mean weight of one virtual token; the share is their sum":
            lambda q, k, p_k: _weights(q, k, p_k).mean(-1),
        "this is the weight of one virtual token, the strongest; the share adds all n":
            lambda q, k, p_k: _weights(q, k, p_k).max(-1).values,
        "the softmax runs over the queries; the weights of each query over the keys add up to 1, so dim=-1":
            lambda q, k, p_k: _weights(q, k, p_k, over=0).sum(-1),
        "this compares prefix with text, and can be above 1; a share is the prefix's part of both together":
            lambda q, k, p_k: share(q, k, p_k) / (1 - share(q, k, p_k)),
        "the first n columns belong to the text here: the prefix stands last in these keys":
            lambda q, k, p_k: _weights(q, p_k, k)[:, : len(p_k)].sum(-1),
        "a softmax over the prefix alone always adds up to 1; prefix and text share one softmax":
            lambda q, k, p_k: (q @ p_k.T).softmax(-1).sum(-1),
        "this is the share if all keys got the same weight; each query weighs them by its scores":
            lambda q, k, p_k: torch.full((len(q),), len(p_k) / (len(p_k) + len(k)), dtype=q.dtype),
        "this is one number, the share if all keys got the same weight; each query has a share of its own":
            lambda q, k, p_k: len(p_k) / (len(p_k) + len(k)),
    },
    tolerance=1e-8,
)  # fmt: skip


# hybrid-gate ----------------------------------------------------------------------------------------------


def _over_tokens(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).sum(1) / mask.sum(1)


def gate(x: Tensor, w: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    r"""sigmoid(w . x + b), averaged over the real tokens of each sentence: (batch,)."""
    return _over_tokens((x @ w + b).sigmoid(), mask)


def _secret_gate(draw: Draw) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    d, seq = draw.whole(3, 7), draw.whole(5, 8)
    lengths = torch.tensor([[seq], [draw.whole(2, seq - 1)], [draw.whole(2, seq - 1)]])
    mask = (torch.arange(seq) < lengths).long()
    mask[2] = mask[2].flip(0)
    order = draw.order(3)
    return draw.normal(3, seq, d), draw.normal(d), draw.normal(), mask[order]


GATE = Exercise(
    id="hybrid-gate", points=2, difficulty=2, minutes=7,
    secret=_secret_gate, reference=gate,
    mutants={
        "the padding is averaged in; then a gate would depend on how long the other sentences of the batch are":
            lambda x, w, b, mask: (x @ w + b).sigmoid().mean(1),
        "the average is taken before the sigmoid; each token has a gate of its own first":
            lambda x, w, b, mask: _over_tokens(x @ w + b, mask).sigmoid(),
        "there is no sigmoid: a gate lies between 0, closed, and 1, open":
            lambda x, w, b, mask: _over_tokens(x @ w + b, mask),
        "tanh goes down to -1; this gate is a sigmoid, from 0 to 1":
            lambda x, w, b, mask: _over_tokens((x @ w + b).tanh(), mask),
        "a softmax makes the tokens compete, and their gates add up to 1; each token has a sigmoid here":
            lambda x, w, b, mask: _over_tokens((x @ w + b).softmax(1), mask),
        "the gates are added up; divide by the number of real tokens":
            lambda x, w, b, mask: ((x @ w + b).sigmoid() * mask).sum(1),
        "the sum leaves the padding out, but the division counts it: divide by mask.sum(1)":
            lambda x, w, b, mask: ((x @ w + b).sigmoid() * mask).mean(1),
        "each sum is divided by the tokens of the whole batch; a sentence has its own number, mask.sum(1)":
            lambda x, w, b, mask: ((x @ w + b).sigmoid() * mask).sum(1) / mask.sum(),
        "padding can also stand in front: the real tokens are where the mask is 1, not the first T places":
            lambda x, w, b, mask: _over_tokens((x @ w + b).sigmoid(), mask.sort(descending=True).values),
        "a padded place whose vector is 0 still answers sigmoid(b); take it out of the average":
            lambda x, w, b, mask: ((x * mask[..., None]) @ w + b).sigmoid().mean(1),
        "there is one gate for each token; average them to one for each sentence":
            lambda x, w, b, mask: (x @ w + b).sigmoid(),
        "this is one gate for the whole batch; each sentence has its own":
            lambda x, w, b, mask: ((x @ w + b).sigmoid() * mask).sum() / mask.sum(),
        "the bias is missing: w . x + b": lambda x, w, b, mask: _over_tokens((x @ w).sigmoid(), mask),
        "this reads the first token only; the gate averages over all real ones":
            lambda x, w, b, mask: (x[:, 0] @ w + b).sigmoid(),
        "this is how far the gate is closed; mind the sign of what goes into the sigmoid":
            lambda x, w, b, mask: 1 - gate(x, w, b, mask),
    },
    tolerance=1e-8,
)  # fmt: skip


# hybrid-fold ----------------------------------------------------------------------------------------------

Parts = list[tuple[Any, ...]]


def fold(  # each argument but the first three is one way to be wrong
    W: Tensor, b: Tensor, parts: Parts, *, bias: bool = True, rows: bool = True, scaled: bool = True, plus: float = 0.0,
    by_rank: bool = False, whole: bool = False, swapped: bool = False, kept: bool = True, anew: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    r"""Weight and bias of the layer that does what all parts do in their order: (out, in), (out,)."""
    W_0 = W
    for name, *tensors in parts:
        if name == "LoRA":
            A, B, scale = tensors
            update = (B @ A).T if swapped else B @ A
            scale = (scale if scaled else 1.0) / (len(A) if by_rank else 1)
            W = scale * (W + update) if whole else (W_0 if anew else W) + scale * update
        elif name == "BitFit":
            b = b + tensors[0] if kept else tensors[0]
        else:
            l = tensors[0] + plus
            W, b = W * (l[:, None] if rows else l), l * b if bias else b
    return W, b


def _kinds_in(parts: Parts, *names: str) -> Parts:
    return [part for part in parts if part[0] in names]


def _secret_fold(draw: Draw) -> tuple[Tensor, Tensor, Parts]:
    d_in, r = draw.whole(4, 6), draw.whole(2, 3)
    d_out = d_in if draw.kind == 0 else d_in + draw.whole(1, 2)

    def lora() -> tuple[Any, ...]:
        return "LoRA", draw.normal(r, d_in), draw.normal(d_out, r), draw.pick([0.25, 0.5, 1.5, 2.0, 4.0])

    def bitfit() -> tuple[Any, ...]:
        return "BitFit", draw.normal(d_out)

    before, after = [lora(), bitfit()], [lora(), bitfit()]
    order = [(before[i], after[j]) for i, j in zip(draw.order(2), draw.order(2), strict=True)]
    parts = [*(one for one, _ in order), ("IA3", draw.normal(d_out)), *(other for _, other in order)]
    return draw.normal(d_out, d_in), draw.normal(d_out), parts


FOLD = Exercise(
    id="hybrid-fold", points=3, difficulty=3, minutes=12,
    secret=_secret_fold, reference=fold,
    mutants={
        "(IA)³ multiplies the whole output, and so the bias as well as the weight":
            lambda W, b, parts: fold(W, b, parts, bias=False),
        "(IA)³ comes last here, wherever it stands; what comes after it is not multiplied":
            lambda W, b, parts: fold(W, b, sorted(parts, key=lambda part: part[0] == "IA3")),
        "(IA)³ comes first here, wherever it stands; it multiplies what was added before it as well":
            lambda W, b, parts: fold(W, b, sorted(parts, key=lambda part: part[0] != "IA3")),
        "the parts are taken from the last to the first; the first acts first":
            lambda W, b, parts: fold(W, b, parts[::-1]),
        "l multiplies the columns of W; it has a factor for each output, and an output is a row":
            lambda W, b, parts: fold(W, b, parts, rows=False),
        "l multiplies the columns of W and not the bias; it has a factor for each output: a row and its bias":
            lambda W, b, parts: fold(W, b, parts, rows=False, bias=False),
        "LoRA's scale is missing: it adds scale · B A": lambda W, b, parts: fold(W, b, parts, scaled=False),
        "LoRA's scale is α / r already; it is not divided by r again":
            lambda W, b, parts: fold(W, b, parts, by_rank=True),
        "LoRA's scale multiplies W as well; it belongs to B A alone": lambda W, b, parts: fold(W, b, parts, whole=True),
        "LoRA's update is transposed: B A is (out, in), as W is": lambda W, b, parts: fold(W, b, parts, swapped=True),
        "each LoRA starts at the frozen W again, and what the parts before it did to W is lost":
            lambda W, b, parts: fold(W, b, parts, anew=True),
        "c takes the bias's place; BitFit's c is added to what stands there":
            lambda W, b, parts: fold(W, b, parts, kept=False),
        "l itself is the factor, not 1 + l": lambda W, b, parts: fold(W, b, parts, plus=1.0),
        "only the first part is there; go through all of them": lambda W, b, parts: fold(W, b, parts[:1]),
        "the last part is missing": lambda W, b, parts: fold(W, b, parts[:-1]),
        "LoRA is missing": lambda W, b, parts: fold(W, b, _kinds_in(parts, "BitFit", "IA3")),
        "BitFit is missing": lambda W, b, parts: fold(W, b, _kinds_in(parts, "LoRA", "IA3")),
        "(IA)³ is missing": lambda W, b, parts: fold(W, b, _kinds_in(parts, "LoRA", "BitFit")),
    },
    tolerance=1e-8, kinds=2,
)  # fmt: skip
