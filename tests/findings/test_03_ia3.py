r"""What 03 says of the stored runs, of PEFT's defaults, and of its own run."""

from __future__ import annotations

import inspect
import re
from collections import Counter

import nbformat
import pytest
from finding import ROOT, printed, said

from coursekit.checks.ia3_diagnose import diagnose, public_runs
from coursekit.experiments import results
from coursekit.experiments.results import Results, few
from coursekit.methods import IA3
from coursekit.models import load_decoder, load_encoder
from coursekit.paths import DATA

PAGE = "03_ia3"
EQUAL = "equal for practical purposes (within 3 points)"
RIVALS = ("lora", "pfeiffer", "full")


@pytest.fixture(scope="module")
def film() -> Results:
    r"""As the notebook reads it: the file of (IA)³, and the linear probe, on the same sentences."""
    return results.read("ia3", "probe")


def among_few(film: Results, n: int):
    r"""The three rivals minus (IA)³ with n sentences, one family."""
    found = film.differences([few(arm, n) for arm in RIVALS], few("ia3", n))
    return {arm: found[few(arm, n)] for arm in RIVALS}


def test_with_all_sentences_it_is_level_with_lora_and_the_adapter(film):
    assert f"{film.parameters('ia3') / film.parameters('full'):.2%}" == "0.06%"
    assert film.parameters("lora r=1") == film.parameters("ia3")
    sizes = {arm: film.parameters(arm) / film.parameters("ia3") for arm in ("lora", "pfeiffer", "pfeiffer r=3")}
    assert {arm: round(size) for arm, size in sizes.items()} == {"lora": 5, "pfeiffer": 5, "pfeiffer r=3": 1}
    assert {str(film.difference(arm, "ia3")) for arm in (*sizes, "lora r=1")} == {EQUAL}
    said(PAGE, "(IA)³ trains 0.06 % of MiniLM's parameters")
    said(PAGE, "LoRA and the adapter, with about as many numbers or five times as many, are equal to it for practical "
               "purposes")  # fmt: skip
    said(PAGE, "it is equal to LoRA and adapters for practical purposes")
    said(PAGE, "Otherwise LoRA: with as many numbers its file is as small")
    card = (DATA / "evidence" / "ia3.md").read_text(encoding="utf-8")
    assert "300 steps are 0.64 of the 7,530 training sentences" in card
    assert film.steps("ia3") * 16 == 4800 < 7530
    said(PAGE, "300 steps of 16, so 4,800 of the 7,530 sentences, each once")
    said(PAGE, "With 4,800 sentences it is level")


def test_full_fine_tuning(film):
    found = film.difference("full", "ia3")
    said(PAGE, f"Full fine-tuning may be ahead, but there is {found.verdict}")
    said(PAGE, "a linear probe; full fine-tuning may be ahead")


def test_the_fair_baseline(film):
    found = film.difference("probe", "ia3")
    assert found.verdict == "worse"
    said(PAGE, f"A linear probe is worse by {-100 * found.value:.1f} points, though it read all 7,530 sentences: "
               f"logistic regression on the mean of the "
               f"frozen model's tokens, {film.parameters('probe')} numbers, trained to convergence")  # fmt: skip
    said(PAGE, f"{-100 * found.value:.1f} points ahead of a linear probe")


def test_what_is_preliminary(film):
    card = (DATA / "evidence" / "ia3.md").read_text(encoding="utf-8").splitlines()
    rows = {line.split(" | ")[0].removeprefix("| "): line.endswith("preliminary |") for line in card if "| " in line}
    used = ["ia3", "full", *RIVALS[:2], "lora r=1", "pfeiffer r=3"]
    used += [few(arm, n) for arm in ("ia3", *RIVALS) for n in (16, 128, 1024)]
    assert sum(rows[arm] for arm in used) > 2 * len(used) / 3
    said(PAGE, "On the evidence card (data/evidence/ia3.md) most rows are preliminary: a rate next to the best has one "
               "seed, or runs of twice the steps are missing")  # fmt: skip


def test_few_sentences_do_not_favour_it(film):
    some, many = among_few(film, 128), among_few(film, 1024)
    assert (some["lora"].verdict, some["pfeiffer"].verdict) == ("better", "worse")
    lora, adapter = (f"{abs(100 * some[arm].value):.1f}" for arm in ("lora", "pfeiffer"))
    said(PAGE, f"With 128 sentences LoRA with $r=8$ is better by {lora} points, and the adapter is worse by {adapter}")
    said(PAGE, f"With 128 sentences LoRA with $r=8$ is better by {lora} points.")
    assert round(film.parameters(few("lora", 128)) / film.parameters(few("ia3", 128))) == 5, "that is r = 8"
    assert str(many["lora"]) == EQUAL
    assert {d.verdict for d in many.values()} == {EQUAL.partition(" (")[0], "no clear difference"}
    said(PAGE, "With 1,024 sentences no method is clearly ahead")


