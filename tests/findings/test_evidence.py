r"""What data/evidence/README.md says, computed."""

from functools import partial
from statistics import mean

import numpy as np
import pytest
from finding import once_beside, printed, said, tenths, tied
from scipy import stats
from test_11_reinforcement import LONGER, judged

from coursekit.comparison.candidates import EVERY
from coursekit.experiments import forgetting, intervals, results
from coursekit.experiments.results import Results, few
from coursekit.experiments.table import Cell, Run
from coursekit.tasks.task import load_task

README = "data/evidence/README.md"
#: (topics, one arm, another, its verdict, what the README says before the difference)
FOUND = [
    (("ia3",), "ia3", "full", "no clear difference", "(IA)³ against full fine-tuning, over three seeds: "),
    (("methods",), "ia3", "full", "worse", "It had been called worse, and over five it is, "),
    (("adapters",), "houlsby r=64, magnitude 80% after", "houlsby r=64", "no clear difference",
     "80 % of a trained adapter's weights pruned by magnitude against none: "),
    (("soft_prompts", "pooling"), "prompt-20", "head-mean", "no clear difference",
     "A prompt of twenty vectors against a head on the mean: "),
    (("gate",), "gate", "open-small", "no clear difference",
     "LLaMA-Adapter's gate against no gate and a small start: "),
    (("gate",), "gate from 1", "gate", "worse", "a gate that starts at 1 is "),
    (("pooling",), "head-mean", "head", "better", "A head on the mean of the tokens is "),
    (("probe", "pooling"), "probe", "head-mean", "equal for practical purposes",
     "trained to its end on the mean against that head after 300 steps: "),
    (("methods", "probe"), "bitfit", "probe", "no clear difference", "BitFit against a linear probe: "),
    (("pooling",), "lora-mean", "head-mean", "better", "LoRA with that head is "),
    (("decoder",), "lora", "untrained, fitted threshold", "better", "On SmolLM2 LoRA is "),
    (("decoder",), "pfeiffer", "untrained, fitted threshold", "better", "and a Pfeiffer adapter is "),
    (("adapters",), "pfeiffer r=64", "pfeiffer", "equal for practical purposes",
     "A Pfeiffer adapter of width 64 against 16: "),
    (("adapters",), "adapter-drop", "pfeiffer", "no clear difference", "two of six blocks dropped against none: "),
    (("selective",), "fisher mask", "random mask", "worse", "Entries chosen by Fisher information are "),
    (("lora",), "qv-r64", "qv-r8", "equal for practical purposes", "LoRA of rank 64 against rank 8: "),
    (("methods",), "lora-all-linear", "full", "worse",
     "LoRA on all linear layers against full fine-tuning: "),
    (("methods",), "lora", "full", "equal for practical purposes",
     "LoRA on query and value against full fine-tuning: "),
    (("ia3",), few("lora", 16), few("ia3", 16), "no clear difference", "With 16 sentences LoRA against (IA)³: "),
]  # fmt: skip


@pytest.mark.parametrize(("topics", "arm", "other", "verdict", "phrase"), FOUND, ids=[f[-1].strip() for f in FOUND])
def test_what_the_readme_says(topics, arm, other, verdict, phrase):
    found = results.read(*topics).difference(arm, other)
    assert found.verdict == verdict
    said(README, f"{phrase}{found}")


def test_lora_on_all_linear_layers_is_worse_as_the_only_question():
    runs = results.read("methods")
    alone = runs.difference("lora-all-linear", "full")
    among = runs.differences([arm for arm in EVERY if arm in runs.arms and arm != "full"], "full")["lora-all-linear"]
    assert (alone.verdict, among.verdict, among.family) == ("worse", "no clear difference", 33)
    said(README, f"{alone} as the only question (p = {alone.p:.3f}), {among.verdict} among the 33 of lesson 10")


