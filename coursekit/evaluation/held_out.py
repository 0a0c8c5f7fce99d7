r"""The training loss on rows that were not trained on, row by row."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from coursekit.errors import CourseError
from coursekit.evaluation.compatible import check_data
from coursekit.evaluation.running import device_of, evaluating
from coursekit.labels import IGNORED
from coursekit.tasks.prepared import Prepared


def answer_nats(
    model: nn.Module, prepared: Prepared, split: str = "test", limit: int | None = None, batch_size: int = 20
) -> Float[Tensor, " rows"]:
    r"""Negative log-likelihood in nats of the learned tokens of each of the first `limit` rows, in their order: two
    models are compared row by row. Raises CourseError for data of an encoder, whose rows have no tokens to learn.
    """
    if prepared.kind != "decoder":
        raise CourseError(f"{prepared.name} is for an encoder: accuracy() says how it does")
    check_data(model, prepared, split)
    found = []
    with evaluating(model):
        for batch in prepared.batches(split, batch_size, limit, device_of(model)):
            labels = batch.pop("labels")[:, 1:]
            # Logits only where a row has a token to learn: those of all others cost more than the rest of the model.
            # Counted from the end, since a model may put tokens of its own (soft prompts) first.
            columns = (labels != IGNORED).any(0).nonzero()[:, 0]
            at = columns - labels.shape[1] - 1
            logits = model(**batch, use_cache=False, logits_to_keep=at).logits.float()
            each = F.cross_entropy(logits.transpose(1, 2), labels[:, columns], ignore_index=IGNORED, reduction="none")
            found.append(each.sum(1).cpu())
    return torch.cat(found)
