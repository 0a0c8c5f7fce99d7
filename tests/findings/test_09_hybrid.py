r"""What 09 says of the stored runs, and of its own."""

import csv
import re
from dataclasses import replace
from statistics import mean, stdev

import pytest
from finding import ROOT, printed, read, said
from transformers import BertConfig

from coursekit.checks import exercises
from coursekit.checks.hybrid_parts import _POOR, _error
from coursekit.comparison import candidates, costs
from coursekit.experiments import results
from coursekit.experiments.results import Results
from coursekit.methods import BitFit, Hybrid, LoRA, MAMAdapter, ParallelAdapter, PrefixTuning, UniPELT

PAGE = "09_hybrid"
EQUAL = "equal for practical purposes (within 3 points)"
#: The rows of section 6's picture.
ASKED = [
    ("lora-bitfit", "lora"), ("mam-network", "parallel r=192"), ("unipelt-network", "lora"), ("unipelt", "lora"),
]  # fmt: skip
HYBRIDS = ("lora-bitfit", "mam-network", "unipelt-network")
#: The best parts, which are set beside the rival under the picture.
NAMES = {"lora": "LoRA", "parallel r=192": "MAM's adapter"}
PROBED = [(arm, "probe") for arm in NAMES]
#: hybrid -> its parts.
PARTS = {
    "lora-bitfit": ("lora", "bitfit"), "mam-network": ("parallel r=192", "prefix n=30", "prefix-network n=30"),
    "unipelt-network": ("pfeiffer", "lora", "prefix"),
}  # fmt: skip


@pytest.fixture(scope="module")
def stored() -> Results:
    return results.read("methods", "hybrid", "probe")


def best_part(stored: Results, hybrid: str) -> str:
    r"""The best by its first three seeds' validation accuracy."""
    return max(PARTS[hybrid], key=lambda part: mean(run.validation for run in stored.arms[part][:3]))


def test_no_hybrid_is_better_than_the_better_of_its_parts(stored):
    (drawn,) = (cell.source for cell in read(PAGE).cells if "plots_hybrid.differences(" in cell.source)
    for hybrid in PARTS:
        best = best_part(stored, hybrid)
        ahead = max(PARTS[hybrid], key=lambda part: stored.accuracy(part).value)  # on the test sentences
        assert "better" not in {stored.difference(hybrid, part).verdict for part in (best, ahead)}
        assert (hybrid, best) in ASKED
    places = [drawn.index('("{}", "{}")'.format(*pair)) for pair in ASKED]
    assert places == sorted(places) and drawn.count("−") == len(ASKED)
    said(PAGE, "No hybrid is shown to be better than the better of its parts.")
    said(PAGE, "On film sentences LoRA with BitFit is equal to LoRA for practical purposes; no hybrid is shown to be "
               "better than its best part")  # fmt: skip


def test_the_pair_is_equal_to_lora(stored):
    found = stored.difference("lora-bitfit", "lora")
    assert str(found) == EQUAL
    per_seed = stored.scores("lora-bitfit")
    assert len(per_seed) == 5
    said(
        PAGE,
        f"Section 6's stored runs, five seeds and {len(per_seed[0]):,} sentences, do: LoRA with "
        f"BitFit is equal to LoRA for practical purposes, {found.in_points().replace(' (', ' points (')}.",
    )
    said(PAGE, "LoRA with BitFit is equal to LoRA for practical purposes (within 3 points).")


