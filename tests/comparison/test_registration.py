r"""A registration is checked before it runs, has a name that changes with its words, and runs what it says."""

from dataclasses import replace
from random import Random

import pytest

from coursekit.checks.which_method import conclude
from coursekit.comparison import registration
from coursekit.comparison.registration import Registration
from coursekit.errors import CourseError
from coursekit.experiments.bench import Setting

GOOD = Registration("bitfit beats head", "bitfit", "head", (0.01, 0.3), smallest=0.05, seeds=[3, 4, 6], pilot=(0, 1, 2))


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
        ({"rates": (0.1,)}, "rates must be two"),
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
    assert repr(GOOD) == (
        f"registered as {GOOD.name}: bitfit beats head (bitfit against head, seeds 3, 4, 6, 40 steps)"
    )


class Bench:
    r"""Trains nothing; a run of bitfit with seed 4 fails."""

    encoder, prepared = True, None

    def fit(self, model, seed, rate):
        if (model, seed) == ("bitfit", 4):
            raise CourseError("the loss is not finite")
        assert rate == {"bitfit": 0.01, "head": 0.3}[model]

    def sentences(self, split):
        return 7


def test_the_registered_runs_are_made_and_a_failed_one_is_missing(monkeypatch, tmp_path):
    names = {id(candidate): name for name, candidate in registration.EVERY.items()}
    attached = []

    def attach(bench, candidate, seed):
        attached.append((names[id(candidate)], seed))
        return names[id(candidate)]

    monkeypatch.setattr(registration, "attach", attach)

    class Score:
        value = 0.6

    monkeypatch.setattr(registration, "accuracy", lambda *_, **__: Score)
    with pytest.raises(CourseError, match=f"{GOOD.name} is not registered in this folder"):
        registration.carry_out(GOOD, tmp_path, Bench())
    assert GOOD.write(tmp_path) == GOOD.write(tmp_path)
    runs = registration.carry_out(GOOD, tmp_path, Bench())
    for changed in (replace(GOOD, smallest=0.04), replace(GOOD, setting=Setting(steps=3)), replace(GOOD, longest=9)):
        with pytest.raises(CourseError, match="something in it was changed"):
            registration.carry_out(changed, tmp_path, Bench())
    assert runs == [(m, s, 0.6) for s in (3, 4, 6) for m in ("bitfit", "head") if (m, s) != ("bitfit", 4)]
    assert attached == [(m, s) for s in (3, 4, 6) for m in ("bitfit", "head")], "a model and an adapter a seed"


def test_standard_errors_are_student_s_t():
    assert [round(registration.standard_errors(n), 3) for n in (2, 3, 5, 20)] == [4.303, 2.776, 2.306, 2.024]


def test_not_inferior_is_shown_the_more_often_the_better_the_method_and_seldom_where_it_is_false():
    pilot = [(arm, s, 0.8 + 0.01 * s) for arm in ("a", "b") for s in range(3)]
    shown = [registration.not_inferior(pilot, 4, true, 0.02) for true in (-0.02, 0.0, 0.02)]
    assert shown == sorted(shown) and shown[0] == pytest.approx(0.025, abs=0.015) and shown[2] > 0.95


@pytest.mark.parametrize("seed", range(20))
def test_a_simulated_comparison_is_judged_as_the_exercise_judges_it(seed, monkeypatch):
    pilot = [(arm, s, 0.8 + 0.01 * s) for arm in ("a", "b") for s in range(3)]
    made = []
    monkeypatch.setattr(registration, "Random", lambda _: Recorder(seed, made))
    shown = registration.not_inferior(pilot, 4, 0.012, 0.02, draws=1)
    runs = tuple(("ab"[i // 4], i % 4, value) for i, value in enumerate(made))
    _, difference, margin = conclude(runs, "a", "b", range(4), 0.02, registration.standard_errors(4))
    assert shown == (difference - margin > -0.02)


class Recorder(Random):
    def __init__(self, seed, made):
        super().__init__(seed)
        self.made = made

    def gauss(self, *arguments):
        self.made.append(super().gauss(*arguments))
        return self.made[-1]
