r"""Runs along random directions are found by what trained, and their differences have the interval of two samples."""

from __future__ import annotations

import pytest

from coursekit.comparison.evidence import directions


def test_every_run_of_the_file_is_there():
    found = directions.read()
    assert {"SAID", "DID", "full", "head"} <= set(found.runs) and found.sentences == 400
    assert set(found.runs["full"]) == {0} and {10, 100, 1000, 10_000} <= set(found.runs["DID"])
    assert all(
        0 < accuracy < 1 for curve in found.runs.values() for runs in curve.values() for accuracy in runs
    )


def test_a_difference_has_the_interval_of_two_samples():
    stored = directions.Directions({}, 400)
    found = stored.minus([0.7, 0.9], [0.5], share=0.9)
    assert found.value == pytest.approx(0.35)
    assert found.high - found.value == pytest.approx(1.96 * ((0.16 + 0.81 * 0.25) / 400) ** 0.5, rel=1e-3)
    assert stored.minus([0.8], [0.79]).tells is False and found.tells
