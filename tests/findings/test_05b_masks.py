r"""What 05b says of the stored runs, and of its own."""

from __future__ import annotations

import pytest
from finding import printed, said

from coursekit.experiments import results
from coursekit.experiments.results import Results

PAGE = "05b_masks"
EQUAL = "equal for practical purposes (within 3 points)"


@pytest.fixture(scope="module")
def runs() -> Results:
    return results.read("selective", "methods", "probe")


def test_chance_does_better_than_fisher_and_magnitude(runs):
    fisher, magnitude = (runs.difference(f"{name} mask", "random mask") for name in ("fisher", "magnitude"))
    said(PAGE, f"Entries chosen by Fisher information are {fisher} than as many drawn at random, and those of the "
               f"largest weights worse by {-100 * magnitude.value:.1f} points ({-100 * magnitude.high:.1f} to "
               f"{-100 * magnitude.low:.1f})")  # fmt: skip
    said(
        PAGE,
        f"Fisher's entries are {fisher} than as many at random, each at its own rate, and equal at one rate for both",
    )
    assert (fisher.verdict, magnitude.verdict) == ("worse", "worse")
    assert {runs.parameters(f"{name} mask") for name in ("fisher", "random", "magnitude")} == {54_004}
    said(PAGE, "54,004 parameters each, three seeds")


def test_at_one_rate_they_are_equal(runs):
    fisher, chance = "fisher mask", "random mask"
    assert (runs.rate(fisher), runs.rate(chance)) == (0.003, 0.01)
    shared = runs.at(chance, 0.003)
    assert str(shared.difference(fisher, chance)) == EQUAL
    said(PAGE, f"At 0.003 for both, Fisher and chance are {EQUAL}")
    assert runs.by_rate(fisher)[0.01] < runs.by_rate(fisher)[0.003]
    assert 0.01 in runs.once(fisher)
    said(PAGE, "random entries have their best at 0.01, where Fisher's are past theirs")
    assert runs.by_rate(fisher)[0.01] < runs.validation("probe") < runs.by_rate(chance)[0.01]  # so the figure's caption
    said(PAGE, "a linear probe: logistic regression on the mean of the frozen model's tokens, trained to its end, "
               f"{runs.parameters('probe')} numbers")  # fmt: skip


def test_fisher_against_magnitude(runs):
    assert str(runs.difference("fisher mask", "magnitude mask")) == EQUAL
    by_rate = runs.by_rate("magnitude mask")
    assert abs(by_rate[0.003] - by_rate[0.01]) < 1e-4
    said(PAGE, f"Fisher against magnitude is a tie: {EQUAL}, and for the magnitude mask validation is level at "
               "two rates")  # fmt: skip


def test_shira_and_a_random_mask(runs):
    assert str(runs.difference("shira", "random-mask")) == EQUAL
    shira, mask = (runs.accuracy(arm).value for arm in ("shira", "random-mask"))
    said(
        PAGE,
        f"a trained SHiRA ($r=8$) has {shira:.3f} and a random mask over all layers {mask:.3f}: {EQUAL}",
    )


def test_the_judge_and_the_rule(runs):
    rows = {
        pair: printed(PAGE, rf"{' against '.join(pair)} +(.*?)  +([+-]\d\.\d)")
        for pair in (("random mask", "fisher mask"), ("top 2", "top 1"), ("attention", "top 2"))
    }
    assert [verdict for verdict, _ in rows.values()] == ["random mask", "top 2", "attention"]
    said(PAGE, f"the last two blocks over the last one for {rows['top 2', 'top 1'][1][1:]} points")
    said(PAGE, f"attention over the last two blocks for {rows['attention', 'top 2'][1][1:]}, where the rule says "
               f"{runs.difference('attention', 'top 2')}")  # fmt: skip
    assert str(runs.difference("top 2", "top 1")) == EQUAL


# The notebook's own run ------------------------------------------------------------------------------------


def test_the_masks_are_told_as_they_are():
    first, magnitude, chance = printed(
        PAGE, r"'mean first, then squared': '(\d+)%', 'magnitude': '(\d+)%', 'random': '(\d+)%'"
    )
    said(PAGE, f"with the mean taken first, in this run, only {first} % of the entries stay")
    said(PAGE, f"Magnitude shares {magnitude} % with Fisher and a random mask {chance} %")


def test_where_fishers_entries_lie():
    query, key, value, output, _, _, norms, biases = map(int, printed(PAGE, "fisher" + r" +(\d+)%" * 8))
    said(PAGE, f"Fisher takes {value + output} % of its entries from values and attention's output")
    said(PAGE, f"and {norms + biases} % from biases and norms")
    said(PAGE, f"Queries and keys get {query + key} %")


def test_masking_a_gradient_is_told_as_it_is():
    decay, warm = printed(PAGE, r"'weight decay 0.1': '(\S+)', 'one step before the mask': '(\S+)'")
    said(
        PAGE,
        f"by {decay} in five steps, and the momentum from a single step before the mask pushes it on by {warm}",
    )
    rank = printed(PAGE, r"rank (\d+)")[0]
    said(PAGE, f"Nearly full, {rank}, where LoRA's would be 4")
