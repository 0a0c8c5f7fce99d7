r"""What notebook 02 says of adapters.csv: its lines, its panels, and that the file still says it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from coursekit.comparison.evidence import adapters, results
from coursekit.comparison.evidence.adapters import ASKED, LABELS, PANELS, PRUNED, WEAK, WHOLE, WIDTHS
from coursekit.comparison.evidence.results import Evidence
from tests.comparison.test_evidence_tables import run

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "02_adapters.ipynb"
POINTS = 0.03


@pytest.fixture(scope="module")
def stored() -> Evidence:
    return results.read("adapters")


def made(right: dict[str, int]) -> Evidence:
    r"""Arms of three seeds with so many of 40 test sentences right."""
    return Evidence("t", tuple(run(arm, 1e-3, seed, n) for arm, n in right.items() for seed in range(3)))


def test_every_arm_that_the_notebook_asks_for_has_run(stored):
    asked = {arm for questions in ASKED.values() for q in questions for arm in (q.one, q.other)}
    drawn = {arm for _, curves in PANELS.values() for curve in curves.values() for arm in curve.values()}
    assert {*LABELS, *WIDTHS.values(), *asked, *drawn} <= set(stored.arms)
    assert [row[0] for row in adapters.table(stored).rows] == list(LABELS.values())
    called = [f"{topic}: {q.called}" for topic, questions in ASKED.items() for q in questions]
    assert len(set(called)) == len(called) == len(adapters.answers(stored, *ASKED))


def test_the_file_says_what_the_text_says(stored):
    assert all(adapters.as_told(stored, *ASKED))
    assert "best on validation: Pfeiffer, r = 16;" in adapters.best(stored)
    assert "not told apart" in adapters.best(stored)
    cheap = adapters.cheap(stored, POINTS)
    assert {what: what.endswith("before training") for what in cheap} == cheap and len(cheap) == 9
    lost = [line for line in adapters.starts(stored) if line.endswith("learned nothing")]
    assert [line.partition(": ")[2][:6] for line in lost] == ["1 of 3", "1 of 3", "2 of 3"]


def test_the_figures_of_the_summary_are_in_the_lines_above_it(stored):
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    (summary,) = (text for cell in cells if (text := "".join(cell["source"])).startswith("## Summary"))
    lines = [
        line
        for line in summary.splitlines()
        if re.match(r"\* \*(Width|Residual|AdapterDrop|Prun|Best)", line)
    ]
    figures = [figure for line in lines for figure in re.findall(r"\d\.\d{3}\b", line)]
    said = " ".join([*adapters.answers(stored, *ASKED), adapters.best(stored)])
    assert len(lines) == 5 and len(figures) >= 6
    assert not [figure for figure in figures if figure not in said]


def test_a_question_is_answered_once_both_arms_have_run_and_a_wrong_text_is_found():
    wider = made({"pfeiffer": 36, "pfeiffer r=1": 20})
    (line,) = adapters.answers(wider, "Width", "Residual")
    assert line.startswith("Width: r = 16 minus r = 1: +0.400 (")
    assert adapters.as_told(wider, "Width", "Residual") == [True]
    for right in (20, 12):  # equal, and worse
        assert adapters.as_told(made({"pfeiffer": right, "pfeiffer r=1": 20}), "Width") == [False]
    equal, apart = (made({"lin": right, "pfeiffer": 36}) for right in (36, 12))
    assert adapters.as_told(equal, "Place") == [True] and adapters.as_told(apart, "Place") == [False]
    assert adapters.answers(Evidence("t", ()), *ASKED) == adapters.as_told(Evidence("t", ()), *ASKED) == []


def test_the_best_adapter_is_chosen_by_validation():
    runs = (
        run(arm, 1e-3, seed, right, validation=validation)
        for arm, right, validation in (
            ("full", 30, 0.99),
            ("head", 30, 0.98),
            ("lin", 20, 0.9),
            ("pfeiffer", 36, 0.8),
        )
        for seed in range(3)
    )
    said = adapters.best(Evidence("t", tuple(runs)))
    assert said.startswith("best on validation: Lin, r = 16; minus full fine-tuning: -0.250 (")
    assert adapters.best(made({"full": 30, "head": 30})) == ""


def test_pruning_is_cheap_where_the_whole_interval_lies_above_what_it_may_cost():
    found = made({WHOLE: 36, "sparse-adapter": 36, "random 95% before": 30})
    gap = found.minus("random 95% before", WHOLE)
    costly, level = "95 % pruned by random before training", "80 % pruned by SNIP before training"
    assert adapters.cheap(found, POINTS) == {costly: False, level: True}
    assert adapters.cheap(found, -gap.low + 1e-6)[costly] and not adapters.cheap(found, -gap.low)[costly]


def test_both_panels_of_pruning_begin_at_the_adapter_that_their_costs_are_measured_by():
    for when, scores in PRUNED.items():
        _, curves = PANELS[f"Pruned {when} training"]
        assert {score: curve[0] for score, curve in curves.items()} == dict.fromkeys(scores, WHOLE)


def test_seeds_that_learned_nothing_are_counted_at_each_rate():
    runs = [run(WEAK, rate, s, 20, validation=0.5 if s < lost else 0.8)
            for rate, lost in ((1e-3, 0), (3e-3, 2)) for s in range(3)]  # fmt: skip
    first, costs = adapters.starts(Evidence("t", tuple(runs)))
    assert first == "Houlsby, r = 64, at 0.003: 2 of 3 seeds learned nothing"
    assert costs == "Houlsby, r = 64: best learning rate 0.001; 0.003 costs 0.200"
