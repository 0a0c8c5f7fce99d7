r"""The pictures of (IA)³ show where its vectors sit and what they are given."""

import pytest

from coursekit.plots.alt import describe
from coursekit.plots.ia3 import ia3_block, runs_side_by_side


def test_each_vector_stands_behind_what_it_scales():
    ax = ia3_block()
    place = {t.get_text(): t.get_position() for t in ax.texts}
    for vector, matrix in (("× $l_k$", "$W_k$"), ("× $l_v$", "$W_v$"), ("× $l_{ff}$", "γ")):
        assert place[vector][1] == place[matrix][1] and place[vector][0] > place[matrix][0]
    assert place["× $l_{ff}$"][0] < place["$W_2$"][0]
    assert [t.get_text() for t in ax.texts].count("residual") == 2


def test_runs_stand_beside_each_other_with_their_losses_and_factors():
    panels = runs_side_by_side([{"loss": [3, 2, 1], "l": [[1, 1], [2, 1], [3, 0], [3, 0]]}] * 8)
    assert len(panels) == 16 and panels[7].get_title("left") == "run 8"
    assert list(panels[0].lines[0].get_ydata()) == [1.2, 1.2, 1], "cut, or one run would flatten all others"
    assert panels[0].lines[1].get_ydata()[0] == pytest.approx(0.693, abs=1e-3), "guessing between two classes"
    assert panels[0].get_ylim()[1] < 2 and [t.get_text() for t in panels[0].texts] == ["↑ 3"]
    assert [list(line.get_ydata()) for line in panels[8].lines] == [[1, 2, 3, 3], [1, 1, 0, 0]]
    assert panels[0].get_ylabel() == "training loss\n(nats)"
    assert [t.get_text() for t in panels[7].texts] == ["↑ 3", "guessing"], "at the end of its line"


def test_the_alt_text_has_the_losses_and_factors_of_every_run():
    runs = [{"loss": [0.5, 12.345, n], "l": [[1, 1], [1.5, -0.25 * n]]} for n in range(1, 9)]
    said = describe(runs_side_by_side(runs)[0].figure)
    assert said.startswith("Loss (nats, ln 2 dotted) and factors of l_v, first and last step. run 1: loss 0.50 to ")
    for n in range(1, 9):
        assert f"run {n}: loss 0.50 to {n:.2f}, highest 12.3; factors 1.00, then {-0.25 * n:.2f} to 1.50." in said
