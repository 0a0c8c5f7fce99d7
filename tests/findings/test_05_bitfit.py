r"""What 05 says of the stored runs, and of its own."""

from __future__ import annotations

import pytest
from finding import printed, said

from coursekit import counts
from coursekit.experiments import results
from coursekit.experiments.results import Results
from coursekit.models import load_encoder

PAGE = "05_bitfit"
EQUAL = "equal for practical purposes (within 3 points)"


@pytest.fixture(scope="module")
def runs() -> Results:
    return results.read("selective", "pooling", "methods")


def points(difference) -> int:
    return round(100 * difference.value)


def test_bitfit_is_ahead_of_the_fair_head_and_behind_full_fine_tuning(runs):
    fair, full = (runs.difference("bitfit", other) for other in ("head-mean", "full"))
    assert (fair.verdict, full.verdict) == ("better", "worse")
    read = runs.difference("bitfit", "head")
    said(PAGE, f"It is {fair} than a head on the mean")
    said(PAGE, f"and {str(read).removeprefix('better ').replace(' points', '')} than a head that reads [CLS]")
    longer = runs.difference("bitfit, 600 steps", "full, 600 steps")
    assert read.verdict == "better" and longer.verdict == "worse"
    said(PAGE, f"It is {full} than full fine-tuning, and with 600 steps for both {str(longer).removeprefix('worse ')}")
    said(PAGE, f"Over three seeds BitFit is {fair} than a head on the mean and {full} than full fine-tuning")


def test_depth(runs):
    assert str(runs.difference("top 1", "bitfit")) == EQUAL
    times = runs.parameters("top 1") / runs.parameters("bitfit")
    said(
        PAGE,
        f"The last block alone is equal to BitFit for practical purposes, with {times:.0f} times as many",
    )
    found = [runs.accuracy(f"top {n}").value for n in (1, 2, 4, 6)]
    said(PAGE, "The last one, two, four and all six blocks get {:.3f}, {:.3f}, {:.3f} and {:.3f}".format(*found))
    assert found == sorted(found)


def test_the_number_of_parameters_does_not_order_methods(runs):
    mask = "random mask"
    said(PAGE, f"A random mask of {runs.parameters(mask):,} is {-runs.difference('bitfit', mask)} than BitFit")
    assert str(runs.difference(mask, "top 2")) == str(runs.difference(mask, "far")) == EQUAL
    top, far = (runs.parameters(arm) / runs.parameters(mask) for arm in ("top 2", "far"))
    value, interval = runs.difference(mask, "top 2").in_points().split(" (")
    said(PAGE, f"and ahead of the last two blocks, which train {top:.0f} times as many, by less than 3 points "
               f"({value}, {interval}")  # fmt: skip
    assert f"{runs.accuracy('far').value:.3f}" == f"{runs.accuracy(mask).value:.3f}"
    said(PAGE, f"trains {far:.0f} times as many and gets {runs.accuracy('far').value:.3f} as well")
    assert str(runs.difference("norms", "bitfit")) == EQUAL
    assert runs.parameters("norms") < min(runs.parameters(arm) for arm in ("bitfit", "bitfit-query", mask))
    said(PAGE, "Norms alone (Zhao et al. 2024), the fewest, are equal to BitFit for practical purposes")
    assert runs.difference(mask, "bitfit").verdict == "better"


def test_fewer_biases(runs):
    found = runs.difference("bitfit-query", "bitfit")
    assert found.verdict == "better" and round(runs.rate("bitfit-query") / runs.rate("bitfit")) == 10
    said(PAGE, f"ahead of all biases {str(found).removeprefix('better ')}, among six comparisons no clear difference")
    said(PAGE, "Their learning rate is ten times as high")
    compared = ["random mask", "bitfit-query", "norms", "top 1", "head-mean", "head"]
    adjusted = runs.differences(compared, "bitfit")
    assert len(compared) == 6 and adjusted["random mask"].verdict == "better"
    assert adjusted["bitfit-query"].verdict == "no clear difference"


def test_a_row_whose_interval_just_misses_0_is_no_clear_difference_among_ten(runs):
    compared = ["top 6", "top 4", "top 2", "top 1", "far", "random mask"]
    compared += ["bitfit", "bitfit-query", "norms", "head-mean"]
    found = runs.differences(compared, "full")["bitfit-query"]
    assert len(compared) == 10 and found.high < 0 and found.verdict == "no clear difference"
    said(PAGE, "Among ten comparisons an interval that only just misses 0, as that of BitFit, two kinds, is no clear")


def test_what_is_not_known(runs):
    assert not any("mean" in arm and "bitfit" in arm for arm in runs.arms)
    assert not any(arm.startswith(("bitfit", "norms", "top")) for arm in results.read("decoder").arms)
    assert not any(
        arm.startswith("far") and arm != "far" for arm in runs.arms
    )  # no twin with nodes by chance
    said(PAGE, "whether FAR's ranking beats nodes drawn by chance, how these methods compare on a decoder, "
               "and what BitFit gains when it reads the mean itself")  # fmt: skip


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
    loop, fit = printed(PAGE, r"accuracy (0\.\d+) \(.*?, with fit (0\.\d+)")
    said(PAGE, f"In this run the loop above reaches {loop}, fit {fit}")


