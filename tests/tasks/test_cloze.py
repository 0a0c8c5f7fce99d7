r"""The table of capitals, cloze sentences made of it, and what counts as a right answer."""

from __future__ import annotations

import pytest
import tiny
import torch
from cases import step_by_step
from datasets import Dataset, DatasetDict
from tiny_text import tokenizer

from coursekit.errors import CourseError
from coursekit.evaluation.cloze import right_answers, score
from coursekit.labels import IGNORED
from coursekit.paths import DATA
from coursekit.tasks import Prepared, cloze


def rows() -> list[tuple[str, str]]:
    data = cloze.load_capitals()
    return [(row["subject"], row["answer"]) for split in data.values() for row in split]


def test_the_table_is_well_formed():
    pairs = rows()
    assert len(pairs) >= 120
    countries, capitals = zip(*pairs, strict=True)
    assert len(set(countries)) == len(set(capitals)) == len(pairs)
    for name in (*countries, *capitals):
        assert name.isascii() and name == name.strip() and name[0].isupper(), name
    # An answer that stands in the question already would test nothing.
    assert not [pair for pair in pairs if pair[0] in pair[1] or pair[1] in pair[0]]
    text = (DATA / "capitals.csv").read_text(encoding="utf-8")
    assert text.endswith("\n") and len(text.splitlines()) == len(pairs) + 1
    known = {"France": "Paris", "United Kingdom": "London", "Japan": "Tokyo", "Australia": "Canberra"}
    assert known.items() <= dict(pairs).items()
    assert f"holds {len(pairs)} countries" in (DATA / "CAPITALS.md").read_text(encoding="utf-8")


def test_the_splits_are_fixed_and_apart():
    first, second = cloze.load_capitals(), cloze.load_capitals()
    assert {k: v.to_dict() for k, v in first.items()} == {k: v.to_dict() for k, v in second.items()}
    assert {k: len(v) for k, v in first.items()} == {"train": 60, "validation": 24, "test": 60}


def small() -> DatasetDict:
    pairs = [("France", "Paris"), ("red", "blue capital"), ("one", "two")]
    data = Dataset.from_list([{"subject": s, "answer": a} for s, a in pairs])
    return DatasetDict(train=data, validation=data, test=data)


def test_only_the_answer_has_labels():
    words = tokenizer()
    prepared = cloze.prepare_cloze(small(), "Name the capital of {} .", words)
    row = prepared.data["train"][1]
    assert words.decode(row["input_ids"]) == "Name the capital of red . blue capital"
    assert row["labels"] == [IGNORED] * 6 + row["input_ids"][6:]
    assert prepared.max_length == 8
    for template in ("no gap", "{} and {}"):
        with pytest.raises(CourseError, match="needs exactly one {}"):
            cloze.prepare_cloze(small(), template, words)


def test_a_right_answer_is_what_greedy_writing_gives():
    words = tokenizer()
    torch.manual_seed(0)
    model = tiny.decoder("llama", initializer_range=0.3, tie_word_embeddings=False).train()
    prompts = [words(f"the capital of {s} is")["input_ids"] for s in ("France", "red", "one")]
    written = [step_by_step(model.eval(), ids, 2) for ids in prompts]
    model.train()
    answers = [list(ids) for ids in written]
    answers[1] = [answers[1][0], (answers[1][1] + 1) % tiny.VOCAB]  # the second token is another one
    columns = {
        "input_ids": [p + a for p, a in zip(prompts, answers, strict=True)],
        "attention_mask": [[1] * len(p + a) for p, a in zip(prompts, answers, strict=True)],
        "labels": [[IGNORED] * len(p) + a for p, a in zip(prompts, answers, strict=True)],
    }
    data = Dataset.from_dict(columns)
    prepared = Prepared("x", "decoder", words, DatasetDict(test=data), 16)
    for batch_size in (1, 2, 3):
        assert right_answers(model, prepared, batch_size=batch_size) == [True, False, True]
    assert right_answers(model, prepared, limit=2) == [True, False]
    with pytest.raises(CourseError, match="limit must be a positive integer; got 0."):
        right_answers(model, prepared, limit=0)
    assert model.training and score(model, prepared).value == pytest.approx(2 / 3)
