r"""Modules that a method takes where none are named, by model type: peft's choice, or the paper's where it differs."""

from __future__ import annotations

from typing import NamedTuple

#: Query and value, as in section 4.2 of the LoRA paper; where one matrix makes query, key and value, that one.
QUERY_VALUE: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "electra", "layoutlm"), ("query", "value")),
    **dict.fromkeys(
        ("llama", "llama4", "mistral", "mixtral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "smollm3",
         "stablelm", "opt", "gptj", "gpt_neo", "bart"),
        ("q_proj", "v_proj"),
    ),
    **dict.fromkeys(("t5", "mt5"), ("q", "v")),
    **dict.fromkeys(("gpt2", "gpt_bigcode"), ("c_attn",)),
    **dict.fromkeys(("gpt_neox", "bloom", "falcon"), ("query_key_value",)),
    **dict.fromkeys(("mpt", "modernbert"), ("Wqkv",)),
    **dict.fromkeys(("phi3", "codegen"), ("qkv_proj",)),
    "deberta": ("in_proj",),
    "deberta-v2": ("query_proj", "value_proj"),
    "distilbert": ("q_lin", "v_lin"),
    "phi": ("q_proj", "v_proj", "fc1", "fc2"),
    "nemotron_h": ("q_proj", "k_proj", "v_proj", "o_proj"),
}  # fmt: skip


class Scaled(NamedTuple):
    r"""What (IA)³ scales: outputs of `outputs`, keys and values, and inputs of `down`, the hidden units."""

    outputs: tuple[str, ...]
    down: str
    #: One matrix makes queries, keys and values, side by side in this order: the queries are left alone.
    fused: bool = False


#: Keys, values and the second feed-forward matrix, as in section 3.3 of the paper. peft's own defaults are others for
#: some: queries instead of keys for Qwen, Gemma, GPT-J and BART, instead of values for OPT, and as well for GPT-2; for
#: mT5 outputs of the first feed-forward matrix.
KEY_VALUE_DOWN: dict[str, Scaled] = {
    **dict.fromkeys(
        ("bert", "roberta", "xlm-roberta", "electra", "layoutlm"), Scaled(("key", "value"), "output.dense")
    ),
    **dict.fromkeys(
        ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "smollm3", "stablelm"),
        Scaled(("k_proj", "v_proj"), "down_proj"),
    ),
    **dict.fromkeys(("opt", "bart", "phi"), Scaled(("k_proj", "v_proj"), "fc2")),
    **dict.fromkeys(("t5", "mt5"), Scaled(("k", "v"), "wo")),
    "gpt2": Scaled(("c_attn",), "mlp.c_proj", fused=True),
    "phi3": Scaled(("qkv_proj",), "down_proj", fused=True),
    "modernbert": Scaled(("Wqkv",), "mlp.Wo", fused=True),
    "gptj": Scaled(("k_proj", "v_proj"), "fc_out"),
    "gpt_neo": Scaled(("k_proj", "v_proj"), "mlp.c_proj"),
    "deberta-v2": Scaled(("key_proj", "value_proj"), "output.dense"),
    "distilbert": Scaled(("k_lin", "v_lin"), "lin2"),
}  # fmt: skip
