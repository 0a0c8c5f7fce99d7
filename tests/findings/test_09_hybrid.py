r"""What 09 says of the stored runs, and of its own."""

from __future__ import annotations

import csv
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
from coursekit.experiments.results import Results
from coursekit.experiments.verdict import decide, holm
from coursekit.methods import (
    BitFit,
    Hybrid,
    LoRA,
    MAMAdapter,
    ParallelAdapter,
    PfeifferAdapter,
    PrefixTuning,
    SHiRA,
    UniPELT,
)
from coursekit.training.optimizers import schedule

PAGE = "09_hybrid"
EQUAL = "equal for practical purposes (within 3 points)"
OWN = [("mam-network", "parallel r=192"), ("mam-network", "prefix n=30")]
ASKED = [
    ("lora-bitfit", "lora"), ("lora-bitfit", "bitfit"), *OWN, ("unipelt", "pfeiffer"), ("unipelt", "lora"),
    ("unipelt", "prefix"),
]  # fmt: skip
HYBRIDS = ("lora-bitfit", "mam-network", "unipelt")
#: The pairs of section 6's table.
PROBED = [(arm, "probe-cls") for arm in (*HYBRIDS, "probe")] + [(arm, "probe") for arm in HYBRIDS]


@pytest.fixture(scope="module")
def stored() -> Results:
    return results.read("methods", "hybrid", "probe")


def test_no_hybrid_is_better_than_the_better_of_its_parts(stored):
    parts = {
        "lora-bitfit": ("lora", "bitfit"), "mam-network": ("parallel r=192", "prefix n=30"),
        "unipelt": ("pfeiffer", "lora", "prefix"),
    }  # fmt: skip
    (drawn,) = (cell.source for cell in read(PAGE).cells if "plots_hybrid.differences(" in cell.source)
    for hybrid, own in parts.items():
        best, *rest = sorted(own, key=lambda part: -stored.accuracy(part).value)
        assert stored.difference(hybrid, best).verdict != "better"
        assert [part for one, part in ASKED if one == hybrid] == [best, *rest]
    places = [drawn.index('("{}", "{}")'.format(*pair)) for pair in ASKED]
    assert "best part first" in drawn and places == sorted(places)
    for smaller in ("parallel", "prefix"):
        assert stored.difference("mam-network", smaller).verdict != "better"
    said(PAGE, "No hybrid is shown to be better than the better of its parts")
    said(PAGE, "On film sentences, with all parts at one learning rate, no hybrid is shown to be better than the "
               "better of its parts")  # fmt: skip
    equal = [("lora-bitfit", "lora"), ("unipelt", "lora"), ("unipelt", "pfeiffer")]
    assert {str(stored.difference(*pair)) for pair in equal} == {EQUAL}
    said(PAGE, "LoRA with BitFit is equal to LoRA for practical purposes, UniPELT to LoRA and to Pfeiffer's adapter")
    for hybrid, best in (("mam", "parallel r=192"), ("unipelt-network", "pfeiffer"), ("unipelt-network", "lora")):
        assert stored.difference(hybrid, best).verdict == "no clear difference", "nor is the other variant"


def test_what_the_paper_reports_of_unipelt(stored):
    with (ROOT / "data/papers/unipelt.csv").open(encoding="utf-8", newline="") as file:
        paper = {row["claim"]: row for row in csv.DictReader(file)}
    assert {(row["unit"], row["where"]) for row in paper.values()} == {("%", "abstract, arXiv:2110.07577")}
    said(PAGE, "Mao et al. report otherwise: on GLUE, UniPELT gains {} to {} % over its best part".format(
        *(paper[claim]["value"] for claim in ("least", "most"))
    ))  # fmt: skip
    card = (ROOT / "data/evidence/hybrid.md").read_text()
    assert "**task**: film/two" in card and "**model**: minilm" in card
    said(PAGE, "Ours is one task and a small model")


def test_no_rate_is_at_an_end_of_those_tried(stored):
    arms = {arm for pair in (*ASKED, *PROBED) for arm in pair} - {"probe", "probe-cls"}
    for arm in arms:
        tried, rate = sorted(stored.by_rate(arm)), stored.rate(arm)
        below, above = tried[tried.index(rate) - 1], tried[tried.index(rate) + 1]
        assert 3 < rate / below + 0.01 < 3.4 and 3 < above / rate + 0.01 < 3.4, arm
    said(PAGE, "learning rates tuned on 300 validation sentences")


