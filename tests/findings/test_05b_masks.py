r"""What 05b says of the stored runs, and of its own."""

import re
from statistics import fmean

import pytest
from finding import ROOT, once_beside, printed, read, said

from coursekit.comparison.candidates import CANDIDATES
from coursekit.experiments import results
from coursekit.experiments.bench import LOOKED_AT
from coursekit.experiments.results import Results

PAGE = "05b_masks"
EQUAL = "equal for practical purposes (within 3 points)"


@pytest.fixture(scope="module")
def runs() -> Results:
    return results.read("selective", "methods", "probe")


def test_chance_does_better_than_fisher(runs):
    fisher = runs.differences(["fisher mask", "magnitude mask"], against="random mask")["fisher mask"]
    assert fisher.verdict == "worse"
    said(PAGE, f"Fisher's entries do no better than random ones: {fisher} each at its own rate, equal for practical "
               "purposes both at 0.003.")  # fmt: skip
    said(PAGE, f"Fisher's entries do no better than random ones, and {fisher} each at its own rate: compare every "
               "choice with a random one.")  # fmt: skip
    assert {runs.parameters(f"{name} mask") for name in ("fisher", "random", "magnitude")} == {54_004}
    chosen = 54_004 - runs.parameters("head")
    assert round(100 * chosen / runs.parameters("full"), 1) == 0.2
    said(PAGE, "a mask of 0.5 % of the blocks' parameters (0.2 % of the model's)")
    topic = (ROOT / "benchmarks/topics/selective.py").read_text(encoding="utf-8")
    assert '{"fisher": on_batches, "random": drawn,' in topic, "each run draws its own"
    said(PAGE, f"Each seed has its own random mask, and its own {LOOKED_AT} sentences for Fisher's.")
    (entries,) = printed(PAGE, r"(\S+) entries train; of full")
    assert entries == f"{chosen:,}"
    assert {len(runs.arms[f"{name} mask"]) for name in ("fisher", "random", "magnitude")} == {3}
    said(PAGE, "All train the head and as many entries as in section 2, with three seeds and a learning rate tuned for "
               "each mask.")  # fmt: skip


def test_every_verdict_of_the_table(runs):
    fisher, large, chance = "fisher mask", "magnitude mask", "random mask"
    low, tie = runs.at(chance, 0.003), runs.at(large, 0.01)
    asked = [(fisher, chance), low.difference(fisher, chance), (large, chance), tie.difference(large, chance)]
    found = runs.paired({str(at): pair for at, pair in enumerate(asked)})
    outputs = [output for cell in read(PAGE).cells for output in cell.get("outputs", [])]
    table = "".join(output.get("data", {}).get("text/markdown", "") for output in outputs)
    shown = re.findall(r"\| .+? − random.*? \| .+? \| (.+?) \|", table)
    assert shown == [one.verdict for one in found.values()]


def test_validation_chooses_the_rate_and_sees_no_difference(runs):
    fisher, chance = (sum(round(600 * run.validation) for run in runs.arms[f"{n} mask"]) for n in ("fisher", "random"))
    assert abs(fisher - chance) <= 2, "of 1,800"
    assert {len(run.correct) for run in runs.arms["random mask"]} == {2009}


def test_a_tie_decides_about_the_largest_weights(runs):
    mask, chance = "magnitude mask", "random mask"
    right = {rate: sum(round(600 * run.validation) for run in own) for rate, own in runs.whole(mask).items()}
    assert right[0.003] == right[0.01] == max(right.values()) and runs.rate(mask) == 0.003
    assert "300 validation" in (ROOT / "data/evidence/selective.md").read_text(encoding="utf-8")
    assert {len(own) for own in runs.whole(mask).values()} == {3}
    at_low = runs.differences(["fisher mask", mask], against=chance)[mask]
    at_high = runs.at(mask, 0.01).difference(mask, chance)
    assert (at_low.verdict, str(at_high)) == ("worse", EQUAL)
    assert at_low.high < 0 and at_high.high < 0, "behind at either rate"
    said(PAGE, "The largest weights are worse than chance at 0.003, equal for practical purposes at 0.01, two rates "
               "that tie on validation.")  # fmt: skip
    fisher, drawn = (sum(run.validation for run in runs.arms[arm]) / 3 for arm in ("fisher mask", chance))
    assert abs(fisher - drawn) < 0.005
    said(PAGE, "On validation the two are level at their chosen rates; the picture has 300 sentences, the table 2,009.")


def test_at_one_rate_they_are_equal(runs):
    fisher, chance = "fisher mask", "random mask"
    assert (runs.rate(fisher), runs.rate(chance)) == (0.003, 0.01)
    shared = runs.at(chance, 0.003)
    assert str(shared.difference(fisher, chance)) == EQUAL
    assert runs.by_rate(fisher)[0.01] < runs.by_rate(fisher)[0.003]
    (constant,) = {run.validation for run in runs.searched(fisher) if run.cell.rate == 0.03}
    at_chance = [run.validation == constant for run in runs.whole(fisher)[0.01]]
    assert sorted(at_chance) == [False, False, True]
    own = {rate: [fmean(run.correct) for run in found] for rate, found in runs.whole(fisher).items()}
    assert max(own[0.01]) < min(own[0.003]) - 0.04
    said(PAGE, "Random entries want a high rate, as Xu and Zhang (2024) found: 0.01, where all of Fisher's seeds fall "
               "and one learns nothing.")  # fmt: skip


