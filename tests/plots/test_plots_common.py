r"""Pictures show what they are given: bars as long as their numbers, no label outside the figure."""

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.colors import to_rgb

from coursekit import plots
from coursekit.evaluation.scores import Score
from coursekit.memory.breakdown import Point as Moment
from coursekit.plots.alt import describe

TIMELINE = [Moment("forward", 1e6, 0), Moment("loss", 3e6, 0), Moment("backward", 2e6, 4e6)]


def test_memory_bars_add_up():
    bills = {"fp32": {"weights": 40.0, "gradients": 40.0, "optimizer": 80.0}, "lora": {"weights": 20.0}}
    ax = plots.memory_bars(bills, capacity=("RTX 4090", 24.0))
    assert sum(p.get_width() for p in ax.patches) == pytest.approx(180.0)
    ends = {round(p.get_x() + p.get_width(), 6) for p in ax.patches}
    assert 160.0 in ends and 20.0 in ends
    assert {t.get_text() for t in ax.get_legend().get_texts()} == {"weights", "gradients", "optimizer", "RTX 4090"}
    assert [text.get_text() for text in ax.texts] == ["160", "20"]


def test_memory_bars_beside_several_cards():
    ax = plots.memory_bars({"65B": {"weights": 34.0, "adapter, gradients": 6.0}}, capacity={"A": 25.0, "B": 48.0})
    assert [line.get_xdata()[0] for line in ax.lines] == [25, 48] and ax.get_xlim()[1] > 48
    assert len({line.get_linestyle() for line in ax.lines}) == 2
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["weights", "adapter, gradients"]
    assert {text.get_text(): text.get_position()[0] for text in ax.texts[-2:]} == {"A": 25, "B": 48}


def test_numbers_stand_beside_the_bars_and_the_lines_of_the_cards():
    r"""Behind a line the number of a bar that fits would look too long; long labels leave the bars little width."""
    rest = {"adapter, gradients": 3.9, "optimizer": 1.0, "activations": 0.5}
    bars = {f"33B, {total} in all": {"weights": total - 5.4, **rest} for total in (25.2, 22.8, 21.8, 21.2)}
    bars |= {"65B": {"weights": 47.9}, "65B, 8-bit states": {"weights": 43.2}}
    ax = plots.memory_bars(bars, capacity={"RTX 4090": 25.4, "48 GB": 48})
    ax.figure.canvas.draw()
    *numbers, _, _ = ax.texts  # the cards' names are the last
    assert [number.get_text() for number in numbers] == ["25.2", "22.8", "21.8", "21.2", "47.9", "43.2"]
    right = ax.get_window_extent().x1
    assert all(number.get_window_extent().x0 > right for number in numbers)
    assert right > ax.transData.transform((48, 0))[0]


def test_a_bar_that_stands_alone_has_a_number_in_each_part():
    bill = {"weights": 20.0, "gradients": 20.0, "master": 40.0, "optimizer": 80.0, "activations": 0.5}

    def texts(ax):
        return [t.get_text() for t in ax.texts]

    ax = plots.memory_bars({"10 B": bill})
    assert texts(ax) == ["20", "20", "40", "80", "160"], "none for the sliver of activations"
    assert [t.get_position()[0] for t in ax.texts[:4]] == [10, 30, 60, 120]
    assert texts(plots.memory_bars({"one": bill, "other": bill})) == ["160", "160"]


def test_numbers_at_bars_have_the_same_decimals():
    ax = plots.memory_bars({"7B": {"weights": 6.684}, "65B": {"weights": 47.86}})
    assert [number.get_text() for number in ax.texts] == ["6.7", "47.9"]


def test_scores_show_value_and_interval():
    score = Score.of(torch.tensor([True] * 30 + [False] * 70))
    ax = plots.scores({"LoRA": score}, chance=0.2)
    (line,) = [x for x in ax.lines if len(x.get_xdata()) == 1 and x.get_marker() == "o"]
    assert line.get_xdata()[0] == pytest.approx(0.3)
    low, high = ax.collections[0].get_segments()[0][:, 0]
    assert (low, high) == pytest.approx((score.low, score.high))