def test_mam_shows_no_clear_difference_to_either_part(stored):
    found = stored.paired({str(pair): pair for pair in ASKED})
    adapter, prefix = (found[str(pair)] for pair in OWN)
    assert adapter.verdict == prefix.verdict == "no clear difference"
    assert adapter == replace(results.read("hybrid").difference(*OWN[0]), p=adapter.p, family=len(ASKED))
    assert {stored.difference("mam", part).verdict for _, part in OWN} == {"no clear difference"}
    said(PAGE, f"MAM shows no clear difference from its adapter, or from a prefix of {MAMAdapter().n} tokens trained "
               "directly, whichever way its own is made.")  # fmt: skip


def test_at_which_rates_hybrids_and_their_parts_train(stored):
    parts = {
        "lora-bitfit": {"LoRA": "lora", "BitFit": "bitfit"},
        "mam-network": {"prefix": "prefix n=30", "adapter": "parallel r=192"},
        "unipelt": {"prefix": "prefix", "Pfeiffer": "pfeiffer", "LoRA": "lora"},
    }
    rate = {arm: stored.rate(arm) for arm in (*parts, *(part for own in parts.values() for part in own.values()))}
    names = (r"LoRA \+ BitFit, r = 8", "MAM, n = 30, r = 192", "UniPELT, n = 10, r = 24, LoRA r = 8")
    for name, (hybrid, own) in zip(names, parts.items(), strict=True):
        alone = ", ".join(f"{label} {rate[part]:g}" for label, part in own.items())
        assert printed(PAGE, rf"\n{name} +([\d.]+)  +(\S.*?)  ") == (f"{rate[hybrid]:g}", alone)
    printed(PAGE, "rates of its parts, alone")
    assert rate["prefix n=30"] == rate["prefix"] == pytest.approx(10 * rate["unipelt"])


def test_what_mams_network_costs(stored):
    trained, flat = stored.parameters("mam-network") - stored.parameters("head"), candidates.EVERY["mam"].method
    assert trained == MAMAdapter(n=30, hidden=800).count(costs.MINILM)
    more = 3 * 4 * (trained - flat.count(costs.MINILM)) / 1e6  # a weight and AdamW's two moments, in float32
    said(PAGE, f"Section 6's MAM trains {trained / 1e6:.1f} million: its network's weights and AdamW moments alone add "
               f"{more:.0f} MB")  # fmt: skip


def test_at_its_adapters_rate_mam_is_equal_to_it(stored):
    rate, higher = (stored.rate(arm) for arm in ("mam-network", "parallel r=192"))
    behind = stored.by_rate("mam-network")[rate] - stored.by_rate("mam-network")[higher]
    there = stored.at("mam-network", higher)
    assert len(there.seeds("mam-network")) == len(stored.seeds("mam-network")) == 3
    found = there.paired({str(pair): pair for pair in ASKED})
    assert [found[str(pair)].verdict for pair in OWN] == ["equal for practical purposes", "no clear difference"]
    assert MAMAdapter() == MAMAdapter(n=30, hidden=800), "as in the paper"
    runs = [run for run in stored.searched("mam-network") if run.cell.rate in (rate, higher)]
    ((first, last),) = {tuple(step for step, _ in run.curve[-2:]) for run in runs}
    assert all(run.validation == pytest.approx(sum(value for _, value in run.curve[-2:]) / 2) for run in runs)
    said(PAGE, "MAM's prefix is made by a network, as in the paper (MAMAdapter(n=30, hidden=800)), and MAM trains at "
               f"{rate:g}. At {higher:g}, {100 * behind:.1f} points behind on validation (mean of steps {first} and "
               f"{last}), it is equal to its adapter: the rate decides this verdict")  # fmt: skip


def test_which_way_each_prefix_is_made(stored):
    assert stored.validation("unipelt") > stored.validation("unipelt-network")
    flat, network = (f"{stored.validation(arm):.3f}" for arm in ("unipelt", "unipelt-network"))
    (mam,) = {f"{stored.validation(arm):.3f}" for arm in ("mam", "mam-network")}
    said(PAGE, "UniPELT's prefix is trained directly, which does better on validation than a network "
               f"({flat} against {network}; MAM has {mam} either way)")  # fmt: skip


