r"""What 04 says of the stored runs, and of its own."""

import hashlib
import inspect
import itertools
import re
from typing import Any

import peft
import pytest
import torch
from finding import ROOT, in_the_open, once_beside, printed, read, said, tenths, tied
from peft.tuners.prompt_tuning import PromptEmbedding
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

from coursekit.checks.draw import Draw
from coursekit.checks.soft_prompts_train import ASKED as ASKED_SHARE
from coursekit.checks.soft_prompts_train import DESIGN, IN_WORDS, LEARN, _right, _vectors
from coursekit.checks.training import plain
from coursekit.comparison.candidates import CANDIDATES
from coursekit.experiments import results
from coursekit.experiments.intervals import Difference
from coursekit.experiments.results import Results
from coursekit.methods import PromptTuning
from coursekit.models import load_decoder, load_encoder
from coursekit.tasks import load_task
from coursekit.training import fit
from coursekit.training.optimizers import make_optimizer

PAGE = "04_soft_prompts"
#: The rows of its picture.
SHOWN = ["p-tuning-mlp", "prompt-20-text", "prefix-1", "prefix-20", "prefix-20, 600 steps"]
#: With the picture's lines.
NAMED = [*SHOWN, "probe-cls", "probe", "full, 600 steps"]
#: The rows of its table.
PAIRS = [
    ("prefix-20", "probe-cls"), ("prompt-20-text", "probe-cls"), ("p-tuning-mlp", "probe-cls"),
    ("prefix-1", "prompt-20-text"), ("prefix-20, 600 steps", "full, 600 steps"),
]  # fmt: skip
#: Its last row, whose head reads the mean.
ON_MEAN = ("prefix",)


def unsigned(found: Difference) -> str:
    r"""Size and interval of a gain, or of a loss, without signs: "3.8 points (1.5 to 6.1)"."""
    up = found if found.value > 0 else -found
    return f"{100 * up.value:.1f} points ({ranges(up)})"


def ranges(found: Difference) -> str:
    r"""The interval of a gain, without its signs: "1.8 to 5.9"."""
    return f"{100 * found.low:.1f} to {100 * found.high:.1f}"


@pytest.fixture(scope="module")
def film() -> Results:
    r"""As the notebook reads it: soft prompts, linear probes, full fine-tuning at the second rate that ties."""
    return results.read("soft_prompts", "probe").at("full", 1e-4)


@pytest.fixture(scope="module")
def every() -> Results:
    r"""All their runs, those of full fine-tuning's other rates too."""
    return results.read("soft_prompts", "probe")


@pytest.fixture(scope="module")
def mean() -> Results:
    r"""As the notebook reads it: methods whose head reads the tokens' mean, and the probe on it."""
    return results.read("mean", "probe")


def soft(film: Results) -> list[str]:
    r"""All soft prompts that all sentences trained, shown or not."""
    return [arm for arm in film.arms if arm.startswith(("prompt", "p-tuning", "prefix")) and "examples" not in arm]


