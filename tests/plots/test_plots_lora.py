r"""The pictures of LoRA and of the lecture's map show what they are given."""

import pytest
from matplotlib.colors import same_color

from coursekit import plots
from coursekit.plots.alt import describe
from coursekit.plots.comparison import by_learning_rate
from coursekit.plots.hybrid import FAMILIES


def test_the_data_flow_has_every_shape():
    ax = plots.data_flow(d_in=576, d_out=192, r=8)
    words = [t.get_text() for t in ax.texts]
    assert {"A\n8 × 576", "B\n192 × 8", "$W_0$, frozen\n192 × 576", "(576)", "$Ax$: (8)", "h (192)"} <= set(words)
    assert not any("bits" in word for word in words)


def test_the_data_flow_of_a_base_in_codes_says_what_is_stored_and_what_is_unpacked():
    plain, ax = plots.data_flow(576, 192, 8), plots.data_flow(576, 192, 8, bits=4.1269)
    said = describe(ax.figure)
    assert "codes and scales, frozen: 4.127 bits a weight, for each product, forward and backward" in said
    assert "W, unpacked 192 × 576" in said and "Wx: (192)" in said and "W_0" not in said
    assert "W_0, frozen 192 × 576" in describe(plain.figure)
    boxes, below = (len(a.patches) for a in (ax, plain))
    assert boxes == below + 1
    stored = max(ax.patches, key=lambda patch: patch.get_extents().y0)  # the highest, and nothing covers it
    assert all(not stored.get_extents().overlaps(other.get_extents()) for other in ax.patches if other != stored)


def test_what_a_rank_keeps_is_marked_and_said():
    names = ("random matrices", "shuffled labels", "true labels")
    ax = plots.kept_by_rank(dict(zip(names, ([0.2, 0.4, 1.0], [0.5, 0.8, 1.0], [0.6, 0.9, 1.0]), strict=True)), 2)
    curves = {line.get_label(): line.get_xydata().tolist() for line in ax.lines if len(line.get_xdata()) == 3}
    assert curves["random matrices"] == [[1, 0.2], [2, 0.4], [3, 1.0]] and len(curves) == 3
    marked = [line.get_xydata().tolist() for line in ax.lines if len(line.get_xdata()) == 1]
    assert marked == [[[2, 0.9]], [[2, 0.8]], [[2, 0.4]]] and ax.get_xscale() == "log"
    assert [text.get_text() for text in ax.texts] == [
        "true labels: 90%",
        "shuffled labels: 80%",
        "random matrices: 40%",
    ]
    said = describe(ax.figure)
    assert "at r = 2: true labels 90%, shuffled labels 80%, random matrices 40%" in said and "of 3, log scale" in said


def test_the_rank_that_keeps_a_half_is_marked_and_said():
    ax = plots.rank_for_half({"noise": [0.2, 0.5, 1.0], "a product": [0.9, 1.0, 1.0]}, {"noise": 2, "a product": 1})
    curves = {line.get_label(): line.get_xydata().tolist() for line in ax.lines if len(line.get_xdata()) == 3}
    assert curves == {"noise": [[1, 0.2], [2, 0.5], [3, 1.0]], "a product": [[1, 0.9], [2, 1.0], [3, 1.0]]}
    marked = [line.get_xydata().tolist() for line in ax.lines if len(line.get_xdata()) == 1]
    assert marked == [[[2, 0.5]], [[1, 0.9]]] and ax.get_xscale() == "log"
    assert [text.get_text() for text in ax.texts] == ["noise: rank 2", "a product: rank 1", "half"]
    assert "half is kept at rank: noise 2, a product 1" in describe(ax.figure)


