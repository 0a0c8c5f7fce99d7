r"""The exercises of notebook 00_training_cycle."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from coursekit.checks.core import Exercise, Mutant, register
from coursekit.checks.draw import Draw

# training-cycle-bigram-entropy ----------------------------------------------------------------------------


def _pairs(seed: int) -> tuple[Tensor]:
    # Rows of unequal weight and entropy. Some pairs never occur; in the last, nothing follows one of the tokens.
    counts = (
        [[1, 1], [0, 6]],  # by hand: a quarter of the pairs have ln 2, the others nothing
        [[1, 1, 2], [4, 0, 0], [0, 3, 5]],
        [[2, 1, 5, 0], [0, 0, 0, 0], [4, 0, 2, 2], [0, 0, 3, 9]],
    )[seed]
    return (torch.tensor(counts, dtype=torch.float64),)


def _entropy(p: Tensor) -> Tensor:
    r"""Over the last dimension, in nats."""
    return -torch.xlogy(p, p).sum(-1)


def _rows(counts: Tensor) -> tuple[Tensor, Tensor]:
    r"""The share of each token that something follows, and the entropy of what does."""
    seen = counts[counts.sum(1) > 0]
    each = seen.sum(1, keepdim=True)
    return (each / each.sum()).squeeze(1), _entropy(seen / each)


def bigram_entropy(counts: Tensor) -> float:
    r"""The entropy of each row, weighted by how often its token occurs."""
    share, entropy = _rows(counts)
    return (share * entropy).sum().item()


def _lost_rows(counts: Tensor) -> float:
    p = counts / counts.sum(1, keepdim=True)
    entropy = -(p * p.log()).sum(1).nan_to_num()
    return (counts.sum(1) / counts.sum() * entropy).sum().item()


def _secret_bigram_entropy(draw: Draw) -> tuple[Tensor]:
    # Some pairs never occur; in the second kind, nothing follows one of the tokens.
    V = draw.whole(3, 5)
    while True:
        counts = draw.integers(1, 9, V, V).double() * (draw.uniform(V, V) < 0.7)
        if draw.kind == 1:
            counts[draw.whole(0, V - 1)] = 0
        if (counts > 0).sum() > V:  # else no token may have two followers, and 0 would be right
            return (counts,)


BIGRAM_ENTROPY = register(
    Exercise(
        id="training-cycle-bigram-entropy",
        points=2,
        difficulty=3,
        minutes=10,
        hints=(
            "Divided by its sum, row i holds the probabilities of what follows token i. Each row has an entropy.",
            "Weigh each row by its share of all pairs. 0 · ln 0 counts as 0, and a row of zeros adds nothing.",
        ),
        inputs=_pairs,
        secret=_secret_bigram_entropy,
        reference=bigram_entropy,
        mutants=(
            Mutant(
                lambda counts: bigram_entropy(counts) / math.log(2),
                "this is in bits; for nats take the natural logarithm",
            ),
            Mutant(
                lambda counts: _entropy((counts / counts.sum()).flatten()).item(),
                "this is the entropy of whole pairs; in the logarithm, divide each count by the sum of its row",
            ),
            Mutant(
                lambda counts: _rows(counts)[1].mean().item(),
                "this is the plain mean of the rows; a row counts as often as its token occurs",
            ),
            Mutant(
                lambda counts: (_rows(counts)[1].sum() / len(counts)).item(),
                "this divides by the number of all tokens; weigh each row by its share of the pairs instead",
            ),
            Mutant(
                lambda counts: _rows(counts)[1].sum().item(),
                "this adds up the rows' entropies without weights; weigh each by its share of the pairs",
            ),
            Mutant(
                lambda counts: _entropy(counts.sum(1) / counts.sum()).item(),
                "this is the entropy of single tokens, from the sums of the rows; look at what follows each",
            ),
            Mutant(
                lambda counts: _entropy(counts.sum(0) / counts.sum()).item(),
                "this is the entropy of single tokens, from the sums of the columns; the token before is known",
            ),
            Mutant(
                lambda counts: bigram_entropy(counts.T),
                "this divides by the sums of the columns, so it guesses the token before; divide by those of the rows",
            ),
            Mutant(
                lambda counts: -bigram_entropy(counts),
                "the minus sign is missing: an entropy is not negative",
            ),
            Mutant(
                lambda counts: math.exp(bigram_entropy(counts)),
                "this is the perplexity, e to the power of the entropy; the entropy itself is asked for",
            ),
            Mutant(
                _lost_rows,
                "0 · ln 0 counts as 0: only that pair adds nothing, and here its whole row is lost",
            ),
            Mutant(
                lambda counts: bigram_entropy(counts + 1),
                "every count has one added; leave the counts as they are: 0 · ln 0 counts as 0",
            ),
        ),
        kinds=2,
    )
)


# training-cycle-mask-prompt -------------------------------------------------------------------------------

Ids = Sequence[int]
Labelled = tuple[tuple[int, ...], tuple[int, ...]]


def _answers(seed: int) -> tuple[list[int], list[int], int]:
    # Tokens of the prompt come up again in the answer, and an end token stands in a prompt of two turns.
    return (
        ([11, 12, 13], [21, 12], 2),
        ([31, 32, 2, 33, 34], [32, 41, 42], 2),
        ([51, 52], [61, 62, 52, 63], 0),
    )[seed]


def _labelled(ids: Iterable[int], labels: Iterable[int]) -> Labelled:
    return tuple(ids), tuple(labels)


def mask_prompt(prompt_ids: Ids, answer_ids: Ids, end_id: int) -> Labelled:
    r"""Prompt, answer and end in one row; the labels are the same with -100 on the prompt."""
    learned = [*answer_ids, end_id]
    return _labelled([*prompt_ids, *learned], [-100] * len(prompt_ids) + learned)


def _relabelled(change: Callable[[list[int], int], list[int]]) -> Callable[[Ids, Ids, int], Labelled]:
    r"""A mutant with the right ids, and labels as `change(labels, length of the prompt)` leaves them."""

    def mutant(prompt_ids: Ids, answer_ids: Ids, end_id: int) -> Labelled:
        ids, labels = mask_prompt(prompt_ids, answer_ids, end_id)
        return _labelled(ids, change(list(labels), len(prompt_ids)))

    return mutant


def _secret_mask_prompt(draw: Draw) -> tuple[list[int], list[int], int]:
    end, words = draw.whole(0, 2), [10 + i for i in draw.order(80)]
    n, m = draw.whole(2, 6), draw.whole(2, 6)
    prompt, answer = words[:n], words[n : n + m]
    answer[draw.whole(0, m - 1)] = draw.pick(prompt)
    if draw.kind == 1:  # a prompt of two turns
        prompt.insert(draw.whole(1, n - 1), end)
    return prompt, answer, end


MASK_PROMPT = register(
    Exercise(
        id="training-cycle-mask-prompt",
        points=2,
        difficulty=2,
        minutes=10,
        hints=(
            "input_ids is one row: the prompt, then the answer, then end_id. The labels are just as long.",
            "Label i belongs to token i. Which positions hold the prompt, and which label does the loss ignore?",
        ),
        inputs=_answers,
        secret=_secret_mask_prompt,
        reference=mask_prompt,
        mutants=(
            Mutant(
                lambda p, a, end: _labelled([*p, *a, end], [*p, *a, end]),
                "the prompt is learned, too: its labels must be -100",
            ),
            Mutant(
                lambda p, a, end: _labelled([*p, *a], [-100] * len(p) + [*a]),
                "the end token is missing: without it the model never learns to stop",
            ),
            Mutant(
                _relabelled(lambda labels, n: labels[:-1] + [-100]),
                "the end token is masked: the model has to learn to stop, so its label is the token itself",
            ),
            Mutant(
                _relabelled(lambda labels, n: labels[:-1]),
                "the end token has no label: the labels are as long as input_ids, and the end is learned",
            ),
            Mutant(
                _relabelled(lambda labels, n: labels[1:] + [-100]),
                "the labels are shifted by one; transformers does that itself, so label i belongs to token i",
            ),
            Mutant(
                lambda p, a, end: _labelled([*p, *a], [-100] * (len(p) - 1) + [*a, end]),
                "both are one token shorter, to shift the labels; transformers does that itself, so leave both whole",
            ),
            Mutant(
                _relabelled(lambda labels, n: [-100] + labels[:-1]),
                "the labels are one place too late: label i belongs to token i",
            ),
            Mutant(
                _relabelled(lambda labels, n: [-100] * (n + 1) + labels[n + 1 :]),
                "one label too many is masked: the first token of the answer is learned as well",
            ),
            Mutant(
                _relabelled(lambda labels, n: [0] * n + labels[n:]),
                "0 is a token like any other, and it would be learned; the loss leaves out -100 only",
            ),
            Mutant(
                lambda p, a, end: _labelled([*p, *a, end], [*p] + [-100] * (len(a) + 1)),
                "the wrong way round: the answer is masked and the prompt is learned",
            ),
            Mutant(
                _relabelled(lambda labels, n: labels[n:]),
                "the labels are those of the answer alone; put -100 in front, one for each token of the prompt",
            ),
            Mutant(
                lambda p, a, end: _labelled(p, [*a, end]),
                "input_ids holds the prompt alone; a decoder reads prompt and answer in one row",
            ),
            Mutant(
                lambda p, a, end: _labelled([-100] * len(p) + [*a, end], [-100] * len(p) + [*a, end]),
                "input_ids is masked as well; the model reads the prompt, it only does not learn it",
            ),
            Mutant(
                lambda p, a, end: _labelled([*p, *a, end], [-100 if t in p else t for t in (*p, *a, end)]),
                "this masks every token that the prompt has, in the answer too; mask by place",
            ),
            Mutant(
                lambda p, a, end: _labelled([*p, end, *a, end], [-100] * (len(p) + 1) + [*a, end]),
                "an end token stands between prompt and answer; only the answer is followed by one",
            ),
            Mutant(
                lambda p, a, end: mask_prompt(p, a, end)[::-1],
                "the two are swapped: first input_ids, then labels",
            ),
        ),
        tolerance=0.0,
        kinds=2,
    )
)


# training-cycle-dpo ---------------------------------------------------------------------------------------


def _log_probabilities(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor, float]:
    # In the first, the margins are 0.5 · (1 + 1) = 1 and 0.5 · (-2 - 2) = -2.
    chosen, rejected, reference_chosen, reference_rejected, beta = (
        ([-3.0, -8.0], [-5.0, -4.0], [-4.0, -6.0], [-4.0, -6.0], 0.5),
        ([-12.0, -7.0, -20.0], [-15.0, -6.0, -18.0], [-14.0, -8.0, -19.0], [-13.0, -9.0, -21.0], 0.1),
        (
            [-2.0, -9.0, -4.0, -6.0],
            [-7.0, -8.0, -3.0, -11.0],
            [-3.0, -12.0, -5.0, -5.0],
            [-5.0, -7.0, -6.0, -8.0],
            0.3,
        ),
    )[seed]
    values = (
        torch.tensor(v, dtype=torch.float64) for v in (chosen, rejected, reference_chosen, reference_rejected)
    )
    return *values, beta


def _margin(c: Tensor, r: Tensor, rc: Tensor, rr: Tensor, beta: float) -> Tensor:
    return beta * ((c - rc) - (r - rr))


def dpo(
    chosen: Tensor, rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor, beta: float
) -> float:
    r"""-ln sigma(margin) with margin the difference of the two implicit rewards; mean over the pairs."""
    return -F.logsigmoid(_margin(chosen, rejected, reference_chosen, reference_rejected, beta)).mean().item()


def _secret_dpo(draw: Draw) -> tuple[Tensor, Tensor, Tensor, Tensor, float]:
    n = draw.whole(2, 5)
    reference = [-3 - 15 * draw.uniform(n) for _ in range(2)]
    chosen, rejected = (values + 2 * draw.normal(n) for values in reference)
    return chosen, rejected, *reference, draw.real(0.1, 0.6, digits=2)


DPO = register(
    Exercise(
        id="training-cycle-dpo",
        points=3,
        difficulty=3,
        minutes=15,
        hints=(
            "The reward of an answer is beta · (its log-probability under the model - that under the reference).",
            "The margin is the chosen answer's reward minus the rejected one's. F.logsigmoid(margin) is ln σ(margin).",
        ),
        inputs=_log_probabilities,
        secret=_secret_dpo,
        reference=dpo,
        mutants=(
            Mutant(
                lambda c, r, rc, rr, beta: dpo(c, r, rc, rr, 1.0),
                "beta is forgotten: each reward is multiplied by it",
            ),
            Mutant(
                lambda c, r, rc, rr, beta: beta * dpo(c, r, rc, rr, 1.0),
                "beta stands in front of the loss; it belongs inside the sigmoid",
            ),
            Mutant(
                lambda c, r, rc, rr, beta: dpo(c, r, rc, rr, 1 / beta),
                "this divides by beta; each reward is multiplied by it",
            ),
            Mutant(
                lambda c, r, rc, rr, beta: -F.logsigmoid(beta * (c - rc) - (r - rr)).mean().item(),
                "beta multiplies the chosen answer's reward only; it belongs to both",
            ),
            Mutant(
                lambda c, r, rc, rr, beta: dpo(c, r, 0 * rc, 0 * rr, beta),
                "the reference is forgotten: a reward says how far the model has moved away from it",
            ),
            Mutant(
                lambda c, r, rc, rr, beta: dpo(c, r, -rc, -rr, beta),
                "the reference counts with the wrong sign: subtract reference_chosen from chosen, and so for rejected",
            ),
            Mutant(
                lambda c, r, rc, rr, beta: -F.logsigmoid(beta * (c / rc - r / rr)).mean().item(),
                "this divides log-probabilities; the logarithm of a ratio is a difference of logarithms",
            ),
            Mutant(
                lambda c, r, rc, rr, beta: dpo(r, c, rr, rc, beta),
                "chosen and rejected are swapped: the model learns to prefer the worse answers",
            ),
            Mutant(
                lambda c, r, rc, rr, beta: dpo(c, r, rc, rr, beta) * len(c),
                "this is the sum over the pairs; take their mean",
            ),
            Mutant(
                lambda c, r, rc, rr, beta: -F.logsigmoid(_margin(c, r, rc, rr, beta)),
                "this is the loss of each pair; take their mean",
            ),
            Mutant(
                lambda c, r, rc, rr, beta: -F.logsigmoid(_margin(c, r, rc, rr, beta).mean()).item(),
                "the mean is taken over the margins; take it over the losses of the pairs",
            ),
            Mutant(
                lambda c, r, rc, rr, beta: -dpo(c, r, rc, rr, beta),
                "the minus sign is missing: this number grows as the model gets better, and a loss must fall",
            ),
            Mutant(
                lambda c, r, rc, rr, beta: -_margin(c, r, rc, rr, beta).sigmoid().mean().item(),
                "the logarithm is missing: the loss is -ln σ(margin), not -σ(margin)",
            ),
            Mutant(
                lambda c, r, rc, rr, beta: (-_margin(c, r, rc, rr, beta)).sigmoid().mean().item(),
                "this is 1 - σ(margin), the probability of a wrong order; the loss is -ln σ(margin)",
            ),
            Mutant(
                lambda c, r, rc, rr, beta: -_margin(c, r, rc, rr, beta).mean().item(),
                "the sigmoid is missing: the loss is -ln σ(margin), not -margin",
            ),
            Mutant(
                lambda c, r, rc, rr, beta: (
                    (F.logsigmoid(beta * (r - rr)) - F.logsigmoid(beta * (c - rc))).mean().item()
                ),
                "each reward has a sigmoid of its own here; there is one, of the difference of the rewards",
            ),
        ),
    )
)


# training-cycle-pack --------------------------------------------------------------------------------------

Blocks = tuple[tuple[int, ...], ...]
Rows = Sequence[Sequence[int]]


def _texts(seed: int) -> tuple[list[list[int]], int, int]:
    return (
        ([[11, 12, 13], [14, 15, 16, 17], [18, 19]], 5, 1),  # two blocks, and two tokens too many
        ([[21, 22], [23], [24, 25, 26]], 3, 1),  # three blocks exactly: the last end fills the third
        (
            [[31, 32, 33, 34, 35, 36, 37, 38, 39], [40, 41, 42], [43, 44, 45, 46, 47]],
            4,
            2,
        ),  # rows longer than a block
    )[seed]


def _stream(rows: Rows, end: int) -> list[int]:
    return [token for row in rows for token in (*row, end)]


def _cut(stream: Sequence[int], length: int) -> Blocks:
    r"""Whole blocks only."""
    return tuple(tuple(stream[i : i + length]) for i in range(0, len(stream) - length + 1, length))


def _cut_all(stream: Sequence[int], length: int, fill: Sequence[int] = ()) -> Blocks:
    r"""The last block as well, up to `length` tokens of it with those of `fill`."""
    return tuple((*stream[i : i + length], *fill)[:length] for i in range(0, len(stream), length))


def pack(rows: Rows, length: int, end_id: int) -> Blocks:
    r"""All rows in one stream, an end token after each, cut into blocks; the rest is dropped."""
    return _cut(_stream(rows, end_id), length)


def _secret_pack(draw: Draw) -> tuple[list[list[int]], int, int]:
    # Tokens are left over; the last end fills a block exactly; rows are longer than a block.
    length = draw.whole(4, 7)
    longest = 3 * length if draw.kind == 2 else length - 1
    rows = [[draw.whole(10, 99) for _ in range(draw.whole(1, longest))] for _ in range(draw.whole(3, 6))]
    total = sum(len(row) + 1 for row in rows)
    if draw.kind == 1:
        rows[-1] += [draw.whole(10, 99) for _ in range(-total % length)]
    elif total % length < 2:  # more than an end token is left over
        rows[0] += [draw.whole(10, 99) for _ in range(2)]
    return rows, length, draw.whole(1, 2)


PACK = register(
    Exercise(
        id="training-cycle-pack",
        points=2,
        difficulty=2,
        minutes=10,
        hints=(
            "First make one long list: each row, followed by end_id. Then cut it, no matter where a row ends.",
            "A block starts at 0, length, 2 · length and so on. Keep it only if it has all of its tokens.",
        ),
        inputs=_texts,
        secret=_secret_pack,
        reference=pack,
        mutants=(
            Mutant(
                lambda rows, length, end: _cut([t for row in rows for t in row], length),
                "the end tokens are missing: one text runs into the next",
            ),
            Mutant(
                lambda rows, length, end: _cut(_stream(rows, end)[:-1], length),
                "the last end token can fill a block exactly: the last row has one as well, and such a block is kept",
            ),
            Mutant(
                lambda rows, length, end: _cut([*(t for row in rows for t in row), end], length),
                "there is one end token, at the very end; every row is followed by one",
            ),
            Mutant(
                lambda rows, length, end: _cut([t for row in rows for t in (end, *row)], length),
                "the end token stands in front of each row; it belongs behind it",
            ),
            Mutant(
                lambda rows, length, end: tuple(
                    (*block, end) for block in _cut([t for row in rows for t in row], length - 1)
                ),
                "the end token ends a text, not a block",
            ),
            Mutant(
                lambda rows, length, end: _cut_all(_stream(rows, end), length),
                "the last block is too short: what does not fill a block is dropped",
            ),
            Mutant(
                lambda rows, length, end: _cut_all(_stream(rows, end), length, [end] * length),
                "the last block is filled up with end tokens; drop it, packing has no padding",
            ),
            Mutant(
                lambda rows, length, end: _cut_all(_stream(rows, end), length, [0] * length),
                "the last block is filled up with zeros; drop it, packing has no padding",
            ),
            Mutant(
                lambda rows, length, end: tuple(block for row in rows for block in _cut((*row, end), length)),
                "each row starts a new block here; blocks run on from one row into the next",
            ),
            Mutant(
                lambda rows, length, end: tuple(
                    block for row in rows for block in _cut_all((*row, end), length)
                ),
                "each row starts a new block and the short ones are kept; make one stream first, then cut it",
            ),
            Mutant(
                lambda rows, length, end: pack(rows[:-1], length, end),
                "the last row is dropped as a whole; drop only the tokens that fill no block",
            ),
            Mutant(
                lambda rows, length, end: pack(rows, length, end)[:-1],
                "a full block is dropped at the end; drop only the tokens that fill none",
            ),
            Mutant(
                lambda rows, length, end: tuple(
                    tuple(_stream(rows, end)[i : i + length])
                    for i in range(len(_stream(rows, end)) - length + 1)
                ),
                "the blocks overlap: the next one starts length tokens further on",
            ),
            Mutant(
                lambda rows, length, end: tuple(_stream(rows, end)),
                "this is the whole stream; cut it into blocks",
            ),
        ),
        tolerance=0.0,
        kinds=3,
    )
)