def test_what_each_row_had(film, mean):
    card = (ROOT / "data/evidence/soft_prompts.md").read_text(encoding="utf-8")
    assert "- **seeds**: 0, 1, 2" in card and {len(mean.arms[arm]) for arm in ON_MEAN} == {5}
    assert {film.steps(arm) for arm in SHOWN} == {300, 600}
    assert "2009 test sentences" in card and printed(
        PAGE, r"(2,009 test sentences, three seeds \(five with the head on the mean\))"
    )
    assert {mean.steps(arm) for arm in ON_MEAN} == {300}
    said(PAGE, "soft prompts at their best learning rate on validation. Training takes 300 steps, for full fine-tuning "
               "and one prefix beside it 600.")  # fmt: skip
    assert [arm for arm in NAMED if film.steps(arm) == 600] == ["prefix-20, 600 steps", "full, 600 steps"]
    searched = results.read("methods")
    for arm, rates in (("prompt", {0.003, 0.01}), ("prefix", {0.01, 0.03})):  # in that file; here at the chosen rate
        longer = [run.cell.rate for run in film.runs if (run.cell.arm, run.cell.steps) == (f"{arm}-20", 600)]
        assert longer == [film.rate(f"{arm}-20")] * 3 == [searched.rate(f"{arm}, 600 steps")] * 3
        assert searched.scores(f"{arm}, 600 steps") == film.scores(f"{arm}-20, 600 steps")
        assert {run.cell.rate for run in searched.runs if (run.cell.arm, run.cell.steps) == (arm, 600)} == rates
    for arm in NAMED:  # the probes have no learning rate
        tried = film.by_rate(arm)
        assert arm.startswith("probe") or not tried or min(tried) < film.rate(arm) < max(tried), arm
    assert film.steps("probe") == film.steps("probe-cls") == 0, "their loss is at its minimum, whatever the steps"
    said(PAGE, "The fair baseline is this classifier alone, trained to its end: a linear probe on [CLS].")
    said(PAGE, "A second one reads the tokens' mean, for which MiniLM was trained.")
    said("data/evidence/pooling.md", "The checkpoint was trained for the mean, and its pooler never")
    said("data/evidence/probe.md", "Linear probes of MiniLM, trained to their end: logistic regression")


def test_nothing_is_preliminary(film):
    said("data/evidence/soft_prompts.md", "settled: 18 of 18 arms")
    assert not any(once_beside(film, arm) for arm in NAMED)


def test_where_soft_prompts_start_and_what_their_head_reads(film):
    card = (ROOT / "data/evidence/soft_prompts.md").read_text(encoding="utf-8")
    assert "The head reads the same in every row, the pooled [CLS] of the text" in card
    said(PAGE, "It reads the text's [CLS] through the pooler, which this checkpoint never trained; only full "
               "fine-tuning does.")  # fmt: skip
    one = torch.nn.Linear(2, 2)
    assert [group["lr"] for group in make_optimizer("adamw", one.parameters(), 0.1, 0.0).param_groups] == [0.1]
    topic = (ROOT / "benchmarks/topics/soft_prompts.py").read_text(encoding="utf-8")
    assert '("prompt-20-text", PromptTuning(n=20, init="text", init_ids=QUESTION), 1e-1)' in topic
    ids = [int(one) for one in re.search(r"QUESTION = \(([\d, ]+)\)", topic)[1].split(",")]
    asked = load_encoder()[1].decode(ids)
    cell = next(cell.source for cell in read(PAGE).cells if cell.id == "04-008")
    assert re.search(r'question = "(.+?)\\n"', cell)[1].lower() == asked
    assert [arm for arm in SHOWN if arm.startswith("prompt")] == ["prompt-20-text"]
    said(PAGE, "The prompt starts from section 1's question; P-tuning has PEFT's MLP.")


def test_the_pooler_is_frozen_and_was_never_trained(film):
    assert "its pooler never" in (ROOT / "data/evidence/pooling.md").read_text(encoding="utf-8")
    assert '("probe-cls", out.pooler_output)' in (ROOT / "benchmarks/topics/probe.py").read_text(encoding="utf-8")
    head, prompt, prefix = (film.parameters(arm) for arm in ("head", "prompt-20", "prefix-20"))
    assert head == 2 * 384 + 2 and prompt == head + 20 * 384 and prefix == head + 20 * 2 * 6 * 384, "no pooler"


@pytest.fixture(scope="module")
def pairs(film, mean) -> dict[tuple[str, str], Difference]:
    r"""Those of the page, with its adjustment, and as it prints them; of two heads, so "mean" names the last ones'."""
    asked = {f"{one} minus {other}": (one, other) for one, other in PAIRS}
    asked |= {f"{arm}, on the mean": mean.difference(arm, "probe") for arm in ON_MEAN}
    judged = film.paired(asked)
    found = dict(zip([*PAIRS, *((arm, "mean") for arm in ON_MEAN)], judged.values(), strict=True))
    rows = "\n".join(rf".* − .*{re.escape(one.in_points())} +{one.verdict}" for one in found.values())
    printed(PAGE, f"({rows})\n.*adjusted for all {len(found)} comparisons")
    return found


