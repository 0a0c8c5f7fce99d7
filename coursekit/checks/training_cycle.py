r"""The exercises of notebooks 00_training_cycle and 00b_packing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from coursekit.checks.compare import Comparison
from coursekit.checks.core import Exercise
from coursekit.checks.draw import Draw
from coursekit.labels import IGNORED

# training-cycle-logps -------------------------------------------------------------------------------------


def logps(logits: Float[Tensor, "batch seq vocab"], labels: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq-1"]:
    r"""The logits at one position speak of the token at the next; 0 where that has the label -100."""
    targets = labels[:, 1:]
    found = F.cross_entropy(logits[:, :-1].transpose(1, 2), targets, ignore_index=IGNORED, reduction="none")
    return -found


def _picked(values: Tensor, targets: Tensor) -> Tensor:
    r"""Of each position the value of its token, 0 where that is masked."""
    found = values.gather(-1, targets.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return found.masked_fill(targets == IGNORED, 0.0)


def _secret_logps(draw: Draw) -> tuple[Tensor, Tensor]:
    # A masked prompt, an answer of two tokens or more, and a row that is padded at its end.
    rows, seq, vocab = 2, draw.whole(6, 8), draw.whole(4, 7)
    logits, labels = 2 * draw.normal(rows, seq, vocab), draw.integers(0, vocab - 1, rows, seq)
    for row in range(rows):
        labels[row, : draw.whole(1, 3)] = IGNORED
    labels[draw.whole(0, 1), -1] = IGNORED
    return logits, labels


LOGPS = Exercise(
    id="training-cycle-logps", points=3, difficulty=3, minutes=12,
    secret=_secret_logps, reference=logps,
    mutants={
        "nothing is shifted: logits at position t speak of token t + 1, so the last logits and the first label "
        "have no partner": lambda x, y: _picked(x.log_softmax(-1), y),
        "this is shifted the wrong way: logits at position t speak of the token after it, not of the one before":
            lambda x, y: _picked(x[:, 1:].log_softmax(-1), y[:, :-1]),
        "these are the tokens that the positions have read themselves; drop the last logits with the first label":
            lambda x, y: _picked(x.log_softmax(-1), y)[:, 1:],
        "these are logits; log-probabilities need a log_softmax over the vocabulary":
            lambda x, y: _picked(x[:, :-1], y[:, 1:]),
        "the softmax runs over the positions; it belongs over the vocabulary, the last dimension":
            lambda x, y: _picked(x[:, :-1].log_softmax(1), y[:, 1:]),
        "these are -ln p, which is a loss; ln p is asked, and never positive": lambda x, y: -logps(x, y),
        "these are probabilities; their logarithms are asked": lambda x, y: _picked(x[:, :-1].softmax(-1), y[:, 1:]),
        "where the label is -100 the value must be 0: that token does not count":
            lambda x, y: _picked(x[:, :-1].log_softmax(-1), y[:, 1:].clamp(min=0)),
        "this is one number for each row; leave the tokens apart, (batch, seq - 1)": lambda x, y: logps(x, y).sum(-1),
        "the masked positions are left out; keep the shape (batch, seq - 1), with 0 in their places":
            lambda x, y: logps(x, y)[y[:, 1:] != IGNORED],
        "this is the mean over everything; leave the tokens apart, (batch, seq - 1)": lambda x, y: logps(x, y).mean(),
    },
)  # fmt: skip


# training-cycle-mask-prompt -------------------------------------------------------------------------------

Ids = Sequence[int]
Labelled = tuple[tuple[int, ...], tuple[int, ...]]


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


MASK_PROMPT = Exercise(
    id="training-cycle-mask-prompt", points=2, difficulty=2, minutes=6,
    secret=_secret_mask_prompt, reference=mask_prompt,
    mutants={
        "the prompt is learned, too: its labels must be -100":
            lambda p, a, end: _labelled([*p, *a, end], [*p, *a, end]),
        "the end token is missing: without it the model never learns to stop":
            lambda p, a, end: _labelled([*p, *a], [-100] * len(p) + [*a]),
        "the end token is masked: the model has to learn to stop, so its label is the token itself":
            _relabelled(lambda labels, n: labels[:-1] + [-100]),
        "the end token has no label: the labels are as long as input_ids, and the end is learned":
            _relabelled(lambda labels, n: labels[:-1]),
        "the labels are shifted by one; the loss does that, yours and transformers' own: label i is token i's":
            _relabelled(lambda labels, n: labels[1:] + [-100]),
        "both are one token shorter, to shift the labels; the loss does that, so leave both whole":
            lambda p, a, end: _labelled([*p, *a], [-100] * (len(p) - 1) + [*a, end]),
        "the labels are one place too late: label i belongs to token i":
            _relabelled(lambda labels, n: [-100] + labels[:-1]),
        "one label too many is masked: the first token of the answer is learned as well":
            _relabelled(lambda labels, n: [-100] * (n + 1) + labels[n + 1 :]),
        "0 is a token like any other, and it would be learned; the loss leaves out -100 only":
            _relabelled(lambda labels, n: [0] * n + labels[n:]),
        "the wrong way round: the answer is masked and the prompt is learned":
            lambda p, a, end: _labelled([*p, *a, end], [*p] + [-100] * (len(a) + 1)),
        "the labels are those of the answer alone; put -100 in front, one for each token of the prompt":
            _relabelled(lambda labels, n: labels[n:]),
        "input_ids holds the prompt alone; a decoder reads prompt and answer in one row":
            lambda p, a, end: _labelled(p, [*a, end]),
        "input_ids is masked as well; the model reads the prompt, it only does not learn it":
            lambda p, a, end: _labelled([-100] * len(p) + [*a, end], [-100] * len(p) + [*a, end]),
        "this masks every token that the prompt has, in the answer too; mask by place":
            lambda p, a, end: _labelled([*p, *a, end], [-100 if t in p else t for t in (*p, *a, end)]),
        "an end token stands between prompt and answer; only the answer is followed by one":
            lambda p, a, end: _labelled([*p, end, *a, end], [-100] * (len(p) + 1) + [*a, end]),
        "the two are swapped: first input_ids, then labels": lambda p, a, end: mask_prompt(p, a, end)[::-1],
    },
    tolerance=0.0, kinds=2,
)  # fmt: skip


# training-cycle-dpo ---------------------------------------------------------------------------------------


def _margin(c: Tensor, r: Tensor, rc: Tensor, rr: Tensor, beta: float) -> Tensor:
    return beta * ((c - rc) - (r - rr))


def dpo(chosen: Tensor, rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor, beta: float) -> Tensor:
    r"""-ln sigma(margin) with margin the difference of the two implicit rewards; mean over the pairs."""
    return -F.logsigmoid(_margin(chosen, rejected, reference_chosen, reference_rejected, beta)).mean()


def _secret_dpo(draw: Draw) -> tuple[Tensor, Tensor, Tensor, Tensor, float]:
    n = draw.whole(2, 5)
    reference = [-3 - 15 * draw.uniform(n) for _ in range(2)]
    chosen, rejected = (values + 2 * draw.normal(n) for values in reference)
    return chosen, rejected, *reference, draw.real(0.1, 0.6, digits=2)


DPO = Exercise(
    id="training-cycle-dpo", points=3, difficulty=3, minutes=12,
    secret=_secret_dpo, reference=dpo,
    mutants={
        "beta is forgotten: each reward is multiplied by it": lambda c, r, rc, rr, beta: dpo(c, r, rc, rr, 1.0),
        "beta stands in front of the loss; it belongs inside the sigmoid":
            lambda c, r, rc, rr, beta: beta * dpo(c, r, rc, rr, 1.0),
        "this divides by beta; each reward is multiplied by it": lambda c, r, rc, rr, beta: dpo(c, r, rc, rr, 1 / beta),
        "the two rewards are added; the chosen answer wins by their difference":
            lambda c, r, rc, rr, beta: -F.logsigmoid(beta * ((c - rc) + (r - rr))).mean(),
        "beta multiplies the chosen answer's reward only; it belongs to both":
            lambda c, r, rc, rr, beta: -F.logsigmoid(beta * (c - rc) - (r - rr)).mean(),
        "the reference is forgotten: a reward says how far the model has moved away from it":
            lambda c, r, rc, rr, beta: dpo(c, r, 0 * rc, 0 * rr, beta),
        "the reference counts with the wrong sign: subtract reference_chosen from chosen, and so for rejected":
            lambda c, r, rc, rr, beta: dpo(c, r, -rc, -rr, beta),
        "this divides log-probabilities; the logarithm of a ratio is a difference of logarithms":
            lambda c, r, rc, rr, beta: -F.logsigmoid(beta * (c / rc - r / rr)).mean(),
        "chosen and rejected are swapped: the model learns to prefer the worse answers":
            lambda c, r, rc, rr, beta: dpo(r, c, rr, rc, beta),
        "this is the sum over the pairs; take their mean": lambda c, r, rc, rr, beta: dpo(c, r, rc, rr, beta) * len(c),
        "this is the loss of each pair; take their mean":
            lambda c, r, rc, rr, beta: -F.logsigmoid(_margin(c, r, rc, rr, beta)),
        "the mean is taken over the differences of rewards; take it over the losses of the pairs":
            lambda c, r, rc, rr, beta: -F.logsigmoid(_margin(c, r, rc, rr, beta).mean()),
        "the minus sign is missing: this number grows as the model gets better, and a loss must fall":
            lambda c, r, rc, rr, beta: -dpo(c, r, rc, rr, beta),
        "the logarithm is missing: the loss is -ln σ(z), not -σ(z), with z the difference of the rewards":
            lambda c, r, rc, rr, beta: -_margin(c, r, rc, rr, beta).sigmoid().mean(),
        "this is 1 - σ(z), with z the difference of the rewards: the probability that the rejected answer wins; "
        "the loss is -ln σ(z)": lambda c, r, rc, rr, beta: (-_margin(c, r, rc, rr, beta)).sigmoid().mean(),
        "the sigmoid is missing: the loss is -ln σ(z), not -z, with z the difference of the rewards":
            lambda c, r, rc, rr, beta: -_margin(c, r, rc, rr, beta).mean(),
        "each reward has a sigmoid of its own here; there is one, of the difference of the rewards":
            lambda c, r, rc, rr, beta: (F.logsigmoid(beta * (r - rr)) - F.logsigmoid(beta * (c - rc))).mean(),
    },
)  # fmt: skip


# training-cycle-pack --------------------------------------------------------------------------------------

Example = tuple[Sequence[int], Sequence[int]]
Row = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


def _grouped(examples: Sequence[Example], length: int, reopened: bool = False) -> list[list[Example]]:
    r"""In their order; one that no longer fits begins the next row, or if `reopened` goes where an earlier has room."""
    groups: list[list[Example]] = []
    free: list[int] = []
    for example in examples:
        size, last = len(example[0]), 0 if reopened else len(groups) - 1
        at = next((i for i in range(max(last, 0), len(groups)) if size <= free[i]), len(groups))
        if at == len(groups):
            groups.append([])
            free.append(length)
        groups[at].append(example)
        free[at] -= size
    return groups


def _row(
    group: Sequence[Example],
    first: Callable[[Sequence[int]], Sequence[int]] = lambda labels: (IGNORED, *labels[1:]),
    restart: bool = True,
) -> Row:
    r"""One row of examples; `first` makes an example's labels those of the row."""
    ids = tuple(token for example, _ in group for token in example)
    labels = tuple(label for _, own in group for label in first(own))
    places = tuple(i for example, _ in group for i in range(len(example)))
    return ids, labels, places if restart else tuple(range(len(ids)))