def test_what_the_paper_reports_of_unipelt(stored):
    with (ROOT / "data/papers/unipelt.csv").open(encoding="utf-8", newline="") as file:
        paper = {row["claim"]: row for row in csv.DictReader(file)}
    few, many, least, most = (int(paper[claim]["value"]) for claim in ("fewest", "largest", "least", "most"))
    assert "generally larger with fewer" in paper["fewest"]["says"]
    said(PAGE, f"Mao et al. report gains of {least} to {most} % over UniPELT's best part, on GLUE with {few} to "
               f"{many:,} training examples.")  # fmt: skip
    best = stored.difference("unipelt-network", best_part(stored, "unipelt-network"))
    direct = stored.difference("unipelt", best_part(stored, "unipelt-network"))
    assert int(least) < 100 * direct.high < 100 * best.high < int(most)
    card = (ROOT / "data/evidence/hybrid.md").read_text()
    assert "**task**: film/two" in card and "**model**: minilm" in card
    (batch, steps, seen, there) = re.search(
        r"batches of (\d+); (\d+) steps are (0\.\d+) of the ([\d,]+) training", card
    ).groups()
    drawn = int(steps) * int(batch)
    assert drawn / int(there.replace(",", "")) == pytest.approx(float(seen), abs=0.005) and drawn > many
    said(PAGE, "Not known: few examples, longer training, a rate for each part.")


def test_no_rate_is_at_an_end_of_those_tried(stored):
    arms = {arm for pair in (*ASKED, *PROBED) for arm in pair} - {"probe"}
    for arm in arms:
        tried, rate = sorted(stored.by_rate(arm)), stored.rate(arm)
        below, above = tried[tried.index(rate) - 1], tried[tried.index(rate) + 1]
        assert 3 < rate / below + 0.01 < 3.4 and 3 < above / rate + 0.01 < 3.4, arm
    for run in stored.searched("mam-network"):
        assert run.validation == pytest.approx(mean(value for _, value in run.curve[-2:]))
    said(PAGE, "The learning rates, one for a whole hybrid, and best parts were chosen on validation.")


def test_mam_shows_no_clear_difference_to_its_adapter(stored):
    pair = ("mam-network", "parallel r=192")
    found = stored.paired({str(each): each for each in ASKED})[str(pair)]
    assert found.verdict == "no clear difference"
    assert found == replace(results.read("hybrid").difference(*pair), p=found.p, family=len(ASKED))
    said(PAGE, f"MAM shows no clear difference from its adapter, {found.in_points().replace(' (', ' points (')}.")


def test_unipelt_shows_no_clear_difference(stored):
    found = stored.paired({str(pair): pair for pair in ASKED})
    gated = found[str(("unipelt-network", "lora"))]
    assert gated.verdict == "no clear difference"
    lora = gated.in_points().replace(" (", " points (")
    said(PAGE, f"UniPELT shows no clear difference from LoRA, {lora}.")
    assert replace(candidates.EVERY["unipelt"].method, hidden=UniPELT().hidden) == UniPELT()
    direct = found[str(("unipelt", "lora"))]
    assert str(direct) == EQUAL
    said(PAGE, "With a direct prefix it is equal to LoRA.")
    said(PAGE, "The heights of UniPELT's gates do not say which part a model needs.")


def test_at_which_rates_hybrids_and_their_parts_train(stored):
    assert MAMAdapter() == MAMAdapter(n=30, hidden=800) and UniPELT() == UniPELT(n=10, hidden=512), "as in the papers"
    direct, adapters = ("prefix", "prefix n=30"), ("pfeiffer", "parallel", "parallel r=192")
    assert min(map(stored.rate, direct)) == pytest.approx(10 * max(map(stored.rate, adapters)))
    said(PAGE, "A prefix trained directly needs ten times an adapter's rate or more, so both papers make it by a "
               "network, thrown away after training. So do we, except in UniPELT, direct prefix.")  # fmt: skip


