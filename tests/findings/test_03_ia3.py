r"""What 03 says of the stored runs, of PEFT's defaults, and of its own run."""

import inspect
import re
from collections import Counter

import nbformat
import pytest
import torch
from finding import ROOT, once_beside, printed, said, tenths

from coursekit.checks.ia3_diagnose import diagnose, public_runs
from coursekit.comparison.candidates import EVERY
from coursekit.experiments import results
from coursekit.experiments.results import Results, few
from coursekit.methods import IA3
from coursekit.models import load_decoder
from coursekit.paths import DATA

PAGE = "03_ia3"
EQUAL = "equal for practical purposes (within 3 points)"
RIVALS = ("lora", "pfeiffer", "full")
IN_PICTURE = ("full", "lora", "pfeiffer", "probe")
#: The six that notebook 10 compares after 600 steps.
IN_10 = ("pfeiffer", "ia3", "lora", "prefix", "bitfit", "prompt")


@pytest.fixture(scope="module")
def film() -> Results:
    r"""As the notebook reads it: the file of (IA)³, and the linear probe, on the same sentences."""
    return results.read("ia3", "probe")


def among_few(film: Results, n: int):
    r"""The rivals minus (IA)³ with n sentences, one family: with 128 the rows of the table."""
    arms = {arm: few(arm, n) for arm in (*RIVALS, "probe")} | ({"constant": "constant"} if n == 16 else {})
    found = film.differences(arms.values(), few("ia3", n))
    return {arm: found[name] for arm, name in arms.items()}


def test_with_all_sentences_it_is_level_with_lora_and_the_adapter(film):
    sizes = {arm: film.parameters(arm) / film.parameters("ia3") for arm in ("lora", "pfeiffer")}
    assert {arm: round(size) for arm, size in sizes.items()} == {"lora": 5, "pfeiffer": 5}
    assert {str(film.difference(arm, "ia3")) for arm in sizes} == {EQUAL}
    assert (film.parameters("ia3"), film.parameters("lora")) == (14_594, 74_498)
    beside = film.differences(IN_PICTURE, "ia3")["lora"]
    assert str(beside.verdict) == EQUAL.partition(" (")[0] and f"{abs(100 * beside.value):.1f}" == "0.0"
    ends = beside.in_points().partition(" ")[2].replace("+", "")
    said(PAGE, "With 4,800 sentences (IA)³ is equal to LoRA and the adapter for practical purposes, with a fifth of "
               f"their numbers. LoRA minus (IA)³ is 0.0 points {ends}.")  # fmt: skip
    said(PAGE, "it is equal to LoRA and the adapter for practical purposes")
    verdicts = {arm: str(d.verdict) for arm, d in film.differences(IN_PICTURE, "ia3").items()}
    unclear = [arm for arm, verdict in verdicts.items() if verdict == "no clear difference"]
    assert unclear == ["full"] and verdicts["probe"] == "worse"
    card = (DATA / "evidence" / "ia3.md").read_text(encoding="utf-8")
    assert "300 steps are 0.64 of the 7,530 training sentences" in card
    assert film.steps("ia3") * 16 == 4800 < 7530
    said(PAGE, "300 steps of 16, 4,800 film sentences")
    shown = [*sizes, "full", "probe"]
    assert {len(film.seeds(arm)) for arm in ("ia3", *shown)} == {3}
    said(PAGE, "of MiniLM with a new classifier, three seeds each")


def test_full_fine_tuning(film):
    found = film.difference("full", "ia3")
    anew = results.read("methods")
    worse = anew.differences([arm for arm in EVERY if arm in anew.arms and arm != "full"], "full")["ia3"]
    assert worse.verdict == "worse" and worse.family == 33
    assert [len(runs.seeds(arm)) for runs in (film, anew) for arm in ("ia3", "full")] == [3, 3, 5, 5]
    said(PAGE, f"Full fine-tuning shows {found.verdict} over these three seeds. Over five (IA)³ is "
               f"{tenths(worse)}; on two more tasks it is equal (notebook 10).")  # fmt: skip
    for task in (results.read("product"), results.read("source")):
        assert str(task.differences(IN_10, "full")["ia3"]) == EQUAL
    said("10_which_method", "(IA)³ is equal in three. After 600 steps it is unclear")


def test_the_fair_baseline(film):
    found = film.difference("probe", "ia3")
    assert found.verdict == "worse"
    said(PAGE, "The linear probe is logistic regression on the mean of the frozen model's tokens.")
    said(PAGE, f"A linear probe is worse by {-100 * found.value:.1f} points.")


