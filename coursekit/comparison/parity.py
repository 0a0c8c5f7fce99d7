r"""Ours against the PEFT library, and bitsandbytes below it: one checkpoint, both libraries, the same text."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from coursekit.methods.mechanism.method import Method


@dataclass(frozen=True)
class Gap:
    r"""largest: the largest difference of two logits. of: the largest logit."""

    method: str
    largest: float
    of: float

    @property
    def share(self) -> float:
        r"""The difference as a share of the largest logit."""
        return self.largest / self.of


def gaps(
    model: nn.Module, batch: Mapping[str, Tensor], methods: Mapping[str, Method], folder: Path
) -> list[Gap]:
    r"""What PEFT answers with each method's checkpoint, against what `model` answers with it. Needs `peft`.

    batch: input_ids and attention_mask, padded on the right; only real tokens are compared. A gate that starts at 0
    would hide any difference, so gates are opened first.
    """
    real, found = batch["attention_mask"].bool(), []
    for name, method in methods.items():
        torch.manual_seed(0)
        method.attach(model)
        with torch.no_grad():
            for path, parameter in model.named_parameters():
                if ".gate." in path:
                    parameter.fill_(0.05)
            ours = model(**batch).logits[real]
        method.save(model, folder / name)
        method.detach(model)
        # PEFT shows its virtual tokens to the caller.
        reference = _peft(model, folder / name, batch)[:, -real.shape[1] :][real]
        found.append(Gap(name, (ours - reference).abs().max().item(), reference.abs().max().item()))
    return found


def _peft(model: nn.Module, checkpoint: Path, batch: Mapping[str, Tensor]) -> Tensor:
    with torch.no_grad(), warnings.catch_warnings(action="ignore"):  # PEFT uses a deprecated name
        return loaded_by_peft(model, checkpoint)(**batch).logits


def loaded_by_peft(model: nn.Module, checkpoint: Path) -> Any:
    r"""A copy of `model` with `checkpoint`, the work of PEFT."""
    import peft

    with warnings.catch_warnings(action="ignore"):
        return peft.PeftModel.from_pretrained(copy.deepcopy(model), checkpoint).eval()


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


def written(model: Any, ids: Tensor, tokens: int, cache: bool = True) -> list[int]:
    r"""What `generate` appends to ids, (1, seq), greedily. cache: with a KV cache."""
    with warnings.catch_warnings(action="ignore"):
        out = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, min_new_tokens=tokens,
            do_sample=False, pad_token_id=0, use_cache=cache,
        )  # fmt: skip
    return out[0, ids.shape[1] :].tolist()


@torch.no_grad()
def written_without_a_cache(model: nn.Module, ids: Tensor, tokens: int) -> list[int]:
    r"""The same, with the whole sequence computed anew for every token: no cache can be wrong."""
    start = ids.shape[1]
    for _ in range(tokens):
        ids = torch.cat([ids, model(input_ids=ids, use_cache=False).logits[:, -1:].argmax(-1)], dim=1)
    return ids[0, start:].tolist()


def behind_a_prompt(
    model: nn.Module, ids: Tensor, methods: Mapping[str, Method], folder: Path, tokens: int = 6
) -> list[tuple[str, bool, bool, bool]]:
    r"""For each of `methods`, whose checkpoints `gaps` left in `folder`, who writes what no cache can spoil.

    (method, `generate` of this package, `generate` of PEFT, the same with use_cache=False): whether it writes the
    `tokens` tokens after ids, (1, seq), that `written_without_a_cache` does.
    """
    found = []
    for name, method in methods.items():
        method.load(model, folder / name)
        anew, ours = written_without_a_cache(model, ids, tokens), written(model, ids, tokens)
        method.detach(model)
        theirs = loaded_by_peft(model, folder / name)
        with_cache, without = (written(theirs, ids, tokens, cache) for cache in (True, False))
        del theirs  # a whole model, beside which the next would stand
        found.append((name, ours == anew, with_cache == anew, without == anew))
    return found
