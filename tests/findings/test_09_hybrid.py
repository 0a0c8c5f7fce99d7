r"""What 09 says of the stored runs, and of its own."""

from __future__ import annotations

import re
from dataclasses import replace
from statistics import NormalDist

import pytest
import torch
from finding import ROOT, printed, read, said
from transformers import BertConfig, BertForSequenceClassification

from coursekit.checks import exercises
from coursekit.checks.hybrid_parts import _POOR, _error
from coursekit.comparison import candidates, costs
from coursekit.errors import CourseError
from coursekit.experiments import results
from coursekit.experiments.intervals import Difference
from coursekit.experiments.results import Results
from coursekit.experiments.verdict import decide, holm
from coursekit.methods import (
    BitFit,
    Compacter,
    Hybrid,
    LoRA,
    MAMAdapter,
    ParallelAdapter,
    PrefixTuning,
    SHiRA,
    UniPELT,
)
from coursekit.methods.adapters.kronecker import KroneckerLinear
from coursekit.training.optimizers import schedule

PAGE = "09_hybrid"
EQUAL = "equal for practical purposes (within 3 points)"
OWN = [("mam", "parallel r=192"), ("mam", "prefix n=30")]
ASKED = [
    ("lora-bitfit", "lora"), ("lora-bitfit", "bitfit"), *OWN, ("unipelt", "lora"), ("unipelt", "pfeiffer"),
    ("unipelt", "prefix"), ("compacter", "houlsby"),
]  # fmt: skip
PROBED = [("lora-bitfit", "probe"), ("mam", "probe"), ("unipelt", "probe"), ("compacter", "probe")]


def ends(found: Difference) -> str:
    r"""The interval alone, in points, as a table has it."""
    return found.in_points().partition(" ")[2]


@pytest.fixture(scope="module")
def stored() -> Results:
    return results.read("methods", "hybrid", "probe")


def test_no_hybrid_is_better_than_the_better_of_its_parts(stored):
    parts = {
        "lora-bitfit": ("lora", "bitfit"), "mam": ("parallel r=192", "prefix n=30"),
        "unipelt": ("pfeiffer", "lora", "prefix"),
    }  # fmt: skip
    for hybrid, own in parts.items():
        best = max(own, key=lambda part: stored.accuracy(part).value)
        assert stored.difference(hybrid, best).verdict != "better"
        assert (hybrid, best) in ASKED
    for smaller in ("parallel", "prefix"):
        assert stored.difference("mam", smaller).verdict != "better"
    best = max(parts["unipelt"], key=lambda part: stored.accuracy(part).value)
    assert best == "pfeiffer" and candidates.EVERY[best].method.r == 16
    said(PAGE, "No hybrid is shown to be better than the better of its parts")
    said(PAGE, "On film sentences no hybrid is shown to be better than the better of its parts")
    assert (
        str(stored.difference("lora-bitfit", "lora"))
        == str(stored.difference("unipelt", "pfeiffer"))
        == EQUAL
    )
    said(PAGE, "LoRA with BitFit and LoRA alone are equal for practical purposes")
    size = "measured alone with r = 16 in place of 24"
    said(PAGE, f"UniPELT and its best part, Pfeiffer's adapter, {size}, are equal too")
    gain = stored.difference("unipelt", "pfeiffer")
    assert gain.high < 0.01
    said(PAGE, "The 1 to 4 points that UniPELT's abstract names (GLUE, most with 100 to 1,000 examples; "
               f"ours are {300 * 16:,}) lie outside the interval {ends(gain)}")  # fmt: skip


def test_no_rate_is_at_an_end_of_those_tried(stored):
    arms = {arm for pair in (*ASKED, *PROBED) for arm in pair} - {"probe"}
    for arm in arms:
        tried, rate = sorted(stored.by_rate(arm)), stored.rate(arm)
        below, above = tried[tried.index(rate) - 1], tried[tried.index(rate) + 1]
        assert 3 < rate / below + 0.01 < 3.4 and 3 < above / rate + 0.01 < 3.4, arm
    said(PAGE, "learning rates tuned on 300 validation sentences")


