r"""One call for every model: the two that come with the course, a local folder, or any id on the hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from coursekit.device import pick_device, pick_dtype
from coursekit.errors import CourseError, whole
from coursekit.models.hub import check_decoder, check_settings, finished, locate, one_line, quiet


def load_decoder(
    name: str | Path = "smollm2", *, device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None, attention: str | None = None, quantize: str | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:  # fmt: skip
    r"""A causal language model, in eval mode, and its tokenizer (which always has a padding token).

    name: "smollm2", a folder in the layout of the hub, or a hub id such as "meta-llama/Llama-3.1-8B".
    device, dtype: by the device rule unless given. attention: "sdpa" or "eager", else transformers' choice.
    quantize: a code such as "nf4" for linear layers in 4 bits, quantized while the files are read; `load_quantized`
    has more settings.

    Raises CourseError for an unknown name, a hub that cannot be reached, and a checkpoint that is no decoder.
    """
    if quantize is not None:
        from coursekit.models.quantized import load_quantized  # layers in 4 bits, for those who ask for them

        return load_quantized(name, code=quantize, device=device, dtype=dtype, attention=attention)
    return _load(AutoModelForCausalLM, name, device, dtype, attention, seed=0)


def load_encoder(
    name: str | Path = "minilm", num_labels: int = 2, *, device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None, attention: str | None = None, seed: int = 0,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:  # fmt: skip
    r"""A sequence classifier, in eval mode, and its tokenizer.

    name: "minilm", a folder in the layout of the hub, or a hub id such as "FacebookAI/roberta-base".
    num_labels: size of the output; 1 makes it a regression. A head that the checkpoint lacks, or has in
    another size, is drawn afresh from `seed`; the global random generator is neither used nor moved.

    Raises CourseError for an unknown name, a hub that cannot be reached, a checkpoint of another kind, and for
    settings that make no sense.
    """
    num_labels = whole("num_labels", num_labels, least=1, such_as=2)
    seed = whole("seed", seed)
    return _load(AutoModelForSequenceClassification, name, device, dtype, attention, seed, num_labels=num_labels)


def _load(
    auto: Any, name: str | Path, device: str | torch.device | None, dtype: str | torch.dtype | None,
    attention: str | None, seed: int, **settings: Any,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:  # fmt: skip
    r"""`auto.from_pretrained`, with everything that can go wrong said in one line."""
    check_settings(dtype, attention)
    device = pick_device(device)
    source = locate(name, classifier=auto is AutoModelForSequenceClassification)
    wanted: dict[str, Any] = {"dtype": dtype or pick_dtype(device)}
    if attention is not None:
        wanted["attn_implementation"] = attention
    with one_line(name, source):
        config = AutoConfig.from_pretrained(source, **settings)
    if auto is AutoModelForCausalLM:
        check_decoder(name, config)
    with one_line(name, source), quiet(), _drawn_from(seed, device):
        tokenizer = AutoTokenizer.from_pretrained(source)
        model, report = auto.from_pretrained(
            source, config=config, ignore_mismatched_sizes=True, output_loading_info=True, **wanted
        )
    _check_complete(name, model, report, headless=auto is AutoModelForSequenceClassification)
    return finished(model.to(device), tokenizer)


def _check_complete(name: str | Path, model: PreTrainedModel, report: dict[str, Any], headless: bool) -> None:
    r"""Refuses a checkpoint that would leave part of the pretrained body at random values."""
    lost = {*report["missing_keys"], *(key[0] for key in report["mismatched_keys"])}
    body = f"{model.base_model_prefix}."
    if headless:  # BERT's pooler belongs to the body, yet checkpoints of masked models lack it
        lost = {key for key in lost if key.startswith(body) and ".pooler." not in key}
    if lost:
        raise CourseError(
            f"the checkpoint {str(name)!r} does not fit {type(model).__name__}: "
            f"{len(lost)} tensors would be random, for example {min(lost)}"
        )


@contextmanager
def _drawn_from(seed: int, device: torch.device) -> Iterator[None]:
    r"""Random numbers from `seed` inside, the caller's generators as they were afterwards."""
    gpus = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        torch.manual_seed(seed)
        yield
