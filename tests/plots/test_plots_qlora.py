r"""Pictures of paging show what the pager did."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.colors import same_color

from coursekit import plots
from coursekit.plots import qlora as plots_qlora
from coursekit.plots.alt import describe
from coursekit.plots.hybrid import FAMILIES
from coursekit.qlora import Pager, Traffic


@pytest.fixture(autouse=True)
def _closed():
    plots.style()
    yield
    plt.close("all")


@pytest.mark.parametrize("room", [1, 2, 3, 4])
def test_residency_counts_the_faults_of_the_pager(room):
    uses = [0, 1, 2, 0, 3, 0, 1, 2, 3]
    pager, there = Pager(budget=room * 64), []
    for _ in range(4):
        pager.add(torch.zeros(16))
    for page in uses:
        pager.fetch(page)
        there.append(list(pager.resident))
    traffic = pager.take_traffic()
    ax = plots_qlora.residency(uses, there, room, "once")
    cells = ax.collections[0].get_array().reshape(4, len(uses))
    assert (cells == 3).sum() == traffic.faults and (cells == 2).sum() == traffic.hits
    assert ((cells > 0).sum(0) <= room).all()
    title = ax.get_title(loc="left") or ax.get_title()
    assert title == f"once, room for {room} of 4 pages: {traffic.faults} of 9 uses are faults"


def test_traffic_is_drawn_up_and_down_for_each_step():
    steps = [Traffic(bytes_in=4_000_000, bytes_out=0), Traffic(bytes_in=2_000_000, bytes_out=3_000_000)]
    ax = plots_qlora.page_traffic({"a": steps, "b": steps[:1]})
    heights = [bar.get_height() for bar in ax.patches]
    assert heights == pytest.approx([4, 2, 0, -3, 4, 0])
    first, second, *_, beside, _ = ax.patches  # steps 1 and 2 of a, step 1 of b
    assert first.get_x() + first.get_width() == pytest.approx(beside.get_x())
    assert second.get_x() - first.get_x() == pytest.approx(1)
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["a", "b"]


def test_two_models_side_by_side_and_their_means():
    losses = {"LoRA": [3.0, 2.0, 1.5, 1.2], "QLoRA": [3.1, 2.1, 1.4, 1.3]}
    nats = {"LoRA": torch.tensor([1.0, 2.0, 0.5]), "QLoRA": torch.tensor([1.1, 1.8, 0.6])}
    left, right = plots_qlora.side_by_side(losses, nats, "nats for the right grade")
    assert right.collections[0].get_offsets().tolist() == torch.stack(list(nats.values()), 1).tolist()
    assert (right.get_xlabel(), right.get_ylabel()) == ("LoRA", "QLoRA")
    assert all(tick == int(tick) for tick in left.get_xticks())
    assert [line.get_linestyle() for line in left.lines] == ["-", "-", "--", "--"], "each step and the means"
    assert all(same_color(line.get_color(), FAMILIES["reparameterised"]) for line in left.lines)
    assert [line.get_linestyle() for line in left.get_legend().get_lines()] == ["-", "--"]
    ax = plots_qlora.means({"before": (9.0, 0.2), "after": (1.4, 0.1)}, guessing=1.61, xlabel="nats")
    assert [bar.get_width() for bar in ax.patches] == [9.0, 1.4]
    assert describe(ax.figure) == "bars: before 9, after 1.4; a line at 1.61. x: nats."
