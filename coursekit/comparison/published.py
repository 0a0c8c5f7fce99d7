r"""Parameter counts that papers print, beside what the papers' own formulas give.

The tables are `data/papers/*.csv`, one row of the paper each, with the rule (a function of `coursekit.counts`) and
its setting: a rank, a bottleneck or a number of virtual tokens. Where a paper names the setting it is the paper's;
where it does not, it is the one whose count comes nearest. A row whose count does not round to what is printed is
reported as it is: no formula is bent to hit a number. Where a paper contradicts itself the named setting counts:
DeBERTa's LoRA has rank 8 in table 10 of Hu et al.; the printed count is that of 16, the rank in their script for MNLI.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from coursekit import counts, paths
from coursekit.errors import one_of
from coursekit.methods import LoRA

TABLES = ("gpt3", "e2e", "glue", "metamathqa")

#: Whose rank, bottleneck or number of tokens Hu et al. 2021 name: RoBERTa in table 9, DeBERTa in 10, GPT-2 in 11, GPT-3
#: in 15; "Top2" says it itself.
NAMED = {
    ("GPT-3", "PreEmbed"), ("GPT-3", "PreLayer"), ("GPT-3", "Adapter H"), ("GPT-3", "LoRA"),
    ("GPT-2 M", "FT Top2"), ("GPT-2 M", "LoRA"), ("GPT-2 L", "LoRA"), ("RoBERTa base", "LoRA"),
    ("RoBERTa large", "LoRA"), ("RoBERTa large", "LoRA (as Houlsby)"), ("RoBERTa large", "Adapter P"),
    ("RoBERTa large", "Adapter H"), ("DeBERTa XXL", "LoRA"),
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    r"""One row of a published table. `published` is in millions, as printed; `exact` counts single parameters.

    scores: all columns that are numbers and not named here, by name. alpha: of LoRA and its relatives, where it is
    known. earlier: the "accuracy" of another run with the same settings and seed, under older libraries.
    """

    table: str
    model: str
    method: str
    published: str
    rule: str
    setting: int | None
    exact: int | None
    scores: dict[str, float]
    source: str
    alpha: int | None = None
    earlier: float | None = None

    @property
    def agrees(self) -> bool | None:
        r"""Whether `exact` rounds to the printed number; None where the course has no formula for the row.

        "125.0" is read as whole millions: elsewhere Hu et al. write 125M for it, and 3M for "3.0".
        """
        if self.exact is None:
            return None
        printed = self.published.removesuffix(".0")
        decimals = len(printed.partition(".")[2])
        return f"{self.exact / 1e6:.{decimals}f}" == printed

    @property
    def scale(self) -> float | None:
        r"""The factor of LoRA's update, $\alpha/r$ or rsLoRA's $\alpha/\sqrt r$; None where one is not known."""
        if self.alpha is None or self.setting is None:
            return None
        return self.alpha / (self.setting**0.5 if self.method == "rsLoRA" else self.setting)

    @property
    def named(self) -> bool:
        r"""Whether the setting is the paper's own; otherwise it is the one whose count comes nearest."""
        return (self.model, self.method) in NAMED

    @property
    def fitted(self) -> bool:
        r"""Whether the count needs a setting that the paper does not give: that it comes near is no surprise."""
        return self.setting is not None and not self.named


def rows(table: str) -> list[Row]:
    r"""The rows of "gpt3" (three tasks), "e2e" (GPT-2 on E2E NLG), "glue" (RoBERTa and DeBERTa) or "metamathqa" (peft's
    own comparison on Llama 3.2 3B: one run a row, seed 0, not all of them), in print order.
    """
    one_of("published table", table, TABLES)
    return [_row(table, entry) for entry in paths.table(f"papers/{table}.csv")]


def by_task(table: Sequence[Row], method: str) -> dict[str, float]:
    r"""Score -> by how much the best row of `method` is above full fine-tuning, for each score but their average."""
    full = next(row for row in table if row.method == "FT")
    own = max((row for row in table if row.method == method), key=lambda row: row.scores["average"])
    return {task: own.scores[task] - value for task, value in full.scores.items() if task != "average"}


