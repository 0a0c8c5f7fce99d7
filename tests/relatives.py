r"""Tiny relatives of Llama, which share its shapes and differ in biases, windows and the way modules are called."""

from __future__ import annotations

from typing import Any

import tiny
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

RELATIVES = ("mistral", "qwen2")

_SHAPES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
           "intermediate_size", "max_position_embeddings", "pad_token_id", "tie_word_embeddings",
           "initializer_range")  # fmt: skip


def model(kind: str, *, seed: int = 0, **changes: Any) -> PreTrainedModel:
    r"""`tiny.model(kind)`, or a relative of the tiny Llama, in eval mode."""
    if kind not in RELATIVES:
        return tiny.model(kind, seed=seed, **changes)
    return tiny.copied(_build, kind, seed, **changes)


def _build(kind: str, seed: int, **changes: Any) -> PreTrainedModel:
    llama = tiny.config("llama")
    config = AutoConfig.for_model(kind, **({name: getattr(llama, name) for name in _SHAPES} | changes))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built = AutoModelForCausalLM.from_config(config)
        tiny.move(built)
    return built.eval()
