r"""Pictures of places, gates, Kronecker products and many methods show what they are given, and names stay legible."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import to_hex
from matplotlib.lines import Line2D

from coursekit.experiments.intervals import Difference
from coursekit.methods.hybrid import places as method_places
from coursekit.methods.hybrid import readings
from coursekit.plots import alt
from coursekit.plots import hybrid as plots_hybrid


def test_a_place_has_the_colour_of_the_family_and_the_word_for_what_happens_there():
    touched = {"LoRA": {"query": "adds beside"}, "BitFit": {"query": "trains what is there"}}
    families = {"BitFit": "selective", "LoRA": "reparameterised", "(IA)³": "additive"}
    ax = plots_hybrid.places(touched, ["keys", "query"], families)
    colours = [to_hex(patch.get_facecolor()) for patch in ax.patches]
    blank = colours[0]
    own = [plots_hybrid.FAMILIES[family] for family in ("reparameterised", "selective")]
    assert colours == [blank, own[0], blank, own[1]] and blank not in own
    assert [(t.get_text(), t.get_position()) for t in ax.texts] == [("beside", (1.5, 0.5)), ("trains", (1.5, 1.5))]
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["selective", "reparameterised"]
    assert alt.describe(ax.figure).startswith(
        "LoRA (reparameterised) adds beside (query); BitFit (selective) trains what is there (query)."
    )


def test_a_part_of_a_hybrid_has_the_colour_of_its_own_family_and_the_legend_names_what_is_drawn():
    touched = {"MAM": {"keys": "puts tokens before", "query": "adds beside"}}
    ax = plots_hybrid.places(touched, ["keys", "query"], {"MAM": "hybrid"}, {"MAM": {"keys": "additive"}})
    own = [plots_hybrid.FAMILIES[family] for family in ("additive", "hybrid")]
    assert [to_hex(patch.get_facecolor()) for patch in ax.patches] == own
    inside = {"MAM": {"keys": "additive"}}
    ax = plots_hybrid.places({"MAM": {"keys": "adds beside"}}, ["keys"], {"MAM": "hybrid"}, inside)
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["additive"]


def test_a_word_is_light_on_a_dark_family_and_dark_on_a_light_one():
    touched = {"LoRA": {"query": "adds beside"}, "(IA)³": {"query": "multiplies"}}
    ax = plots_hybrid.places(touched, ["query"], {"LoRA": "reparameterised", "(IA)³": "additive"})
    assert {t.get_text(): t.get_color() for t in ax.texts} == {"beside": "white", "scales": "black"}
    plt.close(ax.figure)  # one column is too narrow for its legend


def test_every_way_of_acting_has_a_word():
    assert set(method_places.WAYS.values()) == set(plots_hybrid.WAYS)


def test_gates_are_rings_before_and_dots_after():
    before, after = ({"prefix": [0.5, 0.4], "adapter": [0.5, 0.6]}, {"prefix": [0.3, 0.4], "adapter": [0.7, 0.9]})
    spread = {"prefix": [0.01, 0.02], "adapter": [0.03, 0.3]}
    panels = plots_hybrid.gates(before, after, spread)
    for ax, kind in zip(panels, before, strict=True):
        ring, dot = (line for line in ax.lines if line.get_marker() == "o")
        (bars,) = (c for c in ax.containers)
        ends = np.array([segment[:, 1] for segment in bars[2][0].get_segments()])
        np.testing.assert_allclose(np.diff(ends)[:, 0] / 2, spread[kind])
        assert list(ring.get_ydata()) == before[kind] and list(dot.get_ydata()) == after[kind]
        assert ring.get_markerfacecolor() == "white" != dot.get_markerfacecolor()
        assert ax.get_title(loc="left") == kind
        assert ring.get_color() == dot.get_color() == plots_hybrid.FAMILIES["additive"]
    low, high = panels[0].get_ylim()
    assert low < 0.3 and high > 1.2, "bars are inside"


def test_every_kind_of_gate_has_a_family_and_the_legend_shows_ring_and_dot_in_the_colours_that_are_drawn():
    assert set(plots_hybrid.GATED) == set(readings.KINDS)
    values = {"query": [0.5], "adapter": [0.6]}
    panels = plots_hybrid.gates(values, values, values)
    own = [plots_hybrid.FAMILIES["reparameterised"], plots_hybrid.FAMILIES["additive"]]
    assert [to_hex(ax.lines[-1].get_color()) for ax in panels] == own
    (legend,) = panels[0].figure.legends
    assert [t.get_text() for t in legend.get_texts()] == ["before", "after"]
    marks = [mark for mark in legend.findobj(Line2D) if mark.get_marker() == "o"]
    assert [mark.get_color() for mark in marks] == own + own
    assert [mark.get_markerfacecolor() for mark in marks] == ["white", "white", *own]


def test_a_difference_is_filled_where_it_is_clear_and_stands_in_points():
    found = {
        "good": Difference(0.05, 0.04, 0.06, p=0.01),
        "near": Difference(-0.01, -0.02, -0.005, p=0.01),
        "level": Difference(-0.01, -0.05, 0.03, p=0.4),
        "bad": Difference(-0.2, -0.3, -0.1, p=0.01),
    }
    own = {"good": "hybrid", "near": "hybrid", "level": "hybrid", "bad": "additive"}
    ax = plots_hybrid.differences(found, own, "points", margin=3)
    drawn = {container.get_label(): container.lines[0] for container in ax.containers}
    assert set(drawn) == {"hybrid", "hybrid, not clear", "additive"}
    np.testing.assert_allclose(drawn["hybrid"].get_xydata(), [[5, 0]])
    np.testing.assert_allclose(drawn["hybrid, not clear"].get_xydata(), [[-1, 1], [-1, 2]])
    np.testing.assert_allclose(drawn["additive"].get_xydata(), [[-20, 3]])
    hollow = drawn["hybrid, not clear"].get_markerfacecolor()
    assert hollow == "white" != drawn["hybrid"].get_markerfacecolor()
    bars = {c.get_label(): c.lines[2][0].get_segments()[0][:, 0] for c in ax.containers}
    np.testing.assert_allclose(bars["additive"], [-30, -10])
    assert [t.get_text() for t in ax.get_yticklabels()] == list(found)
    assert [t.get_text() for t in ax.texts] == [one.in_points() for one in found.values()]
    (band,) = ax.patches
    assert (band.get_x(), band.get_width()) == (-3, 6)
    assert "hybrid, not clear" in alt.describe(ax.figure)


def test_which_verdicts_are_filled_is_for_the_caller_to_say():
    found = {"equal": Difference(-0.01, -0.02, 0.01, p=0.4), "unclear": Difference(-0.01, -0.05, 0.03, p=0.4)}
    own = dict.fromkeys(found, "hybrid")
    ax = plots_hybrid.differences(found, own, "points", margin=3, filled=("equal for practical purposes",))
    drawn = {container.get_label(): container.lines[0] for container in ax.containers}
    np.testing.assert_allclose(drawn["hybrid"].get_xydata(), [[-1, 0]])
    np.testing.assert_allclose(drawn["hybrid, not clear"].get_xydata(), [[-1, 1]])


def test_without_families_all_have_one_colour_and_no_legend():
    found = {"worse": Difference(-0.05, -0.06, -0.04, p=0.01), "unclear": Difference(-0.01, -0.05, 0.03, p=0.4)}
    ax = plots_hybrid.differences(found, None, "points", margin=3)
    drawn = {container.get_label(): container.lines[0] for container in ax.containers}
    assert set(drawn) == {"clear", "not clear"} and len({line.get_color() for line in drawn.values()}) == 1
    assert ax.get_legend() is None


def test_what_lies_left_of_the_axis_is_an_arrow_at_its_edge():
    found = {"near": Difference(-0.01, -0.02, 0.0, p=0.4), "far": Difference(-0.2, -0.3, -0.1, p=0.01)}
    ax = plots_hybrid.differences(
        found, dict.fromkeys(found, "additive"), "points", margin=3, left=-10, numbers=False, reference="full"
    )
    (arrow,) = (line for line in ax.lines if line.get_marker() == "<")
    assert ax.get_xlim()[0] == -10 and arrow.get_ydata()[0] == 1
    assert arrow.get_markerfacecolor() == plots_hybrid.FAMILIES["additive"]
    (name,) = ax.texts
    assert (name.get_text(), name.xy) == ("full", (0, 1)), "over the line at 0"


def test_methods_that_are_not_inferior_are_filled_and_other_lines_named_at_their_tops():
    found = {"kept": Difference(-0.01, -0.02, 0.0, p=0.4), "left": Difference(-0.01, -0.04, 0.02, p=0.4)}
    lines = {"linear probe": -2.5}
    ax = plots_hybrid.differences(found, None, "points", margin=3, kept=["kept"], reference="full", lines=lines)
    drawn = {container.get_label(): container.lines[0] for container in ax.containers}
    assert [drawn[name].get_ydata()[0] for name in ("not inferior", "not shown to be")] == [0, 1]
    assert drawn["not shown to be"].get_markerfacecolor() == "white" != drawn["not inferior"].get_markerfacecolor()
    assert [(t.get_text(), t.xy) for t in ax.texts[-2:]] == [("full", (0, 1)), ("linear probe", (-2.5, 1))]
    assert ax.texts[-1].get_color() == ax.lines[-1].get_color() and list(ax.lines[-1].get_xdata()) == [-2.5, -2.5]