def test_with_16_nothing_is_clear(film):
    found = among_few(film, 16)
    assert {d.verdict for d in found.values()} == {"no clear difference"}
    assert found["full"].low > 0, "an interval that excludes 0"
    said(PAGE, "With 16 we do not know. After Holm's adjustment no rival is clearly different")
    all_four = film.differences([*(few(arm, 16) for arm in RIVALS), "constant"], few("ia3", 16))
    assert {d.verdict for d in all_four.values()} == {"no clear difference"}
    said(PAGE, "nor is the constant answer")


def test_its_best_learning_rate_is_ten_times_that_of_lora(film):
    assert round(film.rate("ia3") / film.rate("lora")) == 10
    decoder = results.read("decoder")
    assert decoder.steps("ia3") == 100 and decoder.rate("lora") == film.rate("lora") == 0.003
    said(PAGE, "with 0.003, LoRA's best rate in section 6, the factors would stay within about 0.03 of 1.")
    assert (film.rate("ia3"), film.rate("lora")) == (0.03, 0.003)
    assert all(film.rate(few("ia3", n)) >= 10 * film.rate(few("lora", n)) for n in (16, 128, 1024))
    assert round(decoder.rate("ia3") / decoder.rate("lora")) == 3
    assert (decoder.rate("ia3"), decoder.rate("lora")) == (0.01, 0.003)
    said(PAGE, "Its best learning rate was 10 times LoRA's on MiniLM (0.03 and 0.003), 3 times on SmolLM2 (0.01 and "
               "0.003)")  # fmt: skip
    read = (few(arm, n) for arm in (*RIVALS, "ia3") for n in (16, 128, 1024))
    for arm in (*RIVALS, "ia3", *read):
        assert min(tried := film.by_rate(arm)) < film.rate(arm) < max(tried), "the best rate is at no edge"


def test_on_smollm2_it_beats_a_fitted_threshold():
    decoder = results.read("decoder")
    found = decoder.difference("ia3", "untrained, fitted threshold")
    judged = decoder.differences(("untrained, fitted threshold", "lora"), "ia3")
    assert [one.verdict for one in judged.values()] == ["worse", EQUAL.partition(" (")[0]]
    assert found.verdict == "better"
    gain = f"{100 * found.value:.1f} points"
    said(PAGE, f"On SmolLM2 (IA)³ is better than the untrained model with a fitted threshold by {gain}")
    assert decoder.steps("ia3") == 100
    card = (DATA / "evidence" / "decoder.md").read_text(encoding="utf-8")
    assert "200 validation and 500 test sentences" in card and "batches of 8" in card
    assert "task**: film/two," in card, "of every length"
    printed(PAGE, "(100 steps of eight, 500 test sentences, of every length. Verdicts adjusted for 2 comparisons)")
    assert str(decoder.difference("ia3", "lora")) == EQUAL
    said(PAGE, f"{gain}, and equal to LoRA for practical purposes")


def test_what_peft_scales_by_default():
    from peft import IA3Config, get_peft_model
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as DEFAULTS
    from transformers import BertConfig, BertModel

    def scales(targets):
        if "q_proj" in targets:
            return "another"
        return (
            "more" if {"c_attn", "query_key_value", "in_proj", "output.dense"} & {*targets} else "the three"
        )

    kinds = {kind: scales(targets) for kind, targets in DEFAULTS.items()}
    found = Counter(kinds.values())
    assert found["the three"] < len(kinds) / 2
    said(PAGE, "but most of its defaults differ from the paper's")
    assert {kinds[k] for k in ("t5", "llama", "mistral")} == {"the three"}
    assert {*DEFAULTS["llama"]} == {"k_proj", "v_proj", "down_proj"}
    said(PAGE, "these three are PEFT's default for Llama models")
    assert {kinds[k] for k in ("bert", "gpt2")} == {"more"}
    assert {kinds[k] for k in ("opt", "gemma2", "qwen3")} == {"another"}
    for kind in ("llama", "bert", "qwen3"):
        assert printed(PAGE, f"scales in {kind} by default: (.+)") == (" ".join(sorted(DEFAULTS[kind])),)

    tiny = BertConfig(num_hidden_layers=1, hidden_size=8, num_attention_heads=2, intermediate_size=16, vocab_size=9)
    caught = get_peft_model(BertModel(tiny), IA3Config()).state_dict()
    assert any("attention.output.dense.ia3_l" in name for name in caught)
    said(PAGE, "(BERT's output.dense is in the attention too)")


def test_peft_does_not_fold_into_a_quantized_base():
    from peft import IA3Model

    source = inspect.getsource(IA3Model)
    for bits in (8, 4):
        assert f"Cannot merge ia3 layers when the model is loaded in {bits}-bit mode" in source
    said(PAGE, "refuses where the base was loaded in 8 or 4 bits")


# The notebook's own run ------------------------------------------------------------------------------------


