r"""Whether a model completes the cloze sentences of `coursekit.tasks.cloze`."""

from __future__ import annotations

import torch
from torch import nn

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
    rows, found = prepared.split(split), []
    rows = rows.select(range(min(limit or len(rows), len(rows))))
    device, was_training = next(model.parameters()).device, model.training
    model.eval()
    try:
        with torch.inference_mode():
            for start in range(0, len(rows), batch_size):
                batch = prepared.collate(list(rows.select(range(start, min(start + batch_size, len(rows))))))
                labels = batch.pop("labels")[:, 1:]
                call = {key: value.to(device) for key, value in batch.items()}
                logits = model(**call, use_cache=False).logits
                likeliest = logits[:, :-1].argmax(-1).cpu()  # (batch, seq - 1): the guess for each next token
                found += ((likeliest == labels) | (labels == IGNORED)).all(1).tolist()
    finally:
        model.train(was_training)
    return found


def score(model: nn.Module, prepared: Prepared, split: str = "test", limit: int | None = None) -> Score:
    r"""Share of `right_answers`, with its interval."""
    return Score.of(torch.tensor(right_answers(model, prepared, split, limit)))
