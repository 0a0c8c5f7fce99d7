r"""Pairs of a better and a worse answer to one prompt, for preference tuning.

The course's own come from rated text: asked for a sentence of a review, a sentence that people rated well is the
chosen answer and one that they rated badly the rejected one. Both have about the same length, so that a model cannot
win by length alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset, DatasetDict
from torch import Tensor

from coursekit.errors import CourseError, whole
from coursekit.tasks.conversations import cut, encode, warn_of_cuts
from coursekit.tasks.instructions import instruction_segments
from coursekit.tasks.prepared import Prepared
from coursekit.tasks.sentiment import SPLITS, split_sentences

_ASKED = {
    "film": "Write one sentence of a film review.",
    "product": "Write one sentence of a product review.",
    "tweet": "Write a tweet.",
    "newspaper": "Write one sentence of a newspaper editorial.",
}
#: The chosen sentence is rated at least this, the rejected one at most minus this, out of −4…4.
CLEAR = 1.5
#: Words that a sentence may have: short ones say little, long ones are slow.
_WORDS = (6, 30)


def rated_pairs(domain: str = "film", clear: float = CLEAR) -> DatasetDict:
    r"""Preference pairs from rated sentences of a domain, columns `prompt`, `chosen`, `rejected` (all strings), in the
    splits of the sentences. Every sentence is in one pair at most, and the two of a pair have equally many words.
    """
    found = {}
    for split in SPLITS:
        sentences = split_sentences(domain)[split]  # an unknown domain is an error here
        fit = [s for s in sentences if _WORDS[0] <= len(s.text.split()) <= _WORDS[1]]
        worse: dict[int, list[str]] = {}
        for s in fit:
            if s.rating <= -clear:
                worse.setdefault(len(s.text.split()), []).append(s.text)
        rows = []
        for s in fit:
            left = worse.get(len(s.text.split()))
            if s.rating >= clear and left:
                rows.append({"prompt": _ASKED[domain], "chosen": s.text, "rejected": left.pop(0)})
        found[split] = Dataset.from_list(rows)
    return DatasetDict(found)


@dataclass(frozen=True)
class PreparedPairs(Prepared):
    r"""Pairs in token ids: `input_ids` and `labels` are those of the chosen answer, `rejected_ids` and
    `rejected_labels` those of the rejected one; the prompt is masked in both.
    """

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        r"""A batch of 2·pairs rows: first the chosen answers, then the rejected ones, padded to one length.

        `pair`, (2·pairs,), says which rows belong together.
        """
        rejected = [
            {
                "input_ids": row["rejected_ids"],
                "attention_mask": [1] * len(row["rejected_ids"]),
                "labels": row["rejected_labels"],
            }
            for row in rows
        ]
        batch = super().collate([*rows, *rejected])
        batch["pair"] = torch.arange(2 * len(rows)) % len(rows)
        return batch

    def weight(self, batch: dict[str, Tensor]) -> int:
        r"""The loss is a mean over pairs."""
        return len(batch["labels"]) // 2


def prepare_pairs(data: Mapping[str, Dataset], tokenizer: Any, max_length: int = 128) -> PreparedPairs:
    r"""Token ids of prompt and answer for both answers of each pair, as `prepare_instructions` writes them.

    A pair of which one answer does not fit into `max_length` tokens is left out, with a warning, and listed in
    `left_out`: half an answer is no answer. Raises CourseError for missing columns, and where nothing is left to
    train on.
    """
    max_length = whole("max_length", max_length, least=2, such_as=128)
    kept, cuts = {}, []
    for split, rows in data.items():
        missing = {"prompt", "chosen", "rejected"} - set(rows.column_names) if len(rows) else set()
        if missing:
            raise CourseError(f"the {split} pairs have no column {', '.join(sorted(missing))}")
        pairs = []
        for number, row in enumerate(rows):
            won, lost = (
                encode(tokenizer, instruction_segments(tokenizer, row["prompt"], "", row[which]))
                for which in ("chosen", "rejected")
            )
            longer = max(won, lost, key=lambda one: len(one.input_ids))
            if len(longer.input_ids) > max_length:
                cuts.append(cut(split, number, longer, max_length))
            else:
                pairs.append((won, lost))
        kept[split] = Dataset.from_dict(
            {
                "input_ids": [won.input_ids for won, _ in pairs],
                "attention_mask": [[1] * len(won.input_ids) for won, _ in pairs],
                "labels": [won.labels for won, _ in pairs],
                "rejected_ids": [lost.input_ids for _, lost in pairs],
                "rejected_labels": [lost.labels for _, lost in pairs],
            }
        )
    if not kept.get("train"):
        longest = max((c.tokens for c in cuts), default=0)
        raise CourseError(
            f"max_length={max_length} leaves no pair to train on: the longest has {longest} tokens"
        )
    warn_of_cuts(cuts, sum(map(len, data.values())), max_length, depth=3)
    return PreparedPairs(
        "preferences", "decoder", tokenizer, DatasetDict(kept), max_length, left_out=tuple(cuts)
    )
