r"""Packing's check refuses an answer for what its rows teach, and for the order that the text asks for."""

import functools

import pytest

from coursekit.checks import check
from coursekit.checks.core import judge
from coursekit.checks.training_cycle import PACK


@functools.cache
def cases():
    return PACK.cases(b"thirty draws", 30)


def packed(masked, reopened=False):
    r"""An answer; `masked(first of the row?)` says whether an example's first label is."""

    def answer(examples, length):
        rows = []
        for ids, labels in examples:
            open_rows = rows if reopened else rows[-1:]
            row = next((row for row in open_rows if len(row[0]) + len(ids) <= length), None)
            if row is None:
                rows.append(row := ([], [], []))
            row[1].extend([-100 if masked(not row[0]) else labels[0], *labels[1:]])
            row[0].extend(ids)
            row[2].extend(range(len(ids)))
        return rows

    return answer


def test_the_first_label_of_a_row_may_be_left_for_the_loss_never_looks_at_it():
    answer = packed(masked=lambda first: not first)
    assert check("training-cycle-pack", answer).status == "passed"
    assert all(judge(PACK, case, answer(*case)) is None for case in cases())


@pytest.mark.parametrize(("answer", "said"), [
    (packed(lambda first: True, reopened=True), "keep their order"),
    (packed(lambda first: False), "inside a row is learned"),
    (packed(lambda first: first), "inside a row is learned"),
    (packed(lambda first: not first, reopened=True), "keep their order"),
], ids=["first fit", "nothing masked", "only the row's first masked", "first fit, the row's first left"])  # fmt: skip
def test_a_wrong_answer_is_refused_with_its_mistake(answer, said):
    assert said in check("training-cycle-pack", answer).message
    assert all(judge(PACK, case, answer(*case)) for case in cases())


def test_any_other_first_label_is_wrong():
    def answer(examples, length):
        rows = packed(lambda first: True)(examples, length)
        return [(ids, [0, *labels[1:]], places) for ids, labels, places in rows]

    assert check("training-cycle-pack", answer).status == "failed"
