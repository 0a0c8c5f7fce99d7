r"""The training loss on rows that were not trained on."""

from __future__ import annotations

from torch import nn

from coursekit.errors import CourseError
from coursekit.evaluation.compatible import check_data
from coursekit.evaluation.running import device_of, evaluating, first_rows, progress_bar
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
    if prepared.kind != "decoder":
        raise CourseError(f"{prepared.name} is for an encoder: accuracy() or regression() say how it does")
    if "rejected_ids" in prepared.split(split).column_names:
        raise CourseError("pairs have a better and a worse answer: preference_score() says how a model does")
    check_data(model, prepared, split)
    columns = first_rows(prepared.split(split), limit)
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
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