def test_every_row_is_settled(film):
    said("data/evidence/ia3.md", "settled: 20 of 20 arms")
    used = ["ia3", "full", *RIVALS[:2]]
    used += [few(arm, n) for arm in ("ia3", *RIVALS) for n in (16, 128)]
    assert not any(once_beside(film, arm) for arm in used)


def test_few_sentences_do_not_favour_it(film):
    found = {n: among_few(film, n) for n in (16, 128)}
    probe = {n: column.pop("probe") for n, column in found.items()}
    assert [one.verdict for one in probe.values()] == ["better", EQUAL.partition(" (")[0]]
    assert str(probe[128]) == EQUAL
    assert {d.verdict for d in found[16].values()} == {"no clear difference"}, "not shown to beat a constant answer"
    ahead = {(n, arm): d for n, column in found.items() for arm, d in column.items() if d.verdict == "better"}
    assert [*ahead] == [(128, "lora")] and str(found[128]["full"]) == EQUAL
    said(PAGE, f"No: LoRA is {tenths(ahead[128, 'lora'])}. With 16 sentences (IA)³ is not shown to beat a constant "
               "answer")  # fmt: skip
    printed(PAGE, "(The other verdicts are adjusted for four comparisons)")
    assert not [arm for column in found.values() for arm, d in column.items() if d.verdict == "worse"], "not ahead"
    said(PAGE, "for practical purposes; with 128 LoRA is better.")
    seeds = {run.cell.seed for run in film.arms[few("ia3", 16)]}
    assert len(seeds) == 3
    said(PAGE, "Here are 128, drawn three times, with rates tuned anew on 300 validation sentences.")
    chosen = {run.more["penalty"] for run in film.runs if run.cell.arm.startswith("probe with")}
    assert len(chosen) > 1


def test_what_its_learning_rate_is(film):
    said(PAGE, "Learning rates are tuned for each method.")
    said(PAGE, f"So (IA)³ needs a high rate: in the stored runs {film.rate('ia3')} is best, ten times LoRA's.")
    assert (film.rate("ia3"), film.rate("lora")) == (0.03, 0.003)
    read = (few(arm, n) for arm in (*RIVALS, "ia3") for n in (16, 128))
    for arm in (*RIVALS, "ia3", *read):
        assert min(tried := film.by_rate(arm)) < film.rate(arm) < max(tried), "the best rate is at no edge"


def test_on_smollm2_it_beats_a_fitted_threshold():
    decoder = results.read("decoder")
    found = decoder.difference("ia3", "untrained, fitted threshold")
    rivals = "lora", "pfeiffer"
    judged = decoder.differences(("untrained, fitted threshold", *rivals), "ia3")
    assert [one.verdict for one in judged.values()] == ["worse", *2 * [EQUAL.partition(" (")[0]]]
    assert found.verdict == "better"
    assert decoder.steps("ia3") == 100
    card = (DATA / "evidence" / "decoder.md").read_text(encoding="utf-8")
    assert "batches of 8" in card
    assert {str(decoder.difference("ia3", rival)) for rival in rivals} == {EQUAL}
    said(PAGE, f"after 100 steps (IA)³ is {str(found).replace('better by', 'better than a fitted threshold by')}.")


def test_what_peft_scales_by_default():
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as DEFAULTS

    def scales(targets):
        if "q_proj" in targets:
            return "another"
        return "more" if {"c_attn", "query_key_value", "in_proj", "output.dense"} & {*targets} else "the three"

    kinds = {kind: scales(targets) for kind, targets in DEFAULTS.items()}
    found = Counter(kinds.values())
    assert found["the three"] < len(kinds) / 2
    said(PAGE, "most of PEFT's defaults scale other layers than the paper")
    assert {kinds[k] for k in ("t5", "llama", "mistral")} == {"the three"}
    assert {*DEFAULTS["llama"]} == {"k_proj", "v_proj", "down_proj"}
    assert {kinds[k] for k in ("bert", "gpt2")} == {"more"}
    assert {kinds[k] for k in ("opt", "gemma2", "qwen3")} == {"another"}


def test_peft_does_not_fold_into_a_quantized_base():
    from peft import IA3Model

    source = inspect.getsource(IA3Model)
    for bits in (8, 4):
        assert f"Cannot merge ia3 layers when the model is loaded in {bits}-bit mode" in source
    said(PAGE, "refuses where the base was loaded in 8 or 4 bits")
    said(PAGE, "and into quantized ones where it scales rows: in SmolLM2 all of it")


