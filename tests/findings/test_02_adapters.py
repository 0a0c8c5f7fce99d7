r"""What 02 says of its evidence."""

from __future__ import annotations

import math
import re

import nbformat
import pytest
from finding import ROOT, printed, said, tenths

from coursekit.comparison.candidates import CANDIDATES
from coursekit.experiments import results

PAGE = "02_adapters"
#: What the files hold besides adapters.
OTHERS = ("full", "head", "constant", "probe", "probe-cls")


@pytest.fixture(scope="module")
def film() -> results.Results:
    r"""As the notebook reads it: the adapters, and the linear probe, on the same sentences."""
    return results.read("adapters", "probe")


def test_the_best_adapter_beside_full_fine_tuning_and_the_fair_baseline(film):
    adapters = [arm for arm in film.arms if arm not in OTHERS and film.steps(arm) == 300]
    assert max(adapters, key=film.validation) == "pfeiffer"
    found = film.difference("pfeiffer", "full")
    assert found.verdict == "no clear difference"
    said(PAGE, f"Against full fine-tuning there is {tenths(found)}")
    said(PAGE, f"of a linear probe; against full fine-tuning there is {tenths(found)}")
    assert f"{film.parameters('pfeiffer') / film.parameters('full'):.1%}" == "0.3%"
    said(PAGE, "trains 0.3 % of the parameters")
    found = film.difference("pfeiffer", "probe")
    said(PAGE, f"Beside the fair baseline, the probe, it is {tenths(found)}")
    said(PAGE, f"{100 * found.value:.1f} points ahead of a linear probe")
    said(PAGE, f"trained to its end, {film.parameters('probe')} numbers")


def test_width(film):
    said(PAGE, f"r=16$ is {film.difference('pfeiffer', 'pfeiffer r=1')} than $r=1$")


def test_the_residual(film):
    found = film.difference("houlsby r=16 without", "narrow")
    said(PAGE, f"Without it Houlsby's adapter with $r=16$, from the same start, is {tenths(found)}")
    said(PAGE, f"from the same start, Houlsby's loses {-100 * found.value:.1f} points")
    assert film.accuracy("houlsby r=16 without").high < film.accuracy("probe").value
    said(PAGE, "below the probe in the picture")


def test_the_place(film):
    lin, parallel, houlsby = (film.difference(arm, "pfeiffer") for arm in ("lin", "parallel", "houlsby r=8"))
    assert str(lin) == str(parallel)
    said(PAGE, "Lin's and the parallel one are each " + str(lin).replace("equal", "equal to Pfeiffer's", 1))
    said(PAGE, f"for Houlsby's two narrow ones there is {tenths(houlsby)}")
    wide = film.difference("narrow", "pfeiffer")
    assert wide.verdict == "equal for practical purposes"
    assert round(film.parameters("narrow") / film.parameters("pfeiffer")) == 2
    value, low, high = (f"{-100 * x:.1f}" for x in (wide.value, wide.high, wide.low))
    said(PAGE, "With $r=16$, twice the parameters, Houlsby's is "
               f"{value} points lower ({low} to {high}), within the margin")  # fmt: skip
    sizes = [film.parameters(arm) for arm in ("pfeiffer", "lin", "parallel", "houlsby r=8")]
    assert max(sizes) < 1.07 * min(sizes)
    assert CANDIDATES["parallel"].method.scaling == 4
    said(PAGE, "at about equal parameters")


def test_adapter_drop(film):
    found = film.difference("drop 4", "pfeiffer")
    said(PAGE, f"With four of six dropped accuracy is {found}")
    said(PAGE, f"dropping four of six blocks costs {-100 * found.value:.1f} points")


def test_on_smollm2_beside_the_fitted_threshold():
    decoder = results.read("decoder")
    found = decoder.difference("pfeiffer", "untrained, fitted threshold")
    so = tenths(found).replace("better", "better than the untrained model with a fitted threshold", 1)
    said(PAGE, f"After 100 steps (500 test sentences) it is {so}")
    said(PAGE, f"on SmolLM2 it is {100 * found.value:.1f} points ahead of a fitted threshold")
    assert decoder.steps("pfeiffer") == 100
    assert printed(PAGE, r"fitted threshold, in points: (.*)") == (found.in_points(),)


def test_every_verdict_of_the_text_is_one_of_the_table(film):
    r"""The table adjusts for its comparisons; the text gives the same verdicts."""
    shown = dict(re.findall(r"\| (.+? − .+?) \| .+? \| (.+?) \|", outputs("text/markdown")))
    assert len(shown) == 9
    assert [name for name, verdict in shown.items() if verdict in ("better", "worse")] == [
        "Pfeiffer, r = 16 − linear probe", "Pfeiffer, r = 16 − Pfeiffer, r = 1",
        "Houlsby, r = 16, no residual − Houlsby, r = 16", "4 blocks dropped − Pfeiffer, r = 16",
    ]  # fmt: skip


def test_the_setting():
    card = (ROOT / "data" / "evidence" / "adapters.md").read_text(encoding="utf-8")
    assert "300 steps are 0.64 of the 7,530 training sentences" in card
    said(PAGE, "300 steps of 16 sentences (0.64 of an epoch;")


# The notebook's own run ------------------------------------------------------------------------------------


def outputs(kind: str) -> str:
    r"""All outputs of one kind, or the alt texts of the pictures."""
    notebook = nbformat.read(ROOT / "notebooks" / f"{PAGE}.ipynb", as_version=4)
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    if kind == "alt":
        return "\n".join(o.metadata.get("image/png", {}).get("alt", "") for o in shown if "metadata" in o)
    return "\n".join(o.get("data", {}).get(kind, "") for o in shown)