def pack(examples: Sequence[Example], length: int) -> tuple[Row, ...]:
    r"""Rows of at most `length` tokens, each as (input_ids, labels, position_ids)."""
    return tuple(_row(group) for group in _grouped(examples, length))


def _cut_rows(examples: Sequence[Example], length: int) -> tuple[Row, ...]:
    row = _row(examples)
    return tuple(
        tuple(values[i : i + length] for values in row)  # type: ignore[misc]
        for i in range(0, len(row[0]), length)
    )


def _filled(row: Row, length: int) -> Row:
    ids, labels, places = row
    n = length - len(ids)
    return (*ids, *[0] * n), (*labels, *[IGNORED] * n), (*places, *[0] * n)


@dataclass(frozen=True)
class RowComparison(Comparison):
    r"""The loss never looks at a row's first label: masked or not, the row teaches the same."""

    def difference(self, given: Any, expected: Any) -> str | None:
        r"""As in Comparison."""
        return super().difference(_first_masked(given), _first_masked(expected))


def _first_masked(row: Any) -> Any:
    r"""A row with its first label masked; anything else as it is."""
    if type(row) not in (tuple, list) or len(row) != 3:
        return row
    if any(type(column) not in (tuple, list) or not column or type(column[0]) is not int for column in row):
        return row
    ids, labels, places = row
    return (ids, (IGNORED, *labels[1:]), places) if labels[0] == ids[0] else row


