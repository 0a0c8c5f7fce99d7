r"""The course's tasks: how a sentence is felt, in two classes or in five grades.

`load_task("film", "five")` gives the text; `.for_encoder(tokenizer)` and `.for_decoder(tokenizer)` give token ids.

    two     negative or positive. A sentence whose mean rating is within ±0.5, which rounds to the raters' own 0, is
            left out. The classes need not be equally frequent: compare with `task.majority`, not with one half.
    five    the quintiles of the domain's ratings: each grade holds a fifth of the sentences, and guessing scores 0.20.

A sentence is in the same split whatever the labels: see `coursekit.tasks.splits`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any, Literal

from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from coursekit.errors import CourseError, one_of, whole
from coursekit.tasks.prepared import Prepared, answer_rows
from coursekit.tasks.sentiment import FILES, SPLITS, split_sentences

#: The label words of each scheme, from worst to best. With a space before it each is one token of GPT-2's and of
#: SmolLM2's vocabulary, so a decoder grades with a single next token.
WORDS: dict[str, tuple[str, ...]] = {
    "two": ("negative", "positive"),
    "five": ("terrible", "bad", "mixed", "good", "great"),
}
#: What lies within ±NEUTRAL is neither negative nor positive.
NEUTRAL = 0.5
#: Upper edges of the four lower grades: the quintiles of each domain's ratings, each put between two ratings that
#: occur, so that no rating lies on an edge.
QUINTILES: dict[str, tuple[float, float, float, float]] = {
    "film": (-1.946, -1.170, 1.209, 1.983),
    "product": (-1.225, -0.025, 1.025, 2.025),
    "tweet": (-0.944, 0.347, 1.103, 1.8497),
    "newspaper": (-0.925, -0.325, 0.075, 0.575),
}
_HEADING = {"film": "Film review", "product": "Product review", "tweet": "Tweet", "newspaper": "Newspaper editorial"}
#: Examples for the prompt have this many words: long enough to be clear, short enough to be cheap.
_SHOT_WORDS = (8, 20)

Scheme = Literal["two", "five"]


@dataclass(frozen=True)
class Task:
    r"""One domain under one label scheme.

    name: "film/five". labels: the label words from worst to best.
    data: train, validation and test with columns `text`, `rating` (float, −4…4) and `label` (class).
    """

    name: str
    labels: tuple[str, ...]
    data: DatasetDict

    @property
    def domain(self) -> str:
        r"""Where the text is from: "film", "product", "tweet" or "newspaper"."""
        return self.name.partition("/")[0]

    @property
    def majority(self) -> float:
        r"""The test accuracy of always answering with the class that is most frequent in training."""
        common = Counter(self.data["train"][:]["label"]).most_common(1)[0][0]
        test = self.data["test"][:]["label"]
        return sum(label == common for label in test) / len(test)

    def short(self, words: int) -> Task:
        r"""The same task with only the sentences of at most `words` words: a step on them is cheap.

        Raises CourseError for a number that leaves a split empty.
        """
        words = whole("words", words, least=1, such_as=10)
        few = {
            split: rows.select([i for i, text in enumerate(rows[:]["text"]) if len(text.split()) <= words])
            for split, rows in self.data.items()
        }
        if not all(map(len, few.values())):
            raise CourseError(f"short({words}): {self.name} has no sentences that short in one of its splits")
        return replace(self, data=DatasetDict(few))

    def shots(self, k: int) -> list[tuple[str, str]]:
        r"""`k` fixed examples (text, word) from the training split for `prompt`, the classes as even as `k` allows.

        Of each class the sentences nearest to its median rating: typical ones. The classes come in a mixed order, so
        that their order does not itself look like a scale. Raises CourseError for more than there are.
        """
        k = whole("k", k, least=0)
        by_label = self._typical()
        order = sorted(range(len(self.labels)), key=lambda label: (label % 2, -label))
        picks = [(label, turn) for turn in range(-(-k // len(order))) for label in order][:k]
        if any(turn >= len(by_label[label]) for label, turn in picks):
            raise CourseError(
                f"shots({k}): the training split of {self.name} has too few short sentences for that many"
            )
        return [(by_label[label][turn], self.labels[label]) for label, turn in picks]

    def prompt(self, text: str, shots: Sequence[tuple[str, str]] = ()) -> str:
        r"""What a decoder reads before it answers with a space and one of the label words.

        shots: examples (text, word) that come before; `task.shots(k)` gives the course's own. Of nine wordings tried
        with SmolLM2 on 200–250 validation sentences this one did well on both schemes; another was a little better on
        five grades but blind on two, and the chat template scored 0.21 where this scores 0.29.
        """
        heading = _HEADING[self.domain]
        examples = "".join(f"{heading}: {shown}\nSentiment: {word}\n\n" for shown, word in shots)
        return f"{examples}{heading}: {text}\nSentiment:"

    def for_encoder(self, tokenizer: Any, max_length: int = 64) -> PreparedTask:
        r"""Token ids for a sequence classifier; a longer sentence is cut at `max_length` tokens."""
        max_length = whole("max_length", max_length, least=1, such_as=64)

        def encode(rows: dict[str, list]) -> dict[str, list]:
            encoded = tokenizer(rows["text"], truncation=True, max_length=max_length)
            return {key: encoded[key] for key in ("input_ids", "attention_mask")} | {"labels": rows["label"]}

        return self._prepared("encoder", tokenizer, max_length, encode)

    def for_decoder(self, tokenizer: Any, max_length: int = 128) -> PreparedTask:
        r"""Token ids for a language model: prompt and answer, the prompt masked in the labels.

        Where both together exceed `max_length` tokens the sentence loses its end; instruction and answer stay whole.
        Raises CourseError where no sentence at all would fit.
        """
        max_length = whole("max_length", max_length, least=1, such_as=128)
        answers = self.answer_ids(tokenizer)

        def encode(rows: dict[str, list]) -> dict[str, list]:
            texts = self.fitted(tokenizer, max_length, rows["text"])
            prompts = tokenizer([self.prompt(text) for text in texts])["input_ids"]
            return answer_rows(prompts, (answers[label] for label in rows["label"]))

        return self._prepared("decoder", tokenizer, max_length, encode)

    def fitted(self, tokenizer: Any, max_length: int, texts: Sequence[str]) -> list[str]:
        r"""The texts, each shortened at its end until its prompt and the longest answer fit in `max_length` tokens.

        The longest answer, not the right one: what a model reads must not depend on the label.
        """
        room = max_length - max(map(len, self.answer_ids(tokenizer)))
        lengths = map(len, tokenizer([self.prompt(text) for text in texts])["input_ids"])
        return [
            self._shortened(tokenizer, room, text) if length > room else text
            for text, length in zip(texts, lengths, strict=True)
        ]

    def answer_ids(self, tokenizer: Any) -> list[list[int]]:
        r"""The tokens that follow the prompt for each label word.

        Raises CourseError if two words begin with the same token: the first token could not tell them apart.
        """
        prompt = self.prompt("")
        answers = [_continuation(tokenizer, prompt, f" {word}") for word in self.labels]
        if len({answer[0] for answer in answers}) < len(answers):
            raise CourseError(f"this tokenizer begins two of the words {', '.join(self.labels)} with the same token")
        return answers

    def _shortened(self, tokenizer: Any, room: int, text: str) -> str:
        while (over := len(tokenizer(self.prompt(text))["input_ids"]) - room) > 0:
            ends = [end for _, end in tokenizer(text, return_offsets_mapping=True)["offset_mapping"] if end]
            if over >= len(ends):
                raise CourseError(
                    f"max_length is too small by at least {over - len(ends) + 1}: instruction and answer of "
                    f"{self.name} leave no room for a sentence"
                )
            text = text[: ends[len(ends) - over - 1]].rstrip()
        return text

    def _typical(self) -> list[list[str]]:
        r"""For each class its training sentences of a handy length, the nearest to its median rating first."""
        train, (least, most) = self.data["train"][:], _SHOT_WORDS
        found: list[list[tuple[float, str]]] = [[] for _ in self.labels]
        for text, rating, label in zip(train["text"], train["rating"], train["label"], strict=True):
            if least <= len(text.split()) <= most:
                found[label].append((rating, text))
        middles = [median(rating for rating, _ in rows) if rows else 0.0 for rows in found]
        return [
            [text for _, text in sorted(rows, key=lambda row, at=middle: (abs(row[0] - at), row[1]))]  # type: ignore[misc]
            for rows, middle in zip(found, middles, strict=True)
        ]

    def _prepared(
        self, kind: Literal["encoder", "decoder"], tokenizer: Any, max_length: int, encode: Callable[[dict], dict]
    ) -> PreparedTask:
        data = DatasetDict({split: Dataset.from_dict(encode(rows[:])) for split, rows in self.data.items()})
        return PreparedTask(self.name, kind, tokenizer, data, max_length, task=self)


@dataclass(frozen=True)
class PreparedTask(Prepared):
    r"""A task in token ids. task: the text and the words of its classes, from which a decoder's prompts are made."""

    task: Task = field(kw_only=True)


