r"""Accuracy of classifiers and of decoders that answer with a word."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import DynamicCache

from coursekit.errors import CourseError, whole
from coursekit.evaluation.compatible import check_data
from coursekit.evaluation.running import (
    device_of,
    equal_lengths,
    evaluating,
    first_rows,
    progress_bar,
    similar_lengths,
    text_list,
    token_ids,
)
from coursekit.evaluation.scores import Score
from coursekit.tasks.prepared import Prepared
from coursekit.tasks.task import task_of


class PrefixCache:
    r"""Keys and values of what all prompts begin with, computed once and shared by all rows."""

    def __init__(self, model: nn.Module, prompts: list[list[int]]) -> None:
        common = os.path.commonprefix(prompts)
        # At least one token of each prompt must be left to ask for its logits.
        self.length = min(len(common), min(map(len, prompts)) - 1)
        if self.length <= 0:
            self.length = 0
            return
        ids = torch.tensor([prompts[0][: self.length]], device=device_of(model))
        try:
            past = model(input_ids=ids, logits_to_keep=1, use_cache=True).cache
        except CourseError:  # a template of P-tuning, which cannot be cut in two
            self.length = 0
            return
        self.layers = [(layer.keys, layer.values) for layer in past.layers]
        # What soft prompts note on a cache, so that they know it again.
        self.notes = {name: note for name, note in vars(past).items() if name not in vars(DynamicCache())}
        # Another model that puts tokens of its own first would put them in front of the rest once more.
        if past.get_seq_length() != self.length and not self.notes:
            self.length = 0

    def expanded(self, batch: int) -> DynamicCache:
        r"""A cache for `batch` rows. The rows share memory: a layer copies when it appends."""
        cache = DynamicCache(
            [(keys.expand(batch, -1, -1, -1), values.expand(batch, -1, -1, -1)) for keys, values in self.layers]
        )
        vars(cache).update(self.notes)
        return cache


def score_choices(
    model: nn.Module, tokenizer: Any, prompts: Sequence[str], choices: Sequence[str], batch_size: int = 64, *,
    cache: bool = True,
) -> Float[Tensor, "prompts choices"]:  # fmt: skip
    r"""The logit of each choice's first token after each prompt, on the CPU.

    A choice usually begins with a space. Raises CourseError for two choices that begin with the same token.
    """
    choices, ids = text_list("choices", choices), token_ids(model, tokenizer, "prompts", prompts)
    first = [tokenizer(choice, add_special_tokens=False)["input_ids"][:1] for choice in choices]
    if len({tuple(token) for token in first}) < len(choices) or [] in first:
        raise CourseError(f"the choices {', '.join(map(repr, choices))} do not begin with a token each of their own")
    return next_token_logits(model, ids, [token[0] for token in first], batch_size, cache)


def next_token_logits(
    model: nn.Module, prompts: list[list[int]], choices: list[int], batch_size: int, cache: bool, progress: bool = False
) -> Float[Tensor, "prompts choices"]:
    r"""Logits of the `choices` after each prompt. Only the ends of the prompts go through the output layer.

    A shorter prompt of a batch is filled up on the right, which a decoder does not see from the prompt's last token.
    """
    device = device_of(model)
    logits = torch.empty(len(prompts), len(choices))
    with evaluating(model), progress_bar(len(prompts), "score", progress) as bar:
        prefix = PrefixCache(model, prompts) if cache and len(prompts) > 1 else None
        skip = prefix.length if prefix else 0
        for group in similar_lengths(prompts, batch_size):
            rest = [prompts[i][skip:] for i in group]
            missing = [len(rest[0]) - len(row) for row in rest]
            filled = torch.tensor([row + [0] * n for row, n in zip(rest, missing, strict=True)], device=device)
            past = {"cache": prefix.expanded(len(group)), "use_cache": True} if skip else {"use_cache": False}
            ends = model(input_ids=filled, logits_to_keep=max(missing) + 1, **past).logits
            last = ends[range(len(group)), [-1 - n for n in missing]]  # (rows, vocabulary)
            logits[group] = last[:, choices].float().cpu()
            bar.update(len(group))
    return logits


def accuracy(
    model: nn.Module, prepared: Prepared, split: str = "test", limit: int | None = None, batch_size: int = 64, *,
    shots: int = 0, cache: bool = True, progress: bool = True,
) -> Score:  # fmt: skip
    r"""Share of the first `limit` rows of `split` whose class the model finds.

    An encoder answers with its largest logit, a decoder with the label word whose first token has the largest logit
    after the prompt. shots: that many examples (`task.shots`) come before each prompt of a decoder. cache: compute
    what all prompts begin with only once.

    Raises CourseError for a task without classes, for data that do not fit the model (such as more classes than it has
    outputs), and for examples asked of an encoder.
    """
    logits, labels = class_logits(
        model, prepared, split, limit, batch_size, shots=shots, cache=cache, progress=progress
    )
    return Score.of(logits.argmax(-1) == labels)


def class_logits(
    model: nn.Module, prepared: Prepared, split: str = "test", limit: int | None = None, batch_size: int = 64, *,
    shots: int = 0, cache: bool = True, progress: bool = True,
) -> tuple[Float[Tensor, "rows classes"], Int[Tensor, " rows"]]:  # fmt: skip
    r"""What `accuracy` decides by: a logit for each class of each row, and the classes that are right."""
    rows, task = first_rows(prepared.split(split), limit), task_of(prepared)
    if task is None:
        raise CourseError(f"{prepared.name} has no classes to count: use perplexity_of_texts for text")
    batch_size = whole("batch_size", batch_size, least=1)
    shots = whole("shots", shots, least=0)
    if shots and prepared.kind == "encoder":
        raise CourseError(f"shots={shots}: an encoder reads one sentence, only a decoder can be shown examples")
    check_data(model, prepared, split)
    if prepared.kind == "encoder":
        ids, device = rows["input_ids"], device_of(model)
        logits = torch.empty(len(ids), model.config.num_labels)
        with evaluating(model), progress_bar(len(ids), "evaluate", progress) as bar:
            for group in equal_lengths(ids, batch_size):
                batch = torch.tensor([ids[i] for i in group], device=device)
                logits[group] = model(input_ids=batch).logits.float().cpu()
                bar.update(len(group))
        return logits, torch.tensor(rows["labels"])

    source = first_rows(task.data[split], len(rows["labels"]))
    texts = task.fitted(prepared.tokenizer, prepared.max_length, source["text"])
    examples = task.shots(shots)
    prompts = prepared.tokenizer([task.prompt(text, examples) for text in texts])["input_ids"]
    choices = [answer[0] for answer in task.answer_ids(prepared.tokenizer)]
    logits = next_token_logits(model, prompts, choices, batch_size, cache, progress)
    return logits, torch.tensor(source["label"])


def best_constant(prepared: Prepared, split: str = "test", limit: int | None = None) -> float:
    r"""Accuracy of the best single answer to the first `limit` rows of `split`: what has to be beaten on just these.

    Raises CourseError for a task without classes.
    """
    task = task_of(prepared)
    if task is None:
        raise CourseError(f"{prepared.name} has no classes, so there is no constant answer")
    labels = first_rows(task.data[split], limit)["label"]
    return max(Counter(labels).values()) / len(labels)
