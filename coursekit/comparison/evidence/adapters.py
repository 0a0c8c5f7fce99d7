r"""What data/evidence/adapters.csv answers to notebook 02: its arms by the names they have there, and its questions.

Each question has the answer that the notebook's text gives; `as_told` asks the file whether that is still so.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from coursekit.comparison.evidence import tables
from coursekit.comparison.evidence.grid import derived
from coursekit.comparison.evidence.intervals import Interval
from coursekit.comparison.evidence.results import Evidence
from coursekit.comparison.evidence.sentences import rate_costs
from coursekit.comparison.evidence.verdicts import verdicts
from coursekit.notebook.tables import Table

FULL = "full"
#: What pruned adapters are compared with: Houlsby's with r = 64, whole, from the small start of Houlsby et al.
WHOLE = "houlsby r=64"
#: The same from the larger start that SNIP needs: with one seed of three it learns nothing at 0.001, and at 0.003.
WEAK = "wide"
#: Arm -> its row in the notebook's table.
LABELS = {
    "head": "the head alone",
    FULL: "full fine-tuning",
    "pfeiffer r=1": "Pfeiffer, r = 1",
    "pfeiffer": "Pfeiffer, r = 16",
    "pfeiffer r=64": "Pfeiffer, r = 64",
    "houlsby r=8": "Houlsby, r = 8",
    WHOLE: "Houlsby, r = 64, from a small start",
    "lin": "Lin, r = 16",
    "parallel": "parallel, r = 16, s = 4, W_up = 0 at the start",
    "narrow": "Houlsby, r = 16",
    WEAK: "Houlsby, r = 64",
    "houlsby r=16 without": "Houlsby, r = 16, no residual",
    "houlsby r=64 without": "Houlsby, r = 64, no residual",
}

#: Setting -> arm.
Curve = dict[float, str]
#: By the width of Pfeiffer's bottleneck.
WIDTHS: Curve = {1: "pfeiffer r=1", 16: "pfeiffer", 64: "pfeiffer r=64"}
#: By the number of lowest blocks without adapters: left out from the start, or after a robust training.
DROPPED: Curve = {0: "pfeiffer", 2: "adapter-drop", 4: "drop 4"}
ROBUST: Curve = {0: "robust", **{n: derived("robust", f"{n} skipped") for n in (2, 4)}}
#: When -> by which score -> by the per cent of the weights pruned. Magnitude is a score for trained weights only.
PRUNED: dict[str, dict[str, Curve]] = {
    "before": {"random": {95: "random 95% before"}, "SNIP": {80: "sparse-adapter", 95: "snip 95% before"}},
    "after": {
        score: {share: derived(WHOLE, f"{score.lower()} {share}% after") for share in (80, 95)}
        for score in ("random", "SNIP", "magnitude")
    },
}
_NOTHING: Curve = {0: WHOLE}
#: For `plots.adapters.drops_and_shares`. Both panels of pruning begin at the same whole adapter.
PANELS: dict[str, tuple[str, dict[str, Curve]]] = {
    "AdapterDrop": (
        "lower blocks without adapters",
        {"left out from the start": DROPPED, "robust, left out later": ROBUST},
    ),
    **{
        f"Pruned {when} training": (
            "weights pruned, %",
            {score: _NOTHING | curve for score, curve in scores.items()},
        )
        for when, scores in PRUNED.items()
    },
}


class Question(NamedTuple):
    r"""Test accuracy of `one` minus that of `other`: what the text calls it, and what it says of it.

    ahead: 1 where `one` is better, -1 where it is worse, 0 where that is not told, or only just.
    """

    called: str
    one: str
    other: str
    ahead: int


_SMALL = "the whole one from a small start"
_BEFORE, _AFTER = PRUNED["before"], PRUNED["after"]
#: The notebook's questions by their topic.
ASKED: dict[str, tuple[Question, ...]] = {
    "Width": (
        Question("r = 64 minus r = 1", "pfeiffer r=64", "pfeiffer r=1", 0),
        Question("r = 16 minus r = 1", "pfeiffer", "pfeiffer r=1", 1),
        Question("r = 64 minus r = 16", "pfeiffer r=64", "pfeiffer", 0),
        Question("Houlsby, r = 64 from a small start minus r = 16", WHOLE, "narrow", 0),
    ),
    "Residual": (
        Question("r = 16, without minus with", "houlsby r=16 without", "narrow", -1),
        Question("r = 64, without minus with", "houlsby r=64 without", WEAK, -1),
        Question("r = 64, without minus with from a small start", "houlsby r=64 without", WHOLE, -1),
        Question("r = 16, without minus the head alone", "houlsby r=16 without", "head", 1),
        Question("r = 64, without minus the head alone", "houlsby r=64 without", "head", 1),
        Question("without it, r = 64 minus r = 16", "houlsby r=64 without", "houlsby r=16 without", 0),
    ),
    "Place": (
        Question("Houlsby, r = 8 minus Pfeiffer, r = 16", "houlsby r=8", "pfeiffer", 0),
        Question("Lin minus Pfeiffer", "lin", "pfeiffer", 0),
        Question("parallel minus Pfeiffer (start and scale differ as well)", "parallel", "pfeiffer", 0),
    ),
    "AdapterDrop": (
        Question("2 blocks without minus adapters in all blocks", DROPPED[2], DROPPED[0], -1),
        Question("4 blocks without minus adapters in all blocks", DROPPED[4], DROPPED[0], -1),
        Question("robust, none skipped minus adapters in all blocks", ROBUST[0], DROPPED[0], -1),
        Question("robust, 2 skipped minus 2 blocks without", ROBUST[2], DROPPED[2], 0),
        Question("robust, 4 skipped minus 4 blocks without", ROBUST[4], DROPPED[4], 0),
    ),
    "Pruned before training": (
        Question("95 %, SNIP minus random", _BEFORE["SNIP"][95], _BEFORE["random"][95], 0),
        Question(f"95 %, random minus {_SMALL}", _BEFORE["random"][95], WHOLE, 0),
        Question(f"95 %, SNIP minus {_SMALL}", _BEFORE["SNIP"][95], WHOLE, 0),
        Question(f"80 %, SNIP minus {_SMALL}", _BEFORE["SNIP"][80], WHOLE, 0),
    ),
    "Pruned after training": (
        Question("80 %, magnitude minus SNIP", _AFTER["magnitude"][80], _AFTER["SNIP"][80], 0),
        Question("80 %, magnitude minus random", _AFTER["magnitude"][80], _AFTER["random"][80], 1),
        Question(f"80 %, magnitude minus {_SMALL}", _AFTER["magnitude"][80], WHOLE, -1),
        Question("95 %, magnitude minus SNIP", _AFTER["magnitude"][95], _AFTER["SNIP"][95], 0),
        Question("95 %, magnitude minus random", _AFTER["magnitude"][95], _AFTER["random"][95], 0),
        Question(f"95 %, magnitude minus {_SMALL}", _AFTER["magnitude"][95], WHOLE, -1),
    ),
    "Large-Sparse": (
        Question("minus Houlsby, r = 16", "large-sparse", "narrow", 0),
        Question(f"minus {_SMALL}", "large-sparse", WHOLE, 0),
    ),
    "Beside the weak rival": (
        Question("SNIP, 80 % before training minus Houlsby, r = 64", _BEFORE["SNIP"][80], WEAK, 1),
        Question("Large-Sparse minus Houlsby, r = 64", "large-sparse", WEAK, 1),
    ),
}


def table(evidence: Evidence) -> Table:
    r"""The arms of `LABELS`, each minus full fine-tuning."""
    return tables.arms(evidence, {label: arm for arm, label in LABELS.items()}, FULL)


def answers(evidence: Evidence, *topics: str) -> list[str]:
    r"""A line for each question of these topics of `ASKED` whose arms were run with every seed."""
    return verdicts(evidence, {f"{topic}: {q.called}": (q.one, q.other) for topic, q in _asked(topics)})


def as_told(evidence: Evidence, *topics: str) -> list[bool]:
    r"""For each question that `answers` has a line for: whether the runs still say what the notebook's text says."""
    return [
        _ahead(evidence.minus(q.one, q.other)) == q.ahead
        for _, q in _asked(topics)
        if {q.one, q.other} <= set(evidence.arms)
    ]


