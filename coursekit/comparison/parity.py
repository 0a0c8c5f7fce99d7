r"""Ours against the PEFT library with bitsandbytes below it: one checkpoint, both libraries, the same batches."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from torch import nn


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
