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
#: Arms of the table, and what it calls them.
SHOWN = {
    "0 shots": "no example",
    "5 shots": "five in the prompt",
    "10 shots": "ten in the prompt",
    SAME_TEN: "LoRA on the same ten",
    "LoRA on 1000": "LoRA on a thousand",
}
NUMBER = r"\s+([+−-]?[\d.]+)"


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
    said(PAGE, f"A thousand in training are better by {100 * best.value:.0f} points than the best prompt")


def test_with_the_same_ten_there_is_no_clear_difference(context):
    found = context.differences([arm for arm in context.arms if arm != "10 shots"], "10 shots")
    assert len(found) == 8
    assert found[SAME_TEN].verdict == found["0 shots"].verdict == "no clear difference"
    alone = context.difference(SAME_TEN, "10 shots")
    assert alone.low > 0  # its interval leaves out 0
    value, low, high = (f"{100 * x:.0f}" for x in (alone.value, alone.low, alone.high))
    said(PAGE, f"No clear difference between the two: LoRA's lead of {value} points ({low} to {high}) does not survive "
               "the adjustment for eight comparisons. Nor do ten examples show a clear gain over none.")  # fmt: skip
    said(PAGE, "Ten examples in the prompt or LoRA on the same ten: no clear difference.")
    assert [len(context.arms[f"{n} shots"]) for n in (0, 1, 2, 5, 10)] == 5 * [1]
    assert {len(context.arms[arm]) for arm in SHOWN if arm.startswith("LoRA")} == {3}
    said(PAGE, "Each prompt is one choice; LoRA has three seeds.")


def test_the_ten_of_the_prompt_are_two_of_each_grade():
    task = load_task("film", "five")
    assert sorted(word for _, word in task.shots(10)) == sorted(2 * list(task.labels))
    said(PAGE, "Ten examples are two of each grade.")


def test_the_table_is_that_of_the_stored_runs(context):
    for arm, name in SHOWN.items():
        said(PAGE, f"| {name} | {context.accuracy(arm).value:.2f} |")


def test_a_grade_is_the_likeliest_of_five_words():
    task = load_task("film", "five")
    assert len(task.labels) == 5
    said(PAGE, f"grades 300 film sentences with one of five words, {task.labels[0]} to {task.labels[-1]}")


def test_the_commonest_grade():
    grades = load_task("film", "five").data["test"]["label"][:300]
    said(PAGE, f"| the commonest grade alone | {max(map(grades.count, set(grades))) / 300:.2f} |")


def test_this_run_of_the_small_model_beats_the_table():
    model, table = printed(PAGE, r"the model ([\d.]+), the table of pairs ([\d.]+) nats")
    assert float(model) < float(table)
    said(PAGE, "All three, in this run, but the table of pairs only near the end:")  # the notebook asserts it
    said(PAGE, f"near the end: {model} against {table} nats on new text.")
    alts = [o.metadata["image/png"]["alt"] for c in read(PAGE).cells for o in c.get("outputs", []) if o.get("metadata")]
    (nothing,) = printed(PAGE, r"knows nothing: ([\d.]+) nats")
    (begins,) = (found[1] for alt in alts if (found := re.match(r"the model from ([\d.]+) to", alt)))
    assert float(begins) < float(nothing)  # the mean of the first ten batches
    said(PAGE, "after 300,000 tokens a small model just beats a table of pairs from the same text, in this run.")


def test_the_small_model_reads_each_token_once():
    source = "\n".join(cell.source for cell in read(PAGE).cells)
    (steps,) = re.findall(r"pretraining_steps = (\d+)  # of 16 text blocks", source)
    assert "randperm(len(text))[: 16 * pretraining_steps]" in source
    said(PAGE, f"reads {16 * int(steps) * BLOCK:,} tokens of reviews and editorials, each once.")


def test_this_run_of_instruction_tuning():
    before, after = (printed(PAGE, rf"{state}{3 * NUMBER}") for state in ("as released", "instructed"))
    said(PAGE, f"the loss on eight unseen answers fell from {before[0]} to {after[0]}")
    said(PAGE, "most at the end token: the model learned to stop.")
    printed(PAGE, r"painted it yellow\. +The house [^\n]+ +red *\n")
    printed(PAGE, r"JSON [^\n]+ 7 March 2019\. +\{ [^\n]+ +7 March 2019 *\n")
    said(PAGE, "painted yellow, is red, and the JSON is gone")
    said(PAGE, f"in this run 48 examples brought the loss from {before[0]} to {after[0]}.")
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
    said(PAGE, "Three longer [stored runs](../data/evidence/dpo.md) agree")


def test_the_table_of_pairs_is_that_of_the_stored_runs(dpo):
    columns = (PRODUCT, "chosen"), (PRODUCT, "rejected"), (f"{ALONE}, product reviews", "chosen")
    shown = zip(*(means(dpo, *column) for column in columns), strict=True)
    for i, values in enumerate(shown, 1):
        assert printed(PAGE, rf"run {i}{3 * NUMBER}") == tuple(f"{value:+.1f}".replace("-", "−") for value in values)


def test_how_many_pairs_are_held_out(dpo):
    for arm in (PRODUCT, f"{ALONE}, product reviews"):
        assert [len(run.more["margin"].split()) for run in dpo.arms[arm]] == 3 * [22]
    said(PAGE, "agree, on 22 product pairs:")


def test_both_answers_become_less_likely(dpo):
    assert all(max(means(dpo, PRODUCT, of)) < 0 for of in ("chosen", "rejected"))
    chosen, margin = (dpo.accuracy(PRODUCT, of=of) for of in ("chosen", "margin"))
    assert chosen.high < 0
    assert min(means(dpo, PRODUCT, "margin")) > 0 and margin.low > 0
    assert all(max(means(dpo, arm, "rejected")) < 0 for arm in (FILM, PRODUCT))
    said(PAGE, "Both answers become less likely in every run, the rejected more so.")
    assert sum(mean < 0 for mean in means(dpo, FILM, "chosen")) == 2
    said(PAGE, "On film reviews the chosen ones fell in two of the three.")
    assert "product reviews, which nothing is trained on" in " ".join(card("dpo").split())
    assert {run.cell.rate for run in dpo.arms[PRODUCT]} == {1e-3}


def test_this_run_s_chosen_answers():
    counts = [
        tuple(map(int, printed(PAGE, rf"{kind} reviews, (\d+) pairs: chosen less likely in (\d+), margin above 0 in")))
        for kind in ("film", "product")
    ]
    assert sum(pairs for pairs, _ in counts) == 16
    less = sum(less for _, less in counts)
    said(PAGE, f"in this run {less} of the 16 chosen answers became less likely.")
    said(PAGE, f"in this run {less} of 16 chosen answers became less likely.")


def test_the_pairs():
    pair = rated_pairs("film")["train"][0]
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
    said(PAGE, "Stage 2's loss on the same chosen sentences does the opposite: the chosen answers become likelier in "
               "every run.")  # fmt: skip
    assert {run.cell.rate for arm in (ALONE, FILM) for run in dpo.searched(arm)} == {1e-3}
    said(PAGE, "Only one learning rate was tried")