def test_mam_shows_no_clear_difference_to_its_own_parts(stored):
    found = stored.paired({str(pair): pair for pair in ASKED})
    adapter, prefix = (found[str(pair)] for pair in OWN)
    assert adapter.verdict == prefix.verdict == "no clear difference"
    assert adapter == replace(results.read("hybrid").difference(*OWN[0]), p=adapter.p, family=len(ASKED))
    whole = stored.parameters("mam") - stored.parameters("head")
    assert whole == sum(stored.parameters(part) - stored.parameters("head") for _, part in OWN)
    said(PAGE, "MAM shows no clear difference from its own parts")


def test_at_which_rate_the_prefixes_of_hybrids_train():
    asked = ("mam", "parallel r=192", "prefix n=30", "prefix")
    rate = {arm: results.read("methods", "hybrid").rate(arm) for arm in asked}
    assert rate["mam"] == rate["parallel r=192"] == pytest.approx(rate["prefix n=30"] / 100)
    said(PAGE, f"alone they do best at {rate['prefix n=30']:g}")
    said(PAGE, f"Inside MAM they train at {rate['mam']:g}, the best rate of its adapter, a hundredth of that")
    said(PAGE, "its prefix trained at a hundredth of the rate that suits it")
    assert results.read("methods").rate("unipelt") == pytest.approx(rate["prefix"] / 10)
    said(PAGE, "UniPELT's prefix has the same trouble at a tenth of its rate")


def test_of_which_arms_some_rates_have_one_seed(stored):
    card = (ROOT / "data/evidence/methods.md").read_text()
    parts = ("lora", "bitfit", "parallel", "prefix", "pfeiffer", "houlsby", "unipelt", "compacter")
    for arm in parts:
        assert stored.once(arm), arm
        (row,) = (line for line in card.splitlines() if line.startswith(f"| {arm} |"))
        assert row.endswith("| preliminary |"), arm
    assert not stored.once("mam")
    said(PAGE, "UniPELT, Compacter and most parts are preliminary: some of their rates have one seed")


def test_even_over_a_weaker_part_no_lead_is_clear(stored):
    found = {pair: stored.difference(*pair) for pair in ASKED}
    better = [pair for pair, d in found.items() if d.verdict == "better"]
    assert better == [("lora-bitfit", "bitfit"), ("unipelt", "prefix")]
    ahead = [f"{100 * found[pair].value:.1f}" for pair in better]
    said(PAGE, f"LoRA with BitFit is ahead of BitFit by {ahead[0]} points, UniPELT ahead of a prefix by {ahead[1]}")
    adjusted = holm({str(pair): d.p for pair, d in found.items()})
    judged = {decide(d.low, d.high, adjusted[str(pair)]) for pair, d in found.items()}
    assert judged == {"equal for practical purposes", "no clear difference"}
    lora_bitfit, unipelt = (found[pair].p for pair in better)
    assert len(ASKED) == 8 and 0.05 / len(ASKED) < lora_bitfit == min(d.p for d in found.values())
    said(PAGE, "Even over a weaker part no hybrid's lead is clear")
    said(PAGE, f"Each interval excludes 0, but with eight questions Holm asks for a p of {0.05 / len(ASKED):.3f}; "
               f"these are {lora_bitfit:.3f} and {unipelt:.3f}")  # fmt: skip
    assert printed(PAGE, r"without adjustment the interval excludes 0: (.+)") == (
        f"LoRA + BitFit − BitFit: p = {lora_bitfit:.3f}, UniPELT − prefix, 20 tokens (own: 10): p = {unipelt:.3f}",
    )


def test_mam_and_compacter_are_not_shown_to_be_better_than_a_linear_probe(stored):
    family = stored.differences([*(hybrid for hybrid, _ in PROBED), "full", "probe-cls"], "probe")
    both, mam, unipelt, compacter = (family[hybrid] for hybrid, _ in PROBED)
    assert both.verdict == unipelt.verdict == "better"
    assert mam.verdict == compacter.verdict == "no clear difference"
    said(PAGE, f"logistic regression on the mean of the frozen model's tokens, trained to convergence, "
               f"{stored.parameters('probe')} numbers")  # fmt: skip
    assert family["probe-cls"].verdict == "worse"
    gains = [f"{100 * found.value:.1f}" for found in (unipelt, both)]
    ahead = f"UniPELT and LoRA with BitFit beat the linear probe, by {gains[0]} and {gains[1]} points"
    said(PAGE, f"{ahead}; neither Compacter nor MAM is shown to")
    for label, found in (("MAM", mam), ("Compacter", compacter), (r"LoRA \+ BitFit", both), ("UniPELT", unipelt)):
        printed_ones = printed(PAGE, rf"\n{label} +\S.*  [\d.]+  +0.+?\)  +(.+?\))  +([a-z ]+)\n")
        assert printed_ones == (found.in_points(), str(found.verdict))
    said(PAGE, "and Compacter are not shown to beat even a linear probe")