def test_names_stand_at_the_ends_of_lines_and_not_at_a_reference_across_the_axes():
    ax = plots.axes()
    ax.plot([1, 2], [0.3, 0.5], label="Fisher")
    ax.axhline(0.4, label="constant answer")
    plots.common.name_lines(ax)
    assert [(text.get_text(), text.xy) for text in ax.texts] == [("Fisher", (2, 0.5))]


def test_long_labels_and_flat_intervals_have_room():  # tests/plots/conftest.py looks
    plots.memory_bars({"a long label of a bar": {"weights": 3.0, "master": 2.0, "activations": 9.0}})
    plots.bottleneck(768, 1)
    plots.scores({"zero": Score.of(torch.tensor([True, False]))}, chance=0.2)


def test_a_bottleneck_is_as_high_as_its_numbers():
    ax = plots.bottleneck(384, 64)
    assert [p.get_height() for p in ax.patches if isinstance(p, plt.Rectangle)] == [384, 64, 64, 384]


def test_the_matrices_of_a_bottleneck_have_the_colour_of_what_trains():
    def colour(patch):
        return to_rgb(patch.get_facecolor())

    ax, places = plots.bottleneck(384, 64), plots.adapter_places()[0]
    trained = {colour(box) for box in places.patches} - {to_rgb("#dfe3e6")}  # not the frozen parts
    down, act, up = (p for p in ax.patches if isinstance(p, plt.Polygon))
    assert {colour(down), colour(up)} == trained
    assert all(colour(p) not in trained for p in ax.patches if p not in (down, up))


def test_each_adapter_has_its_place():
    panels = {ax.get_title("left"): ax for ax in plots.adapter_places()}
    place = {
        name: {word: [y for t in ax.texts if t.get_text() == word for y in [t.get_position()[1]]] for word in "A+"}
        for name, ax in panels.items()
    }
    norm = 9.35  # of the last norm of the block
    assert {name: len(words["A"]) for name, words in place.items()} == {
        "Houlsby": 2, "Pfeiffer": 1, "parallel": 1, "Lin": 1
    }  # fmt: skip
    assert {name for name, words in place.items() if max(words["A"]) > norm} == {"Lin"}
    # Two sums of the block, one for each adapter, and one before the norm that Pfeiffer's A reads through.
    assert {name: len(words["+"]) for name, words in place.items()} == {
        "Houlsby": 4, "Pfeiffer": 4, "parallel": 3, "Lin": 3
    }  # fmt: skip
    assert [t.get_text() for t in panels["Pfeiffer"].texts].count("LN") == 3
    said = describe(panels["Pfeiffer"].figure)
    assert "follow the arrows" in said  # an exercise asks what they say
    assert said.endswith("Panel 4: Lin. A reads the block's output after a norm of its own, and is added to it.")
    assert "labels" not in said  # which are the same in all panels


def test_virtual_tokens_stand_where_each_method_has_them():
    panels = {ax.get_title("left"): ax for ax in plots.soft_prompt_places()}

    def trained(name):
        patches = [p for p in panels[name].patches if p.get_facecolor()[:3] == to_rgb(plots.COLOURS[1])]
        return sorted((int(p.get_x()), int(p.get_y())) for p in patches)

    assert trained("prompt tuning") == [(0, 0), (1, 0), (2, 0)]
    written = [t.get_text() for t in panels["P-tuning"].texts]
    assert written == ["network", "text"]
    assert trained("P-tuning") == [(0, -1)]  # the network alone, which makes them
    (network,) = [p for p in panels["P-tuning"].patches if p.get_facecolor()[:3] == to_rgb(plots.COLOURS[1])]
    assert network.get_y() + network.get_height() < 0 and network.get_width() > 2
    assert trained("prefix tuning") == [(x, level) for x in range(3) for level in range(1, 6)]
    assert [t.get_text() for t in panels["prefix tuning"].texts] == ["prefix", "text"]
    assert trained("LLaMA-Adapter") == [(x, level) for x in range(3) for level in range(3, 6)]
    assert [t.get_text() for t in panels["LLaMA-Adapter"].texts] == ["prompt", "gate", "text"]