def test_no_prompt_is_shown_to_beat_the_probe_of_what_it_reads(film, pairs):
    prompts = [arm for arm in soft(film) if not arm.startswith("prefix")]
    family = film.differences(prompts, "probe-cls")
    assert {found.verdict for found in family.values()} == {"no clear difference", "worse"}
    assert all(film.accuracy(arm).value < film.accuracy("probe-cls").value for arm in prompts)
    beside_mean = film.differences(prompts, "probe")
    assert "better" not in {found.verdict for found in beside_mean.values()}
    said(PAGE, "No prompt is shown to.")
    assert pairs["prompt-20-text", "probe-cls"].verdict == "no clear difference"
    assert max(family, key=lambda arm: family[arm].value) == "prompt-20-text"  # the one whose row the table has


def test_what_p_tuning_is_here_and_in_peft(film):
    r"""In a small classifier: what trains, what is saved, and which place peft's output layer reads."""
    sizes = dict(vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=4)
    of = {}
    for kind in ({}, {"encoder_reparameterization_type": "LSTM"}):
        bert = BertForSequenceClassification(BertConfig(**sizes)).eval()
        config = peft.PromptEncoderConfig(task_type="SEQ_CLS", num_virtual_tokens=4, **kind)
        model = peft.get_peft_model(bert, config).eval()
        trained = {name for name, value in model.named_parameters() if value.requires_grad}
        inside = {name for name in trained if name.startswith("prompt_encoder.")}
        assert {name.rsplit(".", 1)[0] for name in trained - inside} == {
            "base_model.classifier.modules_to_save.default"
        }
        assert {*peft.get_peft_model_state_dict(model)} == {
            "prompt_embeddings", "base_model.classifier.weight", "base_model.classifier.bias"
        }  # fmt: skip
        layers = [type(part).__name__ for part in model.prompt_encoder["default"].modules()]
        of[config.encoder_reparameterization_type.upper()] = {name: layers.count(name) for name in ("Linear", "LSTM")}
        assert len(inside) == 1 + 2 * layers.count("Linear") + 16 * layers.count("LSTM")  # two layers, two directions
        seen = []
        model.base_model.bert.pooler.register_forward_hook(lambda _, args, out, seen=seen: seen.extend([args[0], out]))
        model(input_ids=torch.tensor([[5, 6, 7]]), attention_mask=torch.ones(1, 3, dtype=torch.long))
        states, pooled = seen
        assert states.shape[1] == 4 + 3
        torch.testing.assert_close(pooled, torch.tanh(bert.bert.pooler.dense(states[:, 0])))
    assert of == {"MLP": {"Linear": 3, "LSTM": 0}, "LSTM": {"Linear": 2, "LSTM": 1}}, "the first is the default"
    said(PAGE, "a small network makes $P$, trains along and is dropped afterwards;")
    topic = (ROOT / "benchmarks/topics/soft_prompts.py").read_text(encoding="utf-8")
    assert '"p-tuning-mlp", PTuning(n=20, encoder="mlp")' in topic
    assert film.parameters("p-tuning-mlp") == 20 * 384 + 3 * (384 * 384 + 384) + 2 * 384 + 2
    said(PAGE, "A new output layer trains too.")


def test_which_prompt_is_shown(film):
    networks = ("p-tuning-lstm", "p-tuning-mlp")
    assert max(networks, key=film.validation) == "p-tuning-mlp", "the one that is shown"
    said(PAGE, "[Stored runs](../data/evidence/soft_prompts.md) of MiniLM")
    every = [arm for arm in film.arms if arm.startswith(("prompt", "p-tuning"))]
    assert max(every, key=lambda arm: film.accuracy(arm).value) == "prompt-20-text"


