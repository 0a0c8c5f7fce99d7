r"""Alt texts: what they say of a figure, that they are in the notebook and on its page; and the written caption."""

from types import SimpleNamespace

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from bs4 import BeautifulSoup

from coursekit import plots
from coursekit.batch.report import page_of
from coursekit.plots import alt as alts
from coursekit.plots.alt import describe
from coursekit.plots.reinforcement import shares
from tests.notebook.test_lessons import alt_texts


@pytest.fixture
def ax():
    figure, one = plt.subplots()
    yield one
    plt.close(figure)


def labelled(ax, title="Loss", x="step", y="loss (nats)"):
    ax.set_title(title, loc="left")
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    return ax.figure


def test_lines_with_names_values_and_units(ax):
    ax.plot(range(50), np.linspace(3, 1, 50) + 0.5 * (np.arange(50) == 25), label="LoRA")
    ax.plot([0, 10, 20], [2.5, 2.25, 1e-4], label="$W_{down}$")
    ax.axhline(0.5, label="chance")
    ax.set_yscale("log")
    assert describe(labelled(ax)) == (
        "Loss. LoRA from 3 to 1 (1 to 3); W_down 2.5, 2.25, 0.0001; chance at 0.5. x: step; y: loss (nats), log scale."
    )


def test_ticks_of_a_log_axis_are_numbers(ax):
    ax.plot([1, 10, 100], [0.5, 0.6, 0.7], label="LoRA")
    ax.set_xscale("log")
    assert describe(labelled(ax)) == "Loss. LoRA 0.5, 0.6, 0.7. x: step, log scale; y: loss (nats)."
    ax.clear()
    ax.set_title(r"$\mathdefault{10^{-2}}$ and $\mathdefault{2\times10^{3}}$", loc="left")
    assert describe(ax.figure) == "10^-2 and 2×10^3."


def test_large_numbers_are_read_out_as_powers_of_ten(ax):
    ax.plot([1, 2, 3], [12345.6, 9e8, 3.4e38])
    assert describe(ax.figure) == "a line 12,346, 900,000,000, 3.4e+38."


def test_bars_with_their_categories(ax):
    ax.barh(["full", "LoRA"], [16.04, 2], label="optimizer")
    assert describe(labelled(ax, "", "GB", "")) == "bars, optimizer: full 16, LoRA 2. x: GB."
    ax.clear()
    ax.bar(range(9), range(9))
    assert describe(labelled(ax, "", "bits", "share")) == "bars: from 0 to 8. x: bits; y: share."


def test_error_bars_count_once(ax):
    ax.errorbar([1, 2], [0.6, 0.8], yerr=[0.1, 0.1], fmt="o", capsize=4, label="accuracy")
    assert describe(ax.figure) == "accuracy 0.6, 0.8."


def test_the_course_s_own_pictures():
    def score(value):
        return SimpleNamespace(value=value, low=value - 0.1, high=value + 0.1)

    for draw, says in [
        (lambda: plots.scores({"LoRA": score(0.7), "full": score(0.8)}, chance=0.5),
         "a line: LoRA 0.7, full 0.8; a line at 0.5; marked: chance. x: accuracy, with its 95 % interval."),
        (lambda: plots.memory_bars({"full": {"weights": 3}, "LoRA": {"weights": 2}}, "GB", ("T4", 16), {"full": 8}),
         "bars, weights: full 3, LoRA 2; T4 at 16; peak: full 8; marked: peak 8. x: GB."),
        (lambda: shares({"LoRA": [0.5] * 20}), "LoRA from 0.5 to 0.5 (0.5 to 0.5). x: step; y: share."),
    ]:  # fmt: skip
        assert describe(draw().figure) == says
        plt.close("all")


def test_points_and_grids(ax):
    ax.scatter([1, 2, 3], [4, 5, 4.5], label="weights")
    assert describe(ax.figure) == "weights, 3 points at x 1 to 3, y 4 to 5."
    ax.clear()
    ax.imshow([[1.0, 2], [3, 4], [5, 6]])
    ax.set_yticks(range(3), ["q", "k", "v"])
    assert describe(ax.figure) == "a grid of 3 rows and 2 columns, values from 1 to 6; rows: q, k, v."


def test_a_diagram_by_its_words(ax):
    ax.add_patch(plt.Rectangle((0, 0), 1, 1))
    ax.text(0, 0, "W\n4 × 8")
    ax.text(1, 0, "+")
    ax.axis("off")
    assert describe(ax.figure) == "diagram with the labels W 4 × 8, +."
    alts.says(ax, "W is added")
    assert describe(ax.figure) == "W is added."


