r"""The exercises of notebook 03_ia3."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from coursekit.checks.core import Exercise, Mutant, register
from coursekit.checks.draw import Draw


def _random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _around_one(n: int, random: torch.Generator) -> Tensor:
    return 1 + 0.5 * torch.randn(n, generator=random, dtype=torch.float64)


# ia3-attention --------------------------------------------------------------------------------------------


def _heads(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    # As many tokens as dimensions: a vector laid along the wrong axis then runs without an error.
    random, n = _random(seed), 4 + seed
    q, k, v = (torch.randn(2, n, n, generator=random, dtype=torch.float64) for _ in range(3))
    return q, k, v, _around_one(n, random), _around_one(n, random)


def attention(q: Tensor, k: Tensor, v: Tensor, l_k: Tensor, l_v: Tensor) -> Tensor:
    r"""softmax(q (l_k k)^T / sqrt(d)) (l_v v)."""
    scores = q @ (l_k * k).transpose(-1, -2) / math.sqrt(q.shape[-1])
    return scores.softmax(-1) @ (l_v * v)


def _unscaled(q: Tensor, k: Tensor, v: Tensor, l_k: Tensor, l_v: Tensor) -> Tensor:
    return (q @ (l_k * k).transpose(-1, -2)).softmax(-1) @ (l_v * v)


def _along_tokens(q: Tensor, k: Tensor, v: Tensor, l_k: Tensor, l_v: Tensor) -> Tensor:
    return attention(q, l_k[:, None] * k, l_v[:, None] * v, torch.ones_like(l_k), torch.ones_like(l_v))


def _over_queries(q: Tensor, k: Tensor, v: Tensor, l_k: Tensor, l_v: Tensor) -> Tensor:
    scores = q @ (l_k * k).transpose(-1, -2) / math.sqrt(q.shape[-1])
    return scores.softmax(-2) @ (l_v * v)


def _keys_on_scores(q: Tensor, k: Tensor, v: Tensor, l_k: Tensor, l_v: Tensor) -> Tensor:
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    return (l_k * scores).softmax(-1) @ (l_v * v)


def _secret_around_one(draw: Draw, n: int) -> Tensor:
    return 1 + 0.5 * draw.normal(n)


def _secret_attention(draw: Draw) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    d = draw.whole(4, 7)
    tokens = d if draw.kind == 0 else draw.whole(2, 3)
    q, k, v = (draw.normal(2, tokens, d) for _ in range(3))
    return q, k, v, _secret_around_one(draw, d), _secret_around_one(draw, d)


ATTENTION = register(
    Exercise(
        id="ia3-attention",
        points=3,
        difficulty=2,
        minutes=10,
        hints=(
            "k is (batch, tokens, d), so l_k * k multiplies column j of k, for every token, by entry j of l_k.",
            "Scale k and v first. What follows is attention as always: scores, root, softmax, weighted sum.",
            "k.transpose(-1, -2) is (batch, d, tokens); d is q.shape[-1]; softmax runs over the keys, dim=-1.",
        ),
        inputs=_heads,
        secret=_secret_attention,
        reference=attention,
        mutants=(
            Mutant(
                _unscaled,
                "the scores are not divided by the root of d: the slide's pseudo-code forgets it, its formula does not",
            ),
            Mutant(
                _along_tokens,
                "the vectors lie along the tokens: this scales token i by entry i; l * k scales dimension j by entry j",
            ),
            Mutant(
                _over_queries,
                "the softmax runs over the queries; each query's weights over the keys add up to 1, so dim=-1",
            ),
            Mutant(
                _keys_on_scores,
                "l_k multiplies the scores; it belongs on the dimensions of the keys, before the product with q",
            ),
            Mutant(
                lambda q, k, v, l_k, l_v: attention(q, k, v, l_v, l_k),
                "l_k and l_v are swapped: l_k scales the keys, l_v the values",
            ),
            Mutant(
                lambda q, k, v, l_k, l_v: attention(q, k, v, l_k, torch.ones_like(l_v)),
                "the values are not scaled: l_v is missing",
            ),
            Mutant(
                lambda q, k, v, l_k, l_v: attention(q, k, v, torch.ones_like(l_k), l_v),
                "the keys are not scaled: l_k is missing",
            ),
            Mutant(
                lambda q, k, v, l_k, l_v: attention(q * l_k, k, v, l_k, l_v),
                "queries and keys are both scaled, so l_k counts twice; only the keys are scaled",
            ),
            Mutant(
                lambda q, k, v, l_k, l_v: attention(q, k + l_k, v + l_v, l_k / l_k, l_v / l_v),
                "the vectors are added; the method is called additive because it adds parameters, but it multiplies",
            ),
        ),
        tolerance=1e-8,
        kinds=2,
    )
)


# ia3-count ------------------------------------------------------------------------------------------------


def _shapes(seed: int) -> tuple[int, int, int, int]:
    return [(30, 576, 192, 1536), (32, 4096, 1024, 14336), (6, 384, 384, 1536)][seed]


def count(layers: int, d: int, d_kv: int, d_ff: int) -> int:
    r"""layers * (2 d_kv + d_ff)."""
    return layers * (2 * d_kv + d_ff)


def _secret_count(draw: Draw) -> tuple[int, int, int, int]:
    heads, shared, dim = draw.whole(2, 8), draw.whole(2, 4), 16 * draw.whole(2, 8)
    d = heads * shared * dim
    return draw.whole(4, 48), d, heads * dim, d * 2 + 32 * draw.whole(1, 40)


COUNT = register(
    Exercise(
        id="ia3-count",
        points=1,
        difficulty=1,
        minutes=5,
        hints=(
            "There are three vectors in a block. How long is each?",
            "l_k has one entry for each dimension of the keys, d_kv, which can be smaller than d; l_v likewise.",
        ),
        inputs=_shapes,
        secret=_secret_count,
        reference=count,
        mutants=(
            Mutant(
                lambda layers, d, d_kv, d_ff: layers * (2 * d + d_ff),
                "keys and values are d_kv wide, not d: models with grouped queries have fewer key heads",
            ),
            Mutant(
                lambda layers, d, d_kv, d_ff: layers * 2 * d_kv,
                "this counts l_k and l_v; l_ff is missing",
            ),
            Mutant(
                lambda layers, d, d_kv, d_ff: layers * (d_kv + d_ff),
                "keys and values have a vector each: 2 d_kv",
            ),
            Mutant(
                lambda layers, d, d_kv, d_ff: layers * (2 * d_kv + d),
                "l_ff is as long as the hidden layer, d_ff; it scales what goes into the second matrix",
            ),
            Mutant(lambda layers, d, d_kv, d_ff: 2 * d_kv + d_ff, "this is one block; the model has several"),
            Mutant(
                lambda layers, d, d_kv, d_ff: layers * (d + 2 * d_kv + d_ff),
                "queries are not scaled: no vector of length d",
            ),
            Mutant(
                lambda layers, d, d_kv, d_ff: layers * (2 * d * d_kv + d * d_ff),
                "this counts the frozen matrices; a vector has one entry for a whole row or column",
            ),
        ),
        tolerance=0.0,
    )
)


# ia3-fold -------------------------------------------------------------------------------------------------


def _linears(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    # Square matrices: a vector laid along the wrong axis then runs without an error.
    random, d = _random(seed), 5 + seed
    W_k, W_2 = (torch.randn(d, d, generator=random, dtype=torch.float64) for _ in range(2))
    b_k, b_2 = (torch.randn(d, generator=random, dtype=torch.float64) for _ in range(2))
    return W_k, b_k, _around_one(d, random), W_2, b_2, _around_one(d, random)


Folded = tuple[Tensor, Tensor, Tensor, Tensor]


def fold(W_k: Tensor, b_k: Tensor, l_k: Tensor, W_2: Tensor, b_2: Tensor, l_ff: Tensor) -> Folded:
    r"""diag(l_k) W_k, l_k b_k, W_2 diag(l_ff), b_2."""
    return l_k[:, None] * W_k, l_k * b_k, W_2 * l_ff, b_2


def _secret_fold(draw: Draw) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    d = draw.whole(4, 7)
    keys, hidden = (d, d) if draw.kind == 0 else (draw.whole(2, 3), draw.whole(8, 10))
    W_k, b_k, l_k = draw.normal(keys, d), draw.normal(keys), _secret_around_one(draw, keys)
    return W_k, b_k, l_k, draw.normal(d, hidden), draw.normal(d), _secret_around_one(draw, hidden)


FOLD = register(
    Exercise(
        id="ia3-fold",
        points=3,
        difficulty=3,
        minutes=15,
        hints=(
            "Write both out: l * (W x + b), and W (l * a) + b. Which single W' and b' do the same for every x and a?",
            "Row i of W makes output i. Column j of W meets input j.",
            "l[:, None] * W scales the rows of W, W * l its columns.",
        ),
        inputs=_linears,
        secret=_secret_fold,
        reference=fold,
        mutants=(
            Mutant(
                lambda W_k, b_k, l_k, W_2, b_2, l_ff: (l_k[:, None] * W_k, b_k, W_2 * l_ff, b_2),
                "the bias of the keys stays as it was: l multiplies all of W x + b, so the bias, too",
            ),
            Mutant(
                lambda W_k, b_k, l_k, W_2, b_2, l_ff: (W_k * l_k, l_k * b_k, W_2 * l_ff, b_2),
                "l_k scales the columns of W_k, which is what meets the inputs; keys are outputs, so rows",
            ),
            Mutant(
                lambda W_k, b_k, l_k, W_2, b_2, l_ff: (
                    l_k[:, None] * W_k,
                    l_k * b_k,
                    l_ff[:, None] * W_2,
                    b_2,
                ),
                "l_ff scales the rows of W_2; it scales what goes into W_2, so columns",
            ),
            Mutant(
                lambda W_k, b_k, l_k, W_2, b_2, l_ff: (W_k * l_k, l_k * b_k, l_ff[:, None] * W_2, b_2),
                "rows and columns are swapped in both matrices: W is (out, in), keys are outputs, l_ff meets inputs",
            ),
            Mutant(
                lambda W_k, b_k, l_k, W_2, b_2, l_ff: (l_k[:, None] * W_k, l_k * b_k, W_2 * l_ff, l_ff * b_2),
                "the bias b_2 is added after W_2, where l_ff no longer acts: leave it as it is",
            ),
            Mutant(
                lambda W_k, b_k, l_k, W_2, b_2, l_ff: (W_k + l_k[:, None], b_k + l_k, W_2 + l_ff, b_2),
                "the vectors are added to the weights; a product folds into a product",
            ),
            Mutant(
                lambda W_k, b_k, l_k, W_2, b_2, l_ff: (W_k / l_k[:, None], b_k / l_k, W_2 / l_ff, b_2),
                "this divides; that is taking the vectors out again",
            ),
        ),
        tolerance=1e-8,
        kinds=2,
    )
)


# ia3-absorb -----------------------------------------------------------------------------------------------


def _queries(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    random, d = _random(seed), 5 + seed
    W_q = torch.randn(d, d, generator=random, dtype=torch.float64)
    return W_q, torch.randn(d, generator=random, dtype=torch.float64), _around_one(d, random)


def absorb(W_q: Tensor, b_q: Tensor, l_k: Tensor) -> tuple[Tensor, Tensor]:
    r"""diag(l_k) W_q, l_k b_q."""
    return l_k[:, None] * W_q, l_k * b_q


def _secret_absorb(draw: Draw) -> tuple[Tensor, Tensor, Tensor]:
    d = draw.whole(4, 8)
    out = d if draw.kind == 0 else draw.whole(2, 3)
    return draw.normal(out, d), draw.normal(out), _secret_around_one(draw, out)


ABSORB = register(
    Exercise(
        id="ia3-absorb",
        points=2,
        difficulty=3,
        minutes=10,
        hints=(
            "A score is q · (l_k * k), a sum over the dimensions of q_j l_j k_j. The factor can stand with either.",
            "The new queries are l_k * (W_q x + b_q). Which matrix and which bias give those?",
        ),
        inputs=_queries,
        secret=_secret_absorb,
        reference=absorb,
        mutants=(
            Mutant(
                lambda W_q, b_q, l_k: (l_k[:, None] * W_q, b_q),
                "the bias of the queries has to be scaled as well",
            ),
            Mutant(
                lambda W_q, b_q, l_k: (W_q * l_k, l_k * b_q),
                "this scales the columns, which meet the input x; the queries are the outputs, so rows",
            ),
            Mutant(
                lambda W_q, b_q, l_k: (W_q / l_k[:, None], b_q / l_k),
                "this divides: the scores would lose l_k instead of keeping it",
            ),
            Mutant(
                lambda W_q, b_q, l_k: (l_k.square()[:, None] * W_q, l_k.square() * b_q),
                "l_k is in there twice: the keys are not scaled any more, so once is enough",
            ),
            Mutant(lambda W_q, b_q, l_k: (W_q, b_q), "nothing has changed: the scores have lost l_k"),
        ),
        tolerance=1e-8,
        kinds=2,
    )
)


# ia3-gradient ---------------------------------------------------------------------------------------------


def _backward(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    # As many tokens as inputs and outputs, so that a sum or a product the wrong way runs without an error.
    random, d = _random(seed), 4 + seed
    g, x = (torch.randn(d, d, generator=random, dtype=torch.float64) for _ in range(2))
    W, b = (torch.randn(*s, generator=random, dtype=torch.float64) for s in ((d, d), (d,)))
    return g, x, W, b, _around_one(d, random)


def gradient(g: Tensor, x: Tensor, W: Tensor, b: Tensor, l: Tensor) -> tuple[Tensor, Tensor]:
    r"""dL/dl = sum over tokens of g (W x + b) and dL/dx = (g l) W, from g = dL/dh and h = l (W x + b)."""
    return (g * F.linear(x, W, b)).sum(0), (g * l) @ W


def _secret_gradient(draw: Draw) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    n = draw.whole(4, 6)
    out, into = (n, n) if draw.kind == 0 else (draw.whole(2, 3), draw.whole(7, 8))
    g, x, W, b = (draw.normal(*shape) for shape in ((n, out), (n, into), (out, into), (out,)))
    return g, x, W, b, _secret_around_one(draw, out)


GRADIENT = register(
    Exercise(
        id="ia3-gradient",
        points=4,
        difficulty=4,
        minutes=20,
        hints=(
            "A gradient has the shape of what it belongs to: dl is (d_out,), so the n tokens must disappear.",
            "For one token and one output, h_i = l_i y_i with y = W x + b. So dh_i/dl_i = y_i. Tokens add up.",
            "To x the gradient goes back through l first, then through W: (n, d_out)(d_out, d_in) -> (n, d_in).",
        ),
        inputs=_backward,
        secret=_secret_gradient,
        reference=gradient,
        mutants=(
            Mutant(
                lambda g, x, W, b, l: ((g * F.linear(x, W, b)).mean(0), (g * l) @ W),
                "this averages over the tokens; the mean, if there is one, is in g already, so add them up",
            ),
            Mutant(
                lambda g, x, W, b, l: ((g * F.linear(x, W)).sum(0), (g * l) @ W),
                "dl leaves out the bias: l multiplies W x + b",
            ),
            Mutant(
                lambda g, x, W, b, l: ((g * l * F.linear(x, W, b)).sum(0), (g * l) @ W),
                "dl is g times W x + b, before the scaling: the derivative of l y by l is y, not l y",
            ),
            Mutant(
                lambda g, x, W, b, l: ((g * F.linear(x, W, b)).sum(0), g @ W),
                "dx has lost l: on its way back the gradient passes the scaling, too",
            ),
            Mutant(
                lambda g, x, W, b, l: ((g * F.linear(x, W, b)).sum(0), (g * l) @ W.T),
                "dx goes through W the wrong way round: forward is x W^T, backward is (g l) W",
            ),
            Mutant(
                lambda g, x, W, b, l: ((g * F.linear(x, W, b)).sum(0), (g @ W) * l),
                "dx meets l on the wrong side of W: l scales the outputs, so first g l, then W",
            ),
            Mutant(
                lambda g, x, W, b, l: ((g * F.linear(x, W, b)).sum(1), (g * l) @ W),
                "dl is summed over the outputs; sum over the tokens, dim 0",
            ),
            Mutant(
                lambda g, x, W, b, l: (g * F.linear(x, W, b), (g * l) @ W),
                "dl still has one row for each token; all tokens share one l, so add them up",
            ),
            Mutant(
                lambda g, x, W, b, l: ((g * F.linear(x, W.T, b)).sum(0), (g * l) @ W),
                "the forward is x W^T + b: W is (out, in)",
            ),
        ),
        tolerance=1e-8,
        kinds=2,
    )
)