def test_the_chosen_learning_rate_has_a_ring_and_one_seed_a_hollow_point():
    curves = {"full": {1e-4: 0.8, 1e-5: 0.6, 1e-3: 0.9}, "LoRA": {1e-3: 0.7, 1e-2: 0.9}}
    ax = by_learning_rate(curves, {"full": [1e-3], "LoRA": []})
    rings = [tuple(*line.get_xydata()) for line in ax.lines if line.get_fillstyle() == "none"]
    assert rings == [(1e-4, 0.8), (1e-2, 0.9)], "a single seed chooses nothing"
    hollow = [line.get_xydata().tolist() for line in ax.lines if line.get_markerfacecolor() == "white"]
    assert hollow == [[[1e-3, 0.9]]]
    assert list(ax.lines[0].get_xdata()) == [1e-5, 1e-4, 1e-3] and ax.get_xscale() == "log"
    words = [t.get_text() for t in ax.get_legend().get_texts()]
    assert words == ["full", "LoRA", "chosen", "one seed, too far behind to be run again"]
    assert len(by_learning_rate(curves).get_legend().get_texts()) == 3
    ax = by_learning_rate(curves, seeds={"LoRA": {1e-2: [0.5, 0.9]}})
    (dots,) = (line for line in ax.lines if line.get_markersize() == 3)
    assert dots.get_xydata().tolist() == [[1e-2, 0.5], [1e-2, 0.9]]
    assert same_color(dots.get_color(), ax.lines[2].get_color()), "of their curve"
    assert ax.get_legend().get_texts()[-1].get_text() == "a seed"
    assert "; seeds of LoRA at 0.01: 0.5, 0.9. x: learning rate" in describe(ax.figure)


def test_curves_stand_apart_along_x_with_their_rings_hollow_points_and_dots():
    curves, seeds = {"a": {1e-2: 0.5, 1e-1: 0.4}, "b": {1e-2: 0.5, 1e-1: 0.4}}, {"a": {1e-2: [0.6]}, "b": {1e-2: [0.6]}}
    ax = by_learning_rate(curves, {"a": [1e-1], "b": [1e-1]}, seeds=seeds, named={"a": (0, 11)}, apart=1.21)
    a, b = 1 / 1.1, 1.1
    drawn = [line.get_xdata().tolist() for line in ax.lines]
    expected = [[1e-2 * a, 1e-1 * a], [1e-1 * a], [1e-2 * a], [1e-2 * b, 1e-1 * b], [1e-1 * b], [1e-2 * b]]
    expected += [[1e-2 * a], [1e-2 * b]]  # dots
    assert len(drawn) == len(expected)
    assert all(x == pytest.approx(y) for x, y in zip(drawn, expected, strict=True))
    assert ax.texts[0].xy == (pytest.approx(1e-2 * a), 0.5)


def test_curves_and_lines_can_be_named_where_they_are():
    curves = {"full": {1e-4: 0.8, 1e-5: 0.6}, "LoRA": {1e-3: 0.7, 1e-2: 0.9}}
    ax = by_learning_rate(curves, lines={"linear probe": 0.75}, named={"full": (0, 11), "LoRA": (-8, 4)})
    assert ax.get_legend() is None
    names = {text.get_text(): text for text in ax.texts}
    assert names["full"].xy == (1e-4, 0.8) and names["LoRA"].xy == (1e-2, 0.9) and names["LoRA"].get_ha() == "right"
    assert names["linear probe"].xy == (0, 0.75) and same_color(names["full"].get_color(), ax.lines[0].get_color())


def test_curves_have_the_colours_they_are_given_and_those_of_one_colour_differ_in_their_dashes():
    curves = {label: {1e-3: 0.7, 1e-2: 0.9} for label in ("bitfit", "full", "norms")}
    red = FAMILIES["selective"]
    ax = by_learning_rate(curves, colours={"bitfit": red, "norms": red})
    drawn = [line for line in ax.lines if line.get_label() in curves]
    assert [line.get_label() for line in drawn] == list(curves)
    assert [line.get_linestyle() for line in drawn] == ["-", "-", "--"]
    found = [line.get_color() for line in drawn]
    assert all(map(same_color, found, (red, plots.COLOURS[1], red)))
    many = {str(number): curves["full"] for number in range(len(plots.COLOURS) + 1)}
    drawn = [line for line in by_learning_rate(many).lines if line.get_label() in many]
    assert len({(line.get_color(), line.get_linestyle()) for line in drawn}) == len(many), "none is lost"
