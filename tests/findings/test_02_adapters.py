r"""What 02 says of its evidence."""

import math
import re

import nbformat
import pytest
from finding import ROOT, once_beside, printed, said, tenths, tied

from coursekit.comparison.candidates import EVERY
from coursekit.experiments import results
from coursekit.experiments.intervals import Difference
from coursekit.methods import LinAdapter, ParallelAdapter, PfeifferAdapter

PAGE = "02_adapters"


@pytest.fixture(scope="module")
def film() -> results.Results:
    r"""As the notebook reads it: the adapters, and the linear probe, on the same sentences."""
    return results.read("adapters", "probe").at("full", 1e-4)


def test_the_best_adapter_beside_full_fine_tuning_and_the_fair_baseline(film):
    short, longer = film.difference("pfeiffer", "full"), film.difference("full, 600 steps", "pfeiffer, 600 steps")
    assert short.verdict == "no clear difference"
    lower = results.read("adapters")
    assert tied(lower, "full", 600) == [lower.rate("full, 600 steps"), film.rate("full, 600 steps")] == [3e-5, 1e-4]
    assert film.accuracy("full, 600 steps").value > lower.accuracy("full, 600 steps").value  # the stronger rival
    assert {run.cell.rate for run in film.runs if (run.cell.arm, run.cell.steps) == ("pfeiffer", 600)} == {
        film.rate("pfeiffer")}  # fmt: skip
    said(PAGE, "300 steps on film sentences unless said, three seeds, a learning rate tuned for each method.")
    also = lower.difference("full, 600 steps", "pfeiffer, 600 steps")
    assert longer.verdict == also.verdict == "equal for practical purposes"
    lost, around = longer.in_points().replace("+", "")[:-1].split(" (")
    share = f"{100 * film.parameters('pfeiffer') / film.parameters('full'):.1f} %"
    said(PAGE, f"After 600 steps Pfeiffer's adapter, {share} of the parameters, is {lost} points behind full "
               f"fine-tuning ({around}), equal for practical purposes.")  # fmt: skip
    anew = results.read("methods")
    among = anew.differences([arm for arm in EVERY if arm in anew.arms and arm != "full"], "full")
    assert len(among) == 33 and among["pfeiffer"].verdict == longer.verdict
    assert {len(anew.seeds(arm)) for arm in ("pfeiffer", "full")} == {5} and anew.steps("pfeiffer") == 300
    said(PAGE, "With five seeds it is equal after 300 steps, too; so it is on two more tasks (notebook 10).")
    said(PAGE, f"On MiniLM and film sentences Pfeiffer's adapter, {share} of the parameters, equals full fine-tuning "
               "for practical purposes after 600 steps.")  # fmt: skip
    for task in (results.read("product"), results.read("source")):
        assert task.difference("pfeiffer", "full").verdict == longer.verdict
    said("10_which_method", "with another head and on two more tasks Pfeiffer adapters and LoRA are equal to it")
    said(PAGE, "Not measured: larger models.")
    probe = film.difference("pfeiffer, 600 steps", "probe")
    said(PAGE, f"It is {tenths(probe)}.".replace("better by", "better than a linear probe by"))
    said(PAGE, "logistic regression on the mean of the frozen model's tokens")


def test_the_residual(film):
    found = film.difference("houlsby r=16 without", "narrow")
    loss = tenths(found).removeprefix("worse by ")
    assert found.verdict == "worse"
    assert film.steps("narrow") == film.steps("houlsby r=16 without") == 300
    assert film.difference("houlsby r=16 without", "head").verdict == "better"
    said(PAGE, f"Training repairs it only in part. After 300 steps on MiniLM, an encoder of six blocks, Houlsby's "
               f"adapter without its residual is worse by {loss}.")  # fmt: skip