def test_one_vector_in_every_block_is_ahead_of_a_prompt_with_more_numbers(film, pairs):
    found = pairs["prefix-1", "prompt-20-text"]
    assert film.parameters("prefix-1") < film.parameters("prompt-20-text")
    assert found.verdict == "better"
    prompts = [arm for arm in soft(film) if arm.startswith("prompt") and film.steps(arm) == film.steps("prefix-1")]
    assert max(prompts, key=lambda arm: film.accuracy(arm).value) == "prompt-20-text"
    said(PAGE, f"Where the vectors stand matters. One vector in every block, with fewer numbers, is {unsigned(found)} "
               "ahead of the [card](../data/evidence/soft_prompts.md)'s best prompt, of twenty.")  # fmt: skip


def test_a_prefix_beats_the_probe_on_the_mean_where_it_reads_the_mean_too(mean, pairs):
    prefix = pairs["prefix", "mean"]
    assert prefix.verdict == "better" and mean.difference("prompt", "probe").verdict != "better"
    assert not any(once_beside(mean, arm) for arm in ("prefix", "prompt"))
    assert [mean.parameters(arm) for arm in ("prefix", "prompt")] == [20 * 2 * 6 * 384 + 770, 20 * 384 + 770]
    said(PAGE, "On the mean the same holds: [read there](../data/evidence/mean.md), the prefix is "
               f"{unsigned(prefix)} ahead.")  # fmt: skip


def test_full_fine_tuning_stays_ahead_at_whatever_rates_tie(film, every, pairs):
    full, longer = pairs["prefix-20, 600 steps", "full, 600 steps"], "full, 600 steps"
    assert full.verdict == "worse"
    assert tied(every, "full", 600) == [every.rate(longer), film.rate(longer)] == [3e-5, every.rate("full")]
    assert film.accuracy(longer).value > every.accuracy(longer).value, "the stricter one stands in the table"
    methods = results.read("methods")
    prefix, taken = "prefix, 600 steps", methods.rate("prefix, 600 steps")
    (other,) = {run.cell.rate for run in methods.runs if (run.cell.arm, run.cell.steps) == ("prefix", 600)} - {taken}
    lower = methods.at("prefix", other)
    assert (other, taken) == (0.01, film.rate("prefix-20, 600 steps"))
    assert 0 < methods.validation(prefix) - lower.validation(prefix) < 0.5 / 300, "tied, as in `tied`"
    found = [
        one.at("full", rate).difference(prefix, longer)
        for one in (methods, lower) for rate in tied(methods, "full", 600)
    ]  # fmt: skip
    assert {one.verdict for one in found} == {"worse"}, "at every pair of tied rates"
    said(PAGE, f"After 600 steps it leads the prefix by {unsigned(full)}.")


def test_a_prefix_of_twenty_beats_the_probe_of_what_it_reads(film, pairs):
    twenty = pairs["prefix-20", "probe-cls"]
    assert twenty.verdict == "better"
    said(PAGE, "Of these the prefix alone: its twenty vectors beat the probe on [CLS] "
               f"{tenths(twenty).removeprefix('better ')}.")  # fmt: skip
    assert film.steps("prefix-20") == 300
    assert film.accuracy("probe").value > film.accuracy("probe-cls").value
    at_cls, on_mean = (f"{100 * found.value:.1f}" for found in (twenty, pairs["prefix", "mean"]))
    said(PAGE, "On MiniLM a prefix of twenty beats a linear probe that reads the same place, by "
               f"{at_cls} points at [CLS] and by {on_mean} on the mean; no prompt is shown to.")  # fmt: skip
    assert not any("network" in arm for arm in SHOWN)
    every = film.differences([*soft(film), "head"], "probe-cls")
    beyond = {arm for arm, found in every.items() if found.verdict == "better"}
    assert beyond == {"prefix-20", "prefix-20, 600 steps"}
    figure = film.differences(SHOWN, "probe-cls")  # its caption counts them
    three = {"prefix-1", "prefix-20", "prefix-20, 600 steps"}
    assert {arm for arm, found in figure.items() if found.verdict == "better"} == three
    assert {arm for arm in SHOWN if film.accuracy(arm).low > film.accuracy("probe-cls").value} == three
    (drawn,) = (cell.source for cell in read(PAGE).cells if "ax = accuracies(" in cell.source)
    assert "Every prefix is ahead of the probe on [CLS], neither prompt is." in drawn


