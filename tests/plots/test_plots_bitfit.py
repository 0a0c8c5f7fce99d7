r"""Pictures of what trains show the numbers they are given, and nothing lies outside the figure."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex
from pictures import assert_nothing_is_cut_off

from coursekit import plots
from coursekit.plots import bitfit as draw


@pytest.fixture(autouse=True)
def _closed():
    plots.style()
    yield
    plt.close("all")


def test_shares_writes_every_number_and_leaves_zero_white():
    ax = draw.shares(
        {
            "norms": {"attention.self.query": 0.0, "norms": 1.0},
            "rows": {"attention.self.query": 0.1, "norms": 0.0},
        }
    )
    assert [(t.get_position(), t.get_text()) for t in ax.texts] == [((1, 0), "100.0%"), ((0, 1), "10.0%")]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["norms", "rows"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["query", "norms"]
    np.testing.assert_array_equal(ax.images[0].get_array().mask, [[True, False], [False, True]])
    assert [t.get_color() for t in ax.texts] == ["white", "black"]


def test_moved_and_matters_has_a_named_dot_for_each_kind():
    ax = draw.moved_and_matters({"query": 0.02, "key": 0.0}, {"key": 0.3, "query": 0.1})
    np.testing.assert_allclose(ax.collections[0].get_offsets(), [[0.02, 0.1], [0.0, 0.3]])
    named = {text.get_text(): (text.xy, text.get_ha()) for text in ax.texts}
    assert named == {"query": ((0.02, 0.1), "left"), "key": ((0.0, 0.3), "left")}
    assert ax.get_xlim()[0] == 0


def test_a_mask_has_a_point_for_each_entry_that_trains():
    mask = np.zeros((4, 6), dtype=bool)
    mask[0, 5] = mask[3, 1] = True
    (ax,) = draw.masks({"FISH": mask})
    np.testing.assert_array_equal(ax.collections[0].get_offsets(), [[5, 0], [1, 3]])
    assert ax.get_xlabel() == "inputs\n(2 of 24 entries)" and ax.get_ylabel() == "outputs"
    assert ax.get_ylim()[0] > ax.get_ylim()[1], "row 0 is at the top, as a matrix is written"


def test_node_changes_are_sorted_and_coloured_by_who_learns():
    ax = draw.node_changes([1.0, 3.0, 2.0, 0.5], learners=[1, 2])
    bars = {bar.get_x() + 0.5: (bar.get_height(), to_hex(bar.get_facecolor())) for bar in ax.patches}
    assert [bars[x] for x in sorted(bars)] == [
        (3.0, draw.LEARNER),
        (2.0, draw.LEARNER),
        (1.0, draw.FROZEN),
        (0.5, draw.FROZEN),
    ]
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["learners: 2", "frozen: 2"]


def test_permutation_follows_each_node_to_its_place():
    learners = [4, 1]
    ax = draw.permutation(6, learners)
    stages = {}
    for text in ax.texts:
        if text.get_text().isdigit():
            stages.setdefault(text.get_position()[0], []).append(
                (text.get_position()[1], int(text.get_text()))
            )
    dense, split, concatenated, back = (
        [node for _, node in sorted(stage)] for _, stage in sorted(stages.items())
    )
    assert dense == back == list(range(6))
    assert split == concatenated == [4, 1, 0, 2, 3, 5]
    coloured = [to_hex(patch.get_facecolor()) for patch in ax.patches[:6]]
    assert [colour == draw.LEARNER for colour in coloured] == [False, True, False, False, True, False]
    assert len(ax.lines) == 3 * 6


@pytest.mark.parametrize("picture", [
    lambda: draw.shares({f"{i} rows: 3,548,928": {"attention.output.dense": 0.3, "norms": 1.0} for i in range(7)}),
    lambda: draw.moved_and_matters({"feed-forward norm": 0.01, "query": 0.02}, {"feed-forward norm": 2, "query": 1}),
    lambda: draw.masks({n: np.eye(40, dtype=bool) for n in ("Fisher", "random", "magnitude")})[0],
    lambda: draw.node_changes(np.arange(1536), list(range(1000, 1536))),
    lambda: draw.permutation(12, [7, 2, 10, 0]),
])  # fmt: skip
def test_nothing_is_cut_off(picture):
    assert_nothing_is_cut_off(picture().figure)