def test_which_families_the_hybrids_combine():
    family = {type(c.method): c.family for c in candidates.EVERY.values()}

    def families(hybrid) -> list[str]:
        parts = hybrid.parts_for(BertConfig())
        return sorted(next(family[t] for t in type(part).__mro__ if t in family) for part in parts)

    assert families(Hybrid(LoRA(r=8), BitFit())) == ["reparameterised", "selective"]
    assert families(MAMAdapter()) == ["additive", "additive"]
    assert families(UniPELT()) == ["additive", "additive", "reparameterised"]
    said(PAGE, "MAM combines two additive methods, UniPELT two additive ones with LoRA")


def test_the_prefixes_of_the_stored_runs():
    mam, unipelt, prefix = (candidates.EVERY[arm].method for arm in ("mam", "unipelt", "prefix"))
    assert mam.hidden is unipelt.hidden is prefix.hidden is None
    said(PAGE, "Here its keys and values are trained directly")
    cost, (wide, alone) = costs.read(), (candidates.EVERY[arm].method for arm in ("mam", "parallel"))
    config = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    inside = next(part for part in wide.parts_for(config) if isinstance(part, type(alone)))
    assert (inside.r, alone.r, mam.n, prefix.n) == (192, 16, 30, 20)
    assert cost["mam"].trained > 10 * cost["parallel"].trained
    prompt, adapter, low = unipelt.parts_for(config)
    pfeiffer, lora = (candidates.EVERY[arm].method for arm in ("pfeiffer", "lora"))
    assert (prompt.n, adapter.r, pfeiffer.r) == (10, 24, 16) and low.r == lora.r == 8
    assert {candidates.EVERY[arm].method.r for arm in ("houlsby", "parallel", "pfeiffer")} == {16}
    printed(PAGE, r"UniPELT − prefix, 20 tokens \(own: 10\)")
    for name, size in (("MAM", "30 tokens, r = 192"), ("UniPELT", "10 tokens, r = 24, LoRA r = 8")):
        printed(PAGE, rf"\n *{name} +{size} +\d")
    (drawn,) = (cell.source for cell in read(PAGE).cells if "plots_hybrid.differences(" in cell.source)
    assert '"UniPELT − Pfeiffer, r = 16 (own: 24)"' in drawn


def test_compacter_beside_houlsby_and_what_the_runs_had(stored):
    found = stored.difference("compacter", "houlsby")
    assert found.verdict == "no clear difference"
    rates = {stored.rate(arm) for arm in ("lora", "bitfit")}
    assert rates == {0.003} and (stored.rate("lora-bitfit"), stored.rate("head")) == (0.001, 0.3)
    said(PAGE, "each at the learning rate that was best for it in the stored runs of section 7")


def test_twice_as_many_steps_help_the_parts_and_no_hybrid_had_them(stored):
    more = {arm: 100 * (stored.accuracy(f"{arm}, 600 steps").value - stored.accuracy(arm).value)
            for arm in ("lora", "prefix")}  # fmt: skip
    assert all(stored.steps(f"{arm}, 600 steps") == 600 == 2 * stored.steps(arm) for arm in more)
    lora, prefix = (f"{points:.1f}" for points in more.values())
    said(PAGE, f"twice as many brought LoRA {lora} points of test accuracy and a prefix {prefix}")
    hybrids = {hybrid for hybrid, _ in PROBED}
    assert not any(arm.startswith(f"{hybrid}, ") for arm in stored.arms for hybrid in hybrids)
    said(PAGE, "No hybrid was trained longer, so who is ahead then is open")
    assert {stored.steps(hybrid) for hybrid in hybrids} == {300}