def test_how_far_unipelts_prefix_moves(stored):
    method, steps, rate = candidates.EVERY["unipelt"].method, stored.steps("unipelt"), stored.rate("unipelt")
    assert method.hidden is None
    way = rate * sum(schedule(step, steps, 0.1) for step in range(steps))
    said(PAGE, f"It starts at N(0, 1), and none of its numbers moves by more than about {way:.2f}, the sum of the "
               f"rates in {steps} steps that peak at {rate:g}, a tenth of the best for a prefix alone")  # fmt: skip
    found = stored.difference("unipelt-network", "unipelt")
    assert found.verdict == "no clear difference"
    said(PAGE, "this judges UniPELT as trained here, not the mix. With a network it shows "
               f"no clear difference from this one {found.in_points().partition(' ')[2][:-1]} points)")  # fmt: skip
    model = BertForSequenceClassification(BertConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, vocab_size=50
    ))  # fmt: skip
    torch.manual_seed(0)
    method.attach(model)
    prefix = torch.cat([p.flatten() for name, p in model.named_parameters() if name.endswith("default.flat")])
    assert prefix.mean().item() == pytest.approx(0, abs=0.1) and prefix.std().item() == pytest.approx(1, abs=0.1)


def test_what_is_not_known(stored):
    card = (ROOT / "data/evidence/hybrid.md").read_text().splitlines()
    for arm in ("ungated", "prefix-network n=30"):
        (row,) = (line for line in card if line.startswith(f"| {arm} |"))
        assert "search not finished" in row or "preliminary" in row, arm
    said(PAGE, "Not known: MAM beside its own prefix, made by a network; UniPELT's parts without gates; longer "
               "training")  # fmt: skip


def test_of_which_arms_some_rates_have_one_seed(stored):
    card = (ROOT / "data/evidence/methods.md").read_text()
    parts = ("lora", "bitfit", "prefix", "pfeiffer", "unipelt")
    for arm in parts:
        assert stored.once(arm), arm
        (row,) = (line for line in card.splitlines() if line.startswith(f"| {arm} |"))
        assert row.endswith("| preliminary |"), arm
    card = (ROOT / "data/evidence/hybrid.md").read_text()
    for arm in ("mam-network", *(part for _, part in OWN)):
        (row,) = (line for line in card.splitlines() if line.startswith(f"| {arm} |"))
        assert "preliminary" not in row and "not run yet" not in row, arm
    said(PAGE, "UniPELT and most parts are preliminary: some of their rates have one seed")


def test_even_over_a_weaker_part_no_lead_is_clear(stored):
    found = {pair: stored.difference(*pair) for pair in ASKED}
    better = [pair for pair, d in found.items() if d.verdict == "better"]
    assert better == [("lora-bitfit", "bitfit"), ("unipelt", "prefix")]
    ahead = [f"{100 * found[pair].value:.1f}" for pair in better]
    adjusted = holm({str(pair): d.p for pair, d in found.items()})
    judged = {decide(d.low, d.high, adjusted[str(pair)]) for pair, d in found.items()}
    assert judged == {"equal for practical purposes", "no clear difference"}
    lora_bitfit, unipelt = (found[pair].p for pair in better)
    assert len(ASKED) == 7 and 0.05 / len(ASKED) < lora_bitfit == min(d.p for d in found.values())
    said(PAGE, "Even over a weaker part no hybrid's lead is clear")
    said(PAGE, f"LoRA with BitFit is ahead of BitFit by {ahead[0]} points (p = {lora_bitfit:.3f}), UniPELT of a prefix "
               f"by {ahead[1]} (p = {unipelt:.3f}), but of seven questions the smallest p must be below 0.05/7 = "
               f"{0.05 / len(ASKED):.3f} (Holm)")  # fmt: skip
    part = {arm: f"{stored.accuracy(arm).value:.3f}" for arm in ("bitfit", "prefix")}
    assert printed(PAGE, r"without adjustment the interval excludes 0: (.+)") == (
        f"LoRA + BitFit − BitFit ({part['bitfit']}): p = {lora_bitfit:.3f}, UniPELT − prefix, 20 tokens instead of 10 "
        f"({part['prefix']}): p = {unipelt:.3f}",
    )


