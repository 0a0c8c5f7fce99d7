r"""The training loss on rows that were not trained on: their mean, and row by row."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from coursekit.errors import CourseError
from coursekit.evaluation.compatible import check_data
from coursekit.evaluation.running import device_of, evaluating, first_rows, progress_bar
from coursekit.labels import IGNORED
from coursekit.tasks.prepared import Prepared


def answer_loss(
    model: nn.Module,
    prepared: Prepared,
    split: str = "test",
    limit: int | None = None,
    batch_size: int = 16,
    *,
    progress: bool = True,
) -> float:
    r"""Mean loss in nats of the learned tokens in the first `limit` rows of `split`: what `fit` minimises, held out.

    Raises CourseError for data of an encoder, whose rows have no tokens to learn.
    """
    rows = _rows(model, prepared, split, limit)
    rows.sort(key=lambda row: len(row["input_ids"]))  # neighbours are alike in length: little padding
    total, tokens, device = 0.0, 0, device_of(model)
    with evaluating(model), progress_bar(len(rows), "loss", progress) as bar:
        for start in range(0, len(rows), batch_size):
            batch = prepared.collate(rows[start : start + batch_size])
            n = prepared.weight(batch)
            inputs = {name: tensor.to(device) for name, tensor in prepared.inputs(batch).items()}
            total += model(**inputs, use_cache=False).loss.item() * n
            tokens += n
            bar.update(len(batch["labels"]))
    return total / tokens


def answer_nats(
    model: nn.Module, prepared: Prepared, split: str = "test", limit: int | None = None, batch_size: int = 20
) -> Float[Tensor, " rows"]:
    r"""Negative log-likelihood in nats of the learned tokens of each of the first `limit` rows, in their order: two
    models are compared row by row. Raises CourseError as `answer_loss` does.
    """
    rows, found, device = _rows(model, prepared, split, limit), [], device_of(model)
    with evaluating(model):
        for start in range(0, len(rows), batch_size):
            batch = {k: t.to(device) for k, t in prepared.collate(rows[start : start + batch_size]).items()}
            labels = batch.pop("labels")[:, 1:]
            # Logits only where a row has a token to learn: those of all others cost more than the rest of the model.
            # Counted from the end, since a model may put tokens of its own (soft prompts) first.
            columns = (labels != IGNORED).any(0).nonzero()[:, 0]
            at = columns - labels.shape[1] - 1
            logits = model(**prepared.inputs(batch), use_cache=False, logits_to_keep=at).logits.float()
            each = F.cross_entropy(
                logits.transpose(1, 2), labels[:, columns], ignore_index=IGNORED, reduction="none"
            )
            found.append(each.sum(1).cpu())
    return torch.cat(found)


def _rows(model: nn.Module, prepared: Prepared, split: str, limit: int | None) -> list[dict[str, Any]]:
    if prepared.kind != "decoder":
        raise CourseError(f"{prepared.name} is for an encoder: accuracy() says how it does")
    if "rejected_ids" in prepared.split(split).column_names:
        raise CourseError("pairs have a better and a worse answer: preference_score() says how a model does")
    check_data(model, prepared, split)
    columns = first_rows(prepared.split(split), limit)
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