def test_the_slide_is_told_as_it_is():
    stepped, made = printed(PAGE, r"steps ([\d,]+) parameters of MiniLM, the backward pass computes ([\d,]+)")
    said(PAGE, f"the backward pass computes {made} gradients for {stepped} parameters that move")
    config = load_encoder("minilm", num_labels=2)[0].config
    assert counts.full(config, "classification") == int(made.replace(",", ""))
    said(
        PAGE,
        f"{config.num_hidden_layers * config.hidden_size:,} of BitFit's parameters in MiniLM can do nothing",
    )


def test_movement_and_importance_are_told_as_they_are():
    moved, each, matters = printed(PAGE, r"as a whole: (.+?); each number: (.+?); matters most: (.+)")
    rank = printed(PAGE, r"rank correlation without the keys: (-?\d\.\d)")[0]
    assert abs(float(rank)) < 0.5 and moved == matters and each == "query"
    said(PAGE, f"In this run {moved}, with four times the numbers of any other kind, leads in both")
    said(PAGE, f"without the keys the rank correlation is {rank.replace('-', '−')}")
    said(PAGE, "By the mean change of each number queries moved most")
    assert float(printed(PAGE, r"gradient of the key biases: (\S+)")[0]) < 1e-9
    said(PAGE, "Their gradient is rounding noise, in this run below $10^{-9}$")


def test_far_is_told_as_it_is():
    off = printed(PAGE, r"as on the slide by (\d+)%")[0]
    said(PAGE, f"As on the slide it is off by {off} %")
    chosen, chance = printed(PAGE, r"nodes that moved most (0\.\d+) .*random nodes (0\.\d+)")
    assert abs(float(chosen) - float(chance)) < 0.06  # 200 sentences
    said(PAGE, f"in this run the nodes that moved most get {chosen} right and random ones {chance}")
    said(PAGE, "that its ranking beats random nodes is not shown")
    spread = printed(PAGE, r"the last block's first node moved (\d\.\d)")[0]
    said(PAGE, f"in this run the first of the last block's moved {spread} times as far as the last")


def test_the_costs_are_told_as_they_are():
    number = r" +([\d.,–]+)"
    full, two, lowest, mask, bitfit, far = (
        printed(PAGE, name + number * 6)
        for name in ("all six blocks", "last two blocks", "lowest block", "random mask", "BitFit", "FAR, section 5")
    )
    said(
        PAGE,
        f"The last two blocks do {two[1]} of the work, BitFit {bitfit[1]} and the lowest block alone {lowest[1]}",
    )
    assert all(abs(float(row[2]) - float(row[1])) < 0.1 for row in (two, bitfit, lowest))
    said(PAGE, "In this run each measured time lies within 0.1 of that")
    said(PAGE, f"{full[5]} MB where all blocks train, {bitfit[5]} with BitFit")
    said(PAGE, f"and {two[5]} with the last two blocks")
    said(PAGE, f"FAR keeps {far[5]} MB")
    assert all(row[3] == row[4] for row in (full, two, lowest, mask, bitfit, far))
    assert mask[1] == full[1] == "1.00" and abs(int(mask[5]) - int(full[5])) < 6
    said(PAGE, "for a few entries it computes the gradient of every matrix and keeps every input")
    said(PAGE, f"the last two of six blocks cost {two[1]} of the matrix products, BitFit {bitfit[1]}, the lowest block "
               f"alone {lowest[1]}")  # fmt: skip


def test_the_decoder_is_told_as_it_is():
    row = r" +(0\.\d+) \(.*?\) +(0\.\d+)"
    bare, fitted, trained = (
        printed(PAGE, name + row) for name in ("as released", "fitted threshold", r"biases, \d+ steps")
    )
    said(PAGE, f"In this run the released model gets {bare[0]} right, with a fitted threshold {fitted[0]}")
    said(PAGE, f"with added biases {trained[0]}")
    said(PAGE, f"of all pairs {bare[1]} were in order before and {trained[1]} after")


def test_peft_trains_bitfit_without_the_norms():
    model = load_encoder("minilm", num_labels=2)[0]
    norms = sum(p.numel() for name, p in model.named_parameters() if name.endswith("LayerNorm.bias"))
    peft = printed(PAGE, r"PEFT trains ([\d,]+)")[0]
    all_of_it = printed(PAGE, r"([\d,]+) of [\d,]+ parameters train")[0]
    assert int(all_of_it.replace(",", "")) - int(peft.replace(",", "")) == norms
    said(PAGE, f"{peft} parameters are BitFit's {all_of_it} without {norms:,} of norms")