def test_what_beats_which_probe(stored):
    family = stored.paired({pair: pair for pair in PROBED})  # type: ignore[misc]  # a pair is its own label
    assert {found.verdict for found in family.values()} == {"better"} and len(HYBRIDS) == 3
    said(PAGE, "All three beat both probes (table above)")
    others = [stored.difference(arm, "probe") for arm in ("mam", "unipelt-network")]
    assert {found.verdict for found in others} == {"no clear difference"}
    assert candidates.EVERY["mam"].method.hidden is None, "lesson 10's"
    shown = [found.in_points().replace(" points", "") for found in others]
    said(PAGE, f"With the prefix made the other way, no lead over the rival is clear: MAM's trained directly, as in "
               f"notebook 10, {shown[0]}; UniPELT's by a network, {shown[1]}.")  # fmt: skip
    assert printed("10_which_method", r"\nMAM\b[^+−\n]* +([+−][\d.]+ \([^)]*\))  ") == (shown[0],)
    assert (len(HYBRIDS) + len(others), len(others)) == (5, 2)
    said(PAGE, "Three of the five variants beat a linear probe on the mean, two not clearly")
    assert stored.parameters("probe") == stored.parameters("probe-cls")
    said(PAGE, "Both are logistic regressions on the frozen model, trained to convergence")
    for label, arm in zip((r"LoRA \+ BitFit", "MAM", "UniPELT"), HYBRIDS, strict=True):
        verdicts = [f"{d.in_points()}, {d.verdict}" for d in (family[arm, "probe-cls"], family[arm, "probe"])]
        one = r"  +([+−][\d.]+ \([^)]*\), [a-z ]+?)"
        assert [*printed(PAGE, rf"\n{label}.*?{one}{one}\n")] == verdicts
    printed(PAGE, f"Holm's adjustment for {len(PROBED)} comparisons")


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
    cost, (wide, alone) = costs.read(), (candidates.EVERY[arm].method for arm in ("mam", "parallel"))
    config = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    inside = next(part for part in wide.parts_for(config) if isinstance(part, type(alone)))
    assert (inside.r, alone.r, mam.n, prefix.n) == (192, 16, 30, 20)
    said(PAGE, f"a short prefix in the attention (here {mam.n} tokens), and beside each feed-forward a wide parallel "
               f"adapter ($r={inside.r}$, $s={mam.scaling:g}$)")  # fmt: skip
    assert cost["mam"].trained > 10 * cost["parallel"].trained
    prompt, adapter, low = unipelt.parts_for(config)
    pfeiffer, lora = (candidates.EVERY[arm].method for arm in ("pfeiffer", "lora"))
    assert (prompt.n, adapter.r, pfeiffer.r) == (10, 24, 16) and low.r == lora.r == 8
    assert {candidates.EVERY[arm].method.r for arm in ("houlsby", "parallel", "pfeiffer")} == {16}
    printed(PAGE, f"UniPELT − prefix, {prefix.n} tokens instead of {prompt.n} ")
    for name in ("MAM, n = 30, r = 192", "UniPELT, n = 10, r = 24, LoRA r = 8"):
        printed(PAGE, rf"\n *{name} +\d")
    (drawn,) = (cell.source for cell in read(PAGE).cells if "plots_hybrid.differences(" in cell.source)
    assert f'"UniPELT − Pfeiffer, r = {pfeiffer.r} instead of {adapter.r}"' in drawn
    assert "A prefix alone moves the text's position" in drawn and prefix.shifted
    assert not MAMAdapter().parts_for(config)[0].shifted and not prompt.shifted
    assert sum(part.startswith("prefix") for _, part in ASKED) == 2
    said(PAGE, "The two prefix rows also differ in the text's position numbers")


def test_what_the_runs_had(stored):
    rates = {stored.rate(arm) for arm in ("lora", "bitfit")}
    assert rates == {0.003} and (stored.rate("lora-bitfit"), stored.rate("head")) == (0.001, 0.3)
    said(PAGE, "each at the learning rate that was best for it in the stored runs of section 6")
    assert not any(arm.startswith(f"{hybrid}, ") for arm in stored.arms for hybrid in HYBRIDS)
    assert {stored.steps(hybrid) for hybrid in HYBRIDS} == {300}
    lora = candidates.EVERY["lora"].method
    said(PAGE, f'LoraConfig(task_type="SEQ_CLS", r={lora.r}, lora_alpha={lora.alpha}, bias="all")')


