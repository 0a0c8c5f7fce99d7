r"""Predicted and measured: the bill of one step from the config alone, beside that of the step itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from coursekit import counts
from coursekit.labels import IGNORED
from coursekit.memory.breakdown import Breakdown
from coursekit.memory.measure import measure
from coursekit.memory.predict import predict
from coursekit.methods.mechanism.detach import detach


def random_batch(model: nn.Module, rows: int, tokens: int, seed: int = 0) -> dict[str, Tensor]:
    r"""Random token ids on the model's device, with labels. All rows but the first are padded, as in a real batch.

    `input_ids` and `attention_mask` are (rows, tokens). `labels`: (rows, tokens) for a decoder, (rows,) for an encoder.
    """
    random = torch.Generator().manual_seed(seed)
    most = min(20_000, model.config.vocab_size)
    ids = torch.randint(min(1000, most // 2), most, (rows, tokens), generator=random)  # past the special ones
    mask = torch.ones_like(ids)
    mask[1:, tokens * 3 // 4 :] = 0
    encoder = counts.architecture(model.config).encoder
    labels = torch.arange(rows) % 2 if encoder else ids.masked_fill(mask == 0, IGNORED)
    device = next(model.parameters()).device
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device), "labels": labels.to(device)}


def side_by_side(
    model: nn.Module,
    method: Any,
    rows: int,
    tokens: int,
    precision: str = "fp32",
    checkpointing: bool = False,
) -> tuple[Breakdown, Breakdown]:
    r"""(`predict`, `measure`) of one AdamW step with `method` on `random_batch`; the model comes back without it."""
    device = next(model.parameters()).device.type
    method.attach(model)
    try:
        expected = predict(
            model.config, method, batch=rows, seq=tokens, precision=precision, checkpointing=checkpointing,
            device=device,
        )  # fmt: skip
        return expected, measure(model, random_batch(model, rows, tokens), checkpointing=checkpointing)
    finally:
        detach(model)
