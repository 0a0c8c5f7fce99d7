r"""Whether data and a model go together: found out before the first batch, and said in one line."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn
from transformers import PreTrainedModel

from coursekit.errors import CourseError
from coursekit.labels import IGNORED
from coursekit.tasks.prepared import Prepared
from coursekit.tasks.task import task_of

#: What tables of absolute positions are called.
_POSITIONS = ("position_embeddings", "wpe", "embed_positions")


def check_data(model: nn.Module, prepared: Prepared, split: str) -> None:
    r"""Raise CourseError where `model` cannot learn from, or be measured on, a split of `prepared`.

    That is: data of the other kind of model, tokens that it does not have, more classes than outputs, and ratings for
    several outputs.
    """
    if not isinstance(prepared, Prepared):
        raise CourseError(
            f"data must be prepared for a model, such as load_task('film').for_encoder(tokenizer); got "
            f"{type(prepared).__name__}."
        )
    rows = prepared.split(split)
    missing = {"input_ids", "attention_mask", "labels"} - set(rows.column_names)
    if missing:
        raise CourseError(f"the {split} split of {prepared.name} has no column {', '.join(sorted(missing))}")
    if not min(prepared.lengths(split)):
        raise CourseError(f"a row of the {split} split of {prepared.name} has no token: leave it out")
    _check_positions(model, prepared, split)
    if isinstance(model, PreTrainedModel):
        _check_kind(model, prepared)
        _check_tokens(model, prepared, rows)
        if prepared.kind == "encoder":
            _check_labels(model, prepared, rows)


def _check_kind(model: PreTrainedModel, prepared: Prepared) -> None:
    writes = model.get_output_embeddings() is not None
    if writes == (prepared.kind == "encoder"):
        is_for, load = ("an encoder", "encoder") if prepared.kind == "encoder" else ("a decoder", "decoder")
        other = "decoder" if writes else "encoder"
        raise CourseError(
            f"{prepared.name} was prepared for {is_for}, and {type(model).__name__} is none: prepare with "
            f"for_{other}(tokenizer), or load the model with load_{load}"
        )


def _check_tokens(model: PreTrainedModel, prepared: Prepared, rows: Any) -> None:
    vocabulary = getattr(model.config, "vocab_size", None)
    smallest, largest = _ends(rows, "input_ids")
    if smallest < 0:
        raise CourseError(f"{prepared.name} has token {smallest}: token ids are 0 and above")
    if prepared.kind == "decoder":
        low, high = _ends(rows, "labels", without=IGNORED)
        if low < 0 or (vocabulary is not None and high >= vocabulary):
            raise CourseError(
                f"{prepared.name} has the label {low if low < 0 else high}: a label is a token below {vocabulary}, or"
                f" {IGNORED} where nothing is learned"
            )
    if vocabulary is not None and largest >= vocabulary:
        raise CourseError(
            f"{prepared.name} has token {largest}, and {type(model).__name__} knows tokens below {vocabulary}: prepare "
            "the data with the tokenizer that was loaded with this model"
        )


def _ends(rows: Any, column: str, without: int | None = None) -> tuple[int, int]:
    r"""The smallest and the largest number in a column of lists, `without` one that says nothing; 0 where is none."""
    chunks = rows.select_columns([column]).with_format("arrow")[:][column].chunks
    numbers = np.concatenate([chunk.flatten().to_numpy(zero_copy_only=False) for chunk in chunks])
    numbers = numbers if without is None else numbers[numbers != without]
    return (int(numbers.min()), int(numbers.max())) if len(numbers) else (0, 0)


def _check_positions(model: nn.Module, prepared: Prepared, split: str) -> None:
    r"""CourseError for a row that is longer than a table of positions: past its end there is nothing to look up."""
    longest = max(prepared.lengths(split))
    for name, table in model.named_modules():
        if isinstance(table, nn.Embedding) and name.rpartition(".")[2] in _POSITIONS:
            before = getattr(table, "offset", 0 if table.padding_idx is None else table.padding_idx + 1)
            if longest > table.num_embeddings - before:
                raise CourseError(
                    f"a row of {prepared.name} has {longest} tokens, and {type(model).__name__} has "
                    f"{table.num_embeddings - before} positions: prepare with a smaller max_length"
                )


def _check_labels(model: PreTrainedModel, prepared: Prepared, rows: Any) -> None:
    outputs, labels = model.config.num_labels, rows[:]["labels"]
    if isinstance(labels[0], float):
        if outputs != 1:
            raise CourseError(
                f"{prepared.name} has ratings, and the model has {outputs} outputs: load it with "
                "load_encoder(..., num_labels=1)"
            )
        return
    if min(labels) < 0:
        raise CourseError(f"{prepared.name} has the label {min(labels)}: classes are numbered from 0")
    task = task_of(prepared)
    classes = max(len(task.labels) if task else 0, max(labels) + 1)
    if outputs == 1 or classes > outputs:
        raise CourseError(
            f"{prepared.name} has {classes} classes, and the model has {outputs} output{'s'[: outputs != 1]}: load it "
            f"with load_encoder(..., num_labels={classes})"
        )
