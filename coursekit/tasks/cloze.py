r"""Cloze sentences: a template with a gap, filled with the words of a table, and the answer that ends it.

The table that comes with the course is countries and their capitals, the lecture's example (its card is
`data/CAPITALS.md`). What a model knows of it can be asked with a sentence, or with virtual tokens in the place of the
sentence's words: the experiment of P-tuning's paper on LAMA, in small.
"""

from __future__ import annotations

import random
from typing import Any

from datasets import Dataset, DatasetDict

from coursekit import paths
from coursekit.errors import CourseError
from coursekit.tasks.prepared import Prepared, answer_rows
from coursekit.tasks.task import Task

#: Rows of each split but the last, which has the rest.
SIZES = {"train": 60, "validation": 24}


def load_capitals() -> DatasetDict:
    r"""Columns `subject` (a country) and `answer` (its capital), shuffled once: 60 train, 24 validation, 60 test."""
    rows = [{"subject": row["country"], "answer": row["capital"]} for row in paths.table("capitals.csv")]
    random.Random(0).shuffle(rows)
    splits, start = {}, 0
    for name, size in (SIZES | {"test": len(rows) - sum(SIZES.values())}).items():
        splits[name] = Dataset.from_list(rows[start : start + size])
        start += size
    return DatasetDict(splits)


def from_labels(task: Task) -> DatasetDict:
    r"""Columns `subject` (a sentence of `task`) and `answer` (the name of its label), in the same splits."""
    return DatasetDict({
        split: Dataset.from_dict({"subject": rows["text"], "answer": [task.labels[i] for i in rows["label"]]})
        for split, rows in task.data.items()
    })  # fmt: skip


def prepare_cloze(data: DatasetDict, template: str, tokenizer: Any, name: str = "cloze") -> Prepared:
    r"""Token ids of every row of `data` in `template`, whose {} is the subject; the answer follows after a space.

    Only the answer has labels. Raises CourseError for a template without exactly one {}.
    """
    if template.count("{}") != 1:
        raise CourseError(f"the template {template!r} needs exactly one {{}}, where the subject stands")

    def encode(rows: dict[str, list]) -> dict[str, list]:
        # Apart, so that a prompt has the tokens that it has when the answer is asked for.
        prompts = [tokenizer(template.replace("{}", subject))["input_ids"] for subject in rows["subject"]]
        answers = [tokenizer(f" {answer}", add_special_tokens=False)["input_ids"] for answer in rows["answer"]]
        return answer_rows(prompts, answers)

    encoded = DatasetDict({split: Dataset.from_dict(encode(rows[:])) for split, rows in data.items()})
    longest = max(len(ids) for rows in encoded.values() for ids in rows["input_ids"])
    return Prepared(name, "decoder", tokenizer, encoded, longest)