def test_what_beats_the_probe(stored):
    family = stored.paired({arm: (arm, probe) for arm, probe in PROBED})
    best = {best_part(stored, hybrid) for hybrid in PARTS}
    assert best == {*NAMES} and {family[part].verdict for part in best} == {"better"}
    low, *_, high = sorted(family[part].value for part in best)
    assert round(100 * low, 1) == round(100 * high, 1)
    said(PAGE, f"Each hybrid's best part clearly beats the probe, by {100 * low:.1f} points.")
    for arm, name in NAMES.items():
        assert printed(PAGE, rf"(?:^|\n){re.escape(name)} minus the linear probe: (.*)\n") == (family[arm].in_points(),)


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
    # arXiv:2110.04366, 4.4
    said(PAGE, "few added parameters do most in the attention, many in the feed-forward part")
    assert cost["mam"].trained > 10 * cost["parallel"].trained
    _, adapter, low = unipelt.parts_for(config)
    pfeiffer, lora = (candidates.EVERY[arm].method for arm in ("pfeiffer", "lora"))
    assert (adapter.r, pfeiffer.r) == (24, 16) and low.r == lora.r == 8
    said("data/evidence/hybrid.md", f"UniPELT has Pfeiffer's adapter with r={adapter.r} and a prefix of {unipelt.n} "
                                    f"tokens, `methods` r={pfeiffer.r} and {prefix.n} tokens")  # fmt: skip
    assert unipelt.count(config) == cost["unipelt"].trained
    said(PAGE, f"puts a prefix (here {unipelt.n} tokens), Pfeiffer's adapter ($r={adapter.r}$) and LoRA ($r={low.r}$) "
               "on one model")  # fmt: skip
    (drawn,) = (cell.source for cell in read(PAGE).cells if "plots_hybrid.differences(" in cell.source)
    assert "UniPELT − LoRA" in drawn


def test_what_the_runs_had(stored):
    rates = {stored.rate(arm) for arm in ("lora", "bitfit")}
    assert rates == {0.003} and (stored.rate("lora-bitfit"), stored.rate("head")) == (0.001, 0.3)
    (cell,) = (cell.source for cell in read(PAGE).cells if "tried = {" in cell.source)
    (words,) = re.findall(r"\.short\((\d+)\)", cell)
    said(PAGE, f"film sentences of at most {words} words, each at its best learning rate of section 6's stored runs")
    assert not any(arm.startswith(f"{hybrid}, ") for arm in stored.arms for hybrid in HYBRIDS)
    assert {stored.steps(hybrid) for hybrid in HYBRIDS} == {300}
    lora = candidates.EVERY["lora"].method
    said(PAGE, f'LoraConfig(task_type="SEQ_CLS", r={lora.r}, lora_alpha={lora.alpha}, bias="all")')


def test_what_the_costs_are():
    cost = costs.read()
    parted = ("lora", "bitfit", "lora-bitfit", "unipelt")
    assert 1 - costs.noise(cost) == pytest.approx(cost["full"].step_ratio)
    full = cost["full"].step_ratio
    printed(PAGE, "full fine-tuning = 1" + "".join(rf" *\n.* {cost[arm].step_ratio:.2f}" for arm in parted))
    bitfit, pair = (f"{cost[arm].step_ratio:.2f}" for arm in parted[1:3])
    assert bitfit == pair
    said(PAGE, f"The time hardly does: the pair takes {pair}, as BitFit alone, since most of a step is the pass "
               "through the frozen model")  # fmt: skip
    said(PAGE, f"Full fine-tuning, timed twice, differs by {100 * (1 - full):.0f} %.")
    head = cost["head"].step_ratio
    assert 2 * head > max(cost[arm].step_ratio for arm in parted)
    said(PAGE, "Their parameters add up; the time of a step hardly does")
    numbers = [cost[arm].trained for arm in ("lora", "bitfit", "lora-bitfit")]
    assert numbers[0] + numbers[1] == numbers[2]
    said(PAGE, "The parameters add up, {:,} + {:,} = {:,}".format(*numbers))
    printed(PAGE, rf"\nUniPELT, direct prefix +{cost['unipelt'].trained:,} ")
    assert candidates.EVERY["unipelt"].method.hidden is None
    parts = (PrefixTuning(n=30, hidden=None), ParallelAdapter(r=192))
    assert Hybrid(*parts).count(costs.MINILM) == cost["mam"].trained == sum(p.count(costs.MINILM) for p in parts)


