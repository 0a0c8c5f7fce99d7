r"""The picture of pruning shows each matrix where it is, and says where most and fewest weights stay."""

import pytest
import torch

from coursekit import plots
from coursekit.plots.alt import describe


def test_what_stays_is_drawn_in_the_tile_of_its_matrix():
    shapes = [(64, 384), (384, 64)] * 4  # two blocks
    masks = [torch.zeros(shape, dtype=torch.bool) for shape in shapes]
    masks[1][:, :4] = True  # the first units of W_up behind attention, block 1
    masks[6][:] = True  # W_down behind the feed-forward, block 2
    ax, other = plots.kept_where({"size": masks, "SNIP": [~mask for mask in masks]})
    drawn = ax.images[0].get_array()
    assert drawn.shape == (4 * 16, 2 * 24) and (drawn[32:48, 24:] == 100).all()
    assert (drawn[16, :24] == 100).all() and drawn.sum() == pytest.approx(100 * (16 * 24 + 24))
    assert [text.get_text() for text in ax.texts] == ["0 %", "100 %"]
    assert (other.images[0].get_array() + drawn == 100).all()
    assert "By size 0 to 100 % of a matrix stay" in describe(ax.figure)
    assert "By SNIP 0 to 100 % of a matrix stay: fewest in block 2, feed-forward, W_down" in describe(ax.figure)