def best(evidence: Evidence) -> str:
    r"""The adapter that is best on validation sentences, so that its test accuracy did not choose it, minus full
    fine-tuning; "" where no adapter has every seed yet.
    """
    ran = [arm for arm in LABELS if arm in evidence.arms and arm not in ("head", FULL)]
    if not ran:
        return ""
    chosen = max(ran, key=evidence.validation)
    gap = tables.answer(evidence, chosen, FULL)
    return f"best on validation: {LABELS[chosen]}; minus full fine-tuning: {gap}"


def cheap(evidence: Evidence, points: float) -> dict[str, bool]:
    r"""What was pruned, such as "95 % pruned by random before training" -> whether that costs less than `points` of
    accuracy: the interval of pruned minus `WHOLE`, paired by sentence, lies above -points.
    """
    return {
        f"{share} % pruned by {score} {when} training": evidence.minus(arm, WHOLE).low > -points
        for when, scores in PRUNED.items()
        for score, curve in scores.items()
        for share, arm in curve.items()
        if {arm, WHOLE} <= set(evidence.arms)
    }


def starts(evidence: Evidence, least: float = 0.55) -> list[str]:
    r"""How the two whole adapters with r = 64, which differ in their start, take a learning rate: where seeds ended
    below `least` in validation accuracy, little above chance, and what each rate costs.
    """
    lines = []
    for arm in (WEAK, WHOLE):
        for rate, runs in sorted(evidence.whole(arm).items()):
            if lost := sum((run.validation or 0.0) < least for run in runs):
                lines.append(f"{LABELS[arm]}, at {rate:g}: {lost} of {len(runs)} seeds learned nothing")
    return lines + rate_costs(evidence, [WEAK, WHOLE], LABELS)


def _ahead(gap: Interval) -> int:
    if not tables.well_apart(gap):
        return 0
    return 1 if gap.value > 0 else -1


def _asked(topics: tuple[str, ...]) -> Iterator[tuple[str, Question]]:
    return ((topic, question) for topic in topics for question in ASKED[topic])
