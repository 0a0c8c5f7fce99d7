r"""Conversations as token ids, with the loss on what the model is to say and on nothing else.

A conversation is text in segments, each learned or only read. The answer is learned, and with it the token that ends
it: a model that never learns to stop talks on. An example that is too long is never cut inside an answer, whose
end token would go first: it is left out, and reported.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from datasets import Dataset, DatasetDict

from coursekit.errors import CourseError, whole
from coursekit.labels import IGNORED
from coursekit.tasks.cuts import Cut
from coursekit.tasks.packing import bins
from coursekit.tasks.prepared import Prepared

Messages = Sequence[Mapping[str, str]]


class Segment(NamedTuple):
    r"""A piece of a conversation; `learned` where it counts in the loss."""

    text: str
    learned: bool


class Encoded(NamedTuple):
    r"""A conversation in token ids. `labels` are the ids again, with −100 where the text is only read."""

    input_ids: list[int]
    labels: list[int]


def segments(tokenizer: Any, messages: Messages) -> list[Segment]:
    r"""A conversation as the tokenizer's chat template writes it, cut at the answers, which are learned.

    What the template puts behind an answer is learned up to the end-of-text token: that ends a turn, and what comes
    after it in the template (a line break, say) is written by the program, not by the model.

    Raises CourseError for a tokenizer without a template, for a conversation without an answer, and for a template
    that writes earlier turns otherwise once there are later ones.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise CourseError(
            "this tokenizer has no chat template: set tokenizer.chat_template, or use instructions of one turn"
        )
    found, done = [], ""
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = _rendered(tokenizer, messages[:i], ask=True)
        after = _rendered(tokenizer, messages[: i + 1], ask=False)
        if not before.startswith(done) or not after.startswith(before):
            raise CourseError(
                "this chat template writes earlier turns otherwise when there are later ones, so what the model is to "
                "learn cannot be told apart: use one turn at a time"
            )
        answer = after[len(before) :]
        end = tokenizer.eos_token or ""
        at = answer.rfind(end) if end else -1  # the last: the content may hold it, or be trimmed
        answer = answer[: at + len(end)] if at >= 0 else answer
        found += [Segment(before[len(done) :], False), Segment(answer, True)]
        done = before + answer
    if not found:
        raise CourseError("a conversation without a turn of the assistant has nothing to learn")
    return found  # what comes after the last answer is read by nobody


def encode(tokenizer: Any, parts: Sequence[Segment]) -> Encoded:
    r"""The token ids of all parts, and the labels. Each part is tokenised by itself: no token spans two of them."""
    ids: list[int] = []
    labels: list[int] = []
    for text, learned in parts:
        piece = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids += piece
        labels += piece if learned else [IGNORED] * len(piece)
    return Encoded(ids, labels)


def prepare_encoded(
    name: str,
    encoded: Mapping[str, Sequence[Encoded]],
    tokenizer: Any,
    max_length: int,
    *,
    packed: bool = False,
) -> Prepared:
    r"""Encoded conversations, without those that are longer than `max_length` tokens.

    These are counted in a warning and listed in `left_out` of what is returned. packed: put the training examples
    together in rows of `max_length` tokens, where each sees only itself: fewer rows, hardly any padding, the same loss.

    Raises CourseError where that leaves nothing to train on.
    """
    max_length = whole("max_length", max_length, least=2, such_as=256)
    data, cuts = {}, []
    for split, rows in encoded.items():
        kept = []
        for row, one in enumerate(rows):
            if len(one.input_ids) <= max_length:
                kept.append(one)
            else:
                cuts.append(cut(split, row, one, max_length))
        data[split] = _columns(kept)
        if packed and split == "train" and kept:
            data[split] = _packed(kept, max_length)
    if not data.get("train"):
        longest = max((c.tokens for c in cuts), default=0)
        raise CourseError(
            f"max_length={max_length} leaves no example to train on: the longest has {longest} tokens"
        )
    warn_of_cuts(cuts, sum(map(len, encoded.values())), max_length)
    return Prepared(name, "decoder", tokenizer, DatasetDict(data), max_length, left_out=tuple(cuts))


def _rendered(tokenizer: Any, messages: Messages, ask: bool) -> str:
    return tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=ask)


def cut(split: str, row: int, one: Encoded, max_length: int) -> Cut:
    r"""What a cut at `max_length` tokens would do to an example."""
    lost = sum(label != IGNORED for label in one.labels[max_length:])
    return Cut(split, row, len(one.input_ids), lost, sum(label != IGNORED for label in one.labels))


def warn_of_cuts(cuts: Sequence[Cut], total: int, max_length: int, depth: int = 4) -> None:
    r"""One warning for all examples, out of `total`, that were left out. depth: frames up to who is warned."""
    if cuts:
        inside, longest = sum(c.lost > 0 for c in cuts), max(c.tokens for c in cuts)
        warnings.warn(
            f"{len(cuts)} of {total} examples are longer than max_length={max_length} tokens and were left out; the "
            f"cut would have taken learned tokens from {inside} of them (the longest has {longest})",
            stacklevel=depth,
        )


def _columns(rows: Sequence[Encoded]) -> Dataset:
    return Dataset.from_dict(
        {
            "input_ids": [one.input_ids for one in rows],
            "attention_mask": [[1] * len(one.input_ids) for one in rows],
            "labels": [one.labels for one in rows],
        }
    )


def _packed(rows: Sequence[Encoded], length: int) -> Dataset:
    r"""Rows of several examples. Positions begin anew with each: that is how transformers tells them apart."""
    columns: dict[str, list[list[int]]] = {
        "input_ids": [],
        "attention_mask": [],
        "labels": [],
        "position_ids": [],
    }
    for group in bins([len(one.input_ids) for one in rows], length):
        ids = [token for i in group for token in rows[i].input_ids]
        columns["input_ids"].append(ids)
        columns["attention_mask"].append([1] * len(ids))
        # The first token of an example is not to be predicted from the end of another one.
        columns["labels"].append([label for i in group for label in (IGNORED, *rows[i].labels[1:])])
        columns["position_ids"].append([p for i in group for p in range(len(rows[i].input_ids))])
    return Dataset.from_dict(columns)
