r"""Pictures of the training cycle show the numbers they are given, and nothing lies outside the figure."""

import numpy as np
import torch
from matplotlib.colors import same_color
from transformers.masking_utils import find_packed_sequence_indices, packed_sequence_mask_function

from coursekit.plots import training_cycle as draw
from coursekit.plots.alt import describe
from coursekit.plots.common import TRAINED


def test_a_loss_is_drawn_over_tokens_with_a_line_for_each_bar():
    losses = np.linspace(6.5, 3.5, 40)
    ax = draw.loss_and_entropies(losses, {"nothing": 6.2, "pairs": 3.7}, tokens=1024)
    faint, mean, *bars = ax.lines
    np.testing.assert_array_equal(faint.get_xdata(), 1024 * np.arange(1, 41))
    np.testing.assert_allclose(mean.get_ydata()[0], losses[:10].mean())
    assert mean.get_xdata()[0] == 5 * 1024
    assert [line.get_ydata()[0] for line in bars] == [6.2, 3.7]
    assert [t.get_text() for t in ax.texts] == ["nothing: 6.20", "pairs: 3.70"]
    assert ax.get_ylim()[0] < 3.5 and ax.get_ylim()[1] > 6.5


def test_a_rival_is_passed_where_the_drawn_mean_is():
    losses, rivals = np.linspace(6.5, 3.5, 40), {"at once": 6.2, "nothing": 6.1, "pairs": 4.0, "all": 1.0}
    mean = draw.loss_and_entropies(losses, rivals, tokens=1024).lines[1]
    found = draw.first_below(losses, rivals, tokens=1024)
    assert list(found) == ["nothing", "pairs"]
    for name, at in found.items():
        assert at == mean.get_xdata()[mean.get_ydata() < rivals[name]][0]


def test_a_run_shorter_than_the_mean_is_drawn():
    ax = draw.loss_and_entropies([6.0, 5.0], {"nothing": 6.2}, tokens=8)
    assert list(ax.lines[1].get_ydata()) == [5.5]


def test_a_token_has_a_bar_in_the_colour_of_its_part():
    ax = draw.surprise(["is", " it", "\n", "No"], [3.0, 1.0, 0.5, 2.0], [False, False, False, True])
    prompt, answer = ax.containers
    assert [bar.get_height() for bar in prompt] == [3.0, 1.0, 0.5]
    assert [(bar.get_x() + bar.get_width() / 2, bar.get_height()) for bar in answer] == [(3, 2.0)]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["is", " it", "\\n", "No"]


def test_each_pair_is_a_point_beside_the_lines_of_no_change():
    ax = draw.log_ratios({"film": ([1.0, -2.0], [-3.0, -4.0]), "product": ([0.5], [0.0])})
    film, product, same, zero, none = ax.lines
    assert list(film.get_xdata()) == [1, -2] and list(film.get_ydata()) == [-3, -4]
    assert list(product.get_xdata()) == [0.5] and zero.get_xdata()[0] == none.get_ydata()[0] == 0
    assert same.get_slope() == ax.get_aspect() == 1
    assert ax.texts[0].get_text() == "margin 0" and ax.texts[0].xy == (-1.6, -1.6)
    assert "of the rejected" in ax.get_ylabel() and "of the chosen" in ax.get_xlabel()


def test_learned_and_kept_joins_the_strengths_of_a_remedy():
    points = {"replay": [(20.0, 32.0), (21.0, 28.0), (22.0, 40.0)], "EWC": [(19.5, 30.0)]}
    ax = draw.learned_and_kept(points, before=(94.0, 23.0), new="tweets")
    replay, behind, ewc, before = ax.lines
    assert list(replay.get_xdata()) == [20.0, 21.0] and list(replay.get_ydata()) == [32.0, 28.0]
    assert list(behind.get_xdata()) == [22.0] and list(behind.get_ydata()) == [40.0], "it joins no line"
    assert (behind.get_color(), behind.get_linestyle()) == (replay.get_color(), "None")
    assert before.get_ydata()[0] == 23.0 and ax.get_xlim()[1] < 30, "the start does not squeeze the rest together"
    assert "the tweets at 94" in ax.texts[0].get_text()
    assert [line.get_label() for line in (replay, ewc)] == ["replay", "EWC"] and ax.get_legend() is None
    assert "tweets" in ax.get_xlabel()


def test_a_token_of_a_packed_row_sees_what_transformers_lets_it_see():
    figure, lengths = draw.packed_masks([2, 1, 3]), [2, 1, 3]
    for ax, positions in zip(figure.axes, ([0, 1, 2, 3, 4, 5], [0, 1, 0, 0, 1, 2]), strict=True):
        example = find_packed_sequence_indices(torch.tensor([positions]))
        sees = (lambda *at: True) if example is None else packed_sequence_mask_function(example)
        squares = {(round(p.get_y() - 0.05), round(p.get_x() - 0.05)) for p in ax.patches}
        seen = {(i, j) for i in range(6) for j in range(i + 1) if sees(0, 0, i, j)}
        assert squares == seen and [t.get_text() for t in ax.get_xticklabels()] == [str(at) for at in positions]
        assert len(ax.lines) == 2 * (len(lengths) - 1), "each border is a line on both axes"
    assert "begin again: 10 of 36" in describe(figure)


def test_what_tokens_of_a_packed_row_notice_is_drawn_with_the_borders():
    moved = {"count on": [0, 1, 2, 3, 1], "begin again": [0, 1, 0, 0, 0]}
    figure = draw.noticed(moved, [0, 1, 0, 1, 2], changed=1)
    for ax, (label, values) in zip(figure.axes, moved.items(), strict=True):
        (area,), (border, triangle) = ax.collections, ax.lines
        corners = area.get_paths()[0].vertices
        heights = [max(y for x, y in corners if x == place) for place in range(5)]
        assert heights == [max(value, draw.UNMOVED) for value in values] and ax.get_title(loc="left") == label
        assert border.get_xdata()[0] == 2, "the row's begin is no border"
        assert list(triangle.get_xdata()) == [1]
        assert [text.get_text() for text in ax.texts] == ["example 1", "example 2"]
    assert "count on: by up to 3 there, 3 behind it; begin again: by up to 1 there, 0 behind it" in describe(figure)


def test_a_row_of_one_example_is_drawn():
    assert "there, 0 behind it" in describe(draw.noticed({"count on": [0, 1]}, [0, 1], changed=1))


def test_a_stage_s_loss_takes_the_tokens_it_learns():
    ax = draw.stages()
    rows: dict[float, list[list[bool]]] = {}
    for patch in ax.patches[:-3]:  # the last three are the models
        tokens, bars = rows.setdefault(patch.get_y(), [[], []])
        (bars if patch.get_x() > 7 else tokens).append(same_color(patch.get_facecolor(), TRAINED))
    assert [tokens for tokens, _ in rows.values()] == [[True] * 9] + 3 * [[False] * 5 + [True] * 4]
    assert all(bars == tokens[1:] for tokens, bars in rows.values()), "a bar for each token but the first"
    assert [same_color(patch.get_facecolor(), TRAINED) for patch in ax.patches[-3:]] == [True, False, True]
    assert "SmolLM2, frozen, with LoRA, which trains" in describe(ax.figure)
    assert describe(ax.figure).endswith("with π₀ the model after stage 2."), "nothing of it is cut off"