def test_a_text_of_a_whole_figure_stands_in_place_of_its_panels():
    figure, panels = plt.subplots(1, 2)
    panels[0].plot([1, 2], label="a")
    alts.says(panels[1], "tiles")
    assert describe(figure) == "Panel 1: a 1, 2. Panel 2: tiles."
    alts.says(figure, "two panels, told together")
    assert describe(figure) == "two panels, told together"
    alts.says(figure, "word " * 1000)
    assert len(describe(figure)) <= 702 and describe(figure).endswith(" …")
    plt.close(figure)


def test_panels_are_told_apart_and_nothing_is_endless():
    figure, (left, right) = plt.subplots(1, 2)
    left.plot([1, 2], label="a")
    right.plot([3, 4], label="b")
    figure.suptitle("Both")
    assert describe(figure) == "Both. Panel 1: a 1, 2. Panel 2: b 3, 4."
    for i in range(40):
        right.plot([i, 2], label=f"line {i}")
    assert "and 32 more" in describe(figure)
    right.set_title("word " * 1000)
    assert len(describe(figure)) <= 702 and describe(figure).endswith(" …")
    plt.close(figure)
    empty = plt.figure()
    assert describe(empty) == "An empty figure."
    plt.close(empty)


def picture(alt: str | None) -> nbformat.NotebookNode:
    metadata = {} if alt is None else {"image/png": {"alt": alt, "width": 30}}
    data = {"image/png": "iVBORw0KGgo=", "text/plain": "<Figure>"}
    return nbformat.v4.new_output("display_data", data=data, metadata=metadata)


def test_a_page_has_the_alt_text(tmp_path):
    path = tmp_path / "n.ipynb"
    cells = [nbformat.v4.new_code_cell("1", outputs=[picture('loss "1" <b>'), picture("second"), picture(None)])]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    first, second, third = BeautifulSoup(page_of(path), "html.parser").find_all("img")
    assert (first["alt"], second["alt"]) == ('loss "1" <b>', "second")
    assert "No description" in third["alt"], "what nbconvert says where there is none"
    assert first["width"] == "30" and first["src"].startswith("data:image/png"), "the rest is the template's"


def test_a_page_folds_what_the_notebook_folds(tmp_path):
    path = tmp_path / "n.ipynb"
    folded = nbformat.v4.new_code_cell("#@title Imports <b>\nimport os", metadata={"jupyter": {"source_hidden": True}})
    cells = [folded, nbformat.v4.new_code_cell("shown = 1")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    page = BeautifulSoup(page_of(path), "html.parser")
    (details,) = page.find_all("details")
    assert details.summary.text == "Imports <b>" and "import os" in details.text
    assert "shown" in page.text and "shown" not in details.text


@pytest.mark.slow
def test_figures_of_a_plain_papermill_run_have_alt_text_and_a_written_caption(tmp_path, monkeypatch):
    import papermill

    monkeypatch.delenv("MPLBACKEND")  # the kernel takes its own

    source = (
        "from coursekit import plots\nfrom coursekit.plots.reinforcement import shares\n"
        "import matplotlib.pyplot as plt\nplots.style()\n"
        "shares({'LoRA': [0.2, 0.1]})\nplt.subplots()[1].plot([3, 4], label='second_*')\nNone"
    )
    shown = "plots.show(plt.subplots()[1].plot([5, 6])[0].axes, 'It rises.')\nplots.show(plt.subplots()[0], 'Empty.')"
    cells = [nbformat.v4.new_code_cell(source), nbformat.v4.new_code_cell(shown)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "n.ipynb")
    papermill.execute_notebook(
        tmp_path / "n.ipynb", tmp_path / "out.ipynb", kernel_name="python3", language="python", progress_bar=False
    )
    first, last = nbformat.read(tmp_path / "out.ipynb", 4).cells
    assert [o.output_type for o in first.outputs] == ["display_data"] * 2, "nothing visible but the figures"
    assert alt_texts(first.outputs)[0].startswith("LoRA 0.2, 0.1. x: step; y: share")
    assert alt_texts(first.outputs)[1] == "second_* 3, 4."
    assert alt_texts(last.outputs) == ["a line 5, 6.", "An empty figure."], "each figure once"
    told = [o.data.get("text/markdown") for o in last.outputs]
    assert told == [None, "*It rises.*", None, "*Empty.*"], "each caption under its own figure"