def test_what_the_readme_says_of_bitfit_after_600_steps():
    r"""Against full fine-tuning at 1e-4, of its two rates that tie the one that is ahead in the test."""
    runs = results.read("selective")
    lower, higher = tied(runs, "full", 600)
    of = {rate: runs.at("full", rate) for rate in (lower, higher)}
    assert higher == 1e-4 and of[higher].rate("full, 600 steps") == higher
    assert of[higher].accuracy("full, 600 steps").value > of[lower].accuracy("full, 600 steps").value
    found = of[higher].difference("bitfit, 600 steps", "full, 600 steps")
    assert found.verdict == "worse" == of[lower].difference("bitfit, 600 steps", "full, 600 steps").verdict
    said(README, "After 600 steps each, BitFit against full fine-tuning at the higher of its two rates that tie on "
                 f"validation: {tenths(found)}")  # fmt: skip


def test_what_the_readme_says_of_lora_beside_the_lesson():
    r"""Places at equal parameters, large batches, other starts, and the rates of the ranks."""
    runs = results.read("lora")
    (equal,) = {str(runs.difference("all-r8", place)) for place in ("attention-r18", "mlp-r14")}
    said(README, f"against LoRA on the MLP alone, with as many parameters: {equal}")

    ours, full = "all-r8-batch64", "full-batch64"
    (above,) = (rate for rate in runs.whole(ours) if round(rate / runs.rate(ours)) == 3)
    fails, *level = sorted(mean(run.correct) for run in runs.whole(ours)[above])
    assert fails < 0.51 and abs(mean(level) - runs.accuracy(full).value) < 0.005 and len(level) == 2
    said(README, f"With batches of 64: {runs.difference(ours, full)}; at three times LoRA's rate two of three seeds "
                 "close the gap, the third learns nothing")  # fmt: skip

    starts = [f"all-r8-{init}" for init in ("pissa", "olora", "eva")]
    lower = sorted(-100 * runs.difference(arm, "all-r8").value for arm in starts)
    assert {runs.rate(arm) for arm in starts} == {3e-4} and runs.rate("all-r8") == 1e-3
    at = {arm: {rate: [mean(run.correct) for run in own] for rate, own in runs.whole(arm).items()}
          for arm in (*starts, "all-r8")}  # fmt: skip
    low = mean(at["all-r8"][3e-4])
    assert all(abs(mean(at[arm][3e-4]) - low) < 0.005 for arm in starts) and mean(at["all-r8"][1e-3]) > low + 0.01
    assert all(min(at[arm][1e-3]) < 0.51 for arm in starts) and min(at["all-r8"][1e-3]) > low
    (family,) = printed("06_lora", r"As above, with (\d+) comparisons")
    said(README, f"against LoRA on all linear layers: {lower[0]:.1f} to {lower[-1]:.1f} points lower, no clear "
                 f"difference among the {family} comparisons of lesson 06. At 3e-4, the rate that they need, LoRA is "
                 "level with them")  # fmt: skip

    highest = {}
    for rank in (1, 8, 64):
        ends = {}
        for run in runs.runs:
            if run.cell.arm == f"qv-r{rank}" and run.cell.steps == 300:
                ends.setdefault(run.cell.rate, []).append(run.validation)
        learn = [rate for rate, own in ends.items() if len(own) == 3 and min(own) > runs.validation("constant") + 0.2]
        assert max(learn) == runs.rate(f"qv-r{rank}") and max(ends) > max(learn)
        highest[rank] = f"{max(learn):g}"
    one, eight, most = highest.values()
    said(README, f"falls with the rank: {one}, {eight} and {most} at ranks 1, 8 and 64, with α = 2r")


def test_bitfit_may_have_more_to_gain_than_full_fine_tuning():
    runs = results.read("selective")
    of = {(run.cell.steps, run.cell.rate) for run in runs.runs if run.cell.arm == "bitfit" and run.cell.steps > 300}
    assert of == {(600, runs.rate("bitfit"))}, "the rate of 300 steps"
    anew = results.read("methods")
    assert {run.cell.rate for run in anew.runs if (run.cell.arm, run.cell.steps) == ("bitfit", 600)} == {0.001, 0.003}
    assert anew.rate("bitfit, 600 steps") == runs.rate("bitfit")
    rose, full = (100 * (runs.validation(f"{arm}, 600 steps") - runs.validation(arm)) for arm in ("bitfit", "full"))
    assert full < 1 < rose
    said(README, f"BitFit's rate, searched again, stays, and its validation accuracy rose by {rose:.1f} points from "
                 "300 steps to 600")  # fmt: skip