def row(name: str) -> tuple[str, ...]:
    r"""right, pairs in order."""
    return printed(PAGE, rf"{name} +(0\.\d+) \S+ n=120\) +(0\.\d+)")


def test_the_first_table_is_told_as_it_is():
    bare, rival, tuned = (
        row(name) for name in ("SmolLM2", "SmolLM2, fitted threshold", r"\(IA\)³, 20 steps")
    )
    said(PAGE, f"They do, in this run: the vectors bring SmolLM2 from {bare[0]} to {tuned[0]}, "
               f"the threshold alone to {rival[0]}")  # fmt: skip
    lows = printed(PAGE, r"sentences: right \S+ \((\S+) to \S+\), AUC \S+ \((\S+) to \S+\)\.")
    assert all(float(low) > 0 for low in lows)
    said(PAGE, f"from {bare[1]} to {tuned[1]}. So the vectors do more than shift the answer")


def test_your_loop_is_told_as_it_is():
    farthest, total = printed(PAGE, r"from 1: (\S+); sum of the learning rates: (\S+)")
    said(PAGE, f"the farthest factor ends {farthest} from 1; the rates add up to {total}")
    own = row("your loop")
    tuned = row(r"\(IA\)³, 20 steps")
    more = round(120 * (float(own[0]) - float(tuned[0])))
    assert more == 2
    said(PAGE, f"without fit's warm-up and clipping, ends at {own[0]} (section 1: {tuned[0]}): two sentences of 120")


def test_the_bill_is_told_as_it_is():
    names = (
        "full fine-tuning", r"\n\(IA\)³", "LoRA, r = 8 on q, v", "LoRA, r = 1 on k, v, W_2",
        "LoRA, r = 1 on q, k, v", "adapter, r = 16",
    )  # fmt: skip
    full, ours, lora, same_places, same_numbers, adapter = (
        printed(PAGE, name + r" +([\d,.]+)" * 6) for name in names
    )
    said(PAGE, f"At the peak (IA)³ takes {ours[3]} MB, this LoRA {lora[3]}, full fine-tuning {full[3]} "
               f"(not {full[1]} + {full[2]}:")  # fmt: skip
    assert float(full[3]) < float(full[1]) + float(full[2]) / 2
    said(PAGE, "Beside full fine-tuning in both, beside LoRA in neither.")
    assert float(lora[3]) < float(ours[3]) < float(full[3]) and float(ours[4]) < float(full[4])
    kept = [float(row[2]) for row in (lora, same_places, ours)]
    assert (kept[1] - kept[0]) / (kept[2] - kept[0]) > 0.5, "mostly because of where it sits"
    said(PAGE, f"{ours[2]} MB of activations. LoRA on queries and values keeps {lora[2]}")
    said(PAGE, f"keeps {lora[2]}, on (IA)³'s own matrices {same_places[2]}")
    assert same_numbers[0] == ours[0] and same_numbers[5] == ours[5]
    said(PAGE, f"{ours[5]} kB for a task instead of {lora[5]}")
    steps = sorted(row[4] for row in (ours, lora, same_places, same_numbers, adapter))
    assert float(steps[-1]) - float(steps[0]) < 2 * abs(1 - float(full[4]))
    said(PAGE, f"Steps took {steps[0]} to {steps[-1]} of full fine-tuning's time")
    said(PAGE, f"full fine-tuning beside itself reads {full[4]}")


def test_the_models_are_told_as_they_are():
    smollm2, minilm = load_decoder("smollm2")[0].config, load_encoder("minilm", num_labels=2)[0].config
    per_key = smollm2.num_attention_heads // smollm2.num_key_value_heads
    width = smollm2.num_key_value_heads * smollm2.hidden_size // smollm2.num_attention_heads
    assert (per_key, width, smollm2.intermediate_size, smollm2.num_hidden_layers) == (3, 192, 1536, 30)
    said(PAGE, "30 · (2 · 192 + 1,536) = 57,600 in SmolLM2 (three query heads share a key head)")
    assert IA3().count(smollm2) == 57_600
    said(PAGE, f"an encoder with {minilm.num_hidden_layers} blocks, {minilm.hidden_size} wide")


def test_folding_is_told_as_it_is():
    beside, folded = printed(PAGE, r"logits: (\S+) beside the weights, (\S+) folded")
    assert float(beside) == 0 and float(folded) < 1e-3
    said(PAGE, "PEFT computes your logits, and folding moves them by rounding alone")


def test_the_key_names_the_faults_of_the_runs_in_the_picture():
    notebook = nbformat.read(ROOT / "notebooks" / f"{PAGE}.ipynb", as_version=4)
    (key,) = (c.source for c in notebook.cells if "Key to the six runs" in c.source)
    assert tuple(re.findall(r"^\d\. \*(.+?)\*", key, re.MULTILINE)) == diagnose(*public_runs(4))
