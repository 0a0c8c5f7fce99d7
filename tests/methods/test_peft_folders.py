r"""Adapters made elsewhere: what peft writes is loaded here with equal logits, and what is written here peft loads."""

import json
import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import tiny
import torch
from attached import labelled, nonzero, rows_answer_as_alone, train
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file, save_file
from torch import nn

from coursekit import methods
from coursekit.architecture import describe
from coursekit.errors import CourseError
from coursekit.memory.inserted import inserted
from coursekit.methods import LoRA
from coursekit.methods.hybrid.beside_lora import TokenRows
from coursekit.methods.mechanism.names import matches, own_setting

#: Names of a query or fused matrix, of a feed-forward matrix, of the list of blocks, of the word embedding, of a module
#: that may train whole.
NAMES = {
    "llama": ("q_proj", "down_proj", "layers", "embed_tokens", "norm"),
    "gpt2": ("c_attn", "mlp.c_proj", "h", "wte", "ln_f"),
    "bert": ("query", "intermediate.dense", "layer", "word_embeddings", "pooler"),
    "opt": ("v_proj", "fc2", "layers", "embed_tokens", "final_layer_norm"),
}
TASKS = {"bert": "SEQ_CLS"}


def table(family: str) -> dict[str, dict[str, Any]]:
    r"""peft's options by a name for the case."""
    q, down, blocks, words, norm = NAMES[family]
    both = {"target_modules": [q, down]}
    return {
        "rank and alpha": both | {
            "rank_pattern": {rf"{blocks}\.1.*{q}": 2, down: 5},
            "alpha_pattern": {f"^.*{blocks}.0.*{down}": 3, q: 32},
        },
        "rslora with patterns": both | {"use_rslora": True, "rank_pattern": {q: 2}, "alpha_pattern": {down: 5}},
        "dora with patterns": both | {"use_dora": True, "rank_pattern": {q: 2}, "alpha_pattern": {down: 5}},
        "layers": both | {"layers_to_transform": [1]},
        "one layer": both | {"layers_to_transform": 0, "layers_pattern": blocks},
        "exclude": both | {"exclude_modules": [f"{blocks}.0.{'attention.self.' if family == 'bert' else ''}{q}", "x"]},
        "exclude a pattern": both | {"exclude_modules": rf".*\.1\..*{down}"},
        "a pattern": {"target_modules": rf".*\.{blocks}\.[01]\..*({q}|{down})", "exclude_modules": rf".*0.*{q}"},
        "all-linear": {"target_modules": "all-linear"},
        "bias in B": both | {"lora_bias": True, "use_rslora": True},
        "embedding": {"target_modules": [q, words]},
        "whole embedding": both | {"modules_to_save": [words]},
        "whole of another name": both | {"modules_to_save": ["no_such_module"]},
        "gaussian": both | {"init_lora_weights": "gaussian"},
        "pissa": both | {"init_lora_weights": "pissa", "rank_pattern": {q: 2}},
        "pissa and biases": both | {"init_lora_weights": "pissa", "bias": "lora_only"},
        "biases of the targets": both | {"bias": "lora_only"},
        "all biases": both | {"bias": "all"},
        "much at once": both | {
            "rank_pattern": {q: 2}, "bias": "lora_only", "trainable_token_indices": [7, 8],
            "exclude_modules": f".*1.*{q}", "modules_to_save": [norm],
        },
        "tokens": both | {"trainable_token_indices": {words: [3, 1, 9]}, "modules_to_save": None},
    } | ({} if family == "bert" else {
        "whole head": both | {"modules_to_save": ["lm_head"]},
        "whole head and embedding": both | {"modules_to_save": ["lm_head", words], "ensure_weight_tying": True},
        "head": {"target_modules": [q, "lm_head"]},
        "tied targets": {"target_modules": [q, words], "ensure_weight_tying": True},
    })  # fmt: skip


CASES = [(family, name) for family in NAMES for name in table(family)]