def test_bitfits_rate_is_held_down_by_seeds_that_fail():
    runs = results.read("selective", "methods")
    reached = {rate: [run.validation for run in own] for rate, own in runs.whole("bitfit").items()}
    assert runs.rate("bitfit") < 0.01 and runs.rate("bitfit-query") == 0.03
    assert sorted(value < 0.52 for value in reached[0.01]) == [False, True, True]
    assert min(reached[runs.rate("bitfit")]) > 0.75
    said(README, "at 0.01 two of its three seeds fail, while the biases of query and up alone train best at 0.03")


def test_adapters_that_learn_nothing_at_a_high_rate():
    found = results.read("adapters")
    first = [one for one in found.runs if (one.cell.rate, one.cell.seed, one.cell.steps) == (0.01, 0, 300)]
    lost = {one.cell.arm for one in first if one.validation < 0.52}
    assert lost >= {"lin", "parallel", "pfeiffer r=64", "houlsby r=8", "narrow", "wide"}
    assert not lost & {"pfeiffer", "pfeiffer r=1", "adapter-drop", "drop 4"}
    assert found.rate("adapter-drop") == found.rate("drop 4") == 0.01
    said(README, "At a rate of 0.01 the first seed of Lin's, the parallel, Houlsby's and a wide Pfeiffer adapter "
                 "(r = 64) learns nothing in 300 steps; AdapterDrop's train best there")  # fmt: skip


#: (topic, one arm, another, column, its verdict, what the README says before the difference)
MEASURED = [("grpo", "GRPO", "as released", "right", "better", "GRPO's drawn answers are ")]


@pytest.mark.parametrize(("topic", "arm", "other", "of", "verdict", "phrase"), MEASURED)
def test_what_the_readme_says_of_other_measures(topic, arm, other, of, verdict, phrase):
    found = results.read(topic).difference(arm, other, of=of)
    assert found.verdict == verdict
    said(README, f"{phrase}{found}")


def test_what_ewc_adds_to_going_back():
    runs = forgetting.read()
    ewc, back = ("EWC", 1000.0), ("WiSE-FT", 0.9)
    pairs = ((ewc, forgetting.PLAIN), (back, forgetting.PLAIN), (ewc, back))
    kept = [sorted(-gap for gap in runs.apart(*pair)[1]) for pair in pairs]
    assert all(gaps[0] > 0 for gaps in kept)
    free, paid = (sorted(runs.apart(*pair)[0]) for pair in pairs[1:])
    assert 0 < free[-1] < 0.1 and paid[-1] < 0
    whole, free, paid = (f"{gaps[0]:.1f} to {gaps[-1]:.1f}" for gaps in kept)
    said(README, f"EWC keeping {whole} of perplexity on old text at no cost: {free} of it come from going back a tenth "
                 "of the way from plain fine-tuning")  # fmt: skip
    said(README, f"EWC adds {paid}, with each of three seeds")