def test_the_rates_in_the_papers_scripts():
    r"""github.com/varunnair18/FISH, transformers/examples/text-classification/scripts: hyperparameter_search.sh, which
    has Fisher's mask alone, and lib.sh, the rates that run_table_1.sh trains both masks at. (run_bitfit_search.sh is
    for biases, not for a mask.)
    """
    searched, fisher, chance = (1e-5, 2e-5, 5e-5), {5e-5}, {5e-5}
    assert fisher == chance == {max(searched)}
    rate = f"{max(searched):.0e}".replace("-05", "-5")
    said("data/evidence/README.md", "The scripts of Sung et al. search the rate of Fisher's mask alone, up to "
                                    f"{rate}, and train both masks at that")  # fmt: skip
    said(PAGE, "Sung et al. report the opposite for BERT-large on GLUE. Their scripts search the rate for Fisher's "
               "mask alone and train both with it; the paper describes a search for all methods.")  # fmt: skip


def test_no_mask_is_preliminary(runs):
    card = (ROOT / "data/evidence/selective.md").read_text(encoding="utf-8").splitlines()
    rows = [line for line in card if " mask | " in line]
    assert len(rows) == 3 and not [line for line in rows if line.endswith("preliminary |")]
    assert not any(once_beside(runs, f"{name} mask") for name in ("fisher", "magnitude", "random"))


def test_shira_and_lora_with_as_many_parameters(runs):
    assert {runs.parameters(arm) for arm in ("shira", "lora")} == {74_498}
    found = runs.difference("shira", "lora")
    assert str(found) == EQUAL
    ends = found.in_points().split(" (")[1].removesuffix(")")
    assert {run.cell.steps for arm in ("shira", "lora") for run in runs.arms[arm]} == {300}
    said(PAGE, f"Neither: after 300 steps SHiRA and LoRA are equal for practical purposes ({ends} points)")
    shira, lora = (CANDIDATES[name].method for name in ("shira", "lora"))
    assert shira.r == lora.r == 8 and shira.targets == lora.targets
    said(PAGE, "have SHiRA at $r=8$ beside LoRA in the same matrices.")
    said(PAGE, "after 300 steps SHiRA and LoRA are equal for practical purposes")


def test_the_judge_and_the_rule(runs):
    rows = {
        pair: printed(PAGE, rf"{' against '.join(pair)} +(.*?)  +([+-]\d\.\d)")
        for pair in (("random mask", "fisher mask"), ("fisher mask", "magnitude mask"), ("shira", "lora"))
    }
    assert [verdict for verdict, _ in rows.values()] == ["random mask", "cannot tell", "shira"]
    better, *equal = (runs.difference(*pair) for pair in rows)
    assert better.verdict == "better" and {str(found) for found in equal} == {EQUAL}
    (_, (_, ahead)) = rows.popitem()
    said(PAGE, f"Your judge counts only how seeds vary, and puts SHiRA {ahead.lstrip('+')} points ahead of LoRA")
    said(PAGE, "and says equal where the interval lies within ±3 points.")


# The notebook's own run ------------------------------------------------------------------------------------


def test_the_masks_are_told_as_they_are():
    first, magnitude, chance = printed(
        PAGE, r"'mean first, then squared': '(\d+)%', 'magnitude': '(\d+)%', 'random': '(\d+)%'"
    )
    said(PAGE, f"With the mean taken first, in this run, only {first} % of the entries stay")
    assert int(magnitude) == 0 and int(chance) == round(100 * 1_500 / 384**2)


def test_where_fishers_entries_lie():
    softmax, value, _, _ = map(float, printed(PAGE, "Fisher's mask" + r" +(\d+\.\d)%" * 4))
    _, held, _, _ = map(float, printed(PAGE, "all parameters of the blocks" + r" +(\d+\.\d)%" * 4))
    assert round(value / held) == 3
    said(PAGE, f"values and attention's output get {value:.0f} % of Fisher's entries, three times their share.")
    said(PAGE, f"Queries and keys, which act through the softmax alone, get {softmax:.0f} %")


def test_activations_do_not_shrink():
    (left,) = printed(PAGE, r"'activations': '(\S+)%'")
    said(PAGE, f"Activations do not shrink ({float(left):.0f} %)")


def test_masking_a_gradient_is_told_as_it_is():
    decay, warm = printed(PAGE, r"'weight decay 0.1': '(\S+)', 'one step before the mask': '(\S+)'")
    said(PAGE, f"by {decay} in five steps, and the momentum from a single step before the mask pushes it on by {warm}")
    own, lora, rank = printed(PAGE, r"SHiRA, ([\d,]+) parameters \(LoRA: ([\d,]+)\): rank (\d+)")
    assert own == lora
    fisher, chance = (printed(PAGE, rf"entries of {name}: rank (\d+)")[0] for name in ("Fisher", "random"))
    said(PAGE, f"For Fisher's entries {fisher}: an update that $a$ rows and $b$ columns hold has rank at most $a+b$, "
               f"and here {fisher} rows and columns hold all.")  # fmt: skip
    said(PAGE, f"For random ones it is nearly full, {chance}, and SHiRA's {rank}, where LoRA's would be 4.")
