r"""Whether data and a model go together: found out before the first batch, and said in one line."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from coursekit.errors import CourseError
from coursekit.methods import PromptTuning, PTuning, attached
from coursekit.tasks.prepared import Prepared
from coursekit.tasks.task import task_of

#: The kinds of attention in transformers that keep the examples of packed rows apart whatever the batch.
_PACKED = ("sdpa", "eager", "flex_attention")


def check_data(model: nn.Module, prepared: Prepared, split: str) -> None:
    r"""Raise CourseError where `model` cannot learn from, or be measured on, a split of `prepared`.

    That is: data of the other kind of model, tokens that it does not have, more classes than outputs, ratings for
    several outputs, and packed rows whose examples it would not keep apart.
    """
    if not isinstance(prepared, Prepared):
        raise CourseError(
            f"data must be prepared for a model, such as load_task('film').for_encoder(tokenizer); got "
            f"{type(prepared).__name__}."
        )
    rows = prepared.split(split)
    if isinstance(model, PreTrainedModel):
        _check_kind(model, prepared)
        _check_tokens(model, prepared, rows)
        if prepared.kind == "encoder":
            _check_labels(model, prepared, rows)
    if prepared.packed(split):
        _check_packed(model)


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
    chunks = rows.select_columns(["input_ids"]).with_format("arrow")[:]["input_ids"].chunks
    largest = max((int(ids.max()) for ids in (c.flatten().to_numpy() for c in chunks) if len(ids)), default=0)
    if vocabulary is not None and largest >= vocabulary:
        raise CourseError(
            f"{prepared.name} has token {largest}, and {type(model).__name__} knows tokens below {vocabulary}: prepare "
            "the data with the tokenizer that was loaded with this model"
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
    task = task_of(prepared)
    classes = max(len(task.labels) if task else 0, max(labels) + 1)
    if outputs == 1 or classes > outputs:
        raise CourseError(
            f"{prepared.name} has {classes} classes, and the model has {outputs} output{'s'[: outputs != 1]}: load it "
            f"with load_encoder(..., num_labels={classes})"
        )


def _check_packed(model: nn.Module) -> None:
    attention = getattr(model.config, "_attn_implementation", None)
    if "position_ids" not in inspect.signature(model.forward).parameters:
        raise CourseError(
            f"{type(model).__name__} reads no positions, so packed examples would see each other: prepare with "
            "packed=False"
        )
    if attention not in _PACKED:
        raise CourseError(
            f"packed examples would see each other with attention={attention!r}: load the model with "
            f"attention={_PACKED[0]!r}, or prepare with packed=False"
        )
    for method in attached(model).values():
        if isinstance(method, PromptTuning | PTuning):
            raise CourseError(
                f"{type(method).__name__} puts its tokens in front of a row, and a packed row has several examples: "
                "prepare with packed=False"
            )