def test_what_is_forgotten_beside_the_lesson():
    r"""What 01b leaves out of its findings."""
    runs, slow = forgetting.read(), []

    def span(gaps) -> str:
        low, high = sorted(map(abs, (min(gaps), max(gaps))))
        return f"{low:.1f} to {high:.1f}"

    back = [way for way in runs.new if way[0] == "WiSE-FT"]
    for run in results.read("forgetting").runs:
        if run.cell.arm == "replay 0.2" and run.cell.rate == 1e-3:
            new, old = forgetting.reached(run)
            points = [(runs.new[way][run.cell.seed], runs.old[way][run.cell.seed]) for way in back]
            assert min(points)[0] < new < max(points)[0]
            slow.append(forgetting.gap(new, old, points))
    fifth, *few, strong = (runs.below(way, rival="WiSE-FT") for way in (
        ("replay", 0.2), ("replay", 0.05), ("replay", 0.01), ("L2-SP", 0.1)))  # fmt: skip
    assert len(slow) == 3 and max(slow) < 0 < min(sum(few, strong)) and min(fifth) < 0 < max(fifth)
    between = f"{min(fifth):+.1f} to {max(fifth):+.1f}".replace("-", "−")
    going = [gap for way in back if way[1] > 0.3 for gap in runs.below(way)]
    assert max(going) < 0
    said(README, f"WiSE-FT from c = 0.5 to 0.9 keeps {span(going)} of perplexity more than plain fine-tuning")
    said(README, f"replay of a fifth keeps {span(slow)} more than WiSE-FT at a rate of 0.001, not clearly ({between}) "
                 f"at 0.003, which is better for tweets; replay of a twentieth or less keeps {span(sum(few, []))} "
                 f"less, L2-SP at α = 0.1 {span(strong)} less")  # fmt: skip
    assert forgetting.chosen(results.read("forgetting").runs)["replay"] == 3e-3

    rank = [gap for way in runs.new if way[0] == "LoRA" for gap in runs.below(way, rival="linear layers")]
    lines = [runs.below(("linear layers", rate)) for rate in (1e-3, 3e-3)]
    behind = runs.apart(("OFT", 32.0), ("LoRA", 16.0))
    assert len(rank) == 9 and min(*rank, *map(min, lines), *map(min, behind)) > 0
    ranks, slow, fast = map(span, (rank, *lines))
    said(
        README,
        f"LoRA of any rank keeps {ranks} of it less than all weights of the layers it adapts that learned as "
        f"much, and these less than plain fine-tuning: {slow} at a rate of 0.001, {fast} at 0.003",
    )
    new, old = map(span, behind)
    said(README, f"OFT (blocks of 32) is behind LoRA (r = 16) on new and old text, by {new} and {old}")


def test_eight_methods_with_the_head_on_the_mean():
    mean, cls = results.read("mean"), results.read("methods")
    arms = ["pfeiffer", "lora", "houlsby", "ia3", "bitfit", "prefix", "norms", "prompt"]
    gained, behind = (mean.differences(arms, against) for against in ("head", "full"))
    assert {found.verdict for found in gained.values()} == {"better"}
    *others, prompt = (100 * gained[arm].value for arm in arms)
    said(README, f"better than the head alone, a prompt by {prompt:.1f} points, "
                 f"the others by {min(others):.1f} to {max(others):.1f}")  # fmt: skip
    assert [behind[arm].verdict for arm in arms] == [*["equal for practical purposes"] * 4, *["worse"] * 4]
    assert {len(mean.seeds(arm)) for arm in ("full", *arms)} == {5}
    points = [-100 * behind[arm].value for arm in arms]
    equal, worse = points[:4], points[4:]
    said(README, "over five seeds, Pfeiffer's and Houlsby's adapters, LoRA on query and value and (IA)³, "
                 f"{min(equal):.1f} to {max(equal):.1f} behind, are equal for practical purposes; BitFit, a prefix, "
                 f"the norms and a prompt are worse, by {min(worse):.1f} to {max(worse):.1f}")  # fmt: skip
    lifted = {arm: mean.accuracy(arm).value - cls.accuracy(arm).value for arm in arms}
    assert max(lifted, key=lifted.get) == "prompt"
    ends = " to ".join(f"{runs.accuracy('prompt').value:.3f}" for runs in (cls, mean))
    said(README, f"It lifts the prompt most, from {ends}")


