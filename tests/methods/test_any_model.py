r"""Methods on the families beyond the five: what works where is one table, which test_every_method.py proves."""

import re
from pathlib import Path

import any_model
import families
import peft
import pytest
import tiny
import torch
from any_model import ANYWHERE, ROWS, UNDEFINED, WORKS, tried
from attached import answers, labelled, nonzero
from cases import attach, lively, texts, writes
from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as PEFT_IA3
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as PEFT_LORA
from transformers import AutoModel, AutoModelForTokenClassification
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from coursekit import methods
from coursekit.errors import CourseError
from coursekit.methods.mechanism.anatomy import anatomy, anatomy_of, described, skeleton
from coursekit.methods.mechanism.modules import head_names
from coursekit.methods.mechanism.names import KEY_VALUE_DOWN, QUERY_VALUE
from coursekit.qlora import Linear4bit, quantize_model

OTHERS = tuple(families.OTHERS)
DECODERS = tuple(kind for kind in OTHERS if kind not in (*families.ENCODERS, *families.ENCODER_DECODERS))
each_other = pytest.mark.parametrize("kind", OTHERS)
each_name = pytest.mark.parametrize("kind", families.NAMES)


# against peft -------------------------------------------------------------------------------------------------------


def test_ia3_with_named_targets_on_a_fused_attention_equals_peft_s_default(tmp_path):
    one = labelled("gpt_neox")
    names = dict(targets=tuple(PEFT_IA3["gpt_neox"]), feedforward=("dense_4h_to_h",))
    model = nonzero(methods.IA3(**names).attach(families.model("gpt_neox")))
    methods.IA3(**names).save(model, tmp_path)
    theirs = peft.PeftModel.from_pretrained(families.model("gpt_neox"), tmp_path).eval()
    assert torch.equal(answers(model, one), answers(theirs, one))
    own = peft.get_peft_model(families.model("gpt_neox"), peft.IA3Config(task_type="CAUSAL_LM"))
    assert methods.IA3(**names).count(model.config) == own.get_nb_trainable_parameters()[0]


# generation ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row", ["LoRA", "prompt tuning", "norms", "prefix tuning", "LLaMA-Adapter", "Houlsby's adapters"]
)
@pytest.mark.parametrize("kind", DECODERS)
def test_a_decoder_writes_with_its_cache_what_it_writes_step_by_step(row, kind):
    model = attach(ROWS[row], kind, scale=max(0.3, ROWS[row].strong), **lively(kind))
    # Gemma's window counts padding: with some, it ends between text and virtual tokens.
    writes(model, texts(9, 9 if "gemma" in kind and row == "prompt tuning" else 5))
    after = answers(model, tiny.batch())
    with methods.disabled(model):
        assert not torch.allclose(answers(model, tiny.batch()), after, atol=1e-3)


@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize("row", ["LoRA", "prompt tuning"])
@pytest.mark.parametrize("kind", families.ENCODER_DECODERS)
def test_an_encoder_decoder_writes_what_it_writes_without_a_cache(row, kind, beams):
    model, one = attach(ROWS[row], kind, scale=0.3, **lively(kind)), tiny.batch(padded=True)
    model.generation_config.eos_token_id = None
    settings = dict(max_new_tokens=5, do_sample=False, num_beams=beams)
    with torch.no_grad():
        written = model.generate(**one, **settings)
        assert torch.equal(written, model.generate(**one, **settings, use_cache=False))
        if beams == 1:
            alone = model(**one, decoder_input_ids=written[:, :-1]).logits.argmax(-1)  # all at once
            assert torch.equal(written[:, 1:], alone)
        logits = model(**one, decoder_input_ids=written).logits
        with methods.disabled(model):
            assert not torch.allclose(model(**one, decoder_input_ids=written).logits, logits, atol=1e-3)


def test_a_decoder_reads_all_that_its_encoder_has_read():
    r"""The virtual tokens are among the states that it looks at: T5 with them written into the text says the same."""
    one, model = labelled("t5", padded=True), families.model("t5")
    words = tiny.batch(1, 3, seed=7)["input_ids"][0]
    method = methods.PromptTuning(n=3, init="text", init_ids=tuple(words.tolist()))
    ours = answers(method.attach(model), one)
    longer = one | {
        "input_ids": torch.cat([words.expand(3, -1), one["input_ids"]], 1),
        "attention_mask": torch.cat([torch.ones(3, 3, dtype=torch.long), one["attention_mask"]], 1),
    }
    torch.testing.assert_close(ours, answers(families.model("t5"), longer), atol=1e-6, rtol=1e-5)


# other models of a family -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ["LoRA", "prompt tuning", "norms", "SAID"])
@each_other
def test_bodies_and_heads_of_tokens(row, kind):
    one = tiny.batch()
    for auto in (AutoModel, AutoModelForTokenClassification):
        config = families.config(kind)
        if type(config) not in auto._model_mapping:
            continue
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = auto.from_config(config).eval()
        call = one | ({"decoder_input_ids": one["input_ids"]} if "decoder" in dict(model.named_children()) else {})
        with torch.no_grad():
            before = model(**call)[0]
            after = nonzero(ROWS[row].make().attach(model), scale=0.5)(**call)[0]
            assert after.shape == before.shape and not torch.allclose(after, before, atol=1e-4)
            methods.detach(model)
            assert torch.equal(model(**call)[0], before)


