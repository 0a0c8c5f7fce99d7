r"""Pictures of what trains show the numbers they are given, and nothing lies outside the figure."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import to_hex
from transformers import BertConfig

from coursekit.checks.bitfit import work
from coursekit.methods import BitFit
from coursekit.plots import bitfit as draw
from coursekit.plots.alt import describe


def test_a_mask_has_a_point_for_each_entry_that_trains():
    mask = np.zeros((4, 6), dtype=bool)
    mask[0, 5] = mask[3, 1] = True
    (ax,) = draw.masks({"FISH": mask})
    np.testing.assert_array_equal(ax.collections[0].get_offsets(), [[5, 0], [1, 3]])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("inputs", "outputs") and "2 of 24 entries" in describe(ax.figure)
    assert ax.get_ylim()[0] > ax.get_ylim()[1], "row 0 is at the top, as a matrix is written"


def test_the_biases_of_a_block_are_those_that_bitfit_counts():
    config = BertConfig(hidden_size=12, num_attention_heads=2, intermediate_size=40, num_hidden_layers=1)
    two = BertConfig(**config.to_dict() | {"num_hidden_layers": 2})
    ax = draw.biases(12, 40)
    orange = [p for p in ax.patches if to_hex(p.get_facecolor()) == draw.LEARNER]
    lengths = [int(text.get_text()) for text in ax.texts if text.get_text().isdigit()]
    assert len(orange) == len(lengths) and sum(lengths) == BitFit().count(two) - BitFit().count(config)
    assert f"W_up 40, GELU none, W_down 12, norm 12: {sum(lengths)} in all" in describe(ax.figure)


def test_permutation_follows_each_node_to_its_place():
    learners = [4, 1]
    ax = draw.permutation(6, learners)
    stages = {}
    for text in ax.texts:
        if text.get_text().isdigit():
            stages.setdefault(text.get_position()[0], []).append((text.get_position()[1], int(text.get_text())))
    dense, split, concatenated, back = ([node for _, node in sorted(stage)] for _, stage in sorted(stages.items()))
    assert dense == back == list(range(6))
    assert split == concatenated == [4, 1, 0, 2, 3, 5]
    coloured = [to_hex(patch.get_facecolor()) for patch in ax.patches[:6]]
    assert [colour == draw.LEARNER for colour in coloured] == [False, True, False, False, True, False]
    assert len(ax.lines) == 3 * 6


def test_a_tower_of_products_has_a_filled_cell_for_each():
    plans = {"top": ["nothing", "nothing", "matrices"], "odd": ["biases", "nothing", "matrices"]}
    ax = draw.products(plans, [work(blocks) for blocks in plans.values()])
    filled = [to_hex(patch.get_facecolor()) != "#ffffff" for patch in ax.patches]
    assert filled == [True, False, False] * 2 + [True] * 3 + [True, True, False] * 2 + [True] * 3
    shares = [f"{sum(filled[i : i + 9]) / 9:.2f}" for i in (0, 9)]
    said = [text.get_text() for text in ax.texts]
    assert shares == ["0.56", "0.78"]
    assert said == ["top", shares[0], "odd", shares[1], "block 1", "block 3"]
    plt.close(ax.figure)  # three blocks are too narrow for the words


def test_larger_ones_have_room():  # tests/plots/conftest.py looks
    draw.masks({n: np.eye(40, dtype=bool) for n in ("Fisher", "random", "magnitude")})
    draw.biases(384, 1536)
    draw.permutation(12, [7, 2, 10, 0])
    draw.products({f"{i} of all blocks": ["nothing"] * 6 + ["biases"] * i for i in range(4)}, [0.5] * 4)