def test_shown_answers_and_grpo_in_the_same_time():
    r"""Seeds that are added because three were unclear lean to a verdict; those added, by themselves, do not."""
    grpo, adjusted = results.read("grpo"), judged(results.read("grpo"))
    found = adjusted[f"{LONGER} GRPO right"]
    assert found.verdict == "better" and len(grpo.arms[LONGER]) == len(grpo.arms["GRPO"]) == 10
    said(README, f"showing the right ones for as long as GRPO takes is {tenths(found)} over ten seeds")
    both = [grpo.scores(arm, "right") for arm in (LONGER, "GRPO")]
    first, added = (intervals.difference(*(one[part] for one in both)) for part in (slice(3), slice(3, 10)))
    assert added.p < 0.05 / len(adjusted) < first.p < 0.05
    three, seven = (one.in_points()[:-1].replace("+", "") for one in (first, added))
    said(README, f"With three it was {three}) and unclear among fourteen comparisons")
    said(README, f"seven were added, which alone say {seven})")
    eight, once = adjusted["GRPO as released eight"], adjusted["shown the answers GRPO right"]
    for one, phrase in ((eight, "GRPO against the released model: "), (once, "against GRPO, by drawn answers: ")):
        value = one.in_points().replace("+", "").replace(" (", " points (")
        assert one.low > 0 and one.verdict == "no clear difference"
        said(README, f"{phrase}{value}, {one.verdict} among the {one.family} comparisons of lesson 11")


def test_what_the_readme_says_of_dpo_in_nats():
    dpo = results.read("dpo")
    chosen, margin = (dpo.accuracy("DPO", of=of) for of in ("chosen", "margin"))
    gap = dpo.difference("DPO", "chosen alone", of="chosen")
    assert chosen.low < 0 < chosen.high and margin.low > 0 > gap.high
    for found, phrase in ((chosen, "the chosen film sentences by "), (margin, "margin on held-out film pairs is ")):
        value, low, high = (f"{x:+.1f}".replace("-", "−") for x in (found.value, found.low, found.high))
        said(README, f"{phrase}{value} nats ({low} to {high})")
    said(README, f"lie {-gap.value:.1f} nats ({-gap.high:.1f} to {-gap.low:.1f}) below")


def test_how_alike_three_tasks_rank_the_methods():
    tasks = [results.read(topic) for topic in ("methods", "product", "source")]
    names = sorted({*tasks[1].arms} - {"constant"})
    ten = [name for name in names if name not in ("full", "head")]
    ranks = np.array([stats.rankdata([-runs.accuracy(name).value for name in names]) for runs in tasks])
    assert len(names) == 12
    for row in ranks:
        assert [names[int(i)] for i in row.argsort()[[0, -2, -1]]] == ["full", "prompt", "head"]
    found = [[runs.accuracy(name).value for name in ten] for runs in tasks]
    film, reviews, sources = found
    alike = stats.friedmanchisquare(*zip(*found, strict=True)).pvalue
    taus = [stats.kendalltau(*pair) for pair in ((film, sources), (film, reviews), (reviews, sources))]
    assert taus[0].pvalue < 0.001 < 0.1 < min(taus[1].pvalue, taus[2].pvalue)
    said(README, f"more alike than chance (Friedman's test, p = {alike:.3f}): film and sources do (Kendall's τ "
                 f"{taus[0].statistic:.2f}), reviews agree with neither clearly ({taus[1].statistic:.2f} and "
                 f"{taus[2].statistic:.2f})")  # fmt: skip
    critical = stats.studentized_range.ppf(0.95, 12, np.inf) / 2**0.5 * (12 * 13 / (6 * 3)) ** 0.5
    mean_rank = dict(zip(names, ranks.mean(0), strict=True))
    apart = {(a, b) for a in names for b in names if mean_rank[b] - mean_rank[a] > critical}
    assert apart == {("full", "head"), ("full", "prompt")}
    said(README, f"only where these differ by {critical:.1f} (Nemenyi): full fine-tuning from the head and from the "
                 "prompt")  # fmt: skip


def test_a_method_with_one_seed_at_a_rate_beside_the_best_is_preliminary():
    r"""One farther off says nothing."""
    seeds = {("small", 3e-3): 1, ("small", 1e-2): 1, ("good", 3e-3): 3, ("good", 1e-2): 1, ("lucky", 1e-3): 3,
             ("small", 1e-3): 3, ("good", 1e-3): 3}  # fmt: skip
    found = Results("t", tuple(
        Run(Cell(arm, 100, rate, seed), ((100, 0.8 if rate == 1e-3 else 0.6),), (True,) * 10, 7, 1.0)
        for (arm, rate), count in seeds.items() for seed in range(count)
    ))  # fmt: skip
    assert {arm: once_beside(found, arm) for arm in ("good", "lucky", "small")} == {
        "good": set(), "lucky": set(), "small": {3e-3}}  # fmt: skip


