r"""Pictures of number formats and codes show the numbers they are given, and nothing lies outside the figure."""

import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection

from coursekit.plots import quantization as draw
from coursekit.plots.alt import describe
from coursekit.quantization import code, quantize_blockwise
from coursekit.quantization.formats import numbers

NF4 = code("nf4").tolist()


def strokes(ax) -> list[list[float]]:
    r"""Where the upright strokes stand, row by row (the level line of each row aside)."""
    drawn = [c for c in ax.collections if isinstance(c, LineCollection)]
    lines = [[segment[:, 0] for segment in c.get_segments()] for c in drawn]
    return [[float(x[0]) for x in row] for row in lines if all(x[0] == x[-1] for x in row)]


def test_a_block_has_its_weights_levels_and_what_comes_back():
    x, back, levels = [0.2, -0.5, 1.9], [0.0, -1.0, 2.0], [-2.0, -1.0, 0.0, 1.0, 2.0]
    ax = draw.one_block(x, back, levels)
    lines, errors = (c.get_segments() for c in ax.collections if isinstance(c, LineCollection))
    assert [float(line[0, 1]) for line in lines] == levels
    assert [line[:, 1].tolist() for line in errors] == [list(pair) for pair in zip(x, back, strict=True)]
    dots = {c.get_label(): c.get_offsets()[:, 1].tolist() for c in ax.collections if "_" not in c.get_label()}
    assert dots == {"weight": x, "comes back as": back}
    (beside,) = ax.child_axes
    assert [t.get_text() for t in beside.get_yticklabels()] == ["−absmax", "0", "absmax"]
    assert "5 levels from -2 to 2" in describe(ax.figure)


def test_a_block_s_codes_and_what_comes_back_are_those_of_blockwise_rounding():
    x, table = [0.10, -0.45, 0.25, 0.80], code("int4").unique()
    said = describe(draw.block_flow(x, levels=len(table)).figure)
    q = quantize_blockwise(torch.tensor(x + [0.0] * 60), "int4", 64)
    back = ", ".join(f"{value:.2f}" for value in q.dequantize()[:4].tolist()).replace("-", "−")
    assert f"x̂, 64 weights again, such as {back}, …" in said
    codes = [int((table - value / 0.8).abs().argmin()) for value in q.dequantize()[:4]]
    assert f"4 bits, such as {', '.join(map(str, codes))}, …. These are stored" in said
    assert said.endswith("to a product (out)."), "nothing of it is cut off"
    draw.block_flow(x, levels=15)


def test_gaps_are_relative():
    ax = draw.relative_gaps({"int": np.arange(9), "fp8": numbers("fp8 e4m3")}, limits=(0.1, 100))
    integers, floats = ax.lines
    assert integers.get_ydata() == pytest.approx([1 / n for n in range(1, 8)])
    normal = floats.get_xdata() >= 2**-6
    assert set(np.round(floats.get_ydata()[normal], 9)) == {round(1 / (8 + m), 9) for m in range(8)}
    assert ax.get_xlim() == (0.1, 100)
    assert {text.get_text(): text.xy[0] for text in ax.texts} == {"int": 1, "fp8": 96}


def test_curves_have_their_points():
    ax = draw.curves({"a": {2: 0.5, 4: 0.1}, "b": {2: 0.6, 4: 0.3}}, "x", "y", xticks=[2, 4], yticks=[0.1, 1])
    assert [list(line.get_ydata()) for line in ax.lines] == [[0.5, 0.1], [0.6, 0.3]]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["2", "4"] and ax.get_yscale() == "log"
    assert [t.get_text() for t in ax.get_yticklabels()] == ["0.1", "1"]
    assert {text.get_text(): text.xy for text in ax.texts} == {"a": (4, 0.1), "b": (4, 0.3)}


def test_cells_meet_in_the_middle_between_levels():
    ax = draw.equal_areas([-1.0, 0.0, 1.0], largest=2.0)
    edges = [(c.get_paths()[0].vertices[:, 0].min(), c.get_paths()[0].vertices[:, 0].max()) for c in ax.collections[:3]]
    assert edges == [pytest.approx(pair) for pair in ((-3.4, -1), (-1, 1), (1, 3.4))]
    assert strokes(ax)[-1] == [-2, 0, 2]


def test_shares_of_a_code_and_the_line_of_equal_ones():
    ax, other = draw.code_use({"a": [0.5, 0.25, 0.25], "b": [0.5, 0.5]})
    assert [p.get_height() for p in ax.patches] == [0.5, 0.25, 0.25]
    assert ax.lines[0].get_ydata()[0] == pytest.approx(1 / 3) and other.lines[0].get_ydata()[0] == 0.5


def test_many_curves_and_long_labels_have_room():  # tests/plots/conftest.py looks
    draw.relative_gaps({n: numbers(n) for n in ("fp8 e4m3", "fp16", "bf16")})
    draw.curves({"a long label of a line": {1: 2, 3: 4}}, "x", "y", logx=True, xticks=[1, 3])
    draw.equal_areas(NF4, 1.85)
    draw.code_use({"nf4": [1 / 16] * 16, "fp4": [0.1] * 10})


def test_stairs_stand_beside_the_line_of_slope_1():
    ax = draw.stairs([-1.0, -0.2, 0.3, 1.2], [-1.0, 0.0, 0.0, 1.0])
    back, line = ax.lines
    assert list(back.get_ydata()) == [-1, 0, 0, 1] and list(back.get_xdata()) == [-1, -0.2, 0.3, 1.2]
    assert list(line.get_xdata()) == list(line.get_ydata()) == [-1, 1.2]
