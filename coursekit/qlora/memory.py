r"""QLoRA's table: what fine-tuning LLaMA's four sizes takes, by formula, beside what the paper says of them.

Sizes: `data/llama.csv` (Touvron et al. 2023). What the paper says: `data/papers/qlora.csv` (Dettmers et al. 2023,
arXiv:2305.14314), each line with its place in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from coursekit.errors import one_of, unknown
from coursekit.memory.breakdown import Breakdown
from coursekit.memory.predict import predict
from coursekit.memory.quantized import Quantized
from coursekit.methods.lora import LoRA
from coursekit.paths import table


@dataclass(frozen=True)
class Claim:
    r"""A number of the paper. `where`: its place, such as "section 2"."""

    value: float
    unit: str
    says: str
    where: str


@cache
def claims() -> dict[str, Claim]:
    r"""What the QLoRA paper says, by a short name."""
    return {r["claim"]: Claim(float(r["value"]), r["unit"], r["says"], r["where"]) for r in table("papers/qlora.csv")}


def llama_sizes() -> list[str]:
    r"""LLaMA's sizes, smallest first: "7B", "13B", "33B", "65B"."""
    return [r["name"] for r in table("llama.csv")]


def llama_config(size: str) -> Any:
    r"""The transformers config of LLaMA in one of `llama_sizes`. CourseError for another."""
    from transformers import LlamaConfig

    rows = {r["name"]: r for r in table("llama.csv")}
    if size not in rows:
        raise unknown("size of LLaMA", size, rows)
    shape = {key: int(rows[size][key]) for key in ("d_model", "layers", "heads", "d_ff", "vocab")}
    return LlamaConfig(
        hidden_size=shape["d_model"], num_hidden_layers=shape["layers"], num_attention_heads=shape["heads"],
        intermediate_size=shape["d_ff"], vocab_size=shape["vocab"], tie_word_embeddings=False,
    )  # fmt: skip


@lru_cache(maxsize=512)  # the same plans are asked for again and again, and a bill does not change
def qlora_bill(
    size: str,
    *,
    r: int = 64,
    batch: int = 1,
    seq: int = 512,
    optimizer: str = "adamw",
    quantized: Quantized | None = Quantized(),  # noqa: B008 - frozen
    checkpointing: bool = True,
) -> Breakdown:
    r"""One training step of LLaMA `size` on a GPU, in bytes, with the paper's setting.

    That is NF4 with double quantization, LoRA of rank 64 beside every linear layer, products in bf16, activation
    checkpointing, one row. The adapters and their optimizer are in fp32, as everywhere in the course; the authors' code
    has adapters and gradients in bf16, 4 bytes a trained parameter less. quantized=None: the same with a base in 16
    bits, which is plain LoRA. optimizer: "adamw", "adamw8bit", or "paged_adamw": the bill of the card with every state
    paged out to host memory, which is the least that a paged optimizer takes of the card.

    The 4-bit base is a sum of codes and scales. Those of the paper's figure 6 are 1.2 to 2.6 GB larger (`claims`).
    """
    one_of("optimizer", optimizer, ("adamw", "adamw8bit", "paged_adamw"))
    return predict(
        llama_config(size), LoRA(r=r, alpha=16, targets="all-linear"), batch=batch, seq=seq, precision="bf16",
        optimizer=None if optimizer == "paged_adamw" else optimizer, checkpointing=checkpointing, device="cuda",
        quantized=quantized,
    )  # fmt: skip
