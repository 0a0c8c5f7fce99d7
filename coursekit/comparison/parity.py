r"""Ours against the PEFT library with bitsandbytes below it: one checkpoint, both libraries, the same batches."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


def loaded_in_four_bits(source: str | Path, checkpoint: Path, like: nn.Module) -> Any:
    r"""The model in folder `source`, put into NF4 by bitsandbytes as it is read, with `checkpoint`, the work of PEFT.

    In the precision and on the device of `like`, and ready to train. It stays in train mode: on some CPUs bitsandbytes
    rearranges its weights at the first forward pass in eval mode, and rounds their scales.
    """
    import peft
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig
    from transformers.utils import logging

    four_bits = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=like.dtype,
    )  # fmt: skip
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings(action="ignore"):
            model = AutoModelForCausalLM.from_pretrained(
                source, quantization_config=four_bits, dtype=like.dtype, device_map={"": like.device}
            )
            return peft.PeftModel.from_pretrained(model.train(), checkpoint, is_trainable=True)
    finally:
        if bars:
            logging.enable_progress_bar()


def losses(
    model: nn.Module, batches: Iterable[Mapping[str, Tensor]], lr: float, weight_decay: float = 0.01
) -> list[float]:
    r"""Loss of each batch while AdamW trains what is not frozen, in the mode that `model` is in.

    In eval mode there is no dropout, and two libraries see the same. The weight decay is PyTorch's default.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=lr, weight_decay=weight_decay)
    found = []
    for batch in batches:
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found