def task_of(prepared: Prepared) -> Task | None:
    r"""The task that rows come from, None for data without one, such as instructions."""
    return prepared.task if isinstance(prepared, PreparedTask) else None


def load_task(domain: str, labels: Scheme | str = "two") -> Task:
    r"""Sentiment of "film", "product", "tweet" or "newspaper" sentences, labelled "two" or "five".

    Raises CourseError for an unknown domain or label scheme, with the nearest known one.
    """
    one_of("task", domain, FILES)
    one_of("label scheme", labels, WORDS)
    words = WORDS[labels]
    features = Features(text=Value("string"), rating=Value("float32"), label=ClassLabel(names=list(words)))
    splits = {}
    for split in SPLITS:
        rows = [(row.text, row.rating, _label(row.rating, domain, labels)) for row in split_sentences(domain)[split]]
        rows = [row for row in rows if row[2] is not None]
        columns = dict(zip(("text", "rating", "label"), map(list, zip(*rows, strict=True)), strict=True))
        splits[split] = Dataset.from_dict(columns, features=features)
    return Task(f"{domain}/{labels}", words, DatasetDict(splits))


def load_text(domain: str) -> DatasetDict:
    r"""The bare sentences of a domain, column `text`, for perplexity.

    They are in the same splits as the labelled ones: a model trained on a task is not tested on what it has read.
    """
    one_of("text", domain, FILES)
    return DatasetDict(
        {split: Dataset.from_dict({"text": [row.text for row in split_sentences(domain)[split]]}) for split in SPLITS}
    )


def _label(rating: float, domain: str, labels: str) -> int | None:
    r"""The class of a rating, or None for one that is neither negative nor positive."""
    if labels == "five":
        return bisect_left(QUINTILES[domain], rating)
    return None if abs(rating) <= NEUTRAL else int(rating > 0)


def _continuation(tokenizer: Any, prompt: str, answer: str) -> list[int]:
    r"""The tokens of `answer` where it follows `prompt`; on its own some tokenizers write it otherwise."""
    before, both = (tokenizer(text)["input_ids"] for text in (prompt, prompt + answer))
    if before != both[: len(before)]:
        raise CourseError(f"this tokenizer does not keep {prompt[-8:]!r} apart from the answer {answer!r} after it")
    return both[len(before) :]