def test_the_place(film):
    lin, parallel, houlsby = (film.difference(arm, "pfeiffer") for arm in ("lin", "parallel", "houlsby r=8"))
    assert (lin.verdict, parallel.verdict) == ("equal for practical purposes",) * 2
    assert houlsby.verdict == "no clear difference"
    said(PAGE, "No place is clearly better than Pfeiffer's.")
    said(PAGE, "No other place is clearly better than Pfeiffer's")
    sizes = [film.parameters(arm) for arm in ("pfeiffer", "lin", "parallel", "houlsby r=8")]
    assert max(sizes) < 1.07 * min(sizes)
    starts = [kind().init for kind in (PfeifferAdapter, LinAdapter, ParallelAdapter)]
    assert starts == ["bert", "bert", "zero"] and ParallelAdapter().scaling == 4
    said(PAGE, "with $s=4$")


def test_adapter_drop(film):
    lost = tenths(film.difference("drop 4", "pfeiffer")).removeprefix("worse by ")
    assert film.difference("drop 4", "probe").verdict == "equal for practical purposes"
    said(PAGE, f"Dropping four of six adapters costs {lost}.")
    said(PAGE, f"Dropping four of six saves training time, and costs {lost.partition(' (')[0]}.")
    assert film.difference("drop 4", "full").verdict == "worse"
    assert "Adapters (blue) in any place come close to full fine-tuning (red); with four of six dropped" in outputs(
        "text/markdown")  # fmt: skip


def test_on_smollm2_beside_the_fitted_threshold():
    decoder = results.read("decoder")
    found = decoder.difference("pfeiffer", "untrained, fitted threshold")
    sentences = len(decoder.scores("pfeiffer")[0])
    said(PAGE, f"on {sentences} can: after {decoder.steps('pfeiffer')} steps the adapters are {found}")


def compared(film: results.Results) -> dict[str, Difference]:
    r"""The comparisons of the page's table, adjusted together."""
    best = "pfeiffer"
    asked = [(f"{best}, 600 steps", other) for other in ("full, 600 steps", "probe")]
    asked += [(arm, best) for arm in ("lin", "parallel", "houlsby r=8", "drop 4")]
    return film.paired({str(pair): pair for pair in asked})


def test_every_verdict_of_the_text_is_one_of_the_table(film):
    r"""The table adjusts for its comparisons; the text gives the same verdicts."""
    shown = dict(re.findall(r"\| (.+? − .+?) \| .+? \| (.+?) \|", outputs("text/markdown")))
    assert [name for name, verdict in shown.items() if verdict in ("better", "worse")] == [
        "Pfeiffer, r = 16, 600 steps − linear probe", "Pfeiffer, r = 16, 4 of 6 dropped − Pfeiffer, r = 16",
    ]  # fmt: skip
    assert [one.verdict for one in compared(film).values()] == [*shown.values()]


def test_the_setting(film):
    six = 6 * (2 * 16 * 384 + 16 + 384)
    assert (film.parameters("head"), film.parameters("pfeiffer")) == (2 * 384 + 2, six + 2 * 384 + 2)  # no pooler
    card = (ROOT / "data" / "evidence" / "adapters.md").read_text(encoding="utf-8")
    assert "A preliminary arm lacks a part of its search, its seeds or its longer runs." in card
    assert all(len(film.scores(arm)) == 3 for arm in ("pfeiffer", "full", "drop 4", "narrow"))
    said(PAGE, "Stored runs of MiniLM ([card](../data/evidence/adapters.md))")


def test_every_row_is_settled(film):
    rows = ["full", "pfeiffer", "lin", "parallel", "houlsby r=8", "drop 4", "narrow",
            "houlsby r=16 without"]  # fmt: skip
    assert not any(once_beside(film, arm) for arm in rows)


def test_the_longer_pass_of_gpt2():
    r"""Hu et al. 2021, table 1, ms for one text of 128 tokens, bare and with Houlsby's adapters of 11M."""
    slower = f"{100 * (25.8 / 19.8 - 1):.0f} % slower"
    said(PAGE, f"GPT-2 medium became up to {slower} on one short text (Hu et al. 2021)")


# The notebook's own run ------------------------------------------------------------------------------------


def outputs(kind: str) -> str:
    r"""All outputs of one kind."""
    notebook = nbformat.read(ROOT / "notebooks" / f"{PAGE}.ipynb", as_version=4)
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "\n".join(o.get("data", {}).get(kind, "") for o in shown)