# The notebook's own run and its exercise -------------------------------------------------------------------


def test_the_first_table_is_told_as_it_is():
    rows = r"\n *{} +[\d,]+ +0\.\d+ \((0\.\d+)–(0\.\d+)"
    ends = [printed(PAGE, rows.format(name)) for name in ("head alone", "LoRA", "BitFit", r"LoRA \+ BitFit")]
    (around,) = {f"{50 * (float(high) - float(low)):.0f}" for low, high in ends}
    said(PAGE, f"On 200 sentences each number is good to about ±{around} points, which does not decide between the "
               "pair and LoRA")  # fmt: skip


def test_the_share_of_the_prefix_is_told_as_it_is():
    (closed,) = printed(PAGE, r"with keys of 0: mean (0\.\d\d)\n")
    said(PAGE, f"Keys of 0 do not make a prefix silent, since $e^0=1$: they still get {closed} of the attention, "
               "on average.")  # fmt: skip


def test_the_gates_are_told_as_they_are():
    (told,) = (
        output.metadata["image/png"].alt
        for cell in read(PAGE).cells
        if "plots_hybrid.gates(" in cell.source and cell.cell_type == "code"
        for output in cell.outputs
        if "image/png" in output.get("data", {})
    )
    kinds = ("prefix", "query", "value", "adapter")
    (gates,) = printed(PAGE, r"(\d+) gates\n")
    assert int(gates) == 6 * len(kinds) == 6 * (1 + 2 + 1)
    said(PAGE, "means to learn which of them a task needs: by a gate for each part in each block, two for LoRA")
    for panel, kind in enumerate(kinds, 1):
        before, after = (
            [float(g) for g in re.search(rf"Panel {panel}: {kind}\..*?{when} ([\d., ]+\d)", told)[1].split(", ")]
            for when in ("before", "after")
        )
        assert len(before) == len(after) == 6
        (layers,) = printed(PAGE, rf"{kind}: sd between layers (\S+),")
        assert float(layers) == pytest.approx(stdev(after), abs=0.011)
    spread = [printed(PAGE, rf"{kind}: sd between layers (0\.\d\d), between sentences (0\.\d\d)") for kind in kinds]
    apart = {kind: float(a) - float(b) for kind, (a, b) in zip(kinds, spread, strict=True)}
    assert 0 < apart.pop("adapter") < 0.03 < min(apart.values())
    said(PAGE, "In this run they then differ more between layers than between sentences, the adapter's hardly.")
    (cell,) = (one.source for one in read(PAGE).cells if "readings.read(" in one.source)
    assert "methods.UniPELT()." in cell and "lr=1e-3," in cell
    assert results.read("hybrid").rate("unipelt-network") == 1e-3, "as in section 6"
    said(PAGE, "The heights alone do not say which part the model needs: in LoRA twice the $B$ and half the gate give "
               "the same update")  # fmt: skip


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
    said(PAGE, "With (IA)³ it does: it multiplies what was added before, not after")
    said(
        PAGE, "So updates that are added to one output, and read nothing of each other, can share a layer in any order."
    )


def test_what_one_method_and_both_leave_of_an_update():
    dW, most = exercises()["hybrid-parts"].public[0]
    own, poor = exercises()["hybrid-parts"].reference, tuple(_POOR.values())[:2]  # LoRA alone, entries alone
    left = [100 * _error(dW, answer(dW, most)) for answer in (*poor, own)]
    made = printed(PAGE, r": LoRA alone (\d+\.\d) %, entries alone (\d+\.\d) %, both (\d+\.\d) %\n")
    assert made == tuple(f"{each:.1f}" for each in left) and min(left[:2]) > 25
    said(PAGE, f"either alone leaves over a quarter of this update's sum of squares, both {made[2]} %")
    said(PAGE, f"of a made-up update either alone leaves over a quarter, both {made[2]} %")
