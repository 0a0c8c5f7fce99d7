r"""Names at the points of a picture of forgetting."""

from __future__ import annotations

import matplotlib.pyplot as plt

from coursekit import plots
from coursekit.comparison.evidence import forgetting as evidence
from coursekit.plots import forgetting, training_cycle
from tests import pictures


def test_every_strength_has_its_name_at_its_point():
    plots.style()
    found = evidence.read()
    ax = training_cycle.learned_and_kept(found.curves(), found.point(evidence.BEFORE), new="tweets")
    before = len(ax.texts)
    assert forgetting.name_points(ax, found.strengths()) is ax
    named = [(t.get_text(), t.xy) for t in ax.texts[before:]]
    assert named == found.strengths() and ("3000", found.point(("EWC", 3000))) in named
    pictures.assert_nothing_is_cut_off(ax.figure)
    plt.close("all")
