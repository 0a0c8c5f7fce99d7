r"""A registration is checked before it runs, has a name that changes with its words, and runs what it says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coursekit.comparison import registration
from coursekit.comparison.bench import Setting
from coursekit.comparison.evidence.plan import Cell, Run
from coursekit.comparison.evidence.results import Evidence
from coursekit.comparison.registration import Registration
from coursekit.errors import CourseError

GOOD = Registration("bitfit beats head", "bitfit", "head", smallest=0.05, seeds=[3, 4, 6], pilot=(0, 1, 2))


@pytest.mark.parametrize(
    "change, said",
    [
        ({"one": "bitfitt"}, "unknown method 'bitfitt'; did you mean 'bitfit'"),
        ({"other": "bitfit"}, "both arms are 'bitfit'"),
        ({"hypothesis": "bitfit is good"}, "must name both methods.*'head' is not in it"),
        ({"smallest": 0}, "smallest must be a number above 0 and below 0.5, such as 0.02; got 0."),
        ({"seeds": (3, 4)}, r"seeds must be three or more different ones; got \(3, 4\)"),
        ({"seeds": (3, 4, 4)}, "three or more different ones"),
        ({"seeds": (3, 4, -1)}, "seed must be a non-negative integer"),
        ({"seeds": (2, 3, 4)}, "seed 2 was in the pilot"),
    ],
)
def test_what_is_no_design_is_refused(change, said):
    with pytest.raises(CourseError, match=said):
        replace(GOOD, **change)


def test_every_word_and_number_is_part_of_the_name():
    others = [
        replace(GOOD, hypothesis="head beats bitfit"), replace(GOOD, smallest=0.04), replace(GOOD, seeds=(3, 4, 7)),
        replace(GOOD, one="head", other="bitfit"),
    ]  # fmt: skip
    assert len({one.name for one in (GOOD, *others)}) == 5 and GOOD.name == replace(GOOD).name
    assert repr(GOOD).startswith(
        f"registered as {GOOD.name}: bitfit beats head (bitfit against head, seeds 3, 4, 6;"
    )


class Bench:
    r"""Trains nothing; a run of bitfit with seed 4 fails."""

    encoder, prepared = True, None

    def fit(self, model, seed, rate, bucket):
        if (model, seed) == ("bitfit", 4):
            raise CourseError("the loss is not finite")
        assert rate == {"bitfit": 0.01, "head": 0.3}[model] and bucket

    def sentences(self, split):
        return 7


def test_the_registered_runs_are_made_and_a_failed_one_is_missing(monkeypatch):
    names = {id(candidate): name for name, candidate in registration.EVERY.items()}
    monkeypatch.setattr(registration.trial, "attach", lambda bench, candidate, seed: names[id(candidate)])

    class Score:
        value = 0.6

    monkeypatch.setattr(registration, "accuracy", lambda *_, **__: Score)
    runs = registration.carry_out(GOOD, Setting(), {"bitfit": 0.01, "head": 0.3}, Bench())
    assert runs == [(m, s, 0.6) for s in (3, 4, 6) for m in ("bitfit", "head") if (m, s) != ("bitfit", 4)]


def test_a_pilot_has_the_validation_accuracies_of_every_seed():
    runs = [Run(Cell("lora", 10, 1e-3, s), ((10, 0.8 + s / 100),), (True,), 7, 1.0) for s in range(3)]
    assert registration.pilot(Evidence("t", tuple(runs)), ["lora"]) == [
        ("lora", s, 0.8 + s / 100) for s in range(3)
    ]