def test_on_a_decoder():
    decoder = results.read("decoder")
    arms = ["prompt", "lora", "prompt again", "lora again"]
    assert {len(run.correct) for arm in arms for run in decoder.arms[arm]} == {500}
    assert {decoder.steps(arm) for arm in arms} == {100}
    assert all([run.cell.seed for run in decoder.arms[arm]] == [0, 1, 2] for arm in arms), "three seeds, run twice"
    assert all(decoder.rate(arm) == decoder.rate(f"{arm} again") for arm in arms[:2])
    assert CANDIDATES["prompt"].method == PromptTuning(n=20) and CANDIDATES["lora"].method.r == 8
    prompts, loras = (sorted(decoder.seeds(arm) + decoder.seeds(f"{arm} again")) for arm in arms[:2])
    failed, *others = prompts
    assert len(others) == 5 and len(loras) == 6 and failed < decoder.accuracy("constant").value < others[0]
    assert min(others) > (fitted := decoder.accuracy("untrained, fitted threshold").value)
    said(PAGE, "On SmolLM2 a prompt can fail. Of six runs of 100 steps ([card](../data/evidence/decoder.md)) five "
               f"reach {others[0]:.2f} to {others[-1]:.2f} and one {failed:.2f}. A fitted threshold gets "
               f"{fitted:.2f}.")  # fmt: skip
    said(PAGE, 'template for a film sentence of at most eight words, review: "…" sentiment:.')


def test_what_section_1_says_of_its_run():
    names = ("a question in words", "nine vectors, untrained", "the same, fitted threshold", "nine vectors, trained")
    rows = [[float(x) for x in printed(PAGE, rf"{name} +(\S+) +(\S+)")] for name in names]
    question, before, fitted, after = rows
    least, most = printed(PAGE, r"right, trained minus fitted threshold, \S+ \((\S+) to (\S+)\)\.")
    assert float(least.replace("−", "-")) < 0 < float(most)
    said(PAGE, f"The training takes the nine vectors from {before[0]:.2f} right to {after[0]:.2f}. But the fitted "
               f"threshold gets {fitted[0]:.2f}, not clearly less, and the question in words "
               f"{question[0]:.2f}.")  # fmt: skip
    said(PAGE, f"Nine trained vectors took SmolLM2 from {before[0]:.2f} right to {after[0]:.2f}, its AUC stayed at "
               f"{after[1]:.2f}: no more than a corrected lean is shown.")  # fmt: skip
    assert abs(after[0] - question[0]) < 0.05
    low, high = printed(PAGE, r"AUC, trained minus untrained, \S+ \((\S+) to (\S+)\);")
    said(PAGE, f"Not in this run: it is {before[1]:.2f} before and after.")
    assert before[1] == fitted[1] == after[1] == question[1]
    assert float(low.replace("−", "-")) < 0 < float(high)
    said(PAGE, "Nothing here shows that the training did more than correct a lean")
    cells = {cell.id: cell.source for cell in read(PAGE).cells}
    steps, batch = (int(re.search(rf"^{name} = (\d+)", cells["04-004"], re.M)[1]) for name in ("steps", "batch_size"))
    said(PAGE, f"and are trained on {steps * batch} sentences.")
    assert len(load_task("film", "two").short(8).data["train"]) > steps * batch, "none of them twice"


