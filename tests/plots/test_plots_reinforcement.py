r"""Pictures of learning from a reward."""

from __future__ import annotations

import matplotlib

from coursekit.plots import reinforcement

matplotlib.use("agg")


def test_a_line_for_each_share():
    ax = reinforcement.shares({"paid": [0.3, 0.5, 0.9], "right": [0.3, 0.2, 0.1]})
    assert [list(line.get_ydata()) for line in ax.lines[:2]] == [[0.3, 0.5, 0.9], [0.3, 0.2, 0.1]]
    assert list(ax.lines[0].get_xdata()) == [1, 2, 3]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["paid", "right"]
    assert ax.get_xlabel() and ax.get_ylabel()