def test_the_first_run_is_told_as_it_is():
    bare, moved, tuned, constant = printed(
        PAGE, r"'SmolLM2': (\S+), 'fitted threshold': (\S+), 'adapters, 20 steps': (\S+), 'always positive': ([\d.]+)"
    )
    assert float(constant) < float(bare)
    said(PAGE, f"accuracy rises from {bare} to {tuned}")
    gained = [round(80 * (float(share) - float(bare))) for share in (moved, tuned)]
    assert gained == [4, 9]
    said(PAGE, f"with a threshold fitted on 80 training sentences it gets {moved} right.")
    assert 2 * 0.5 ** (gained[1] - gained[0]) > 0.05  # a sign test, had the adapters lost none of the others
    said(PAGE, "80 test sentences cannot tell the two apart")
    shares = printed(PAGE, r"calls (0\.\d+) of the test sentences \*positive\*, people (0\.\d+)\.")
    model, people = (round(100 * float(share)) for share in shares)
    assert model < people
    said(PAGE, "SmolLM2 says positive too rarely")
    first, last = printed(PAGE, r"loss ([\d.]+), after 10 steps ([\d.]+); hooks removed, the answers of before: True")
    said(PAGE, f"In this run the loss of a batch falls from {first} to {last} nats in ten steps")
    said(PAGE, f"a blind choice between the two words costs {math.log(2):.2f}")
    one, thirty = printed(PAGE, r"one: ([\d,]+); thirty: ([\d,]+)")
    assert int(thirty.replace(",", "")) == 30 * int(one.replace(",", ""))


def test_untrained_adapters_are_told_as_they_are():
    names = ("none", "small start", "large start", r"A\(h\) alone")
    none, small, large, alone = printed(PAGE, ", ".join(rf"'{name}': ([\d.]+)" for name in names))
    assert abs(float(none) - float(small)) < 0.11
    said(PAGE, f"A small start leaves the loss at {small} nats, close to the bare model's {none}; PyTorch's start "
               f"raises it to {large}.")  # fmt: skip
    assert float(alone) > 2 * math.log(49_152)  # a blind guess over SmolLM2's vocabulary
    said(PAGE, f"Without the residual it is {alone}:")
    said(PAGE, f"without the residual the loss jumps to {alone}.")


def costs(name: str) -> dict[str, float]:
    r"""A row of the table of costs."""
    columns = ("trained", "adam", "file", "time")
    row = printed(PAGE, "\n" + re.escape(name) + r" +([\d,.]+)" * 4)
    return dict(zip(columns, (float(x.replace(",", "")) for x in row), strict=True))


def test_the_costs_are_told_as_they_are():
    full, pfeiffer = (costs(name) for name in ("full fine-tuning", "Pfeiffer, r = 16"))
    share = pfeiffer["trained"] / full["trained"]
    assert max(abs(pfeiffer[what] / full[what] - share) for what in ("adam", "file")) < 0.001
    said(PAGE, f"{100 * share:.1f} % of the parameters train; Adam's state and the file shrink with them.")


def test_the_times_are_told_as_they_are():
    six, two = (costs(f"Pfeiffer, r = 16{more}")["time"] for more in ("", ", 4 of 6 dropped"))
    assert 1 - six > 0.1 < six - two
    said(PAGE, f"In this run six adapters take {six:.2f} of full fine-tuning's time, two take {two:.2f}:")


def test_two_domains_are_told_as_they_are():
    row = r" adapter +(0\.\d+) \((0\.\d+)–(0\.\d+), n=160\) +(0\.\d+)"
    film, tweet = ([float(number) for number in printed(PAGE, name + row)] for name in ("film", "tweet"))
    _, label = printed(PAGE, r"one label always +(0\.\d+) +(0\.\d+)")
    assert film[-1] < float(label) < tweet[-1]
    said(PAGE, f"In this run the film adapter fails on tweets: {film[-1]:.2f}, where one label always gets {label}.")
    said(PAGE, "the wrong one can do worse than a constant answer")