def written(family: str, folder: Path, **options: Any) -> nn.Module:
    r"""A model with peft's LoRA whose every trained parameter is random, saved to `folder`."""
    config = peft.LoraConfig(**({"r": 4, "lora_alpha": 6, "task_type": TASKS.get(family, "CAUSAL_LM")} | options))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = nonzero(peft.get_peft_model(tiny.model(family), config)).eval()
        model.save_pretrained(folder)
    return model


def read(family: str, folder: Path) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.PeftModel.from_pretrained(tiny.model(family), folder).eval()


@torch.no_grad()
@pytest.mark.parametrize("family, name", CASES)
def test_there_and_back(family, name, tmp_path):
    options = table(family)[name]
    theirs, one = written(family, tmp_path / "theirs", **options), labelled(family)
    method = methods.from_checkpoint(tmp_path / "theirs")
    model = method.load(tiny.model(family), tmp_path / "theirs")
    ours, reference, plain = model(**one).logits, theirs(**one).logits, tiny.model(family)(**one).logits
    if name in ("dora with patterns", "tied targets") or "pissa" in name:
        torch.testing.assert_close(ours, reference, atol=1e-6, rtol=1e-5)
    else:
        assert torch.equal(ours, reference)
    assert not torch.allclose(ours, plain, atol=1e-3)
    head = methods.trainable(model.classifier) if family == "bert" else 0
    assert methods.trainable(model) - head == method.count(model.config)

    method.save(model, tmp_path / "ours")
    assert json.loads((tmp_path / "ours" / "adapter_config.json").read_text())["peft_type"] == "LORA"
    torch.testing.assert_close(read(family, tmp_path / "ours")(**one).logits, reference, atol=1e-6, rtol=1e-5)
    assert methods.from_checkpoint(tmp_path / "ours") == method

    rows_answer_as_alone(model, [None, None, "default"], one)
    if name != "bias in B" or family != "llama":
        method.merge(model)
        torch.testing.assert_close(model(**one).logits, ours, atol=1e-4, rtol=1e-4)
    method.detach(model)
    assert torch.equal(model(**one).logits, plain)


@pytest.mark.parametrize("family, name", [
    ("llama", "rank and alpha"), ("gpt2", "bias in B"), ("llama", "whole head"), ("opt", "whole embedding"),
    ("bert", "biases of the targets"), ("gpt2", "all biases"), ("llama", "tokens"), ("bert", "tokens"),
    ("gpt2", "pissa"),
])  # fmt: skip
def test_training_goes_on_as_in_peft(family, name, tmp_path):
    theirs = written(family, tmp_path, **table(family)[name])
    model = methods.from_checkpoint(tmp_path).load(tiny.model(family), tmp_path)
    batches = [labelled(family, seed=i) for i in range(3)]
    losses, reference = train(model, batches), train(theirs, batches)
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(reference), atol=1e-5, rtol=1e-5)
    assert losses[0] != losses[-1]


# what peft writes besides ---------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_a_moved_start_that_peft_converted(start, tmp_path):
    options = {"lora_alpha": 6, "target_modules": ["q_proj"], "rank_pattern": {"1.*q_proj": 3}}
    config = peft.LoraConfig(r=2, init_lora_weights=start, **options)
    theirs = peft.get_peft_model(tiny.model("llama"), config)
    theirs.peft_config["default"].init_lora_weights = True
    theirs.save_pretrained(tmp_path / "start")
    theirs.peft_config["default"].init_lora_weights = start
    nonzero(theirs).eval().save_pretrained(tmp_path, path_initial_model_for_weight_conversion=tmp_path / "start")
    model = methods.from_checkpoint(tmp_path).load(tiny.model("llama"), tmp_path)
    one = tiny.batch()
    torch.testing.assert_close(model(**one).logits, theirs(**one).logits, atol=2e-5, rtol=1e-4)
    assert methods.attached(model)["default"].at("model.layers.1.self_attn.q_proj").r == 6


