r"""A merged model as a GGUF file, as llama.cpp runs it by itself: settings, vocabulary and weights, all in one.

The layout is that of Llama's family, names and order of rows as in `gguf_lora`. Matrices are written in the model's
own type (fp32, fp16 or bf16) and norms in fp32, so no number is rounded. llama.cpp knows no tokenizer of another
library: it has merges of pairs of bytes, and by name the rule that cuts a text before they are merged. So the rule of
the tokenizer must be one of `CUTS`, and everything else about it must be the plain case.

Layout: `convert_hf_to_gguf.py` and `src/llama-vocab.cpp` in github.com/ggml-org/llama.cpp (of 2026).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from coursekit.errors import CourseError
from coursekit.methods.gguf_lora import gguf_file, heads_of, names_of, reordered
from coursekit.methods.mechanism.attachment import find_attachment

_BYTES = ("ByteLevel", False, True)
#: How `tokenizers` cuts a text, and llama.cpp's name of it.
CUTS = {(_BYTES,): "gpt-2", (("Digits", True), _BYTES): "smollm"}
_CUTTERS = {"ByteLevel": ("type", "add_prefix_space", "use_regex"), "Digits": ("type", "individual_digits")}
_TYPES = {torch.float32: "ALL_F32", torch.float16: "MOSTLY_F16", torch.bfloat16: "MOSTLY_BF16"}


def save_gguf_model(model: nn.Module, tokenizer: Any, path: str | Path) -> Path:
    r"""Write `model`, merged or plain, with its `tokenizer` to the file `path`, which is replaced if it is there.

    Raises CourseError for an adapter beside the model, another family than Llama, weights in codes, and a model or a
    tokenizer with what this file has no word for.
    """
    import gguf

    weights, c, dtype = _checked(model), model.config, model.dtype
    vocabulary = _vocabulary(tokenizer, c.vocab_size)
    head = c.head_dim or c.hidden_size // c.num_attention_heads
    with gguf_file(path, "llama") as writer:
        writer.add_type(gguf.GGUFType.MODEL)
        writer.add_file_type(gguf.LlamaFileType[_TYPES[dtype]])
        writer.add_vocab_size(c.vocab_size)
        writer.add_context_length(c.max_position_embeddings)
        writer.add_embedding_length(c.hidden_size)
        writer.add_block_count(c.num_hidden_layers)
        writer.add_feed_forward_length(c.intermediate_size)
        writer.add_head_count(c.num_attention_heads)
        writer.add_head_count_kv(c.num_key_value_heads)
        for add in (writer.add_key_length, writer.add_value_length, writer.add_rope_dimension_count):
            add(head)
        writer.add_rope_freq_base(c.rope_parameters["rope_theta"])
        writer.add_layer_norm_rms_eps(c.rms_norm_eps)
        for key, value in vocabulary.items():
            getattr(writer, f"add_{key}")(value)
        for path_here, (own, weight) in weights.items():
            if weight.dim() == 1:
                writer.add_tensor(own, weight.float().cpu().numpy())
                continue
            rows = reordered(weight, heads_of(c, path_here)).cpu().contiguous()
            if dtype == torch.bfloat16:  # numpy has no such type
                data, kind = rows.view(torch.uint8).numpy(), gguf.GGMLQuantizationType.BF16
                writer.add_tensor(own, data, raw_dtype=kind)
            else:
                writer.add_tensor(own, rows.numpy())
    return Path(path)


def _checked(model: nn.Module) -> dict[str, tuple[str, torch.Tensor]]:
    r"""By path here: the name in the file, and the weight. CourseError where the file could not hold the model."""
    import gguf

    state, config = find_attachment(model), model.config
    if state is not None and state.merged is None:
        raise CourseError("an adapter is attached to this model: merge it first, or write it beside with save_gguf")
    if config.model_type != "llama":
        raise CourseError(f"a whole model is written as GGUF for llama; this one is a {config.model_type}")
    rope = config.rope_parameters["rope_type"]
    more = {
        "attention_bias=True": config.attention_bias,
        "mlp_bias=True": config.mlp_bias,
        f"hidden_act={config.hidden_act!r}": config.hidden_act != "silu",
        f"rope_type={rope!r}": rope != "default",
    }
    for what in (what for what, there in more.items() if there):
        raise CourseError(f"a model with {what} is not written as GGUF here")
    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    layers = list(names_of(config)[1])
    norms = ("input_layernorm", "post_attention_layernorm")
    layers += [f"model.layers.{i}.{norm}" for i in range(config.num_hidden_layers) for norm in norms]
    layers += ["model.embed_tokens", "model.norm"] + ["lm_head"] * (not config.tie_word_embeddings)
    found = {name: p.detach() for name, p in model.named_parameters()}
    if odd := sorted(found.keys() ^ {f"{path}.weight" for path in layers}):
        word = "has" if odd[0] in found else "lacks"
        raise CourseError(f"this model {word} {odd[0]}, unlike a plain Llama in 16 or 32 bits: load or merge it so")
    if model.dtype not in _TYPES or len({p.dtype for p in found.values()}) > 1:
        raise CourseError("a GGUF file is written of weights that are all in float32, float16 or bfloat16")
    return {path: (f"{table.get_name(path)}.weight", found[f"{path}.weight"]) for path in layers}


def _vocabulary(tokenizer: Any, size: int) -> dict[str, Any]:
    r"""What `GGUFWriter.add_...` has to be told of the tokenizer, for a model of `size` embeddings."""
    import gguf

    try:
        told = json.loads(tokenizer.backend_tokenizer.to_str())
        cut, merges = _cut(told), [m if isinstance(m, str) else " ".join(m) for m in told["model"]["merges"]]
    except (AttributeError, KeyError, TypeError) as error:
        raise CourseError("this tokenizer is none of merged bytes that llama.cpp has under a name") from error
    words, kinds = {i: word for word, i in tokenizer.get_vocab().items()}, gguf.TokenType
    if max(words) >= size:
        raise CourseError(f"the tokenizer has {max(words) + 1} tokens and the model {size}: another model's tokenizer?")
    kind = {w["id"]: kinds.CONTROL if w["special"] else kinds.USER_DEFINED for w in told["added_tokens"]}
    begun = tokenizer("a")["input_ids"]
    found = {
        "tokenizer_model": "gpt2",
        "tokenizer_pre": cut,
        "token_list": [words.get(i, f"[PAD{i}]") for i in range(size)],
        "token_types": [kind.get(i, kinds.NORMAL if i in words else kinds.UNUSED) for i in range(size)],
        "token_merges": merges,
        "add_bos_token": begun[0] == tokenizer.bos_token_id,
        "add_eos_token": begun[-1] == tokenizer.eos_token_id,
        "add_space_prefix": False,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "unk_token_id": tokenizer.unk_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "chat_template": tokenizer.chat_template,
    }
    return {key: value for key, value in found.items() if value is not None}


def _cut(told: dict[str, Any]) -> str:
    r"""llama.cpp's name of the rule that cuts a text; KeyError where it has none for this tokenizer."""
    model, pre = told["model"], told["pre_tokenizer"]
    if model["type"] != "BPE" or told["normalizer"] or model["ignore_merges"] or model["byte_fallback"]:
        raise KeyError(model["type"])
    steps = pre.get("pretokenizers", [pre])
    return CUTS[tuple(tuple(step[key] for key in _CUTTERS[step["type"]]) for step in steps)]
