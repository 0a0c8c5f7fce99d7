r"""Accuracy of classifiers and of decoders that answer with a word."""

from __future__ import annotations

from collections import Counter

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from coursekit.errors import CourseError, whole
from coursekit.evaluation.choices import next_token_logits
from coursekit.evaluation.compatible import check_data
from coursekit.evaluation.running import device_of, equal_lengths, evaluating, first_rows, progress_bar
from coursekit.evaluation.scores import Score
from coursekit.tasks.prepared import Prepared
from coursekit.tasks.task import task_of


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