def test_what_the_costs_are():
    cost = costs.read()
    parted = ("lora", "bitfit", "lora-bitfit", "mam", "unipelt")
    low, *_, high = sorted(cost[arm].step_ratio for arm in parted)
    assert 1 - costs.noise(cost) == pytest.approx(cost["full"].step_ratio)
    full = cost["full"].step_ratio
    printed(PAGE, rf"\nfull fine-tuning +[\d,]+ +\d+ +{full:.2f}\n")
    assert cost["mam"].step_ratio == high
    printed(PAGE, r"\nhead alone .*" + "".join(rf"\n.* {cost[arm].step_ratio:.2f}" for arm in parted))
    assert costs.trusted(cost) == pytest.approx(2 * (1 - full))
    said(PAGE, f"The last five lie between {low:.2f} and {high:.2f} (MAM); full fine-tuning, timed against itself, "
               f"comes out at {full:.3f} (data/evidence/comparison.csv), so differences up to "
               f"{costs.trusted(cost):.2f}, twice that error, may be noise")  # fmt: skip
    head = cost["head"].step_ratio
    assert 2 * head > max(cost[arm].step_ratio for arm in parted if arm != "mam")
    said(PAGE, f"most of a step is the frozen model's own (its forward pass alone, the head's row, takes {head:.2f}; "
               "the backward pass runs through it too)")  # fmt: skip
    said(PAGE, "The parameters add up; the time of a step does not")
    numbers = [cost[arm].trained for arm in ("lora", "bitfit", "lora-bitfit")]
    assert numbers[0] + numbers[1] == numbers[2]
    said(PAGE, "The parameters add up, {:,} + {:,} = {:,}".format(*numbers))
    printed(PAGE, rf"\nMAM, prefix trained directly +{cost['mam'].trained:,} ")
    assert candidates.EVERY["mam"].method.hidden is None
    parts = (PrefixTuning(n=30, hidden=None), ParallelAdapter(r=192))
    assert Hybrid(*parts).count(costs.MINILM) == cost["mam"].trained == sum(p.count(costs.MINILM) for p in parts)


def test_what_is_refused_though_it_only_adds():
    model = BertForSequenceClassification(
        BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, vocab_size=50)
    )
    with pytest.raises(CourseError, match="cannot be combined: both change .*query.weight"):
        Hybrid(LoRA(r=2), SHiRA(r=2)).attach(model)
    with pytest.raises(CourseError, match="cannot be combined: both change what the bottlenecks"):
        Hybrid(PfeifferAdapter(r=2), ParallelAdapter(r=2)).attach(model)
    said(PAGE, "to be safe refuses any two that change the same weight or bias (a factor on an output changes both), "
               "and two kinds of bottleneck")  # fmt: skip


# The notebook's own run and its exercise -------------------------------------------------------------------


def test_the_first_table_is_told_as_it_is(stored):
    lora, pair = (
        printed(PAGE, rf"\n *{name} +[\d.]+ +[\d,]+ +(0\.\d+) \(")[0] for name in ("LoRA", r"LoRA \+ BitFit")
    )
    said(PAGE, f"In this run it reaches {pair}, LoRA alone {lora}")
    rows = r"\n *{} +[\d.]+ +[\d,]+ +0\.\d+ \((0\.\d+)–(0\.\d+)"
    ends = [printed(PAGE, rows.format(name)) for name in ("head alone", "LoRA", "BitFit", r"LoRA \+ BitFit")]
    (around,) = {f"{50 * (float(high) - float(low)):.0f}" for low, high in ends}
    said(PAGE, f"one seed, rates tuned for {stored.steps('lora-bitfit')} steps, about ±{around} points around each "
               "number. Section 6 can.")  # fmt: skip


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
    (told,) = (
        output.metadata["image/png"].alt
        for cell in read(PAGE).cells
        if "plots_hybrid.gates(" in cell.source and cell.cell_type == "code"
        for output in cell.outputs
        if "image/png" in output.get("data", {})
    )
    rows = {
        kind: printed(PAGE, rf"\n *{kind} +([+−]\d\.\d\d) +(\d\.\d\d) +(\d\.\d\d) +(\d\.\d\d)")
        for kind in ("prefix", "query", "value", "adapter")
    }
    printed(PAGE, "sd between layers +sd between sentences: layers 1 to 4, at most +sd between sentences: layer 6")
    (gates,) = printed(PAGE, r"(\d+) gates\n")
    assert int(gates) == 6 * len(rows) == 6 * (1 + 2 + 1)
    said(PAGE, "means to let the model say, with a gate for each part in each block, two for LoRA")
    by = {kind: float(moved.replace("−", "-")) for kind, (moved, *_) in rows.items()}
    assert max(by, key=by.get) == "query" and min(by, key=by.get) == "prefix" and by["prefix"] < 0
    fell = {}
    for panel, kind in enumerate(rows, 1):
        before, after = (
            [float(g) for g in re.search(rf"Panel {panel}: {kind}\..*?{when} ([\d., ]+\d)", told)[1].split(", ")]
            for when in ("before", "after")
        )
        assert len(before) == 6
        fell[kind] = [i for i, (old, new) in enumerate(zip(before, after, strict=True), 1) if old - new > 0.05]
    *some, last = fell["prefix"]
    (value,) = fell["value"]
    assert fell["query"] == fell["adapter"] == []
    said(PAGE, "In this run LoRA's gates at the query opened most; the prefix's fell in layers "
               f"{', '.join(map(str, some))} and {last}, the value's in {value}")  # fmt: skip
    layers, lower, top = zip(*(own for _, *own in rows.values()), strict=True)
    assert float(max(lower)) < float(min(layers))
    said(PAGE, f"In layers 1 to 4 a gate hardly depends on the sentence (sd at most {max(lower)}, between layers "
               f"{min(layers)} to {max(layers)})")  # fmt: skip
    high = {kind: own[-1] for kind, own in rows.items()}
    others = max(float(high[kind]) for kind in ("query", "value"))
    assert min(float(high[kind]) for kind in ("adapter", "prefix")) > 2 * max(others, float(max(lower)))
    said(PAGE, "twice the $B$ and half the gate give the same update. So the heights alone do not say which part the "
               "model needs")  # fmt: skip
    said(PAGE, "in layer 5 the value's and the adapter's do more (bars), in layer 6 the adapter's and the "
               f"prefix's most ({high['adapter']} and {high['prefix']})")  # fmt: skip


