r"""Pictures of adapters: how far ways of shipping lie, a mixed batch, and the rows of a file for llama.cpp."""

import pytest
from matplotlib.colors import same_color

from coursekit.plots import ship
from coursekit.plots.alt import describe


def test_ways_of_shipping_lie_in_or_beyond_the_accepted_floors():
    ways = {"rounded": (1.0, 0.4), "merged": (1.4, 0.7), "beside NF4": (190.0, 330.0)}
    kept = dict(zip(ways, ("24 of 24", "24 of 24", "12 of 24"), strict=True))
    ax = ship.floors(ways, 3, kept)
    dots = [line for line in ax.lines if line.get_marker() == "o"]
    assert [line.get_xdata()[0] for line in dots] == [far for pair in ways.values() for far in pair]
    assert [round(line.get_ydata()[0]) for line in dots] == [0, 0, 1, 1, 2, 2]
    assert len({line.get_color() for line in dots}) == 2, "a mean has one colour"
    (green,) = (patch for patch in ax.patches if patch.get_width() > 1)
    assert green.get_x() + green.get_width() == pytest.approx(3) and ax.get_xlim()[0] >= green.get_x() > 0
    assert [t.get_text() for t in ax.get_yticklabels()] == [*ways]
    words = {t.get_text().strip(): t for t in ax.texts}
    assert {"floor", "accepted: up to 3", "same grade", "12 of 24"} <= set(words)
    for name, line in zip(("all tokens", "last tokens"), dots[-2:], strict=True):
        assert words[name].get_color() == line.get_color() and words[name].xy[0] == line.get_xdata()[0]
    assert "merged 1.4 and 0.7, 24 of 24" in describe(ax.figure)


def test_a_mixed_batch_sends_each_row_through_its_own_adapter():
    ranks, scales = {"film": 8, "sums": 16}, {"film": 2.0, "sums": 8 / 8**0.5}
    ax = ship.mixed_batch(["film", "sums", None, "film"], d_in=576, d_out=192, ranks=ranks, scales=scales)
    words = [t.get_text() for t in ax.texts]
    assert {"x: (4, seq, 576)", "h: (4, seq, 192)", "all 4 rows", "rows 1, 4", "rows 2", "(2, seq, 8)"} <= set(words)
    assert {"A: 8 × 576", "B: 192 × 8", "A: 16 × 576", "B: 192 × 16"} <= set(words) and words.count("base") == 2
    drawn = [p.get_facecolor() for p in ax.patches]
    rows, layers = drawn[:8], drawn[9:]
    assert rows[:4] == rows[4:] and rows[0] == rows[3] and len(set(rows)) == 3
    assert layers == [rows[0], rows[0], rows[1], rows[1]], "A and B have the colour of their rows"
    assert {"× 2", "× 2.83"} <= set(words), "each branch has its own scale"
    heights = {name: {p.get_y() + 0.15 for p, word in zip(ax.patches[:4], words[:4], strict=True) if word == name}
               for name in ("film", "sums")}  # fmt: skip
    for name, colour in (("film", rows[0]), ("sums", rows[1])):  # a line from each row of the colour, and from no other
        for end, x in ((0, 0.9), (-1, 8.45)):  # and back to it
            own = [line for line in ax.lines if same_color(line.get_color(), colour) and line.get_xdata()[end] == x]
            assert {line.get_ydata()[0] for line in own} == heights[name]
    assert words.count("⊕") == 3, "a sum at each row that has an adapter"
    for start, end in ((0.95, 1.0), (8.55, 8.45)):  # a bracket beside all rows, before and behind the layer
        (bracket,) = (line for line in ax.lines if list(line.get_xdata()) == [start, end, end, start])
        assert bracket.get_ydata()[0] - bracket.get_ydata()[-1] > 1.3
    assert describe(ax.figure).startswith("4 rows, film, sums, base, film, go together through W;")


def test_the_order_of_rows_pairs_the_same_rows_on_both_sides():
    order = [0, 4, 1, 5, 2, 6, 3, 7]
    ax = ship.row_order(order)
    rows = [t for t in ax.texts if t.get_text().startswith("row")]
    places = [[t.get_text() for t in rows if t.get_position()[0] == x] for x in (0.5, 3.5)]
    assert places == [[f"row {i}" for i in range(8)], [f"row {i}" for i in order]]
    arcs = [t for t in ax.texts if getattr(t, "arrow_patch", None)]
    ends = (
        {(t.xy[1], t.get_position()[1]) for t in arcs if t.xy[0] == 0},
        {(t.xy[1], t.get_position()[1]) for t in arcs if t.xy[0] == 4},
    )
    assert ends[0] == {(-i, -i - 4) for i in range(4)} and ends[1] == {(-2 * i, -2 * i - 1) for i in range(4)}
    assert "0 with 4, 1 with 5" in describe(ax.figure)
