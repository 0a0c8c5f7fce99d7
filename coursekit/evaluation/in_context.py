r"""In-context learning: examples in the prompt instead of training, and what that costs with every query."""

from __future__ import annotations

import time
from dataclasses import dataclass

from torch import nn

from coursekit.errors import CourseError, whole
from coursekit.evaluation.classification import accuracy
from coursekit.evaluation.scores import Score
from coursekit.tasks.prepared import Prepared
from coursekit.tasks.task import Task, task_of


@dataclass(frozen=True)
class Asked:
    r"""What queries with `shots` examples in the prompt gave.

    tokens: of one prompt, on average. seconds: for one query, with the whole prompt read anew.
    """

    shots: int
    score: Score
    tokens: float
    seconds: float


def prompt_tokens(prepared: Prepared, shots: int = 0, split: str = "test", limit: int | None = None) -> float:
    r"""Mean number of tokens in the prompts of the first `limit` rows, examples included.

    Raises CourseError for data without a prompt.
    """
    task = _asked(prepared)
    texts = task.fitted(prepared.tokenizer, prepared.max_length, task.data[split][:limit]["text"])
    shown = task.shots(shots)
    prompts = prepared.tokenizer([task.prompt(text, shown) for text in texts])["input_ids"]
    return sum(map(len, prompts)) / len(prompts)


def prompt_examples(prepared: Prepared, k: int) -> Prepared:
    r"""The same data with the `k` examples that stand in a prompt (`Task.shots`) as all of its training rows.

    Raises CourseError for data without a prompt, for data cut short by `take`, and for fewer than one example.
    """
    task = _asked(prepared)
    k = whole("k", k, least=1, such_as=10)
    texts = task.data["train"][:]["text"]
    if len(texts) != len(prepared.split("train")):
        raise CourseError(
            f"{prepared.name} lacks training rows: give prompt_examples(...) the data as they were before take(...)"
        )
    rows = prepared.split("train").select([texts.index(text) for text, _ in task.shots(k)])
    return prepared.with_rows("train", rows)


def ask(
    model: nn.Module, prepared: Prepared, shots: int = 0, limit: int | None = None, timed: int = 8, split: str = "test"
) -> Asked:
    r"""Accuracy on the first `limit` rows with `shots` examples in each prompt, and the cost of a query.

    The accuracy shares the examples between queries, computed once; the time is that of `timed` queries one by one that
    share nothing, as if each came from somebody else.
    """
    score = accuracy(model, prepared, split, limit, shots=shots, progress=False)
    start = time.perf_counter()
    asked = accuracy(model, prepared, split, timed, batch_size=1, shots=shots, cache=False, progress=False)
    seconds = (time.perf_counter() - start) / asked.n
    return Asked(shots, score, prompt_tokens(prepared, shots, split, limit), seconds)


def _asked(prepared: Prepared) -> Task:
    task = task_of(prepared)
    if task is None or prepared.kind != "decoder":
        raise CourseError(f"{prepared.name} has no prompts for a decoder: load_task(...).for_decoder(...) has")
    return task