def test_the_first_run_is_told_as_it_is():
    found = re.search(
        r"SmolLM2 (\S+), SmolLM2, fitted threshold (\S+), adapters, 20 steps (\S+);", outputs("alt")
    )
    bare, moved, tuned = found.groups()
    said(PAGE, f"accuracy rises from {bare} to {tuned}")
    said(PAGE, f"it gets {moved} right")
    assert 0.4 < (float(moved) - float(bare)) / (float(tuned) - float(bare)) < 0.5
    said(PAGE, "Nearly half of the gain in this run needs no adapter")
    shares = printed(PAGE, r"says \*positive\* of (0\.\d+) of .* trained, people of (0\.\d+)\.")
    said(PAGE, "The untrained model says positive of {} of the sentences, people of {}".format(*shares))
    first, last = printed(PAGE, r"loss ([\d.]+), after 10 steps ([\d.]+); hooks removed, the answers of before: True")
    said(PAGE, f"In this run the loss of a batch falls from {first} to {last} nats in ten steps")
    said(PAGE, f"a blind choice between the two words costs {math.log(2):.2f}")
    one, thirty = printed(PAGE, r"one: ([\d,]+); thirty: ([\d,]+)")
    said(PAGE, f"has {one} parameters. The thirty of section 1 have {thirty}, 0.4 % of the model's")


def test_untrained_adapters_are_told_as_they_are():
    none, small, large, alone = printed(
        PAGE,
        r"'none': ([\d.]+), 'small start': ([\d.]+), 'large start': ([\d.]+), 'A\(h\) alone': ([\d.]+)",
    )
    assert abs(float(none) - float(small)) < 0.11
    said(PAGE, f"A small start leaves the loss at {small} nats, where the model without adapters has {none}")
    said(PAGE, f"PyTorch's start raises it to {large}")
    guess = math.log(49_152)  # SmolLM2's vocabulary
    assert float(alone) > 2 * guess
    said(PAGE, f"Without the residual it is {alone}, far above the {guess:.1f} of a blind guess")


def test_the_costs_are_told_as_they_are():
    number = r" +([\d,.]+)"
    full, houlsby, pfeiffer = (
        printed(PAGE, "\n" + name + number * 5)
        for name in ("full fine-tuning", "Houlsby, r = 64", "Pfeiffer, r = 64")
    )
    activations = [
        printed("03_ia3", rf"\n{name} +\S+ +\d+ +(\d+)")[0]
        for name in ("adapter, r = 16", "full fine-tuning")
    ]
    said(PAGE, "notebook 03 measures {} of {} MB".format(*activations))
    share = float(pfeiffer[0].replace(",", "")) / float(full[0].replace(",", ""))
    said(PAGE, f"trains {100 * share:.1f} % of the parameters")
    said(PAGE, f"{float(pfeiffer[1]):.1f} MB for gradient and Adam instead of {float(full[1]):.0f}")
    said(PAGE, f"a file of {float(pfeiffer[2]):.1f} MB for each task instead of {float(full[2]):.0f}")
    said(PAGE, f"it is {float(houlsby[2]):.1f} MB, and the receiver has the {float(full[2]):.0f} MB of MiniLM")
    narrow, dropped = (
        float(printed(PAGE, rf"\n{name}  .* (\d\.\d\d)\n")[0])
        for name in ("Pfeiffer, r = 16", "Pfeiffer, r = 16, 4 of 6 blocks dropped")
    )
    assert dropped < 0.5 < narrow
    said(PAGE, "more than half of full fine-tuning's time with all of Pfeiffer's adapters, and less than half with")


def test_two_domains_are_told_as_they_are():
    film, tweet = (
        printed(PAGE, rf"{name} adapter +(0\.\d+) \S+ \S+ +(0\.\d+)") for name in ("film", "tweet")
    )
    said(
        PAGE,
        f"film adapter reaches {float(film[0]):.2f} on film sentences and the tweet adapter {float(tweet[0]):.2f}",
    )
    half, label = printed(PAGE, r"one label always +(0\.\d+) +(0\.\d+)")
    said(PAGE, f"On tweets they reach {float(film[1]):.2f} and {float(tweet[1]):.2f}")
    said(PAGE, f"Tweets have one label in {label} of the cases, film sentences in {half}")
    assert float(film[1]) < float(label) < float(tweet[1])
    said(PAGE, "the film adapter is worse than one label always")


def test_the_noise_of_the_times_is_told():
    names = (
        "Houlsby, r = 64", "Pfeiffer, r = 64", "Pfeiffer, r = 16", "Pfeiffer, r = 16, 4 of 6 blocks dropped",
        "full, again",
    )  # fmt: skip
    forward = [printed(PAGE, rf"\n{name}  .* (\d\.\d\d) +\d\.\d\d\n")[0] for name in names]
    houlsby, pfeiffer, six, two, noise = (round(100 * (float(x) - 1)) for x in forward)
    assert houlsby > pfeiffer > six >= two > noise
    said(PAGE, f"in this run {houlsby} % longer with Houlsby's and {pfeiffer} % with Pfeiffer's, $r=64$")
    said(PAGE, f"With $r=16$ six adapters take {six} % and two {two} %")
    said(PAGE, f"full fine-tuning, timed again, came to {noise} %")
    less = 100 * (1 - float(printed(PAGE, r"\nfull, again  .* \d\.\d\d +(\d\.\d\d)\n")[0]))
    said(PAGE, f"Its forward and backward pass came to {less:.0f} % less, so read that column to a tenth")
