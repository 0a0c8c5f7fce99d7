r"""What 05 says of the stored runs, and of its own."""

from __future__ import annotations

import re

import nbformat
import numpy as np
import pytest
import torch
from finding import ROOT, printed, said, tenths

from coursekit import counts
from coursekit.checks import bitfit_train
from coursekit.checks.draw import Draw
from coursekit.experiments import results
from coursekit.experiments.intervals import Difference
from coursekit.experiments.results import Results
from coursekit.models import load_encoder

PAGE = "05_bitfit"
EQUAL = "equal for practical purposes (within 3 points)"


#: The pairs of its table: one family, whose verdicts are adjusted together.
PAIRS = [
    ("bitfit", "probe"), ("bitfit, 600 steps", "probe"), ("bitfit", "full"), ("bitfit, 600 steps", "full, 600 steps"),
    ("top 2", "full"), ("far", "full"), ("far", "random mask"), ("random mask", "bitfit"), ("top 1", "bitfit"),
    ("norms", "bitfit"), ("bitfit-query", "bitfit"),
]  # fmt: skip


@pytest.fixture(scope="module")
def runs() -> Results:
    return results.read("selective", "probe", "methods")


def behind(found: Difference) -> str:
    r"""Size and interval of a negative difference that is not clear: "behind by 3.2 points (1.4 to 5.1)"."""
    value, ends = (-found).in_points()[:-1].split(" (")
    return f"behind by {value} points ({ends})".replace("+", "")


def test_after_300_steps_bitfit_is_no_clear_gain_over_a_probe_and_behind_full_fine_tuning(runs):
    family = runs.paired({pair: pair for pair in PAIRS})
    near, longer, full, both = (family[pair] for pair in PAIRS[:4])
    assert near.verdict == "no clear difference" and runs.steps("bitfit") == 300
    said(PAGE, f"After 300 steps BitFit shows {tenths(near).replace('difference', 'difference from a linear probe')}, "
               f"as in section 1. After 600 it is {tenths(longer)} than the probe")  # fmt: skip
    assert (longer.verdict, full.verdict, both.verdict) == ("better", "worse", "worse")
    said(PAGE, f"BitFit is {tenths(full)} than full fine-tuning, with 600 steps for both, at the rates found at 300, "
               f"{tenths(both).removeprefix('worse ')}")  # fmt: skip
    said(PAGE, f"After 300 steps, over three seeds, there is "
               f"{tenths(near).replace('difference', 'difference between BitFit and a linear probe')}, "
               f"and BitFit is {tenths(full)} than full fine-tuning")  # fmt: skip


def test_what_the_probe_and_the_rates_are(runs):
    assert runs.steps("probe") == 0, "its loss is at its minimum, whatever the steps"
    said(PAGE, "a linear probe: logistic regression on the mean of the frozen model's tokens, trained to its end, "
               f"{runs.parameters('probe')} numbers")  # fmt: skip
    for arm in {arm for pair in PAIRS for arm in pair} - {"probe"}:
        tried = runs.by_rate(arm.removesuffix(", 600 steps"))
        assert min(tried) < runs.rate(arm) < max(tried), arm
    said(PAGE, "tuned on validation sentences, none at an end of its grid")


def test_the_number_of_parameters_does_not_order_methods(runs):
    mask = "random mask"
    found = runs.difference(mask, "bitfit")
    assert found.verdict == "better"
    said(PAGE, f"A random mask of {runs.parameters(mask):,} is {tenths(found)} than BitFit")
    assert str(runs.difference("norms", "bitfit")) == str(runs.difference("top 1", "bitfit")) == EQUAL
    assert runs.parameters("norms") < min(runs.parameters(arm) for arm in ("bitfit", "bitfit-query", mask))
    times = runs.parameters("top 1") / runs.parameters("bitfit")
    said(PAGE, "Norms alone (Zhao et al. 2024), the fewest, are equal to BitFit for practical purposes (within 3 "
               f"points), and so is the last block alone, with {times:.0f} times as many")  # fmt: skip


