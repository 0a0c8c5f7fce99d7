r"""What 00 says of the stored runs, and of its own."""

import re
import statistics

import pytest
from finding import printed, read, said
from transformers import AutoTokenizer

from coursekit.experiments import results
from coursekit.experiments.results import Results
from coursekit.forgetting.domains import BLOCK
from coursekit.models import sources
from coursekit.paths import DATA
from coursekit.tasks import load_task
from coursekit.tasks.instructions import instruction_prompt, load_instructions
from coursekit.tasks.preferences import rated_pairs

PAGE = "00_training_cycle"
SAME_TEN = "LoRA on the prompt's 10"
#: Arms of the table, beside ten in the prompt, and what it calls them.
SHOWN = {
    "0 shots": "none in the prompt",
    "5 shots": "five in the prompt",
    SAME_TEN: "LoRA on the same ten",
    "LoRA on 10": "LoRA on ten others",
    "LoRA on 1000": "LoRA on a thousand",
}
RIVALS = ("frequencies", "pairs")
NUMBER = r"\s+([+-]?[\d.]+)"


def card(topic: str) -> str:
    return (DATA / "evidence" / f"{topic}.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def context() -> Results:
    return results.read("in_context")


def test_a_thousand_in_training_beat_the_best_prompt(context):
    prompts = {n: context.accuracy(f"{n} shots").value for n in (0, 1, 2, 5, 10)}
    assert max(prompts, key=prompts.get) == 5 and context.difference("5 shots", "10 shots").low < 0
    best = context.difference("LoRA on 1000", "5 shots")
    assert best.verdict == "better"
    said(PAGE, f"A thousand in training are {best} than the best prompt, five")
    said(PAGE, f"A thousand examples in training are better by {100 * best.value:.0f} points than the best prompt")


def test_with_the_same_ten_there_is_no_clear_difference(context):
    found = context.differences(SHOWN, "10 shots")
    assert len(SHOWN) == 5
    assert found[SAME_TEN].verdict == found["0 shots"].verdict == "no clear difference"
    alone = context.difference(SAME_TEN, "10 shots")
    assert alone.low > 0  # its interval leaves out 0
    lead = f"{100 * alone.value:.1f}"
    said(PAGE, f"No clear difference between the two: LoRA's lead of {lead} points does not survive the adjustment "
               "for the table's five comparisons. Nor do ten examples show a clear gain over none.")  # fmt: skip
    assert [len(context.arms[f"{n} shots"]) for n in (0, 1, 2, 5, 10)] == 5 * [1]
    assert {len(context.arms[arm]) for arm in SHOWN if arm.startswith("LoRA")} == {3}
    said(PAGE, "Each prompt is one choice; intervals are over sentences, LoRA's over three seeds, too")


def test_the_ten_of_the_prompt_are_two_of_each_grade():
    task = load_task("film", "five")
    assert sorted(word for _, word in task.shots(10)) == sorted(2 * list(task.labels))
    said(PAGE, "The prompt's ten are typical sentences, two of each grade.")


def test_the_table_is_that_of_the_stored_runs(context):
    found = context.differences(SHOWN, "10 shots")
    said(PAGE, f"| ten in the prompt | {context.accuracy('10 shots').value:.3f} | – |")
    for arm, name in SHOWN.items():
        assert len(context.arms[arm]) == (1 if arm.endswith("shots") else 3)
        said(PAGE, f"| {name} | {context.accuracy(arm).value:.3f} | {found[arm].in_points()} |")
        verdict = {"LoRA on 1000": "better"}.get(arm, "no clear difference")
        assert found[arm].verdict == verdict


def test_the_ten_others_are_others():
    task = load_task("film", "five")
    assert not {text for text, _ in task.shots(10)} & set(task.data["train"]["text"][:10])


def test_a_grade_is_the_likeliest_of_five_words():
    task = load_task("film", "five")
    assert len(task.labels) == 5
    said(PAGE, f"grades 300 film sentences with one of five words, {task.labels[0]} to {task.labels[-1]}")


def test_the_commonest_grade():
    grades = load_task("film", "five").data["test"]["label"][:300]
    said(PAGE, f"the commonest grade alone would score {max(map(grades.count, set(grades))) / 300:.2f}")


def test_this_run_of_the_small_model_beats_the_table():
    model, table = printed(PAGE, r"the model ([\d.]+), the table of pairs ([\d.]+) nats")
    assert float(model) < float(table)
    said(PAGE, f"in this run, {model} against {table} nats")
    first = printed(PAGE, "is first below " + "; ".join(rf"'knows {what}' at ([\d,]+) tokens" for what in RIVALS))
    _, pairs = (f"{round(int(at.replace(',', '')), -3):,}" for at in first)
    (nothing,) = printed(PAGE, r"knows nothing: ([\d.]+) nats")
    alts = [o.metadata["image/png"]["alt"] for c in read(PAGE).cells for o in c.get("outputs", []) if o.get("metadata")]
    (begins,) = (found[1] for alt in alts if (found := re.match(r"the model from ([\d.]+) to", alt)))
    assert float(begins) < float(nothing)  # the mean of the first ten batches
    said(PAGE, f"All three, in this run, the table of pairs only after about {pairs} tokens.")


def test_the_small_model_reads_each_token_once():
    source = "\n".join(cell.source for cell in read(PAGE).cells)
    (steps,) = re.findall(r"pretraining_steps = (\d+)  # of 16 text blocks", source)
    assert "randperm(len(text))[: 16 * pretraining_steps]" in source
    said(PAGE, f"reads {16 * int(steps) * BLOCK:,} tokens, once: every batch is new to it")


def test_this_run_of_instruction_tuning():
    before, after = (printed(PAGE, rf"{state}{3 * NUMBER}") for state in ("as released", "instructed"))
    said(PAGE, f"the loss on eight unseen answers fell from {before[0]} to {after[0]}")
    said(PAGE, f"at an end token from {before[1]} to {after[1]}, more than at one before it")
    printed(PAGE, r"painted it yellow\. +The house [^\n]+ +red *\n")
    printed(PAGE, r"JSON [^\n]+ 7 March 2019\. +\{ [^\n]+ +7 March 2019 *\n")
    said(PAGE, "painted yellow, is red, and the JSON is gone")
    said(PAGE, f"brought the loss on eight unseen ones from {before[0]} to {after[0]}.")
    loss, end, others = (float(b) - float(a) for b, a in zip(before, after, strict=True))
    assert end > loss > others > 0


def test_the_unseen_answers():
    tokenizer = AutoTokenizer.from_pretrained(sources.smollm2())

    def short(row):
        text = instruction_prompt(tokenizer, row["instruction"], row["context"]) + row["output"]
        return len(tokenizer(text, add_special_tokens=False)["input_ids"]) < 60  # and the end token

    kinds = [row["kind"] for row in load_instructions()["test"] if short(row)]
    assert len(kinds[::4]) == len(set(kinds[::4])) == 8
    said(PAGE, "the loss on eight unseen answers")


@pytest.fixture(scope="module")
def dpo() -> Results:
    return results.read("dpo")


FILM, PRODUCT, ALONE = "DPO", "DPO, product reviews", "chosen alone"


def means(found: Results, arm: str, of: str) -> list[float]:
    r"""Of the pairs, one for each seed."""
    return [statistics.fmean(map(float, run.more[of].split())) for run in found.arms[arm]]


def test_the_margin_is_positive(dpo):
    assert all(dpo.accuracy(arm, of="margin").low > 0 for arm in (FILM, PRODUCT))
    assert "`DPO`: sixteen steps of stage 2, then twelve of two pairs" in card("dpo")
    said(PAGE, "In three longer [stored runs](../data/evidence/dpo.md) both answers to the product prompt became less "
               "likely on average with every seed; the margin is above 0.")  # fmt: skip


def test_the_table_of_pairs_is_that_of_the_stored_runs(dpo):
    def shown(arm: str, of: str) -> str:
        found = dpo.accuracy(arm, of=of)
        return f"{found.value:+.2f} ({found.low:+.2f} to {found.high:+.2f})".replace("-", "−")

    cell = r" +([+−][\d.]+ \(\S+ to \S+\))"
    for name, arm in (("film reviews", FILM), ("product reviews", PRODUCT)):
        alone = ALONE + arm.removeprefix(FILM)
        printed_row = printed(PAGE, rf"{name}{3 * cell}")
        assert printed_row == (shown(arm, "chosen"), shown(arm, "margin"), shown(alone, "chosen"))


def test_how_many_pairs_are_held_out(dpo):
    film, product = printed(PAGE, r"means over (\d+) film or (\d+) product pairs and three seeds")
    for arm, pairs in ((FILM, film), (PRODUCT, product)):
        for runs in (dpo.arms[arm], dpo.arms[ALONE + arm.removeprefix(FILM)]):
            assert [len(run.more["margin"].split()) for run in runs] == 3 * [int(pairs)]


def test_both_answers_become_less_likely(dpo):
    assert all(max(means(dpo, PRODUCT, of)) < 0 for of in ("chosen", "rejected"))
    chosen, margin = (dpo.accuracy(PRODUCT, of=of) for of in ("chosen", "margin"))
    assert chosen.high < 0
    assert min(means(dpo, PRODUCT, "margin")) > 0 and margin.low > 0
    assert all(max(means(dpo, arm, "rejected")) < 0 for arm in (FILM, PRODUCT))
    said(PAGE, "The margin grew because the rejected answers fell.")
    assert "product reviews, which nothing is trained on" in " ".join(card("dpo").split())
    assert {run.cell.rate for run in dpo.arms[PRODUCT]} == {1e-3}
    said(PAGE, "In each of three stored runs the chosen product sentences became less likely on average while the "
               "margin rose")  # fmt: skip


def test_this_run_s_chosen_answers():
    counts = [
        tuple(map(int, printed(PAGE, rf"{kind} reviews, (\d+) pairs: chosen less likely in (\d+), margin above 0 in")))
        for kind in ("film", "product")
    ]
    assert sum(pairs for pairs, _ in counts) == 16
    said(PAGE, f"in this run {sum(less for _, less in counts)} of the 16 chosen answers became less likely.")


def test_the_pair_that_is_quoted():
    pair = next(pair for pair in rated_pairs("film")["train"] if len(pair["chosen"].split()) <= 12)
    said(PAGE, f"{pair['chosen']} against {pair['rejected']}")
    assert all(len(pair["chosen"].split()) == len(pair["rejected"].split()) for pair in rated_pairs("film")["train"])
    said(PAGE, "the rejected ones clearly negative")
    said(PAGE, f"Our prompt is always {pair['prompt']}")


def test_training_on_the_chosen_film_sentences_does_not_explain_it(dpo):
    film, product = (dpo.accuracy(arm, of="chosen") for arm in (ALONE, f"{ALONE}, product reviews"))
    assert film.low > 0 > product.low and product.high > 0
    assert min(mean for arm in (ALONE, f"{ALONE}, product reviews") for mean in means(dpo, arm, "chosen")) > 0
    for kind, arm in (("", FILM), (", product reviews", PRODUCT)):
        gap = dpo.difference(arm, f"{ALONE}{kind}", of="chosen")
        assert gap.high < 0
        both = zip(means(dpo, arm, "chosen"), means(dpo, f"{ALONE}{kind}", "chosen"), strict=True)
        assert all(tuned < alone for tuned, alone in both)
    said(PAGE, "The same sentences with stage 2's loss do the opposite: the chosen answers become likelier with "
               "every seed.")  # fmt: skip
    assert {run.cell.rate for arm in (ALONE, FILM) for run in dpo.searched(arm)} == {1e-3}
    said(PAGE, "Only one learning rate was tried")
