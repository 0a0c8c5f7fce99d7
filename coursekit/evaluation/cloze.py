r"""Whether a model completes the cloze sentences of `coursekit.tasks.cloze`."""

from __future__ import annotations

import torch
from torch import nn

from coursekit.evaluation.running import device_of, evaluating
from coursekit.evaluation.scores import Score
from coursekit.labels import IGNORED
from coursekit.tasks.prepared import Prepared


def right_answers(
    model: nn.Module, prepared: Prepared, split: str = "test", limit: int | None = None, batch_size: int = 32
) -> list[bool]:
    r"""For each of the first `limit` rows whether the model, writing greedily, would write the answer, all of it.

    One forward pass tells: greedy writing gives the answer exactly if each of its tokens is the likeliest one after
    those before it.
    """
    found = []
    with evaluating(model):
        for batch in prepared.batches(split, batch_size, limit, device_of(model)):
            labels = batch.pop("labels")[:, 1:]
            likeliest = (
                model(**batch, use_cache=False).logits[:, :-1].argmax(-1)
            )  # (batch, seq - 1): each next token
            found += ((likeliest == labels) | (labels == IGNORED)).all(1).tolist()
    return found


def score(model: nn.Module, prepared: Prepared, split: str = "test", limit: int | None = None) -> Score:
    r"""Share of `right_answers`, with its interval."""
    return Score.of(torch.tensor(right_answers(model, prepared, split, limit)))