def test_far_and_the_last_two_blocks(runs):
    share = [100 * runs.parameters(arm) / runs.parameters("full") for arm in ("far", "top 2")]
    family = runs.paired({pair: pair for pair in PAIRS})
    far, two = family["far", "full"], family["top 2", "full"]
    assert far.verdict == two.verdict == "no clear difference"
    said(PAGE, f"Our FAR shows {tenths(far).replace('difference', 'difference from full fine-tuning')}, with "
               f"{share[0]:.0f} % of the parameters")  # fmt: skip
    said(PAGE, f"The last two blocks, with {share[1]:.0f} %, are {behind(two)}, among eleven comparisons no clear "
               "difference")  # fmt: skip
    longer = family["bitfit, 600 steps", "probe"]
    assert longer.verdict == "better" and abs(longer.value) < abs(two.value)
    said(PAGE, f"The verdict goes by the adjusted p, here {two.p:.3f}. BitFit's {100 * longer.value:.1f} after 600 "
               f"steps has {longer.p:.3f}")  # fmt: skip
    spread = [np.ptp([x - y for x, y in zip(runs.seeds(a), runs.seeds(b), strict=True)]) for a, b in
              (("top 2", "full"), ("bitfit, 600 steps", "probe"))]  # fmt: skip
    assert spread[1] < spread[0]
    said(PAGE, "its seeds agree better")
    assert round(runs.parameters("far") / runs.parameters("random mask")) == 13
    equal = runs.difference("far", "random mask")
    known = str(equal).replace("equal", "equal to it", 1)
    said(PAGE, f"a random mask with a thirteenth of FAR's parameters is {known}")


def test_fewer_biases(runs):
    found = runs.difference("bitfit-query", "bitfit")
    said(PAGE, f"ahead of all biases {tenths(found).removeprefix('better ')}, among eleven comparisons no clear "
               "difference")  # fmt: skip


def test_every_verdict_of_the_text_is_one_of_the_table():
    shown = dict(re.findall(r"\| (.+? − .+?) \| .+? \| (.+?) \|", tables()))
    assert len(shown) == len(PAIRS) == 11
    assert {name: verdict for name, verdict in shown.items() if verdict in ("better", "worse")} == {
        "BitFit, 600 steps − linear probe": "better", "BitFit − full fine-tuning": "worse",
        "random mask − BitFit": "better", "BitFit, 600 steps − full, 600 steps": "worse",
    }  # fmt: skip
    unclear = ("BitFit − linear probe", "BitFit, query and up − BitFit", "last two blocks − full fine-tuning")
    assert {shown[name] for name in unclear} == {"no clear difference"}


def tables() -> str:
    notebook = nbformat.read(ROOT / "notebooks" / f"{PAGE}.ipynb", as_version=4)
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "\n".join(output.get("data", {}).get("text/markdown", "") for output in shown)


def test_what_is_not_known(runs):
    assert not any(arm.startswith(("bitfit", "norms", "top")) for arm in results.read("decoder").arms)
    assert not any(
        arm.startswith("far") and arm != "far" for arm in runs.arms
    )  # no twin with nodes by chance
    said(PAGE, "whether FAR's ranking beats nodes drawn by chance, and how these methods compare on a decoder")


# The notebook's own run ------------------------------------------------------------------------------------


def test_the_first_table_is_told_as_it_is():
    head, bitfit = (printed(PAGE, rf"{name} +(0\.\d+) \(")[0] for name in ("head on the mean", "BitFit"))
    constant, train, of = printed(PAGE, r"a constant answer: (0\.\d+)")[0], *printed(
        PAGE, r"([\d,]+) of ([\d,]+) parameters train"
    )  # fmt: skip
    said(PAGE, f"In this run BitFit gets {bitfit} right and the head on the mean {head}; a constant answer would "
               f"get {constant}")  # fmt: skip
    said(PAGE, f"One parameter in {int(of.replace(',', '')) / int(train.replace(',', '')):.0f} trains")
    assert float(constant) < float(bitfit) < float(head)
    (loop,) = printed(PAGE, r"parameters train; accuracy (0\.\d+) \(")
    said(PAGE, f"In this run the loop above reaches {loop}, where section 1 had {bitfit}")