def test_what_the_other_cells_say_of_their_run():
    with_it, without = printed(PAGE, r"after the words: at most (\S+) apart; without the prefix: (\S+)")
    assert float(with_it) < 1e-3
    said(PAGE, f"without the prefix they are {float(without):.0f} apart")
    (fitted,) = map(float, printed(PAGE, r"nine vectors, trained +(0\.\d+)"))
    own, auc = map(float, printed(PAGE, r"nine vectors by your loop: (0\.\d+) right, AUC (0\.\d+)"))
    assert abs(own - fitted) < 0.03
    said(PAGE, f"It does, in this run: {own:.2f} right, with an AUC of {auc:.2f}.")
    assert {name: inspect.signature(fit).parameters[name].default for name in ("warmup", "clip")} == dict(
        warmup=0.1, clip=1.0
    )


def test_what_the_costs_are():
    full, prompt, prefix = (
        [float(x.replace(",", ""))
         for x in printed(PAGE, rf"{name} +(\d[\d,]{{4,}}) +([\d.]+)" + 2 * r" +([\d,]+)")]
        for name in ("full fine-tuning", "prompt", "prefix")
    )  # fmt: skip
    assert round(prefix[0] / prompt[0]) == 20
    said(PAGE, f"= {prompt[0]:,.0f} parameters, a prefix")
    said(PAGE, f"= {prefix[0]:,.0f}.")
    assert full[1] == 1
    said(PAGE, f"The states fall from {full[2]:,.0f} MB to {prompt[2]:,.0f}. But every block works on 40 tokens "
               f"instead of 20, and keeps {prompt[3]:,.0f} MB of activations instead of full fine-tuning's "
               f"{full[3]:,.0f}. The step takes {prompt[1]:.1f} times its work, though frozen weights need no "
               f"gradients. A prefix adds no tokens: {prefix[1]:.1f} times.")  # fmt: skip
    assert prefix[3] < full[3], "as many tokens, and less is kept"
    model = load_decoder("smollm2")[0]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(inputs_embeds=torch.ones(1, 20, 576))
    of_keys = 4 * 20 * 20 * model.config.hidden_size * model.config.num_hidden_layers  # q with k, shares with v
    assert 0 < of_keys / counter.get_total_flops() < 0.01
    with FlopCounterMode(display=False) as counter:
        torch.nn.functional.scaled_dot_product_attention(*torch.ones(3, 1, 9, 20, 64))
    assert counter.get_total_flops() == 0


def test_what_peft_writes():
    ours, theirs = (printed(PAGE, rf"{who}: (.+)")[0] for who in ("ours", "PEFT"))
    assert ours == theirs
    assert float(printed(PAGE, r"logits at most (\S+) apart")[0]) < 1e-3
    said(PAGE, "Logits and text agree. use_cache=False matters: PEFT 0.21 does not find")


def test_what_peft_does_with_the_cache():
    r"""In a small model: a prompt comes in again at each step, and a prefix not at all, or with the text again."""
    text = dict(input_ids=torch.tensor([[5, 6]]), attention_mask=torch.ones(1, 2, dtype=torch.long))
    seen = {}
    for config, use_cache in itertools.product((peft.PromptTuningConfig, peft.PrefixTuningConfig), (True, False)):
        sizes = dict(vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=4)
        model = peft.get_peft_model(
            LlamaForCausalLM(LlamaConfig(**sizes)), config(task_type="CAUSAL_LM", num_virtual_tokens=4)
        )
        steps = seen[config, use_cache] = []
        look = lambda _, args, given, steps=steps: steps.append(size(given))  # noqa: E731
        model.base_model.register_forward_pre_hook(look, with_kwargs=True)
        model.generate(**text, max_new_tokens=3, min_new_tokens=3, do_sample=False, use_cache=use_cache)
    assert seen[peft.PromptTuningConfig, True] == [(0, 6), (6, 5), (11, 5)], "4 vectors again at each step"
    assert seen[peft.PromptTuningConfig, False] == [(0, 6), (0, 7), (0, 8)], "as it has to be"
    assert seen[peft.PrefixTuningConfig, True] == [(0, 2), (2, 1), (3, 1)], "no prefix"
    assert seen[peft.PrefixTuningConfig, False] == [(0, 2), (6, 3), (9, 4)], "the text again, behind itself"
    looks_for = inspect.getsource(peft.PeftModelForCausalLM.prepare_inputs_for_generation)
    assert 'get("past_key_values"' in looks_for and '"cache"' not in looks_for  # what it is called: `size`, below
    said(PAGE, "PEFT 0.21 does not find the cache of transformers 5.24 and puts the prompt before each new token again")
    said(PAGE, "PEFT's prefix, PrefixTuningConfig, generates wrongly under these versions either way.")


