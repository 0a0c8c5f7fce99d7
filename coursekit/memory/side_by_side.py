r"""Predicted and measured: the bill of one step from the config alone, beside that of the step itself."""

from __future__ import annotations

from typing import Any

from torch import nn

from coursekit.memory.breakdown import Breakdown
from coursekit.memory.measure import measure, random_batch
from coursekit.memory.predict import predict
from coursekit.methods.mechanism.merge import detach


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