def test_no_scale_takes_loras_product():
    torch.manual_seed(0)
    codes = torch.randint(1, 8, (4, 64))  # a block of 64 in each row
    wanted = 0.1 * codes + torch.randn(4, 1) @ torch.randn(1, 64) / 100
    assert (wanted / codes).std(1).min() > 1e-4
    said(PAGE, "LoRA's product changes each weight of a block by its own amount: no scale can take it")


# The notebook's own run ------------------------------------------------------------------------------------


def row(name: str) -> tuple[str, ...]:
    r"""The share that is right, and the number of sentences."""
    return printed(PAGE, rf"{name} +(0\.\d+) \S+ n=(\d+)\)")


def test_the_first_table_is_told_as_it_is():
    bare, rival, tuned = (row(name) for name in ("SmolLM2", "SmolLM2, fitted threshold", r"\(IA\)³, 20 steps"))
    said(PAGE, f"They do, in this run: the vectors bring SmolLM2 from {bare[0]} to {tuned[0]}, "
               f"the threshold alone to {rival[0]}.")  # fmt: skip
    trained, share = printed(PAGE, r"\n([\d,]+) numbers trained, (\S+) %\.")
    assert trained == "57,600"
    said(PAGE, f"{share} % of SmolLM2's parameters")


def test_your_loop_is_told_as_it_is():
    farthest, total = printed(PAGE, r"from 1: (\S+); sum of the learning rates: (\S+)")
    said(PAGE, f"the farthest factor ends {farthest} from 1; the rates add up to {total}")
    own = row("right:")
    tuned = row(r"\(IA\)³, 20 steps")
    assert abs(float(own[0]) - float(tuned[0])) < 0.03
    said(PAGE, f"Your loop, without the warm-up and clipping of fit, ends at {own[0]}.")


def test_the_bill_is_told_as_it_is():
    names = "full fine-tuning", r"\n\(IA\)³", "LoRA, r = 8 on q, v", "adapter, r = 16"
    full, ours, lora, adapter = (printed(PAGE, name + r" +([\d,.]+)" * 4) for name in names)
    said(PAGE, f"Less than full fine-tuning, more than LoRA or the adapter: at the peak {ours[2]} MB, LoRA {lora[2]}.")
    assert max(float(lora[2]), float(adapter[2])) < float(ours[2]) < float(full[2])
    said(PAGE, f"{ours[1]} MB of activations where LoRA keeps {lora[1]}")
    assert round(int(lora[0].replace(",", "")) / int(ours[0].replace(",", ""))) == 5
    said(PAGE, "Than LoRA's, with five times the numbers?")
    said(PAGE, f"What shrinks is the file: {ours[3]} kB, where LoRA has {lora[3]}.")
    said(PAGE, f"On MiniLM its file holds {ours[3]} kB.")


def test_the_models_are_told_as_they_are():
    smollm2 = load_decoder("smollm2")[0].config
    per_key = smollm2.num_attention_heads // smollm2.num_key_value_heads
    width = smollm2.num_key_value_heads * smollm2.hidden_size // smollm2.num_attention_heads
    assert (per_key, width, smollm2.intermediate_size, smollm2.num_hidden_layers) == (3, 192, 1536, 30)
    said(PAGE, "30 · (2 · 192 + 1,536) = 57,600 in SmolLM2.")
    assert IA3().count(smollm2) == 57_600


def test_where_a_rotation_follows_the_factors_cannot_move_to_the_queries():
    torch.manual_seed(0)
    q, k, l = torch.randn(3, 8)
    turn = [torch.linalg.qr(torch.randn(8, 8))[0] for _ in range(2)]  # of two positions
    one, other = (turn[0] @ q) @ (turn[1] @ (l * k)), (turn[0] @ (l * q)) @ (turn[1] @ k)
    assert (one - other).abs() > 0.1
    said(PAGE, "Where a rotation follows $l_k$, as in SmolLM2, 1 does not hold.")


def test_folding_is_told_as_it_is():
    beside, folded = printed(PAGE, r"logits: (\S+) beside the weights, (\S+) folded")
    assert float(beside) == 0 and float(folded) < 1e-3
    said(PAGE, "PEFT computes your logits; folding moves them by rounding alone")
    (off,) = printed(PAGE, r"\nW_2 +columns +0% +(\S+)%")
    said(PAGE, f"left as it was, $W_2$ is {off} % off")


def test_the_key_names_the_faults_of_the_runs_in_the_picture():
    notebook = nbformat.read(ROOT / "notebooks" / f"{PAGE}.ipynb", as_version=4)
    (key,) = (c.source for c in notebook.cells if "Key to the six runs" in c.source)
    assert tuple(re.findall(r"^\d\. \*(.+?)\*", key, re.MULTILINE)) == diagnose(*public_runs(4))