def _secret_pack(draw: Draw) -> tuple[list[tuple[list[int], list[int]]], int]:
    # Some learn their first token, some do not; the first two fill a row exactly. The third leaves a gap that the
    # fourth is too long for and the fifth is not.
    length, gap, examples = draw.whole(9, 11), draw.whole(2, 3), []
    first = draw.whole(3, 5)
    sizes = [first, length - first, length - gap, draw.whole(gap + 1, 5), draw.whole(2, gap), draw.whole(3, 4)]
    for i, size in enumerate(sizes):
        ids = [draw.whole(10, 99) for _ in range(size)]
        masked = (i + draw.kind) % 2 * draw.whole(1, min(2, size - 1))
        examples.append((ids, [IGNORED] * masked + ids[masked:]))
    return examples, length


PACK = Exercise(
    compare=RowComparison, id="training-cycle-pack", points=3, difficulty=3, minutes=12,
    secret=_secret_pack, reference=pack,
    mutants={
        "each example has a row of its own: put as many into a row as fit":
            lambda examples, length: tuple(_row([example]) for example in examples),
        "a row that is exactly full is allowed: an example fits where its tokens are no more than what is left":
            lambda examples, length: pack(examples, length - 1),
        "examples are cut where a row is full; each must stay whole, so begin a new row before it": _cut_rows,
        "the positions run through the row; they begin at 0 with every example":
            lambda examples, length: tuple(_row(group, restart=False) for group in _grouped(examples, length)),
        "the first token of an example inside a row is learned: it is predicted from the end of another one":
            lambda examples, length: tuple(
                _row(group, first=lambda labels: labels) for group in _grouped(examples, length)
            ),
        "an example is in an earlier row that had room; keep their order: once the next row has begun, the one "
        "before it stays as it is":
            lambda examples, length: tuple(_row(group) for group in _grouped(examples, length, reopened=True)),
        "the first token's label is dropped instead of masked: labels are as many as input_ids":
            lambda examples, length: tuple(
                _row(group, first=lambda labels: labels[1:]) for group in _grouped(examples, length)
            ),
        "the last row is missing: it is kept although it is not full":
            lambda examples, length: pack(examples, length)[:-1],
        "rows are filled up to length; leave them short, a batch pads them where it must":
            lambda examples, length: tuple(_filled(row, length) for row in pack(examples, length)),
        "positions count from 1; they begin at 0 with every example":
            lambda examples, length: tuple(
                (ids, labels, tuple(place + 1 for place in places)) for ids, labels, places in pack(examples, length)
            ),
    },
    tolerance=0.0, kinds=2,
)  # fmt: skip
