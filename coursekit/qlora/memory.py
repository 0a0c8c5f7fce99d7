r"""QLoRA's table: what fine-tuning LLaMA's four sizes takes, by formula, beside what the paper says of them.

Sizes: `data/llama.csv` (Touvron et al. 2023). What the paper says: `data/papers/qlora.csv` (Dettmers et al. 2023,
arXiv:2305.14314), each line with its place in the paper.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from coursekit import counts
from coursekit.errors import one_of, unknown
from coursekit.memory.breakdown import GB, MB, Breakdown
from coursekit.memory.predict import predict
from coursekit.memory.quantized import Quantized
from coursekit.methods.lora import LoRA
from coursekit.paths import DATA


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
    return {
        r["claim"]: Claim(float(r["value"]), r["unit"], r["says"], r["where"])
        for r in _rows("papers/qlora.csv")
    }


def llama_sizes() -> list[str]:
    r"""LLaMA's sizes, smallest first: "7B", "13B", "33B", "65B"."""
    return [r["name"] for r in _rows("llama.csv")]


def llama_config(size: str) -> Any:
    r"""The transformers config of LLaMA in one of `llama_sizes`. CourseError for another."""
    from transformers import LlamaConfig

    rows = {r["name"]: r for r in _rows("llama.csv")}
    if size not in rows:
        raise unknown("size of LLaMA", size, rows)
    shape = {key: int(rows[size][key]) for key in ("d_model", "layers", "heads", "d_ff", "vocab")}
    return LlamaConfig(
        hidden_size=shape["d_model"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        intermediate_size=shape["d_ff"],
        vocab_size=shape["vocab"],
        tie_word_embeddings=False,
    )


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
    checkpointing, one row. The adapters and their optimizer are in fp32, as everywhere in the course. quantized=None:
    the same with a base in 16 bits, which is plain LoRA. optimizer: "adamw", "adamw8bit", or "paged_adamw": the bill of
    the card with every state paged out to host memory, which is the least that a paged optimizer takes of the card.
    """
    one_of("optimizer", optimizer, ("adamw", "adamw8bit", "paged_adamw"))
    return predict(
        llama_config(size),
        LoRA(r=r, alpha=16, targets="all-linear"),
        batch=batch,
        seq=seq,
        precision="bf16",
        optimizer=None if optimizer == "paged_adamw" else optimizer,
        checkpointing=checkpointing,
        device="cuda",
        quantized=quantized,
    )


def beside_the_paper() -> dict[str, tuple[float, Claim]]:
    r"""Those of `claims` that a sum can be held against: (our sum in the claim's unit, the claim), by name.

    Full fine-tuning: 16-bit weights and gradients and two fp32 moments, 12 bytes a parameter. The base of 7B: codes,
    their scales, and what stays in 16 bits. LoRA weights: 0.2 % of the model's parameters, in 16 bits.
    """
    n, n_7b = (counts.full(llama_config(size), "causal") for size in ("65B", "7B"))
    fp32_scales = qlora_bill("65B", quantized=Quantized(double=False)).weights
    lora = LoRA(r=64, alpha=16, targets="all-linear")
    adapters = 4 * lora.count(llama_config("7B"))  # in fp32, among the bill's weights
    sums = {
        "full": (2 + 2 + 8) * n / GB,
        "saved_bytes": (fp32_scales - qlora_bill("65B").weights) / GB,
        "base_7b": (qlora_bill("7B").weights - adapters) / MB,
        "lora_7b": 2 * 0.002 * n_7b / MB,
    }
    return {name: (size, claims()[name]) for name, size in sums.items()}


def _rows(name: str) -> list[dict[str, str]]:
    with (DATA / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
