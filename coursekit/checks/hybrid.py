r"""The exercises of notebook 09_hybrid."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from coursekit.checks.core import Exercise, Mutant, register
from coursekit.checks.draw import Draw


def _random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# hybrid-share ---------------------------------------------------------------------------------------------


def _behind_prefix(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    random, d = _random(seed), 4 + seed
    shapes = ((5, d), (5, d), (3, d))
    q, k, p_k = (2 * torch.randn(*shape, generator=random, dtype=torch.float64) for shape in shapes)
    return q, k, p_k


def _weights(q: Tensor, k: Tensor, p_k: Tensor, scale: float | None = None, over: int = -1) -> Tensor:
    scores = q @ torch.cat([p_k, k]).T * (q.shape[1] ** -0.5 if scale is None else scale)
    return scores.softmax(over)[:, : len(p_k)]


def share(q: Tensor, k: Tensor, p_k: Tensor) -> Tensor:
    r"""For each query, the attention weights on the prefix, added up: (seq,)."""
    return _weights(q, k, p_k).sum(-1)


def _odds(q: Tensor, k: Tensor, p_k: Tensor) -> Tensor:
    root = math.sqrt(q.shape[1])
    return (q @ p_k.T / root).exp().sum(-1) / (q @ k.T / root).exp().sum(-1)


def _secret_share(draw: Draw) -> tuple[Tensor, Tensor, Tensor]:
    d, seq, n = draw.whole(3, 7), draw.whole(4, 7), draw.whole(2, 4)
    return tuple(2 * draw.normal(rows, d) for rows in (seq, seq, n))


SHARE = register(
    Exercise(
        id="hybrid-share",
        points=2,
        difficulty=3,
        minutes=10,
        hints=(
            "One softmax runs over all n + seq keys. Whatever goes to the first n of them has left the text.",
            "torch.cat([p_k, k]) are all keys. The scores are q @ keys.T / sqrt(d), and d is q.shape[1].",
            "scores.softmax(-1)[:, :n] are the weights on the prefix, (seq, n). A share is their sum.",
        ),
        inputs=_behind_prefix,
        secret=_secret_share,
        reference=share,
        mutants=(
            Mutant(
                lambda q, k, p_k: 1 - share(q, k, p_k),
                "this is what the text keeps; asked is what goes to the prefix",
            ),
            Mutant(
                lambda q, k, p_k: _weights(q, k, p_k, scale=1.0).sum(-1),
                "the scores are not divided by the root of d",
            ),
            Mutant(
                lambda q, k, p_k: _weights(q, k, p_k).mean(-1),
                "this is the mean weight of one virtual token; the share is their sum",
            ),
            Mutant(
                lambda q, k, p_k: _weights(q, k, p_k).max(-1).values,
                "this is the weight of one virtual token, the strongest; the share adds all n",
            ),
            Mutant(
                lambda q, k, p_k: _weights(q, k, p_k, over=0).sum(-1),
                "the softmax runs over the queries; the weights of each query over the keys add up to 1, so dim=-1",
            ),
            Mutant(
                _odds,
                "this compares prefix with text, and can be above 1; a share is the prefix's part of both together",
            ),
            Mutant(
                lambda q, k, p_k: _weights(q, p_k, k)[:, : len(p_k)].sum(-1),
                "the first n columns belong to the text here: the prefix stands last in these keys",
            ),
            Mutant(
                lambda q, k, p_k: (q @ p_k.T).softmax(-1).sum(-1),
                "a softmax over the prefix alone always adds up to 1; prefix and text share one softmax",
            ),
            Mutant(
                lambda q, k, p_k: torch.full((len(q),), len(p_k) / (len(p_k) + len(k)), dtype=q.dtype),
                "this is the share if all keys got the same weight; each query weighs them by its scores",
            ),
        ),
        tolerance=1e-8,
    )
)


# hybrid-gate ----------------------------------------------------------------------------------------------


def _padded(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    random, d = _random(seed), 4 + seed
    x = torch.randn(3, 6, d, generator=random, dtype=torch.float64)
    w, b = (torch.randn(shape, generator=random, dtype=torch.float64) for shape in ((d,), ()))
    mask = (torch.arange(6) < torch.tensor([[6], [4 - seed], [2]])).long()
    mask[2] = mask[2].flip(0)  # some tokenizers pad on the left
    return x, w, b, mask


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


GATE = register(
    Exercise(
        id="hybrid-gate",
        points=2,
        difficulty=2,
        minutes=10,
        hints=(
            "x @ w + b has one number for each token: (batch, seq). The sigmoid puts it between 0 and 1.",
            "Average after the sigmoid, and over the tokens of the same sentence: dim 1.",
            "(values * mask).sum(1) / mask.sum(1) is the mean over the places where the mask is 1.",
        ),
        inputs=_padded,
        secret=_secret_gate,
        reference=gate,
        mutants=(
            Mutant(
                lambda x, w, b, mask: (x @ w + b).sigmoid().mean(1),
                "the padding is averaged in; then a gate would depend on how long the other sentences of the batch are",
            ),
            Mutant(
                lambda x, w, b, mask: _over_tokens(x @ w + b, mask).sigmoid(),
                "the average is taken before the sigmoid; each token has a gate of its own first",
            ),
            Mutant(
                lambda x, w, b, mask: _over_tokens(x @ w + b, mask),
                "there is no sigmoid: a gate lies between 0, closed, and 1, open",
            ),
            Mutant(
                lambda x, w, b, mask: _over_tokens((x @ w + b).tanh(), mask),
                "tanh goes down to -1; this gate is a sigmoid, from 0 to 1",
            ),
            Mutant(
                lambda x, w, b, mask: _over_tokens((x @ w + b).softmax(1), mask),
                "a softmax makes the tokens compete, and their gates add up to 1; each token has a sigmoid here",
            ),
            Mutant(
                lambda x, w, b, mask: ((x @ w + b).sigmoid() * mask).sum(1),
                "the gates are added up; divide by the number of real tokens",
            ),
            Mutant(
                lambda x, w, b, mask: ((x @ w + b).sigmoid() * mask).mean(1),
                "the sum leaves the padding out, but the division counts it: divide by mask.sum(1)",
            ),
            Mutant(
                lambda x, w, b, mask: ((x * mask[..., None]) @ w + b).sigmoid().mean(1),
                "a padded place whose vector is 0 still answers sigmoid(b); take it out of the average",
            ),
            Mutant(
                lambda x, w, b, mask: (x @ w + b).sigmoid(),
                "there is one gate for each token; average them to one for each sentence",
            ),
            Mutant(
                lambda x, w, b, mask: ((x @ w + b).sigmoid() * mask).sum() / mask.sum(),
                "this is one gate for the whole batch; each sentence has its own",
            ),
            Mutant(
                lambda x, w, b, mask: _over_tokens((x @ w).sigmoid(), mask),
                "the bias is missing: w . x + b",
            ),
            Mutant(
                lambda x, w, b, mask: (x[:, 0] @ w + b).sigmoid(),
                "this reads the first token only; the gate averages over all real ones",
            ),
            Mutant(
                lambda x, w, b, mask: 1 - gate(x, w, b, mask),
                "this is how far the gate is closed; mind the sign of what goes into the sigmoid",
            ),
        ),
        tolerance=1e-8,
    )
)


# hybrid-kronecker -----------------------------------------------------------------------------------------


def _factors(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    # As many outputs as inputs, so that factors that are swapped run without an error; and the last time more.
    random, n, m = _random(seed), 2 + seed % 2, 4 + seed
    shapes = ((2, 3, n * m), (n, n, n), (n, 2 * m if seed == 2 else m), (n, m))
    x, A, s, t = (torch.randn(*shape, generator=random, dtype=torch.float64) for shape in shapes)
    return x, A, s, t


def kronecker(x: Tensor, A: Tensor, s: Tensor, t: Tensor) -> Tensor:
    r"""(sum_i A_i (x) s_i t_i^T) x, from the factors: (batch, seq, d_out)."""
    pieces = x.unflatten(-1, (len(A), -1))  # (batch, seq, n, d_in / n)
    seen = torch.einsum("...qe,ie->...iq", pieces, t)
    mixed = torch.einsum("ipq,...iq->...ip", A, seen)
    return torch.einsum("...ip,ie->...pe", mixed, s).flatten(-2)


def _whole(A: Tensor, s: Tensor, t: Tensor) -> Tensor:
    return sum(torch.kron(A_i, torch.outer(s_i, t_i)) for A_i, s_i, t_i in zip(A, s, t, strict=True))


def _outer_first(x: Tensor, A: Tensor, s: Tensor, t: Tensor) -> Tensor:
    W = sum(torch.kron(torch.outer(s_i, t_i), A_i) for A_i, s_i, t_i in zip(A, s, t, strict=True))
    return x @ W.T


def _interleaved(x: Tensor, n: int) -> Tensor:
    return x.unflatten(-1, (-1, n)).mT.flatten(-2)


def _secret_kronecker(draw: Draw) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n, m = draw.whole(2, 3), draw.whole(3, 5)
    out = m if draw.kind == 0 else m + draw.whole(1, 3)
    return tuple(draw.normal(*shape) for shape in ((2, 3, n * m), (n, n, n), (n, out), (n, m)))


KRONECKER = register(
    Exercise(
        id="hybrid-kronecker",
        points=4,
        difficulty=4,
        minutes=20,
        hints=(
            "Cut x into n pieces x_1 … x_n. Block row p of A_i ⊗ s_i t_iᵀ gives sum_q A_i[p, q] s_i (t_i · x_q).",
            "Three steps: the numbers t_i · x_q; A_i mixes them over q; each p gets that many s_i, summed over i.",
            "x.unflatten(-1, (n, -1)) makes the pieces; torch.einsum('...qe,ie->...iq', pieces, t) is the first step. "
            "Loops over i, p and q do as well.",
        ),
        inputs=_factors,
        secret=_secret_kronecker,
        reference=kronecker,
        mutants=(
            Mutant(
                _outer_first,
                "the Kronecker product is the other way round: A_i says how blocks are mixed, s_i t_iᵀ fills a block",
            ),
            Mutant(
                lambda x, A, s, t: kronecker(x, A.mT, s, t),
                "A_i is transposed: its rows p belong to the outputs, its columns q to the inputs",
            ),
            Mutant(
                lambda x, A, s, t: kronecker(x, A, t, s),
                "s and t are swapped: t_i meets the input, s_i makes the output",
            ),
            Mutant(
                lambda x, A, s, t: kronecker(x, A.mT, t, s),
                "this is x W; the layer is W x, so x @ W.T for a batch of rows",
            ),
            Mutant(
                lambda x, A, s, t: kronecker(x, A * _first(A), s, t),
                "only the first term is there; W is the sum over all n",
            ),
            Mutant(
                lambda x, A, s, t: kronecker(x, A, s, t) / len(A),
                "the n terms are averaged; they are added",
            ),
            Mutant(
                lambda x, A, s, t: x @ torch.kron(A.sum(0), torch.einsum("ip,iq->pq", s, t)).T,
                "the sum over i is taken in each factor apart; a sum of products is not the product of the sums",
            ),
            Mutant(
                lambda x, A, s, t: kronecker(_interleaved(x, len(A)), A, s, t),
                "the pieces of x hold every n-th number; a piece is d_in / n numbers that follow one another",
            ),
            Mutant(
                lambda x, A, s, t: kronecker(x, A, s, t).unflatten(-1, (len(A), -1)).mT.flatten(-2),
                "the pieces of the output are interleaved; block p fills d_out / n places that follow one another",
            ),
            Mutant(
                lambda x, A, s, t: _whole(A, s, t),
                "this is the matrix W itself; asked is W x, for every token",
            ),
        ),
        tolerance=1e-8,
        kinds=2,
    )
)


def _first(A: Tensor) -> Tensor:
    return (torch.arange(len(A)) == 0).to(A.dtype)[:, None, None]


# hybrid-count ---------------------------------------------------------------------------------------------


def _sizes(seed: int) -> tuple[int, int, int, int, int]:
    return [(12, 768, 24, 4, 2), (6, 384, 12, 4, 2), (24, 1024, 32, 8, 1)][seed]


def count(layers: int, d: int, r: int, n: int, places: int) -> int:
    r"""layers * places * 3 (d + r) + n^3."""
    return layers * places * 3 * (d + r) + n**3


def _secret_count(draw: Draw) -> tuple[int, int, int, int, int]:
    n, places = draw.pick((2, 4, 8)), 2 - draw.kind
    return draw.whole(4, 48), 8 * draw.whole(30, 300), 8 * draw.whole(1, 8), n, places


COUNT = register(
    Exercise(
        id="hybrid-count",
        points=1,
        difficulty=2,
        minutes=5,
        hints=(
            "A matrix of (out, in) has n vectors s_i of out / n numbers and n vectors t_i of in / n. How many is that?",
            "A bottleneck has two such matrices, down and up, and a bias after each: r numbers and d numbers.",
            "The n matrices A_i are n × n, and there is one set of them for the whole model.",
        ),
        inputs=_sizes,
        secret=_secret_count,
        reference=count,
        mutants=(
            Mutant(
                lambda layers, d, r, n, places: layers * places * 3 * (d + r),
                "the shared matrices A_i are missing: n of them, n × n each",
            ),
            Mutant(
                lambda layers, d, r, n, places: layers * places * 3 * (d + r) + n**2,
                "there are n matrices A_i, not one",
            ),
            Mutant(
                lambda layers, d, r, n, places: layers * (places * 3 * (d + r) + n**3),
                "the A_i are counted once for each layer; all layers share one set",
            ),
            Mutant(
                lambda layers, d, r, n, places: layers * places * (3 * (d + r) + n**3),
                "the A_i are counted once for each bottleneck; the whole model shares one set",
            ),
            Mutant(
                lambda layers, d, r, n, places: layers * places * (3 * (d + r) + 2 * n**3),
                "the A_i are counted once for each matrix; the whole model shares one set",
            ),
            Mutant(
                lambda layers, d, r, n, places: layers * places * 2 * (d + r) + n**3,
                "the biases are missing: r after the way down, d after the way up",
            ),
            Mutant(
                lambda layers, d, r, n, places: layers * places * (2 * d * r + d + r),
                "this counts plain bottlenecks; here each matrix is made of small factors",
            ),
            Mutant(
                lambda layers, d, r, n, places: layers * places * (2 * d * r // n + d + r) + n**3,
                "this counts n whole blocks of (out / n) × (in / n); each is s_i t_iᵀ, and only the vectors are stored",
            ),
            Mutant(
                lambda layers, d, r, n, places: layers * places * (2 * (d + r) // n + d + r) + n**3,
                "there are n pairs of s_i and t_i in each matrix, not one",
            ),
            Mutant(
                lambda layers, d, r, n, places: layers * 3 * (d + r) + n**3,
                "a layer has a bottleneck at each of its places",
            ),
            Mutant(
                lambda layers, d, r, n, places: places * 3 * (d + r) + n**3,
                "this is one layer; the model has several",
            ),
        ),
        tolerance=0.0,
        kinds=2,
    )
)


# hybrid-pareto --------------------------------------------------------------------------------------------


def _methods(seed: int) -> tuple[list[int], list[float]]:
    # Two that are equal in both, two of one size, two of one quality: ties decide what "beaten" means.
    parameters = [100, 200, 200, 400, 400, 800, 100, 50]
    quality = [0.60, 0.70, 0.65, 0.70, 0.80, 0.80, 0.60, 0.55]
    if seed == 2:  # once, one that beats all others
        parameters, quality = [*parameters, 40], [*quality, 0.85]
    order = torch.randperm(len(parameters), generator=_random(seed)).tolist()
    return [parameters[i] * (seed + 1) for i in order], [quality[i] for i in order]


Beats = Callable[[int, float, int, float], bool]


def _unbeaten(parameters: Sequence[int], quality: Sequence[float], beats: Beats) -> tuple[bool, ...]:
    pairs = list(zip(parameters, quality, strict=True))
    return tuple(not any(beats(*other, *own) for other in pairs) for own in pairs)


def _beats(n: int, q: float, n_own: int, q_own: float) -> bool:
    return n <= n_own and q >= q_own and (n, q) != (n_own, q_own)


def pareto(parameters: Sequence[int], quality: Sequence[float]) -> tuple[bool, ...]:
    r"""For each method, whether no other has as few parameters and as much quality, and more of one of them."""
    return _unbeaten(parameters, quality, _beats)


def _secret_pareto(draw: Draw) -> tuple[list[int], list[float]]:
    sizes = sorted(draw.pick(range(20, 300)) + 300 * i for i in range(5))
    steps = sorted(draw.whole(5, 15) + 12 * i for i in range(5))
    # Equal in both, in size, in quality, as in the public cases; then some at random.
    points = [(1, 1), (2, 3), (2, 2), (3, 3), (3, 4), (4, 4), (1, 1), (0, 0)]
    points += [(draw.whole(1, 4), draw.whole(0, 3)) for _ in range(draw.whole(1, 6))]
    pairs = [(sizes[size], steps[step] / 100) for size, step in points]
    if draw.kind == 1:
        pairs.append((sizes[0] - 10, 0.85))
    order = draw.order(len(pairs))
    return [pairs[i][0] for i in order], [pairs[i][1] for i in order]


PARETO = register(
    Exercise(
        id="hybrid-pareto",
        points=3,
        difficulty=3,
        minutes=15,
        hints=(
            "One method beats another if it is at least as good in both, and better in one of them.",
            "Write beats(a, b) for two methods first. A method is on the front if no other beats it.",
            "At least as good in both: n_a <= n_b and q_a >= q_b. Better in one: the two pairs are not the same.",
        ),
        inputs=_methods,
        secret=_secret_pareto,
        reference=pareto,
        mutants=(
            Mutant(
                lambda p, q: _unbeaten(p, q, lambda n, v, n_own, v_own: n < n_own and v > v_own),
                "to be beaten, a method need not lose in both: as good in one and worse in the other is enough",
            ),
            Mutant(
                lambda p, q: tuple(
                    not any(j != i and p[j] <= p[i] and q[j] >= q[i] for j in range(len(p)))
                    for i in range(len(p))
                ),
                "two methods that are equal in both knock each other out here; neither beats the other",
            ),
            Mutant(
                lambda p, q: _unbeaten(p, q, lambda n, v, n_own, v_own: n <= n_own and v >= v_own),
                "every method is compared with itself here, and as good as itself: so nothing is left",
            ),
            Mutant(
                lambda p, q: tuple(not kept for kept in pareto(p, q)),
                "these are the beaten ones; say True for those that are not",
            ),
            Mutant(
                lambda p, q: _unbeaten(p, q, lambda n, v, n_own, v_own: _beats(-n, v, -n_own, v_own)),
                "more parameters count as better here; fewer are better",
            ),
            Mutant(
                lambda p, q: tuple(v == max(q) for v in q),
                "this keeps the best quality only; a cheaper method that is a little worse is not beaten either",
            ),
            Mutant(
                lambda p, q: tuple(n == min(p) for n in p),
                "this keeps the smallest only; a larger method that is better is not beaten either",
            ),
            Mutant(
                lambda p, q: tuple(n == min(p) or v == max(q) for n, v in zip(p, q, strict=True)),
                "these are the two ends, the smallest and the best; between them are methods that nobody beats",
            ),
            Mutant(
                lambda p, q: _unbeaten(p, q, lambda n, v, n_own, v_own: n < n_own or v > v_own),
                "losing in one of the two is not being beaten: the other method must not be worse in either",
            ),
            Mutant(
                lambda p, q: _unbeaten(p, q, lambda n, v, n_own, v_own: n < n_own and v >= v_own),
                "of two methods of one size, the worse is beaten: compare equal sizes too",
            ),
            Mutant(
                lambda p, q: _unbeaten(p, q, lambda n, v, n_own, v_own: n <= n_own and v > v_own),
                "of two methods of one quality, the larger is beaten: compare equal qualities too",
            ),
        ),
        tolerance=0.0,
        kinds=2,
    )
)