@torch.no_grad()
def test_embeddings_that_peft_saves_because_the_vocabulary_grew(tmp_path):
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    theirs = nonzero(peft.get_peft_model(tiny.model("llama"), config)).eval()
    theirs.get_input_embeddings().weight[90:] += 1
    theirs.save_pretrained(tmp_path, save_embedding_layers=True)
    method = methods.from_checkpoint(tmp_path)
    assert method.modules_to_save == ("lm_head", "model.embed_tokens")
    one = tiny.batch()
    one["input_ids"][:, 0] = 93
    assert torch.equal(method.load(tiny.model("llama"), tmp_path)(**one).logits, theirs(**one).logits)


#: Configs as they lie on the hub, by the peft that wrote them, without what is the same in all.
OF_OLD = {
    "0.2": {"enable_lora": None, "fan_in_fan_out": False, "merge_weights": False, "lora_alpha": 16.0},
    "0.5": {"auto_mapping": None, "init_lora_weights": True, "layers_pattern": None, "layers_to_transform": None,
            "revision": None},
    "0.9": {"loftq_config": {}, "megatron_config": None, "megatron_core": "megatron.core", "rank_pattern": {},
            "alpha_pattern": {}, "use_rslora": False, "layers_pattern": ""},
    "0.14": {"eva_config": None, "exclude_modules": None, "layer_replication": None, "lora_bias": False,
             "use_dora": False},
    "0.19": {"alora_invocation_tokens": None, "arrow_config": None, "corda_config": None, "peft_version": "0.19.1",
             "ensure_weight_tying": False, "qalora_group_size": 16, "target_parameters": None, "use_qalora": False,
             "trainable_token_indices": None, "use_bdlora": None},
    "later": {"a_new_option": None, "use_something_new": False, "new_pattern": {}, "new_kind": "none"},
}  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("version", OF_OLD)
def test_configs_of_other_versions(version, plain, tmp_path):
    folder, reference = plain
    config = {
        "base_model_name_or_path": "a/model", "bias": "none", "inference_mode": True, "lora_alpha": 16,
        "lora_dropout": 0.05, "modules_to_save": None, "peft_type": "LORA", "r": 4, "task_type": "CAUSAL_LM",
        "target_modules": ["v_proj", "q_proj", "c_attn", "no_such_module"],
    }  # fmt: skip
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | OF_OLD[version]))
    tensors = load_file(folder / "adapter_model.safetensors")
    if version == "0.2":
        torch.save(tensors, tmp_path / "adapter_model.bin")
    else:
        save_file(tensors, tmp_path / "adapter_model.safetensors")
    method = methods.from_checkpoint(tmp_path)
    assert method == LoRA(r=4, alpha=16, targets=("q_proj", "v_proj"), dropout=0.05)
    assert torch.equal(method.load(tiny.model("llama"), tmp_path)(**tiny.batch()).logits, reference)


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> tuple[Path, torch.Tensor]:
    folder = tmp_path_factory.mktemp("plain")
    theirs = written("llama", folder, lora_alpha=16, target_modules=["q_proj", "v_proj"])
    with torch.no_grad():
        return folder, theirs(**tiny.batch()).logits


