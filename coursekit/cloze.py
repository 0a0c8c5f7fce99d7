r"""Cloze sentences: a template with a gap, filled with the words of a table, and the answer that ends it.

The table that comes with the course is countries and their capitals, the lecture's example (its card is
`data/CAPITALS.md`). What a model knows of it can be asked with a sentence, or with virtual tokens in the place of the
sentence's words: the experiment of P-tuning's paper on LAMA, in small.
"""

from __future__ import annotations

import csv
import random
from typing import Any

import torch
from datasets import Dataset, DatasetDict
from torch import nn

from coursekit import paths
from coursekit.errors import CourseError
from coursekit.prepared import IGNORED, Prepared
from coursekit.scores import Score

#: Rows of each split but the last, which has the rest.
SIZES = {"train": 60, "validation": 24}


def load_capitals() -> DatasetDict:
    r"""Columns `subject` (a country) and `answer` (its capital), shuffled once: 60 train, 24 validation, 60 test."""
    with (paths.DATA / "capitals.csv").open(encoding="utf-8", newline="") as file:
        rows = [{"subject": row["country"], "answer": row["capital"]} for row in csv.DictReader(file)]
    random.Random(0).shuffle(rows)
    splits, start = {}, 0
    for name, size in (SIZES | {"test": len(rows) - sum(SIZES.values())}).items():
        splits[name] = Dataset.from_list(rows[start : start + size])
        start += size
    return DatasetDict(splits)


def prepare_cloze(data: DatasetDict, template: str, tokenizer: Any, name: str = "cloze") -> Prepared:
    r"""Token ids of every row of `data` in `template`, whose {} is the subject; the answer follows after a space.

    Only the answer has labels. Raises CourseError for a template without exactly one {}.
    """
    if template.count("{}") != 1:
        raise CourseError(f"the template {template!r} needs exactly one {{}}, where the subject stands")

    def encode(rows: dict[str, list]) -> dict[str, list]:
        # Apart, so that a prompt has the tokens that it has when the answer is asked for.
        prompts = [tokenizer(template.replace("{}", subject))["input_ids"] for subject in rows["subject"]]
        answers = [
            tokenizer(f" {answer}", add_special_tokens=False)["input_ids"] for answer in rows["answer"]
        ]
        pairs = list(zip(prompts, answers, strict=True))
        return {
            "input_ids": [prompt + answer for prompt, answer in pairs],
            "attention_mask": [[1] * len(prompt + answer) for prompt, answer in pairs],
            "labels": [[IGNORED] * len(prompt) + answer for prompt, answer in pairs],
        }

    encoded = DatasetDict({split: Dataset.from_dict(encode(rows[:])) for split, rows in data.items()})
    longest = max(len(ids) for rows in encoded.values() for ids in rows["input_ids"])
    return Prepared(name, "decoder", tokenizer, encoded, longest)


def right_answers(
    model: nn.Module, prepared: Prepared, split: str = "test", limit: int | None = None, batch_size: int = 32
) -> list[bool]:
    r"""For each of the first `limit` rows whether the model, writing greedily, would write the answer, all of it.

    One forward pass tells: greedy writing gives the answer exactly if each of its tokens is the likeliest one after
    those before it.
    """
    rows, found = prepared.split(split), []
    rows = rows.select(range(min(limit or len(rows), len(rows))))
    device, was_training = next(model.parameters()).device, model.training
    model.eval()
    try:
        with torch.inference_mode():
            for start in range(0, len(rows), batch_size):
                batch = prepared.collate(list(rows.select(range(start, min(start + batch_size, len(rows))))))
                labels = batch.pop("labels")[:, 1:]
                call = {key: value.to(device) for key, value in batch.items()}
                logits = model(**call, use_cache=False).logits
                likeliest = logits[:, :-1].argmax(-1).cpu()  # (batch, seq - 1): the guess for each next token
                found += ((likeliest == labels) | (labels == IGNORED)).all(1).tolist()
    finally:
        model.train(was_training)
    return found


def score(model: nn.Module, prepared: Prepared, split: str = "test", limit: int | None = None) -> Score:
    r"""Share of `right_answers`, with its interval."""
    return Score.of(torch.tensor(right_answers(model, prepared, split, limit)))