def test_what_the_costs_are():
    cost = costs.read()
    one_time = ("lora", "bitfit", "lora-bitfit", "unipelt", "houlsby", "compacter")
    low, *_, high = sorted(cost[arm].step_ratio for arm in one_time)
    assert high - low < costs.trusted(cost) and f"{costs.trusted(cost):.2f}" == "0.07"
    assert 1 - costs.noise(cost) == pytest.approx(cost["full"].step_ratio)
    full = f"{cost['full'].step_ratio:.2f}"
    printed(PAGE, rf"\nfull fine-tuning +[\d,]+ +\d+ +{full}\n")
    said(PAGE, f"Full fine-tuning, timed against itself, comes out at {full}, so differences below 0.07 are noise")
    said(PAGE, "LoRA, BitFit, both, UniPELT, Houlsby and Compacter take one time, "
               f"{low:.2f} to {high:.2f}")  # fmt: skip
    said(PAGE, "Most of a step is the frozen model's own forward and backward pass")
    said(PAGE, "The parameters add up; the time of a step does not")
    assert 2 * cost["head"].step_ratio > max(cost[arm].step_ratio for arm in ("lora", "bitfit", "unipelt"))
    parts = (PrefixTuning(n=30, hidden=None), ParallelAdapter(r=192))
    numbers = [part.count(costs.MINILM) for part in parts]
    assert sum(numbers) == Hybrid(*parts).count(costs.MINILM) == cost["mam"].trained
    said(PAGE, f"MAM is a Hybrid of parallel adapter and prefix, {numbers[1]:,} + {numbers[0]:,}")
    small, large = cost["compacter"], cost["houlsby"]
    assert 9.5 < large.trained / small.trained < 11
    assert small.peak >= large.peak and small.step_ratio >= large.step_ratio
    said(PAGE, "Compacter trains a tenth of Houlsby's numbers, but saves no memory and no time that shows")


def test_what_is_refused_though_it_only_adds():
    model = BertForSequenceClassification(
        BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, vocab_size=50)
    )
    with pytest.raises(CourseError, match="cannot be combined: both change .*query.weight"):
        Hybrid(LoRA(r=2), SHiRA(r=2)).attach(model)
    said(PAGE, "to be safe refuses any two that change the same tensor or place")


# The notebook's own run and its exercise -------------------------------------------------------------------


def test_the_first_table_is_told_as_it_is():
    lora, pair = (
        printed(PAGE, rf"\n *{name} +[\d.]+ +[\d,]+ +(0\.\d+) \(")[0] for name in ("LoRA", r"LoRA \+ BitFit")
    )
    said(PAGE, f"In this run it has an accuracy of {pair}, LoRA alone {lora}")


def test_the_share_of_the_prefix_is_told_as_it_is():
    low, high = printed(PAGE, r"λ from (0\.\d\d) to (0\.\d\d), mean")
    said(PAGE, f"one gives these ten tokens {low} of its attention, another {high}")
    closed, n, _, even = printed(
        PAGE, r"with keys of 0: mean (0\.\d\d); (\d+) of (\d+) tokens are (0\.\d\d)"
    )
    (weight,) = printed(PAGE, r"mean of exp\(score\): (\d\.\d) for the text's own keys")
    assert n == "10" and float(closed) < float(even) and float(weight) > 1
    said(PAGE, "keys of 0 do not make a prefix silent")
    because = f"An even share would be {even}, but $e^{{score}}$ of the text's own keys is {weight} on average"
    said(PAGE, f"They still get {closed}. {because}")


def test_the_gates_are_told_as_they_are():
    rows = {
        kind: printed(PAGE, rf"\n *{kind} +([+−]\d\.\d\d) +(\d\.\d\d) +(\d\.\d\d)")
        for kind in ("prefix", "query", "value", "adapter")
    }
    _, layers, sentences = rows["query"]
    by = {kind: float(moved.replace("−", "-")) for kind, (moved, *_) in rows.items()}
    assert max(by, key=by.get) == "query" and by["prefix"] < 0
    said(PAGE, f"In this run the gates of the query opened most, by {by['query']:.2f} on average")
    said(PAGE, f"those of the prefix fell, by {-by['prefix']:.2f}")
    assert all(float(between) > float(within) for _, between, within in rows.values())
    said(PAGE, "On average all four kinds differ more between layers than between sentences")
    said(PAGE, f"the query's by {layers} against {sentences}")