@pytest.mark.parametrize("options, said", [
    ({"alora_invocation_tokens": [1, 2]}, r"trained with alora_invocation_tokens=\[1, 2\], which .*: use peft"),
    ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication=.*merge_and_unload"),
    ({"use_qalora": True}, "use_qalora=True"),
    ({"target_parameters": ["experts.up"]}, "target_parameters="),
    ({"arrow_config": {"top_k": 2}}, "arrow_config="),
    ({"kasa_config": {}, "velora_config": {"scale": 1.0}}, "velora_config="),
    ({"enable_lora": [True, False, True]}, "enable_lora="),
    ({"use_something_new": True}, "use_something_new=True"),
    ({"a_new_size": 16}, "a_new_size=16"),
    ({"init_lora_weights": "pissa_niter_16"}, "init_lora_weights='pissa_niter_16' had changed first"),
    ({"init_lora_weights": "corda"}, "'corda' had changed first"),
    ({"init_lora_weights": "loftq"}, "'loftq' had changed first"),
    ({"init_lora_weights": "lora_ga"}, "'lora_ga' had changed first"),
    ({"init_lora_weights": "new"}, "init_lora_weights='new' in this checkpoint is a start that .* does not know"),
    ({"rank_pattern": {"q_proj": 0}}, r"rank_pattern\['q_proj'\] must be a positive integer; got 0"),
    ({"alpha_pattern": {"(": 4}}, r"alpha_pattern has '\(', which is no regular expression"),
    ({"target_modules": ".*("}, "no regular expression"),
    ({"target_modules": [1]}, "are no names"),
    ({"trainable_token_indices": [1]}, "trainable_token_indices and holds no rows"),
])  # fmt: skip
def test_what_stays_refused_says_so_by_name(options, said, plain, tmp_path):
    folder, _ = plain
    config = json.loads((folder / "adapter_config.json").read_text()) | options
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    (tmp_path / "adapter_model.safetensors").write_bytes((folder / "adapter_model.safetensors").read_bytes())
    with pytest.raises(CourseError, match=said) as error:
        methods.from_checkpoint(tmp_path)
    assert "\n" not in str(error.value)


