r"""Random models of every family the course knows, small enough that a forward pass costs a millisecond.

The shapes are chosen to catch mistakes that round shapes hide: d_model differs from d_ff and from the
vocabulary, and the Llama model has fewer key and value heads than query heads.
"""

import copy
import io
import pickle
from collections.abc import Callable, Hashable
from functools import lru_cache
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

ENCODERS = ("bert", "roberta")
DECODERS = ("gpt2", "opt", "llama")
FAMILIES = ENCODERS + DECODERS
#: They share Llama's shapes, and differ in biases, windows and the way modules are called.
RELATIVES = ("mistral", "qwen2")

VOCAB = 97
D_MODEL = 32
D_FF = 48
LAYERS = 2
HEADS = 4
POSITIONS = 64

_BERT = dict(
    hidden_size=D_MODEL, num_hidden_layers=LAYERS, num_attention_heads=HEADS, intermediate_size=D_FF,
    max_position_embeddings=POSITIONS,
)  # fmt: skip
_LLAMA = dict(
    hidden_size=D_MODEL, num_hidden_layers=LAYERS, num_attention_heads=HEADS, num_key_value_heads=2,
    intermediate_size=D_FF, max_position_embeddings=POSITIONS, pad_token_id=0, tie_word_embeddings=True,
)  # fmt: skip
_CONFIGS: dict[str, dict[str, Any]] = {
    "bert": _BERT,
    "roberta": _BERT | dict(pad_token_id=1, type_vocab_size=1, max_position_embeddings=POSITIONS + 2),
    "gpt2": dict(n_embd=D_MODEL, n_layer=LAYERS, n_head=HEADS, n_inner=D_FF, n_positions=POSITIONS,
                 bos_token_id=2, eos_token_id=2, pad_token_id=0),
    "opt": dict(hidden_size=D_MODEL, num_hidden_layers=LAYERS, num_attention_heads=HEADS, ffn_dim=D_FF,
                word_embed_proj_dim=D_MODEL, max_position_embeddings=POSITIONS, pad_token_id=1),
    **dict.fromkeys(("llama", *RELATIVES), _LLAMA),
}  # fmt: skip


class Awkward(str):
    r"""A family whose tiny model is one of the kind that round models hide: twelve blocks, so that the path of one is
    the beginning of another's, odd widths, grouped queries where the family has them, a tied head, no pad token.
    """

    __slots__ = ()


_ODD = dict(hidden_size=30, num_hidden_layers=12, num_attention_heads=6, intermediate_size=47)
_AWKWARD: dict[str, dict[str, Any]] = {
    "bert": _ODD,
    "roberta": _ODD,  # counts positions from its pad token, and has to have one
    "gpt2": dict(n_embd=30, n_layer=12, n_head=6, n_inner=47, pad_token_id=None),
    "opt": dict(hidden_size=30, num_hidden_layers=12, num_attention_heads=6, ffn_dim=47, word_embed_proj_dim=30),
    "llama": _ODD | dict(num_attention_heads=3, num_key_value_heads=1, pad_token_id=None),
}  # fmt: skip


def config(family: str, **changes: Any):
    r"""The config of the tiny model of `family`; `changes` override single settings by their names there."""
    own = _CONFIGS[family] | (_AWKWARD[family] if isinstance(family, Awkward) else {})
    return AutoConfig.for_model(str(family), **({"vocab_size": VOCAB} | own | changes))


def decoder(
    family: str = "llama", *, seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any
) -> PreTrainedModel:
    r"""A causal language model in eval mode, on the CPU."""
    return copied(_build, AutoModelForCausalLM, family, seed, dtype, **changes)


def encoder(
    family: str = "bert", num_labels: int = 2, *, seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any
) -> PreTrainedModel:
    r"""A sequence classifier in eval mode, on the CPU. Decoder families have one as well."""
    changes["num_labels"] = num_labels
    return copied(_build, AutoModelForSequenceClassification, family, seed, dtype, **changes)


def masked(
    family: str = "bert", *, seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any
) -> PreTrainedModel:
    r"""A masked language model in eval mode, on the CPU."""
    return copied(_build, AutoModelForMaskedLM, family, seed, dtype, **changes)


def model(family: str, *, seed: int = 0, **changes: Any) -> PreTrainedModel:
    r"""The model a family is for: a classifier for an encoder, a language model for a decoder."""
    return encoder(family, seed=seed, **changes) if family in ENCODERS else decoder(family, seed=seed, **changes)


def deep(family: str = "bert", **changes: Any) -> PreTrainedModel:
    r"""`model(family)` with four blocks."""
    return model(family, **{"n_layer" if family == "gpt2" else "num_hidden_layers": 4}, **changes)


def still(family: str) -> dict[str, float]:
    r"""Settings of a tiny model without dropout, so that two of them train alike."""
    if family in ENCODERS:
        return dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    return {"gpt2": dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0), "opt": dict(dropout=0.0)}.get(family, {})


def batch(batch_size: int = 3, seq: int = 10, *, seed: int = 0, padded: bool = False) -> dict[str, torch.Tensor]:
    r"""Random `input_ids` and `attention_mask`, (batch, seq); `padded`: several lengths, right-padded."""
    random = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, VOCAB, (batch_size, seq), generator=random)
    mask = torch.ones_like(ids)
    if padded:
        for row in range(1, batch_size):
            mask[row, max(1, seq - row) :] = 0
        ids = ids.masked_fill(mask == 0, 1)
    return {"input_ids": ids, "attention_mask": mask}


def _build(auto: Any, family: str, seed: int, dtype: torch.dtype, **changes: Any) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built = auto.from_config(config(family, **changes), dtype=dtype)
        move(built)
    return built.eval()


@torch.no_grad()
def move(model: PreTrainedModel) -> None:
    r"""Biases start at 0 and norms at 1, which would hide a forgotten one: move every parameter."""
    for parameter in model.parameters():
        parameter.add_(0.02 * torch.randn_like(parameter))


def copied(build: Callable[..., PreTrainedModel], *given: Any, **changes: Any) -> PreTrainedModel:
    r"""What `build(*given, **changes)` gives, built once in a process and copied for each test, which is quicker."""
    usual = torch.get_default_device().type == "cpu" and not torch.is_inference_mode_enabled()
    if usual and all(isinstance(value, Hashable) for value in changes.values()):
        return _kept(build, *given, **changes)()
    return build(*given, **changes)


@lru_cache(maxsize=128, typed=True)
def _kept(build: Callable[..., PreTrainedModel], *given: Any, **changes: Any) -> Callable[[], PreTrainedModel]:
    r"""Makes copies, in a quarter of copy.deepcopy's time: modules and config by pickle, tensors by themselves."""
    file, tensors = io.BytesIO(), {}

    class Writer(pickle.Pickler):
        def persistent_id(self, thing: Any) -> int | None:
            if not isinstance(thing, torch.Tensor):
                return None
            tensors[id(thing)] = thing
            return id(thing)

    Writer(file, pickle.HIGHEST_PROTOCOL).dump(build(*given, **changes))

    def another() -> PreTrainedModel:
        file.seek(0)
        reader, memo = pickle.Unpickler(file), {}
        reader.persistent_load = lambda key: copy.deepcopy(tensors[key], memo)
        return reader.load()

    return another
