r"""Tiny random models of the families that are on the hub today: those of `tiny`, and all others.

Built once in a process and copied for each test. Sizes differ from one another, as in `tiny`.
"""

import copy
from functools import cache
from typing import Any

import tiny
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

_SHAPES: dict[str, Any] = dict(
    vocab_size=tiny.VOCAB, hidden_size=tiny.D_MODEL, num_hidden_layers=tiny.LAYERS, num_attention_heads=tiny.HEADS,
    intermediate_size=tiny.D_FF,
)  # fmt: skip
_TOKENS: dict[str, Any] = dict(bos_token_id=2, eos_token_id=2, pad_token_id=0)
_DECODER = _SHAPES | _TOKENS | dict(num_key_value_heads=2, max_position_embeddings=tiny.POSITIONS)
_WIDE_HEADS = _DECODER | dict(head_dim=16)  # heads x head size is not the width of the model
_GEMMA = _WIDE_HEADS | dict(sliding_window=6, query_pre_attn_scalar=16)
_ENCODER = _SHAPES | dict(max_position_embeddings=tiny.POSITIONS, pad_token_id=0)
_SPECIAL = dict(bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2)

#: Name in tables, and what the config of the tiny model says.
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "electra": ("ELECTRA", _ENCODER | dict(embedding_size=16)),  # words are narrower than the model
    "distilbert": ("DistilBERT", dict(vocab_size=tiny.VOCAB, dim=tiny.D_MODEL, n_layers=tiny.LAYERS, n_heads=tiny.HEADS,
                                      hidden_dim=tiny.D_FF, max_position_embeddings=tiny.POSITIONS)),
    "deberta-v2": ("DeBERTa-v2", _ENCODER | dict(
        relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=8, share_att_key=True,
        norm_rel_ebd="layer_norm", position_biased_input=False, type_vocab_size=0)),
    "modernbert": ("ModernBERT", _ENCODER | _SPECIAL | dict(global_attn_every_n_layers=2, local_attention=8)),
    "gpt_neox": ("GPT-NeoX", _SHAPES | _TOKENS | dict(max_position_embeddings=tiny.POSITIONS)),
    "qwen3": ("Qwen3", _WIDE_HEADS),
    "gemma2": ("Gemma 2", _GEMMA),
    "gemma3_text": ("Gemma 3", _GEMMA),
    "phi3": ("Phi-3", _DECODER),
    "smollm3": ("SmolLM3", _DECODER),
    "t5": ("T5", dict(vocab_size=tiny.VOCAB, d_model=tiny.D_MODEL, d_kv=8, d_ff=tiny.D_FF, num_layers=tiny.LAYERS,
                      num_heads=tiny.HEADS, decoder_start_token_id=0)),
}  # fmt: skip
NAMES = {
    "bert": "BERT", "roberta": "RoBERTa", **{k: OTHERS[k][0] for k in ("electra", "distilbert", "deberta-v2",
    "modernbert")}, "gpt2": "GPT-2", "gpt_neox": "GPT-NeoX", "opt": "OPT", "llama": "Llama", "mistral": "Mistral",
    "qwen2": "Qwen2", **{k: OTHERS[k][0] for k in ("qwen3", "gemma2", "gemma3_text", "phi3", "smollm3", "t5")},
}  # fmt: skip
#: Families that nobody describes: an alibi and a fused attention, no default targets, a second encoder-decoder.
UNKNOWN: dict[str, dict[str, Any]] = {
    "bloom": dict(vocab_size=tiny.VOCAB, hidden_size=tiny.D_MODEL, n_layer=tiny.LAYERS, n_head=tiny.HEADS) | _TOKENS,
    "olmo2": _DECODER,
    "bart": dict(vocab_size=tiny.VOCAB, d_model=tiny.D_MODEL, encoder_layers=tiny.LAYERS, decoder_layers=tiny.LAYERS,
                 encoder_attention_heads=tiny.HEADS, decoder_attention_heads=tiny.HEADS, encoder_ffn_dim=tiny.D_FF,
                 decoder_ffn_dim=tiny.D_FF, max_position_embeddings=tiny.POSITIONS, pad_token_id=1, bos_token_id=0,
                 eos_token_id=2, decoder_start_token_id=2, forced_eos_token_id=None),
}  # fmt: skip

ENCODERS = (*tiny.ENCODERS, "electra", "distilbert", "deberta-v2", "modernbert")
ENCODER_DECODERS = ("t5", "bart")


def auto(kind: str) -> Any:
    r"""The class of the model that a family is for."""
    if kind in ENCODER_DECODERS:
        return AutoModelForSeq2SeqLM
    return AutoModelForSequenceClassification if kind in ENCODERS else AutoModelForCausalLM


def config(kind: str, **changes: Any) -> Any:
    r"""The config of the tiny model of `kind`."""
    if kind in OTHERS or kind in UNKNOWN:
        settings = OTHERS[kind][1] if kind in OTHERS else UNKNOWN[kind]
        return AutoConfig.for_model(kind, **(settings | changes))
    return tiny.config(kind, **changes)


def model(kind: str, **changes: Any) -> PreTrainedModel:
    r"""A model in eval mode on the CPU, the same weights each time."""
    return tiny.copied(_built, kind, **changes)


def on_meta(kind: str, dtype: torch.dtype, layers: int = 1) -> PreTrainedModel:
    r"""The same without weights, and with fewer blocks: each operation costs as much there as a large one."""
    return copy.deepcopy(_on_meta(kind, dtype, layers))


@cache
def _on_meta(kind: str, dtype: torch.dtype, layers: int) -> PreTrainedModel:
    said = copy.deepcopy(config(kind))
    said.num_hidden_layers = layers
    if getattr(said, "layer_types", None):
        said.layer_types = said.layer_types[:layers]
    with torch.device("meta"):
        built = auto(kind).from_config(said, dtype=dtype)
    # A warning of transformers' looks for padding among the token ids, which have no values here.
    built.base_model.warn_if_padding_and_no_attention_mask = lambda *_: None
    return built


def _built(kind: str, **changes: Any) -> PreTrainedModel:
    if kind not in OTHERS and kind not in UNKNOWN:
        return tiny.model(kind, **changes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built = auto(kind).from_config(config(kind, **changes))
        tiny.move(built)
    return built.eval()