QV, BIAS = ["query", "value"], "which the VeRA here does not have: use peft, or"
WHOLE = {"task_type": "CAUSAL_LM", "target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}


@pytest.mark.parametrize("kind, theirs, said", [
    ("bert", peft.VeraConfig(r=4, target_modules=QV, task_type="SEQ_CLS", bias="all"), f"with bias='all', {BIAS}"),
    ("bert", peft.VeraConfig(r=4, target_modules=QV, task_type="SEQ_CLS", bias="vera_only"), "bias='vera_only'"),
    ("llama", peft.VeraConfig(**WHOLE, r=4), r"trained with modules_to_save=\['lm_head'\]"),
    ("llama", peft.VeraConfig(**WHOLE | {"modules_to_save": ["norm"]}, r=4), r"with modules_to_save=\['norm'\]"),
    ("bert", peft.OFTConfig(oft_block_size=8, target_modules=QV, task_type="SEQ_CLS", bias="oft_only"), "'oft_only'"),
    ("llama", peft.OFTConfig(**WHOLE, oft_block_size=8), r"trained with modules_to_save=\['lm_head'\]"),
    ("llama", peft.OFTConfig(oft_block_size=21, target_modules=["k_proj", "down_proj"]),
     "oft_block_size=21, for which peft took 16 and 24 in layers of other widths"),
    ("llama", peft.OFTConfig(oft_block_size=8, target_modules=["embed_tokens"]), "holds no tensor of OFT"),
])  # fmt: skip
def test_what_vera_and_oft_have_in_peft_alone_is_refused_by_its_name(kind, theirs, said, tmp_path):
    peft.get_peft_model(tiny.model(kind), theirs).save_pretrained(tmp_path)
    with pytest.raises(CourseError, match=said) as error:
        methods.from_checkpoint(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("option, value", [("bias", "all"), ("bias", "lora_only"), ("trainable_token_indices", [3])])
def test_more_than_a_lora_says_how_it_is_loaded(option, value, tmp_path):
    written("bert", tmp_path, target_modules=["query"], **{option: value})
    model = tiny.model("bert")
    for attempt in (lambda: LoRA.from_checkpoint(tmp_path), lambda: LoRA(r=4, alpha=6).load(model, tmp_path)):
        with pytest.raises(CourseError, match=f"{option}=.* at once: load it with methods.from_checkpoint"):
            attempt()
    assert methods.attached(model) == {}


def test_a_checkpoint_that_names_norms_by_a_pattern_loads_where_the_method_is_given(tmp_path):
    config = peft.LNTuningConfig(task_type="CAUSAL_LM", target_modules=r".*norm")
    theirs, one = nonzero(peft.get_peft_model(tiny.model("llama"), config)).eval(), tiny.batch()
    theirs.save_pretrained(tmp_path)
    assert torch.equal(methods.NormTuning().load(tiny.model("llama"), tmp_path)(**one).logits, theirs(**one).logits)
    with pytest.raises(CourseError, match=r"by the pattern '.\*norm': load it with the method that you mean"):
        methods.from_checkpoint(tmp_path)


def test_a_pickle_is_not_let_in(plain, tmp_path):
    (tmp_path / "adapter_config.json").write_bytes((plain[0] / "adapter_config.json").read_bytes())
    (tmp_path / "adapter_model.bin").write_bytes(pickle.dumps(Path("x")))
    with pytest.raises(CourseError, match="damaged"):
        methods.from_checkpoint(tmp_path)


# our own --------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_the_first_pattern_counts_here_and_after_peft_has_read_it(tmp_path):
    r"""In the order in which they were given, which is not that of the alphabet."""
    patterns = {"v_proj": 3, "1.*": 2}
    method = LoRA(r=4, alpha=8, rank_pattern=patterns, alpha_pattern={"self_attn.v_proj": 1, "1.*_proj": 5})
    model = nonzero(method.attach(tiny.model("llama")))
    ranks = {p: tuple(b.branches["default"].A.shape)[0] for p, b in method.branches(model, "default")}
    assert list(ranks.values()) == [4, 3, 2, 3]
    assert [b.branches["default"].s for _, b in method.branches(model, "default")] == [2, 1 / 3, 5 / 2, 1 / 3]
    method.save(model, tmp_path)
    assert torch.equal(read("llama", tmp_path)(**tiny.batch()).logits, model(**tiny.batch()).logits)
    assert list(methods.from_checkpoint(tmp_path).rank_pattern) == list(patterns)


PATHS = [
    f"{body}layers.{i}.{name}"
    for body in ("model.", "model.decoder.", "")
    for i in (0, 1, 11)
    for name in ("self_attn.q_proj", "mlp.experts.1.up_proj", "mlp.up_proj", "norm")
] + ["lm_head", "model.embed_tokens", "transformer.h.1.attn.c_attn", "classifier.q_proj", "xq_proj"]  # fmt: skip


@pytest.mark.parametrize("options", [
    {}, {"layers_to_transform": [1]}, {"layers_to_transform": [0, 11]}, {"exclude_modules": ["up_proj", "lm_head"]},
    {"exclude_modules": r".*\.1\..*"}, {"target_modules": r".*\.1{1,2}\.(mlp|self_attn)\.\w+"},
    {"target_modules": ["model.layers.0.mlp.up_proj", "q_proj"], "layers_to_transform": [1]},
    {"modules_to_save": ["mlp", "lm_head"]}, {"exclude_modules": ["model.layers.1.self_attn.q_proj", "q_pro"]},
], ids=str)  # fmt: skip
def test_which_modules_are_meant_is_peft_s_own_answer(options):
    options = {"target_modules": ["q_proj", "up_proj", "c_attn", "lm_head"]} | options
    reference = [path for path in PATHS if check_target_module_exists(peft.LoraConfig(**options), path)]
    names = {"target_modules": "targets", "layers_to_transform": "layers", "exclude_modules": "exclude"}
    choice = LoRA(**{names.get(key, key): value for key, value in options.items()}).named
    named = [path for path in PATHS if any(matches(path, name) for name in choice.of(None))]
    assert [path for path in named if choice.takes(path)] == reference
    assert 0 < len(reference) < len(PATHS)


@pytest.mark.parametrize(
    "key", ["q_proj", "1.*q_proj", r"^model\.layers\.1", r"layers\.1\..*", "model.*proj", "proj", ""]
)
def test_which_pattern_is_meant_is_peft_s_own_answer(key):
    found = [own_setting({key: 1}, path, 0) for path in PATHS]
    assert found == [int(get_pattern_key([key], path) == key) for path in PATHS]


def test_many_patterns_are_compiled_once_and_too_many_refused(monkeypatch):
    found = {re.escape(f"layers.{i}.up_proj"): 1 + i % 7 for i in range(1000)}
    assert own_setting(found, "layers.999.up_proj", 0) == found[r"layers\.999\.up_proj"]
    with monkeypatch.context() as no_more:
        no_more.setattr("re._compiler.compile", None)
        assert own_setting(found, "model.layers.998.up_proj", 0) == found[r"layers\.998\.up_proj"]
    with pytest.raises(CourseError, match="rank_pattern has 200,000 patterns; at most 5,000"):
        LoRA(rank_pattern=dict.fromkeys(map(str, range(200_000)), 2))


def test_what_is_at_its_default_is_neither_shown_nor_written(tmp_path):
    assert repr(LoRA(r=2)) == "LoRA(r=2, alpha=16, targets=None, dropout=0.0, rslora=False, dora=False)"
    assert repr(LoRA(layers=1)).endswith(", layers=(1,))")
    LoRA(r=2).save(LoRA(r=2).attach(tiny.model("llama")), tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert not {"rank_pattern", "exclude_modules", "lora_bias"} & config.keys()
    assert hash(LoRA(rank_pattern={"a": 2})) == hash(LoRA(rank_pattern={"b": 2})) != hash(LoRA(r=2))


@torch.no_grad()
def test_whole_modules_of_one_adapter_beside_the_updates_of_another():
    model, one = tiny.model("llama"), tiny.batch()
    plain, alone = model(**one).logits, {}
    for seed, (name, method) in enumerate({
        "whole": LoRA(r=2, modules_to_save=("lm_head",)), "low": LoRA(r=2, targets=("lm_head", "q_proj")),
        "again": LoRA(r=2, modules_to_save=("lm_head", "embed_tokens")),
    }.items()):  # fmt: skip
        alone[name] = nonzero(method.attach(model, name), seed)(**one).logits
    rows_answer_as_alone(model, list(alone), one)
    for name in alone:
        assert torch.equal(methods.activate(model, name)(**one).logits, alone[name])
        methods.attached(model)[name].merge(model, name)
        assert not model.config.tie_word_embeddings  # the two sides of the tie differ now
        torch.testing.assert_close(model(**one).logits, alone[name], atol=1e-4, rtol=1e-4)
        methods.unmerge(model)
        assert model.config.tie_word_embeddings
    methods.remove(model, "whole")
    assert torch.equal(methods.activate(model, "low")(**one).logits, alone["low"])
    assert torch.equal(methods.detach(model)(**one).logits, plain)


def test_copies_of_both_sides_of_a_tie_are_untied_by_merging(tmp_path):
    model = LoRA(r=2, modules_to_save=("lm_head", "embed_tokens")).attach(tiny.model("llama"))
    nonzero(model)
    logits = model(**tiny.batch()).logits
    LoRA(r=2).merge(model, undo=False)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    torch.testing.assert_close(again(**tiny.batch()).logits, logits, atol=1e-5, rtol=1e-4)


def test_a_bias_that_no_layer_could_take_does_not_merge():
    model = LoRA(r=2, lora_bias=True).attach(tiny.model("llama"))
    with pytest.raises(CourseError, match="lora_bias=True does not merge into a layer that has no bias"):
        LoRA(r=2).merge(model)


def test_the_memory_model_says_what_it_does_not_know():
    said = "the memory model knows a LoRA with one r|only what all blocks have can be predicted"
    for options in ({"layers": 0}, {"rank_pattern": {"q_proj": 2}}, {"modules_to_save": ("lm_head",)}):
        with pytest.raises(CourseError, match=said):
            inserted(LoRA(**options), describe(tiny.config("llama")), tiny.config("llama"))


def test_rows_of_other_tokens_are_not_read_into_these(tmp_path):
    written("llama", tmp_path, target_modules=["q_proj"], trainable_token_indices=[8, 7])
    model = tiny.model("llama")
    for ids in ([7, 8], [8, 9]):
        hybrid = methods.Hybrid(LoRA(r=4, alpha=6, targets="q_proj"), TokenRows({"embed_tokens": ids}))
        with pytest.raises(CourseError, match=r"trained with trainable_token_indices=\[8, 7\], the method here has"):
            hybrid.load(model, tmp_path)
    hybrid = methods.Hybrid(LoRA(r=4, alpha=6, targets="q_proj"), TokenRows({"embed_tokens": [8, 7]}))
    assert "default" in methods.attached(hybrid.load(model, tmp_path))


@torch.no_grad()
def test_whole_modules_of_a_part_of_a_hybrid(tmp_path):
    hybrid = methods.Hybrid(LoRA(r=2, modules_to_save=("lm_head",), layers=1), methods.NormTuning())
    model = nonzero(hybrid.attach(tiny.model("llama")))
    hybrid.save(model, tmp_path)
    assert methods.from_checkpoint(tmp_path).parts[1].modules_to_save == ("lm_head",)
    again = methods.from_checkpoint(tmp_path).load(tiny.model("llama"), tmp_path)
    assert torch.equal(again(**tiny.batch()).logits, model(**tiny.batch()).logits)
    assert methods.trainable(model) == hybrid.count(model.config)


@torch.no_grad()
@pytest.mark.parametrize("made", ["lora", "rslora", "rslora by to_lora"])
def test_servers_find_in_a_folder_what_they_read(made, tmp_path, root):
    r"""The settings and tensors that vLLM's PEFTHelper, SGLang's LoRAConfig and LoRAX's LoraConfig look for, and the
    layers that each computes of them: docs/as_a_library.md has the sources.
    """
    model = tiny.model("llama")
    lora = LoRA(r=4, alpha=6, targets=("q_proj", "down_proj"), rslora=made != "lora")
    nonzero(lora.attach(model, "film"))
    wanted = {path: layer.branches["film"].merged(layer.W, None)[0] for path, layer in lora.branches(model, "film")}
    name = "film"
    if made.endswith("to_lora"):
        name = "plain"
        assert max(methods.to_lora(model, methods.update_of(model, "film"), r=4, name=name).values()) < 1e-5
    methods.attached(model)[name].save(model, tmp_path, name=name)
    found, tensors = (json.loads((tmp_path / "adapter_config.json").read_text()),
                      load_file(tmp_path / "adapter_model.safetensors"))  # fmt: skip
    assert found["peft_type"] == "LORA" and {"r", "lora_alpha", "target_modules"} <= found.keys()
    assert not any(found.get(key) for key in ("use_dora", "modules_to_save", "rank_pattern", "alpha_pattern"))
    read = peft.LoraConfig.from_pretrained(tmp_path)  # as LoRAX does
    assert {path.rpartition(".")[2] for path in wanted} == {name.rpartition(".")[2] for name in read.target_modules}
    assert tensors.keys() == {f"base_model.model.{path}.lora_{part}.weight" for path in wanted for part in "AB"}
    plain = read.lora_alpha / read.r
    scales = {"SGLang": plain, "vLLM and LoRAX": read.lora_alpha / read.r**0.5 if read.use_rslora else plain}
    right = set()
    for server, scale in scales.items():
        layers = {path: model.get_submodule(path).W + scale * tensors[f"base_model.model.{path}.lora_B.weight"]
                  @ tensors[f"base_model.model.{path}.lora_A.weight"] for path in wanted}  # fmt: skip
        right |= {server} if all(torch.allclose(layers[p], W, atol=1e-5) for p, W in wanted.items()) else set()
    assert right == set(scales) - ({"SGLang"} if made == "rslora" else set())
    said = (root / "docs/as_a_library.md").read_text()
    assert "rsLoRA comes out too weak" in said and "makes a plain LoRA with $s=1$ of an rsLoRA" in said
