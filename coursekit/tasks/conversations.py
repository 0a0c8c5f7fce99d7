r"""Conversations as token ids, with the loss on what the model is to say and on nothing else.

A conversation is text in segments, each learned or only read. The answer is learned, and with it the token that ends
it: a model that never learns to stop talks on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from coursekit.errors import CourseError
from coursekit.labels import IGNORED

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


def _rendered(tokenizer: Any, messages: Messages, ask: bool) -> str:
    return tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=ask)