def test_what_the_encoder_keeps():
    kept = results.read("retention")
    names = [arm for arm in kept.arms if arm != "head"]
    assert kept.accuracy("head").value == 1 and len(names) == 7
    assert max(kept.accuracy(arm).value for arm in names) < 0.2
    sentences = len(next(iter(kept.arms.values()))[0].correct)
    assert {*names} == {"full", "lora", "bitfit", "ia3", "prefix", "pfeiffer", "top-layers"}
    said(README, "Of an encoder that learned film, with full fine-tuning or one of six other methods, on average fewer "
                 f"than a fifth of {sentences:,} other sentences keep their nearest neighbour ([card](retention.md)); "
                 "none of the six is shown to keep more than full fine-tuning.")  # fmt: skip
    six = kept.differences([arm for arm in names if arm != "full"], "full")
    assert len(six) == 6 and not any(d.low > 0 for d in six.values())
    for arm in names:  # the same runs as section 1's, on another machine
        assert kept.rate(arm) == results.read("methods").rate(arm)
        film = mean(float(run.more["film"]) for run in kept.arms[arm])
        assert abs(film - results.read("methods").accuracy(arm).value) < 0.01


def test_the_rank_that_keeps_up_rises_with_the_sentences():
    runs = results.read("data_size")
    behind = {}
    for n in (16, 128, 1024, None):
        named = str if n is None else partial(few, n=n)
        behind[n] = {r: runs.difference(named(f"r={r}"), named("full")) for r in (1, 8, 64)}
    for n in (16, 128):
        assert all(found.verdict != "worse" and found.high > 0 for found in behind[n].values())
    assert (behind[1024][1].verdict, behind[1024][64].verdict) == ("worse", "equal for practical purposes")
    said(
        README,
        f"Of ranks 1, 8 and 64 none is behind with 16 or 128 sentences. With 1,024 rank 1 is "
        f"{tenths(behind[1024][1])}, and rank 64 {behind[1024][64].verdict}. With all 7,530, not yet read "
        f"through once, rank 1 is {tenths(behind[None][1])}.",
    )
    assert len(load_task("film", "two").data["train"]) == 7530 > 300 * 16


def test_what_the_decoder_keeps():
    r"""Beside the bare model, which is what full fine-tuning starts from; adapters and prompts do not."""
    runs = results.read("retention_decoder")
    others = ("product", "newspaper", "tweet")

    def loss(run, when=""):
        return mean(float(run.more[when + name]) for name in others)

    bare = loss(runs.arms["full"][0], "before_")
    lost = {arm: sorted(loss(run) - bare for run in found) for arm, found in runs.arms.items()}
    lost["start"] = sorted(loss(run, "before_") - bare for run in runs.arms["pfeiffer"])
    assert all(len(of) == 3 for of in lost.values())
    ends = {arm: f"{of[0]:.2f} to {of[-1]:.2f}".replace("-", "−") for arm, of in lost.items()}
    said(
        README,
        f"by {ends['full']} nats a token after full fine-tuning, {ends['ia3']} with (IA)³, {ends['prompt']} with a "
        f"prompt, {ends['lora']} with LoRA, {ends['llama-adapter']} with LLaMA-Adapter, and {ends['pfeiffer']} with a "
        f"Pfeiffer adapter, of which its start is {ends['start']}. With every seed full fine-tuning "
        "keeps more than any of the five but the prompt.",
    )
    assert lost.keys() - {"start"} == {"full", "ia3", "prompt", "lora", "llama-adapter", "pfeiffer"}
    assert all(lost["full"][-1] < of[0] for arm, of in lost.items() if arm not in ("full", "prompt"))
    assert lost["prompt"][0] < lost["full"][0]
    for arm in lost.keys() - {"full", "start"}:
        assert runs.rate(arm) == results.read("decoder").rate(arm)