@cache
def config(model: str) -> Any:
    r"""The transformers config of a model in the tables, by its name there."""
    return _known(model)()


@cache
def split_attention(model: str) -> Any:
    r"""A config of the same width and depth whose query and value are matrices of their own.

    GPT-2's code fuses query, key and value into one matrix, but the LoRA paper adapts query and value apart; OPT has
    GPT-3's shape with three matrices.
    """
    from transformers import OPTConfig

    own = config(model)
    if own.model_type != "gpt2":
        return own
    return OPTConfig(
        hidden_size=own.n_embd, word_embed_proj_dim=own.n_embd, ffn_dim=4 * own.n_embd,
        num_hidden_layers=own.n_layer, num_attention_heads=own.n_head, vocab_size=own.vocab_size,
    )  # fmt: skip


def query_and_value(shapes: Any) -> tuple[str, str]:
    r"""What the LoRA paper adapts, under the names that a config of `split_attention` has for it."""
    names = {"opt": ("q_proj", "v_proj"), "llama": ("q_proj", "v_proj"), "deberta-v2": ("query_proj", "value_proj")}
    return names.get(shapes.model_type, ("query", "value"))


def _known(model: str) -> Callable[[], Any]:
    from transformers import DebertaV2Config, GPT2Config, LlamaConfig, RobertaConfig

    def gpt2(d: int, layers: int, heads: int, positions: int = 1024) -> Callable[[], Any]:
        return lambda: GPT2Config(n_embd=d, n_layer=layers, n_head=heads, n_positions=positions)

    def bert_like(kind: Any, d: int, layers: int, heads: int, **more: Any) -> Callable[[], Any]:
        return lambda: kind(
            hidden_size=d, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=4 * d, **more
        )

    roberta = dict(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1)
    known = {
        "GPT-3": gpt2(12288, 96, 96, positions=2048),
        "GPT-2 M": gpt2(1024, 24, 16),
        "GPT-2 L": gpt2(1280, 36, 20),
        "RoBERTa base": bert_like(RobertaConfig, 768, 12, 12, **roberta),
        "RoBERTa large": bert_like(RobertaConfig, 1024, 24, 16, **roberta),
        # The one of DeBERTa v2: relative positions, their projections shared with the contents', and a convolution.
        "DeBERTa XXL": bert_like(
            DebertaV2Config, 1536, 48, 24, vocab_size=128100, type_vocab_size=0, relative_attention=True,
            position_buckets=256, pos_att_type=["p2c", "c2p"], share_att_key=True, norm_rel_ebd="layer_norm",
            position_biased_input=False, conv_kernel_size=3, conv_act="gelu",
        ),
        "Llama 3.2 3B": lambda: LlamaConfig(
            vocab_size=128256, hidden_size=3072, num_hidden_layers=28, num_attention_heads=24, num_key_value_heads=8,
            head_dim=128, intermediate_size=8192, tie_word_embeddings=True,
        ),
    }  # fmt: skip
    return known[one_of("published model", model, known)]


def _count(model: str, rule: str, setting: int | None) -> int | None:
    if rule == "":
        return None
    if rule == "lora":
        shapes = split_attention(model)
        return LoRA(r=setting, targets=query_and_value(shapes)).count(shapes)
    formula = getattr(counts, rule)
    return formula(config(model)) if setting is None else formula(config(model), setting)


def _row(table: str, entry: dict[str, str]) -> Row:
    named = (
        "model", "method", "published_millions", "rule", "setting", "source", "alpha", "earlier_accuracy",
    )  # fmt: skip
    setting = int(entry["setting"]) if entry["setting"] else None
    return Row(
        table,
        entry["model"],
        entry["method"],
        entry["published_millions"],
        entry["rule"],
        setting,
        _count(entry["model"], entry["rule"], setting),
        {key: float(value) for key, value in entry.items() if key not in named},
        entry["source"],
        int(entry["alpha"]) if entry.get("alpha") else None,
        float(entry["earlier_accuracy"]) if entry.get("earlier_accuracy") else None,
    )
