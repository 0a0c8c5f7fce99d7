r"""What 05 says of the stored runs, and of its own."""

from __future__ import annotations

import re
import time

import nbformat
import pytest
import torch
from finding import ROOT, printed, said, tenths

from coursekit import counts
from coursekit.checks import bitfit, bitfit_train
from coursekit.checks.draw import Draw
from coursekit.comparison import candidates
from coursekit.experiments import results
from coursekit.experiments.intervals import Difference
from coursekit.experiments.results import Results
from coursekit.models import load_encoder

PAGE = "05_bitfit"
EQUAL = "equal for practical purposes (within 3 points)"


#: The pairs of its table: one family, whose verdicts are adjusted together.
PAIRS = [
    ("bitfit", "probe-cls"), ("bitfit", "probe"), ("bitfit", "full"), ("bitfit, 600 steps", "probe"),
    ("bitfit, 600 steps", "full, 600 steps"),
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


def test_bitfit_beats_a_probe_of_what_it_reads_and_is_behind_full_fine_tuning(runs):
    family = runs.paired({pair: pair for pair in PAIRS})
    own, near, full, longer, both = (family[pair] for pair in PAIRS[:5])
    assert [one.verdict for one in (own, longer, full, both)] == ["better", "better", "worse", "worse"]
    said(PAGE, f"BitFit is {tenths(own)} than the probe of what it reads, [CLS]")
    assert near.verdict == "no clear difference" and runs.steps("bitfit") == 300 and runs.steps("probe") == 0
    said(PAGE, f"From the probe on the mean, which costs no training step, it shows {tenths(near)} after 300 steps; "
               f"after 600 (asked once we had seen this) it is {tenths(longer)}")  # fmt: skip
    ahead, still = (tenths(-one).removeprefix("better ") for one in (full, both))
    said(PAGE, f"Full fine-tuning is ahead of BitFit {ahead}. If both train for 600 steps, at the rates found for "
               f"300, it is still ahead {still}")  # fmt: skip
    said(PAGE, f"After 300 steps BitFit is {100 * own.value:.1f} points ahead of a probe on [CLS], not clearly ahead "
               f"of one on the mean, and {-100 * full.value:.1f} behind full fine-tuning")  # fmt: skip


def test_what_the_probes_and_the_rates_are(runs):
    assert runs.parameters("probe") == runs.parameters("probe-cls") == 385
    said(PAGE, "logistic regressions on the frozen model, trained to their end, 385 numbers each")
    for arm in {arm for pair in PAIRS for arm in pair} - {"probe", "probe-cls"}:
        tried = runs.by_rate(arm.removesuffix(", 600 steps"))
        assert min(tried) < runs.rate(arm) < max(tried), arm
        assert {f"{rate:e}"[0] for rate in tried} <= {"1", "3"}, arm
    said(PAGE, "tuned on validation sentences, none at an end of its grid (0.0001, 0.0003, 0.001, …)")
    assert runs.by_rate("bitfit")[0.01] < 0.51
    said(PAGE, "BitFit failed at 0.01")


def test_the_preliminary_rows_are_named():
    shown = {arm for pair in PAIRS for arm in pair}
    cards = [
        (ROOT / "data" / "evidence" / f"{name}.md").read_text(encoding="utf-8")
        for name in ("selective", "methods")
    ]
    rows = re.findall(r"^\| ([^|]+?) \|.*\| preliminary", "\n".join(cards), flags=re.MULTILINE)
    assert shown & set(rows) == {"full", "top 2", "norms", "bitfit", "bitfit-query"}
    said(PAGE, "Five rows of 300 steps are preliminary, full fine-tuning, the last two blocks, norms and BitFit, all "
               "biases or two kinds")  # fmt: skip


def test_far_is_primed_for_ten_steps():
    assert candidates.PRIMING == 10
    said(PAGE, "FAR has ten steps of priming here and splits both feed-forward matrices")


def test_the_number_of_parameters_does_not_order_methods(runs):
    mask = "random mask"
    found = runs.difference(mask, "bitfit")
    assert found.verdict == "better"
    times = [runs.parameters(a) / runs.parameters(b) for a, b in (("far", mask), ("top 1", "bitfit"))]
    said(PAGE, f"A random mask of {runs.parameters(mask):,} is {tenths(found)} than BitFit, and "
               f"{runs.difference('far', mask)} to our FAR, which has {times[0]:.0f} times as many")  # fmt: skip
    assert str(runs.difference("norms", "bitfit")) == str(runs.difference("top 1", "bitfit")) == EQUAL
    assert runs.parameters("norms") < min(runs.parameters(arm) for arm in ("bitfit", "bitfit-query", mask))
    said(PAGE, "Equal to BitFit, too, are norms alone (Zhao et al. 2024), the fewest of the selective methods, and the "
               f"last block alone, with {times[1]:.0f} times as many")  # fmt: skip


def test_far_and_the_last_two_blocks(runs):
    share = [100 * runs.parameters(arm) / runs.parameters("full") for arm in ("far", "top 2")]
    family = runs.paired({pair: pair for pair in PAIRS})
    far, two = family["far", "full"], family["top 2", "full"]
    assert far.verdict == two.verdict == "no clear difference"
    said(PAGE, f"Our FAR shows {tenths(far).replace('difference', 'difference from full fine-tuning')}, with "
               f"{share[0]:.0f} % of the parameters")  # fmt: skip
    said(PAGE, f"The last two blocks, with {share[1]:.0f} %, are {behind(two)}; with twelve comparisons that is just "
               f"short of a verdict (adjusted p {two.p:.3f})")  # fmt: skip


def test_fewer_biases(runs):
    found = runs.difference("bitfit-query", "bitfit")
    said(PAGE, f"ahead of all biases {tenths(found).removeprefix('better ')}, with twelve comparisons no clear "
               "difference")  # fmt: skip


def test_every_verdict_of_the_text_is_one_of_the_table():
    shown = dict(re.findall(r"\| (.+? − .+?) \| .+? \| (.+?) \|", tables()))
    assert len(shown) == len(PAIRS) == 12
    assert {name: verdict for name, verdict in shown.items() if verdict in ("better", "worse")} == {
        "BitFit − probe on [CLS]": "better", "BitFit, 600 steps − probe on the mean": "better",
        "BitFit − full fine-tuning": "worse", "random mask − BitFit": "better",
        "BitFit, 600 steps − full, 600 steps": "worse",
    }  # fmt: skip
    unclear = (
        "BitFit − probe on the mean",
        "BitFit, query and up − BitFit",
        "last two blocks − full fine-tuning",
    )
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
    assert "bitfit" not in results.read("mean").arms
    said(PAGE, "what BitFit reaches with a head on the mean, whether FAR's ranking beats nodes drawn by chance, and "
               "how these methods compare on a decoder")  # fmt: skip


# The notebook's own run ------------------------------------------------------------------------------------


def test_the_first_table_is_told_as_it_is():
    head, bitfit = (printed(PAGE, rf"{name} +(0\.\d+) \(")[0] for name in ("head on the mean", "BitFit"))
    constant, train, of = printed(PAGE, r"a constant answer: (0\.\d+)")[0], *printed(
        PAGE, r"([\d,]+) of ([\d,]+) parameters train"
    )  # fmt: skip
    said(PAGE, f"In this run BitFit gets {bitfit} right and the head on the mean {head}")
    said(PAGE, f"One parameter in {int(of.replace(',', '')) / int(train.replace(',', '')):.0f} trains")
    assert float(constant) < float(bitfit) < float(head)
    (loop,) = printed(PAGE, r"parameters train; accuracy (0\.\d+) \(")
    said(PAGE, f"In this run the loop above reaches {loop}; section 1 had {bitfit}")


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
    spread = printed(PAGE, r"the node that moved most, (\d\.\d) times")[0]
    said(PAGE, f"in this run the last block's node that moved most moved only {spread} times as far as the one that "
               "moved least")  # fmt: skip


def test_the_costs_are_told_as_they_are():
    number = r" +([\d.,]+)"
    full, two, lowest, everything, bitfit, mask = (
        printed(PAGE, "\n" + name + number * 5)
        for name in ("six blocks", "last two blocks", "lowest block", "everything", "BitFit", "random mask")
    )
    assert all(abs(float(row[2]) - float(row[1])) < 0.1 for row in (two, bitfit, lowest))
    said(
        PAGE,
        "In this run the times of the last two blocks, the lowest and BitFit lie within 0.1 of the count",
    )
    said(PAGE, f"The random mask takes {mask[2]}: the work of all six blocks")
    far = printed(PAGE, "\nFAR, up only +[\\d,]+ +– +(\\S+)")[0]
    added = 0.1 / 3 / 3
    said(PAGE, f"FAR takes {far}, BitFit {bitfit[2]}: FAR's learners, a tenth of a third of each block's matrices, add "
               f"only {added:.2f} of work")  # fmt: skip
    assert float(mask[2]) > 1 and float(bitfit[2]) + added < float(far) < float(full[2])
    said(PAGE, f"{bitfit[3]} MB with BitFit, {everything[3]} where everything trains")
    said(PAGE, f"{full[4]} MB where all blocks train")
    said(PAGE, f"{bitfit[4]} with BitFit, which keeps no matrix's input")
    said(
        PAGE,
        printed(PAGE, "\nFAR, up only.* (\\d+)\n")[0] + " with FAR, whose gradient ends at the lowest up",
    )
    said(PAGE, f"{two[4]} with the last two blocks")
    assert mask[1] == full[1] == everything[1] == "1.00" and abs(int(mask[4]) - int(full[4])) < 6
    config = load_encoder("minilm", num_labels=2)[0].config
    share = int(mask[0].replace(",", "")) / counts.full(config, "classification")
    said(PAGE, f"A random mask of {100 * share:.1f} % of the parameters saves neither work nor activations")
    assert 0.5 < 1 - int(full[0].replace(",", "")) / int(everything[0].replace(",", "")) < 0.55
    said(PAGE, "The embeddings, half of the parameters but no product, train only with everything")
    said(PAGE, f"of six blocks the last two cost {two[1]} of the matrix products, BitFit {bitfit[1]}, the lowest alone "
               f"{lowest[1]}")  # fmt: skip


def test_putting_outputs_in_order_at_each_pass_costs_what_an_order_found_once_costs():
    r"""The course's layer works out its order in a few tensor operations: without a list of nodes in Python."""
    learners = torch.randperm(1_536)[:154]
    frozen = [node for node in range(1_536) if node not in set(learners.tolist())]
    order = bitfit._order(learners, 1_536)
    assert torch.equal(order, torch.tensor([*learners.tolist(), *frozen]))
    y = torch.randn(16, 21, 1_536)
    once, each = (min(_seconds(call) for _ in range(20)) for call in (
        lambda: y[..., order], lambda: bitfit._order(learners, 1_536).argsort()))  # fmt: skip
    assert each < once / 2


def _seconds(call) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


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
    said(
        PAGE, f"A trained head of {sum(p.numel() for p in free.values())} numbers alone would get about 72 %"
    )
    assert bitfit_train.TRAIN.score(posed, {"classifier.bias": torch.ones(2)}).share == 0
