r"""The open exercise of notebook 00b: each row has the fault that it is said to have; the course's own have none."""

import pytest

from coursekit.checks.draw import Draw
from coursekit.checks.training_cycle_audit import (
    FAULTS,
    MARK,
    audit,
    drawn,
    items,
    public_rows,
    row_of,
    spoiled,
    start_of_answer,
    tokenizer,
)

DRAW = Draw(b"test", "audit")
OWN = tuple(fault for fault in FAULTS if fault not in ("leaked", "repeated"))


@pytest.mark.parametrize("fault", OWN)
def test_a_spoiled_row_has_its_fault_and_no_other(fault):
    _, _, mark, end = public_rows(0)
    for item in items("train")[:20]:
        row = row_of(item)
        before = {name: list(values) for name, values in row.items()}
        assert audit([spoiled(row, fault, DRAW)], [], mark, end) == (fault,)
        assert row == before


def test_the_course_s_own_rows_are_fit():
    train, test, mark, end = public_rows(0)
    own = [row_of(item) for item in items("train")]
    assert len(own) > 200 and set(audit(own, [row_of(item) for item in items("test")], mark, end)) == {"fit"}
    assert tokenizer().decode(mark) == MARK and tokenizer().decode([end]) == "<|im_end|>"


@pytest.mark.parametrize("seed", range(3))
def test_the_rows_of_the_check_have_every_fault_and_a_fit_one_with_an_answer_of_the_test(seed):
    train, test, mark, end = public_rows(seed)
    names = audit(train, test, mark, end)
    assert len(train) == 12 and set(names) == {"fit", *FAULTS}
    answers = [row["input_ids"][start_of_answer(row["input_ids"], mark) :] for row in test]
    alike = [row["input_ids"][start_of_answer(row["input_ids"], mark) :] in answers for row in train]
    assert any(same and name == "fit" for same, name in zip(alike, names, strict=True))
    assert not any(same and name == "leaked" for same, name in zip(alike, names, strict=True))


@pytest.mark.parametrize("seed", range(30))
def test_one_prompt_has_two_answers_and_both_are_fit(seed):
    train, test, mark, end = drawn(Draw(b"thirty draws", str(seed)))
    names = audit(train, test, mark, end)
    assert len(train) == 12 and set(names) == {"fit", *FAULTS}
    rows = {tuple(row["input_ids"]) for row, name in zip(train, names, strict=True) if name == "fit"}
    assert len({row[: start_of_answer(list(row), mark)] for row in rows}) == len(rows) - 1


def test_whoever_changes_a_row_changes_nobody_else_s():
    train, _, _, _ = public_rows(0)
    kept = [list(row["labels"]) for row in train]
    for row in train:
        row["labels"].clear()
    assert [row["labels"] for row in public_rows(0)[0]] == kept
