r"""The CSV of runs: written and read back, and one line for what is damaged."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coursekit.errors import CourseError
from coursekit.experiments.table import Cell, Run, packed, parse, read_csv, unpacked, written

PATH = Path("a.csv")
RUN = Run(Cell("lora, 600 steps", 600, 3e-3, 1), ((300, 0.75), (600, 0.8)), (True, False, True), 770, 12.3)
FULL = Run(
    Cell("a", 0, 0.0, 0), (), (True, False), 5, 1.0, "why, \"quoted\"", margins=(0.5, -1.25), loss=0.25, memory=1e6,
    retention=-0.5, more={"tokens": "32.4"},
)  # fmt: skip


def test_runs_come_back_as_they_were():
    assert parse(written([RUN]), PATH) == [RUN]
    filled, other = parse(written([FULL, RUN]), PATH)
    assert filled == FULL and other.cell == RUN.cell and other.margins == () and other.loss is None


def test_a_file_without_further_columns_has_none():
    assert written([RUN]).splitlines()[0].endswith("correct,why")


def test_only_a_number_of_answers_stays_a_number():
    run = Run(Cell("a", 5, 0.1, 0), (), (True, True, False), 5, 1.0, counted=True)
    assert "count:2" in written([run]) and parse(written([run]), PATH) == [run]


@given(st.lists(st.booleans(), min_size=1, max_size=70))
def test_answers_are_packed_and_unpacked(bits):
    assert unpacked(packed(bits), len(bits)) == tuple(bits)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("0.003", "nan", "rate is 'nan'"), ("0.003", "-1", "rate is '-1'"), (",600,", ",-600,", "steps is '-600'"),
        (",3,5,", ",-1,5,", "sentences is '-1'"), (",3,5,", ",2,5,", "3 answers where there are 2 sentences"),
        ("770", "7.5", "parameters is '7.5'"), ("600:0.8000", "600:inf", "curve is 'inf'"),
        (",3,5,", ",3,", "number of columns"), (",3,5,", ",3,-5,", "answers"), ("12.3", "nan", "seconds is 'nan'"),
    ],
)  # fmt: skip
def test_a_damaged_line_is_named(old, new, why):
    text = written([RUN]).replace(old, new)
    with pytest.raises(CourseError, match=f"line 2 of a.csv is no run .*{why}.*mend or delete that line"):
        parse(text, PATH)


def test_a_torn_last_line_is_left_out_and_another_schema_refused(tmp_path):
    text = written([FULL, RUN])
    assert len(parse(text[:-5], PATH)) == 1
    with pytest.raises(CourseError, match="a.csv is no file of runs: it has no column arm"):
        parse("method,seed\nlora,1\n", PATH)
    with pytest.raises(CourseError, match="cannot read"):
        read_csv(tmp_path / "none.csv")
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(CourseError, match="not text"):
        read_csv(tmp_path / "b.csv")
