r"""The table of capitals, and cloze sentences made of it."""

import pytest
from datasets import Dataset, DatasetDict
from tiny_text import tokenizer

from coursekit.errors import CourseError
from coursekit.labels import IGNORED
from coursekit.paths import DATA
from coursekit.tasks import cloze


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