@pytest.mark.parametrize("kind", DECODERS)
def test_no_padding_token_and_either_kind_of_output_layer(kind):
    for tied in (True, False):
        model = families.model(kind, tie_word_embeddings=tied, pad_token_id=None)
        one, plain = labelled(kind), [p.detach().clone() for p in model.parameters()]
        quantize_model(model)
        assert not isinstance(model.get_output_embeddings(), Linear4bit)
        for row in ("QLoRA", "prompt tuning"):
            before = answers(model, one)
            nonzero(ROWS[row].make().attach(model))(**one).loss.backward()
            assert not torch.allclose(answers(model, one), before, atol=1e-4)
            methods.detach(model)
        model = families.model(kind, tie_word_embeddings=tied, pad_token_id=None)
        methods.IntrinsicSAID(d=50).detach(methods.IntrinsicSAID(d=50).attach(model))
        assert all(torch.equal(p, start) for p, start in zip(model.parameters(), plain, strict=True))


def test_heads_are_all_that_a_task_has_beside_the_body():
    heads = {kind: head_names(families.model(kind)) for kind in families.NAMES}
    assert heads["distilbert"] == ["pre_classifier", "classifier"]
    assert heads["deberta-v2"] == ["pooler", "classifier"] and heads["modernbert"] == ["head", "classifier"]
    assert {k: h for k, h in heads.items() if k not in ("distilbert", "deberta-v2", "modernbert")} == {
        k: ["classifier"] if k in families.ENCODERS else [] for k in heads if len(heads[k]) < 2
    }


# what is known of a family ------------------------------------------------------------------------------------------


@each_name
def test_a_description_and_the_modules_say_the_same(kind):
    arch = described(families.config(kind))
    if arch is None:
        pytest.skip("not described")
    ours, theirs = anatomy(families.model(kind)), anatomy_of(arch)
    assert ours.family == theirs.family and ours.blocks == theirs.blocks
    for part in ("norms", "attention", "feedforward"):
        assert sorted(getattr(ours, part)) == sorted(getattr(theirs, part))


def test_default_targets_are_peft_s_or_the_paper_s():
    known = {kind: names for kind, names in PEFT_LORA.items() if kind in CONFIG_MAPPING and isinstance(names, list)}
    # BLIP-2's are of two models, of which it has one; RWKV has no attention.
    assert {kind: set(names) for kind, names in known.items() if kind not in ("blip-2", "rwkv")} == {
        kind: set(QUERY_VALUE[kind]) for kind in known if kind not in ("blip-2", "rwkv")
    }
    ours = {kind: {*scaled.outputs, scaled.down} for kind, scaled in KEY_VALUE_DOWN.items()}
    others = {kind for kind, names in PEFT_IA3.items() if kind in ours and ours[kind] != set(names)}
    assert others == {
        "opt",
        "qwen2",
        "qwen3",
        "gemma",
        "gemma2",
        "gemma3_text",
        "gptj",
        "gpt_neo",
        "bart",
        "phi",
        "mt5",
    }


def test_a_family_without_a_default_lists_its_layers_by_how_often_they_occur():
    model, method = families.model("olmo2"), methods.LoRA(r=2)
    said = (
        r"^no default targets are known for a 'olmo2' model: name some of its modules, q_proj \(2\), k_proj \(2\), "
        r".*down_proj \(2\)$"
    )
    for attempt in (lambda: method.attach(model), lambda: method.count(model.config)):
        with pytest.raises(CourseError, match=said):
            attempt()
    named = methods.LoRA(r=2, targets=("q_proj", "down_proj"))
    assert methods.trainable(named.attach(model)) == named.count(model.config) > 0


@pytest.mark.parametrize("kind", ["llama", "bert", "gpt2", "qwen3", "t5", "distilbert"])
def test_one_layer_named_by_its_path_is_counted(kind):
    model = families.model(kind)
    path = next(p for p, m in model.named_modules() if ".1." in p and "att" in p.lower() and hasattr(m, "weight"))
    for method in (
        methods.LoRA(r=2, targets=path),
        methods.IA3(targets=path, feedforward=()),
        methods.SelectRows(targets=path, rows=2),
        methods.FishMask(targets=path, keep=20, score="random"),
    ):
        heads = sum(p.numel() for name in head_names(model) for p in model.get_submodule(name).parameters())
        assert methods.trainable(method.attach(model)) - heads == method.count(model.config) > 0
        method.detach(model)


def test_a_skeleton_is_built_once_and_has_no_weights():
    config = families.config("olmo2")
    assert skeleton(config) is skeleton(families.config("olmo2"))
    assert skeleton(config) is not skeleton(families.config("olmo2", num_hidden_layers=3))
    assert all(p.is_meta for p in skeleton(config).parameters())


# the rehearsal, and what docs/any_model.md says of it ----------------------------------------------------------------


@each_name
def test_the_table_in_the_docs_is_what_the_methods_do(kind):
    r"""Without weights: everything is on one device and in sixteen bits, or an error says why not."""
    signs = {row: tried(row, kind)[0] for row in ROWS}
    assert all(signs[row] == WORKS for row in ANYWHERE if row not in ("BitFit", "(IA)³"))
    assert signs["BitFit"] in (WORKS, UNDEFINED)
    text = (Path(__file__).parents[2] / "docs" / "any_model.md").read_text(encoding="utf-8")
    found = re.search(f"{any_model.BEGIN}\n\n(.*?)\n\n{any_model.END}", text, re.S)
    assert found, f"docs/any_model.md has no table between {any_model.BEGIN} and {any_model.END}"
    names, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in found[1].splitlines())
    assert names[1:] == list(families.NAMES.values())
    column = names.index(families.NAMES[kind])
    said = "print the new one: PYTHONPATH=. python tests/any_model.py"
    assert [(row[0], row[column]) for row in rows] == list(signs.items()), said