def test_the_orders_are_told_as_they_are():
    (folded,) = printed(PAGE, r"section 1's pair, in one layer: at most (\S+) apart")
    assert float(folded) < 1e-4
    rows = {
        pair: float(printed(PAGE, rf"\n *{re.escape(pair)} +(\d+\.\d\d) %")[0])
        for pair in ("LoRA + BitFit", "LoRA + (IA)³", "BitFit + (IA)³")
    }
    free, *bound = rows.values()
    assert free == 0 < min(bound)
    said(PAGE, "LoRA and BitFit do not care, and folded they cost a user nothing")
    said(PAGE, "With (IA)³ the order matters, since it multiplies what was added before it, not after")


def test_the_rank_that_compacter_reaches():
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=384, num_hidden_layers=1, num_attention_heads=12, intermediate_size=1536, vocab_size=50
    )
    model = Compacter().attach(BertForSequenceClassification(config))
    layer = next(module for module in model.modules() if isinstance(module, KroneckerLinear))
    rank, own = int(torch.linalg.matrix_rank(layer.weight)), layer.s.numel() + layer.t.numel()
    assert len(layer.A) == 4 and rank == min(layer.weight.shape) < 4 * 4
    said(PAGE, f"on MiniLM, with $n=4$ and a bottleneck of {rank}, all {rank} from {own} parameters")


def test_what_one_method_and_both_leave_of_an_update():
    dW, most = exercises()["hybrid-parts"].public[0]
    own, poor = exercises()["hybrid-parts"].reference, tuple(_POOR.values())[:2]  # LoRA alone, entries alone
    left = [100 * _error(dW, answer(dW, most)) for answer in (*poor, own)]
    rows = {
        name: printed(PAGE, rf"\n *{name} +[\d,]+ of [\d,]+ +(\d+\.\d) % +(\d+\.\d) % +(\d+\.\d) %")
        for name in ("made", *(f"real, block {i}" for i in (1, 4, 6)))
    }
    made, *real = rows.values()
    assert made == tuple(f"{each:.1f}" for each in left)
    said(PAGE, f"of the made update LoRA alone leaves {made[0]} %, entries alone {made[1]} %, both {made[2]} %")
    said(PAGE, "it leaves " + ", ".join(
        f"{both} in place of {low}" for low, _, both in real
    ).replace(" in", " % in", 1).replace("of ", "of LoRA's ", 1))  # fmt: skip
    assert all(0.9 * float(low) <= float(both) <= float(low) for low, _, both in real)
    (steps,) = re.findall(r"(?m)^encoder_steps = (\d+)", "\n".join(cell.source for cell in read(PAGE).cells))
    (cell,) = (cell.source for cell in read(PAGE).cells if "fit(full," in cell.source)
    assert "steps=max(2, encoder_steps // 4)" in cell
    said(PAGE, f"three updates of a real training, {int(steps) // 4} steps of full fine-tuning")
    said(PAGE, f"of an attention head's queries after {int(steps) // 4} steps in one run, the pair gains little")
    assert min(left[:2]) > 25
    said(PAGE, f"either alone leaves over a quarter, both {made[2]} %")
    said(PAGE, f"Three updates of {int(steps) // 4} AdamW steps, too few for large entries, were not so")


def test_why_no_entry_of_these_updates_is_large():
    rates = 1e-4 * sum(schedule(step, 15, 0.1) for step in range(15))
    (cell,) = (cell.source for cell in read(PAGE).cells if "fit(full," in cell.source)
    assert "lr=1e-4" in cell
    said(PAGE, f"in a step AdamW moves an entry by about the learning rate, and the 15 rates add up to {rates:.5f}")
    for i in (1, 4, 6):  # the largest 832 of 12,288 hold less than they would of normal random numbers
        (left,) = printed(PAGE, rf"\n *real, block {i} +1,664 of 12,288 +\S+ % +(\d+\.\d) %")
        share = 832 / 12_288
        z = NormalDist().inv_cdf(1 - share / 2)
        assert 1 - float(left) / 100 < 2 * z * NormalDist().pdf(z) + share
    said(PAGE, "so none can be large yet")