def test_the_orders_are_told_as_they_are():
    (folded,) = printed(PAGE, r"section 1's pair, in one layer: at most (\S+) apart")
    assert float(folded) < 1e-4
    rows = {
        pair: float(printed(PAGE, rf"\n *{re.escape(pair)} +(\d+\.\d\d) %")[0])
        for pair in ("LoRA + BitFit", "LoRA + (IA)³", "BitFit + (IA)³")
    }
    free, *bound = rows.values()
    assert free == 0 < min(bound)
    said(PAGE, "For LoRA and BitFit the order does not matter, and folded they cost a user nothing")
    said(PAGE, "With (IA)³ it does, since it multiplies what was added before it, not after")


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
    one, two, three = (f"{both} ({low})" for low, _, both in real)
    said(PAGE, f"of the sum of squares it leaves {one.replace(' (', ' % (LoRA ')}, {two} and {three}")
    assert all(0.9 * float(low) <= float(both) <= float(low) for low, _, both in real)
    (steps,) = re.findall(r"(?m)^encoder_steps = (\d+)", "\n".join(cell.source for cell in read(PAGE).cells))
    (cell,) = (cell.source for cell in read(PAGE).cells if "fit(full," in cell.source)
    assert "steps=max(2, encoder_steps // 4)" in cell
    said(PAGE, f"three updates of a real training, {int(steps) // 4} steps of full fine-tuning")
    said(PAGE, "On the real updates, of an attention head's queries, the pair gains little")
    assert min(left[:2]) > 25
    said(PAGE, f"either alone leaves over a quarter, both {made[2]} %")
    said(PAGE, f"Three updates of {int(steps) // 4} AdamW steps did not have this form")


def test_the_largest_entries_of_these_updates_hold_less_than_of_normal_numbers():
    share = 832 / 12_288
    z = NormalDist().inv_cdf(1 - share / 2)
    normal, held = 2 * z * NormalDist().pdf(z) + share, []
    for i in (1, 4, 6):
        (left,) = printed(PAGE, rf"\n *real, block {i} +1,664 of 12,288 +\S+ % +(\d+\.\d) %")
        held.append(100 - float(left))
    assert max(held) < 100 * normal
    said(PAGE, f"the largest {100 * share:.0f} % of the entries, those that entries alone keeps, hold "
               f"{min(held):.0f} to {max(held):.0f} % of it; of normal random numbers they would hold "
               f"{100 * normal:.0f} %")  # fmt: skip
    for t in range(1, 16):  # Adam's step is the rate times m / root v, at most this much, whatever the gradients
        first, second = ([(1 - b) * b**k / (1 - b**t) for k in range(t)] for b in (0.9, 0.999))
        assert sum(m * m / v for m, v in zip(first, second, strict=True)) ** 0.5 < 1.1
    said(PAGE, "in a step no entry moves much more than the learning rate, so in 15 none gets far ahead. Longer "
               "training may differ")  # fmt: skip