def test_a_step_over_time_is_drawn_in_megabytes_with_the_last_moment_named():
    ax = plots.step_over_time(TIMELINE, {"forward": "forward", "": "end"})
    activations, gradients, together, highest = ax.lines
    assert list(activations.get_ydata()) == [1, 3, 2] and list(gradients.get_ydata()) == [0, 0, 4]
    assert list(together.get_ydata()) == [1, 3, 6] and highest.get_xydata().tolist() == [[2, 6]]
    assert list(ax.get_xticks()) == [0, 2] and [t.get_text() for t in ax.get_xticklabels()] == ["forward", "end"]


def test_what_is_kept_between_start_and_end_is_a_dot_that_the_sum_does_not_hide():
    ax = plots.step_over_time(TIMELINE, {"forward": "start", "loss": "the loss is known", "": "end"})
    activations, _, together, kept, _ = ax.lines
    assert kept.get_xydata().tolist() == [[1, 3]] and kept.get_color() == activations.get_color()
    assert [t.get_text().strip() for t in ax.texts] == [
        "3 MB kept", "6 MB", "activations", "gradients", "together"
    ]  # fmt: skip
    assert ax.get_legend() is None and ax.texts[2].get_color() == activations.get_color()
    assert together.get_zorder() < activations.get_zorder()


def test_a_gradient_that_waits_is_told_from_the_activations():
    sizes = [0, 2e6, 7e6, 6e6, 11e6, 10e6, 5e6, 0]  # 5 MB come, and come again; 2 and 1 are others
    timeline = [Moment("weights", 0, 0), *(Moment(str(i), size, 0) for i, size in enumerate(sizes))]
    ax = plots.step_over_time(timeline, {"0": "start", "": "end"}, waiting=5_000_000)
    activations, gradients, together, _ = ax.lines
    assert list(gradients.get_ydata()) == [0, 0, 5, 5, 10, 10, 5, 0]
    assert list(activations.get_ydata()) == [0, 2, 2, 1, 1, 0, 0, 0]
    assert list(together.get_ydata()) == [size / 1e6 for size in sizes]
    assert list(activations.get_xdata()) == list(range(1, 9)), "what was there before the start is not drawn"


def test_two_steps_are_two_lines_between_the_same_ticks():
    ours = [Moment(label, 1e6, 0) for label in ("weights", "forward", "a", "b", "loss", "c", "d")]
    more = [Moment("weights", 0, 0), Moment("forward", 0, 0), Moment("loss", 9e6, 0), Moment("x", 4e6, 2e6)]
    ticks = {"forward": "start", "loss": "the loss is known", "": "end"}
    ax = plots.step_over_time(ours, ticks, other=("checkpointed", "not checkpointed", more))
    own, own_highest, thin, highest = ax.lines
    assert own.get_label() == "checkpointed" and own_highest.get_ydata() == [1]
    assert thin.get_color() == "grey" != own.get_color()
    assert thin.get_xydata().tolist() == [[1, 0], [4, 9], [6, 6]] and thin.get_label() == "not checkpointed"
    assert highest.get_xydata().tolist() == [[4, 9]] and "9 MB" in [t.get_text().strip() for t in ax.texts]


def test_the_highest_point_is_added_to_what_is_there_besides():
    ax = plots.step_over_time(TIMELINE, {"forward": "start", "": "end"}, beside=10_000_000)
    assert ax.texts[0].get_text().strip() == "6 + 10 = 16"
    assert ax.lines[-1].get_xydata().tolist() == [[2, 6]], "the axis is as it was"