def test_where_pefts_prompt_starts():
    said(PAGE, 'prompt_tuning_init="SAMPLE_VOCAB")); its default start is far from any word.')
    words = load_decoder("smollm2")[0].get_input_embeddings().weight.detach()
    config = peft.PromptTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=4, token_dim=words.shape[1], num_transformer_submodules=1
    )
    assert config.prompt_tuning_init == "RANDOM"
    start = PromptEmbedding(config, torch.nn.Embedding.from_pretrained(words)).embedding.weight
    assert start.norm(dim=1).min() > 2 * words.norm(dim=1).max()


def test_how_small_our_models_are(film):
    encoder, decoder = film.parameters("full"), sum(p.numel() for p in load_decoder("smollm2")[0].parameters())
    assert encoder < decoder
    said(PAGE, f"only near 10 billion parameters; ours have at most {decoder / 1e9:.2f}.")


def size(given: dict[str, Any]) -> tuple[int, int]:
    r"""(places in the cache before, vectors that come in) of a call of the model."""
    come = given.get("inputs_embeds", given.get("input_ids"))
    cache = given.get("cache")
    return 0 if cache is None else cache.get_seq_length(), come.shape[1]


def test_what_the_last_hint_is():
    fair = DESIGN.fair.keywords
    words = load_decoder("smollm2")[1].decode(fair["start"])
    told = next(cell.source for cell in read(PAGE).cells if cell.id == "04-050")
    assert f'" and "{words}" |' in told and 8 * fair["steps"] == 3 * LEARN, "what the table's solution does"
    assert "starts from words in this table and stops after three passes over the rows." in told


def test_when_the_last_exercise_gives_all_points():
    assert ASKED_SHARE == 0.4 and 2 / LEARN < 0.03 < 3 / LEARN, "how much more than the words _score asks for"
    said(PAGE, f"full points ask {100 * ASKED_SHARE:.0f} % and three countries more than the words")
    of_words, of_four = (re.search(rf"{row} \| (\d+ to \d+ %) \|", in_the_open(PAGE))[1]
                         for row in ('The capital city of"', "the course's solution"))  # fmt: skip
    said(PAGE, f"four vectors, trained from words, got {of_four} of new capitals, words {of_words}.")
    assert DESIGN.seconds == 240
    said(PAGE, "your function has four minutes")


@pytest.mark.slow
def test_what_the_last_exercise_gives():
    found, words, none = [], [], []
    for split in (1, 2):
        posing = DESIGN.pose(Draw(hashlib.sha256(f"lesson {split}".encode()).digest(), DESIGN.id))
        found.append(_right(plain(DESIGN.fair(*posing.arguments))["prompt"], *posing.kept))
        words.append(max(_right(_vectors(one), *posing.kept) for one in IN_WORDS))
        none.append(_right(torch.zeros(0, 576), *posing.kept))
    assert [min(found), max(found)] == pytest.approx([0.50, 0.56], abs=0.03), "processors differ"
    said(PAGE, "new countries right, two splits |")
    said(PAGE, f'The capital city of" | {100 * min(words):.0f} to {100 * max(words):.0f} %')
    said(PAGE, "the course's solution | 50 to 56 %")
    said(PAGE, f"| nothing | {100 * max(none):.0f} % |")