def test_the_slide_is_told_as_it_is():
    stepped, made = printed(PAGE, r"steps ([\d,]+) parameters, the backward pass computes ([\d,]+)")
    said(PAGE, f"the backward pass computes {made} gradients for {stepped} parameters that move")
    config = load_encoder("minilm", num_labels=2)[0].config
    assert counts.full(config, "classification") == int(made.replace(",", ""))
    said(
        PAGE,
        f"{config.num_hidden_layers * config.hidden_size:,} of BitFit's parameters in MiniLM can do nothing",
    )


def test_far_is_told_as_it_is():
    off = printed(PAGE, r"as on the slide is off by (\d+) %")[0]
    said(PAGE, f"As on the slide a layer is off by {off} %")
    spread = printed(PAGE, r"the first moved (\d\.\d) times")[0]
    said(PAGE, f"in this run the first of the last block's moved {spread} times as far as the last")
    n, right = printed(PAGE, r"([\d,]+) parameters train; FAR's accuracy (0\.\d+) \(")
    said(PAGE, f"In this run FAR reaches {right} with {n} parameters")


def test_the_costs_are_told_as_they_are():
    number = r" +([\d.,]+)"
    full, two, lowest, bitfit, mask = (
        printed(PAGE, "\n" + name + number * 5)
        for name in ("six blocks", "last two blocks", "lowest block", "BitFit", "random mask")
    )
    said(
        PAGE,
        f"The last two blocks do {two[1]} of the work, BitFit {bitfit[1]} and the lowest block alone {lowest[1]}",
    )
    assert all(abs(float(row[2]) - float(row[1])) < 0.1 for row in (two, bitfit, lowest))
    said(PAGE, "In this run the times of these three lie within 0.1 of that")
    said(PAGE, f"The random mask takes {mask[2]}: the work of all six blocks")
    far = printed(PAGE, "\nFAR, up only +[\\d,]+ +– +(\\S+)")[0]
    slide = printed(PAGE, "\nFAR as on the slide +[\\d,]+ +– +(\\S+)")[0]
    said(PAGE, f"FAR takes {far}, though its learners, a tenth of a third of each block's matrices, add only "
               f"{0.1 / 3 / 3:.2f} to BitFit's work. As on the slide it takes {slide}")  # fmt: skip
    assert float(mask[2]) > 1 and float(slide) < float(far) - 0.2
    said(PAGE, f"{full[4]} MB where all blocks train, {bitfit[4]} with BitFit")
    said(PAGE, printed(PAGE, "\nFAR, up only.* (\\d+)\n")[0] + " with FAR, whose gradient ends at the lowest up")
    said(PAGE, f"and {two[4]} with the last two blocks")
    assert mask[1] == full[1] == "1.00" and abs(int(mask[4]) - int(full[4])) < 6
    config = load_encoder("minilm", num_labels=2)[0].config
    share = int(mask[0].replace(",", "")) / counts.full(config, "classification")
    said(PAGE, f"A random mask of {100 * share:.1f} % of the parameters saves what is held between the passes")
    said(PAGE, "for a few entries it computes the gradient of every matrix and keeps every input")
    said(PAGE, f"the last two of six blocks cost {two[1]} of the matrix products, BitFit {bitfit[1]}, the lowest block "
               f"alone {lowest[1]}")  # fmt: skip


def test_the_table_of_the_open_exercise():
    r"""On one draw: the model as it is, three vectors of norms, and a head alone, which the exercise does not allow."""
    posed = bitfit_train.TRAIN.pose(Draw(b"table", "bitfit-budget"))
    load, *texts, keep = posed.arguments
    own = bitfit_train._trained(load, *texts, bitfit_train._norms(range(3, 6)), steps=90)
    assert sum(tensor.numel() for tensor in own.values()) == 1_152 < keep
    free = bitfit_train._trained(load, *texts, ["classifier.weight", "classifier.bias"], steps=90, rate=5e-2)
    for tensors, right in (({}, 0.57), (own, 0.77), (free, 0.72)):
        found = bitfit_train._right(bitfit_train._with(tensors), *posed.kept)
        assert abs(found - right) < 0.035
    said(PAGE, "| nothing | 57 % |\n| *full points* | *70 %* |\n| our solution, 1,152 numbers | 77 % |")
    said(PAGE, f"A trained head of {sum(p.numel() for p in free.values())} numbers alone would get about 72 %")
    assert bitfit_train.TRAIN.score(posed, {"classifier.bias": torch.ones(2)}).share == 0
