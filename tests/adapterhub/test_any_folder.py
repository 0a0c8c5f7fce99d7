r"""`coursekit.load_adapter`: every folder through one door, and one line for what cannot be read."""

import json
from pathlib import Path

import peft
import pytest
import tiny
import torch
from attached import nonzero, refused
from stored import FIXTURES, Stored, changed

import coursekit
from coursekit import adapterhub, methods
from coursekit.errors import CourseError
from coursekit.methods import (
    IA3,
    AdapterDrop,
    HoulsbyAdapter,
    LoRA,
    MAMAdapter,
    ParallelAdapter,
    PfeifferAdapter,
    PrefixTuning,
    PromptTuning,
    UniPELT,
)

_QV = ("attention.self.query", "attention.self.value")
#: What each case of the `adapters` library is here.
READ = {
    "bert/lora": LoRA(r=2, alpha=4.0, targets=_QV),
    "bert/ia3": IA3(targets=("attention.self.key", "attention.self.value", "intermediate.dense"), feedforward=()),
    "bert/prefix": PrefixTuning(n=3, shifted=False),
    "bert/prefix_flat": PrefixTuning(n=3, shifted=False),
    "bert/prompt": PromptTuning(n=3, init="random", embedded=False),
    "bert/houlsby": HoulsbyAdapter(r=3, activation="swish"),
    "bert/pfeiffer": PfeifferAdapter(r=3),
    "bert/parallel": ParallelAdapter(r=3),
    "bert/learned_scale": ParallelAdapter(r=3, scaling="learned"),
    "bert/drop": AdapterDrop(PfeifferAdapter(r=3), n=1),
    "bert/mam": MAMAdapter(n=3, hidden=None, r=3, scaling=4.0),
    "bert/unipelt": UniPELT(n=3, hidden=None, r=3, rank=2, padded=True),
    # one matrix for queries, keys and values: ranks of their own for the two that are adapted
    "gpt2/lora": LoRA(r=4, alpha=8.0, targets=("attn.c_attn",)),
    "gpt2/ia3": IA3(targets=("attn.c_attn", "mlp.c_fc"), feedforward=()),
    "llama/lora": LoRA(r=2, alpha=4.0, targets=("self_attn.q_proj", "self_attn.v_proj")),
    "llama/prefix": PrefixTuning(n=3, shifted=False),
}
#: Forms that compute the same to the bit, but for GPT-2's LoRA, whose matrices are put together here.
EXACT = ("houlsby", "pfeiffer", "parallel", "learned_scale", "drop", "lora", "lora_all", "ia3", "prefix_flat")
#: UniPELT is BERT's here.
ALL = sorted(
    stored
    for p in FIXTURES.glob("*/*/adapter_config.json")
    if (stored := str(p.parent.relative_to(FIXTURES))) not in ("gpt2/unipelt", "llama/unipelt")
)


@pytest.mark.parametrize("stored", ALL)
def test_what_the_adapters_library_wrote_answers_the_same(stored):
    stored_at, stored = stored, Stored(stored)
    model = stored.model()
    method = coursekit.load_adapter(model, stored.folder)
    assert method == methods.attached(model)["default"] and method == READ.get(stored_at, method)
    exactly = stored.has_these_bits() and stored.case in EXACT and stored_at not in ("gpt2/lora", "gpt2/lora_all")
    stored.assert_same(model, stored.case, exactly)
    with methods.disabled(model):
        stored.assert_same(model, "plain", exactly=stored.has_these_bits())


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_a_lora_of_some_blocks_and_a_fused_matrix_names_its_places(family):
    model = Stored(f"{family}/lora_all").model()
    method = coursekit.load_adapter(model, FIXTURES / family / "lora_all")
    assert all(".1." in path for path in method.places(model)), "block 0 was left out"
    fused = {"transformer.h.1.attn.c_attn": 6}
    assert {path: method.at(path).r for path in method.places(model)} == dict.fromkeys(method.places(model), 2) | (
        fused if family == "gpt2" else {}
    )
    assert {method.at(path).scaling for path in method.places(model)} == {1.5}


def test_a_fused_matrix_of_a_width_that_is_no_power_of_two_gets_its_rows_at_query_and_value(tmp_path):
    folder = changed("gpt2/lora", tmp_path)
    key, B = "transformer.h.0.attn.c_attn.loras.lora.lora_", torch.randn(60, 2)
    torch.save({f"{key}A": torch.randn(4, 30), f"{key}B": B}, folder / "pytorch_adapter.bin")
    model = tiny.decoder(tiny.Awkward("gpt2"))
    coursekit.load_adapter(model, folder)
    wide = torch.zeros(90, 4)
    wide[:30, :2], wide[60:, 2:] = B[:30], B[30:]
    assert torch.equal(model.transformer.h[0].attn.c_attn.branches["default"].B, wide)


def test_what_is_saved_here_and_by_peft_comes_through_the_same_door(tmp_path):
    one = tiny.batch()
    model = nonzero(LoRA(r=2, alpha=3).attach(tiny.decoder("llama")), 3)
    LoRA(r=2, alpha=3).save(model, tmp_path / "ours")
    again = tiny.decoder("llama")
    assert coursekit.load_adapter(again, str(tmp_path / "ours"), "film").r == 2
    with torch.no_grad():
        assert torch.equal(again(**one).logits, model(**one).logits)
    theirs = peft.get_peft_model(tiny.decoder("llama"), peft.IA3Config(task_type="CAUSAL_LM"))
    nonzero(theirs, 4)
    theirs.save_pretrained(tmp_path / "peft")
    again = tiny.decoder("llama")
    assert isinstance(coursekit.load_adapter(again, tmp_path / "peft"), IA3)
    with torch.no_grad():
        torch.testing.assert_close(again(**one).logits, theirs(**one).logits, atol=1e-6, rtol=1e-5)


def lines(error: pytest.ExceptionInfo) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.filterwarnings("ignore::UserWarning")  # BOFT's of its extension
@pytest.mark.parametrize("theirs", [
    peft.LoKrConfig(target_modules=["query"]), peft.AdaLoraConfig(target_modules=["query"], total_step=10),
    peft.BOFTConfig(target_modules=["query"], boft_block_size=4),
], ids=lambda theirs: theirs.peft_type.value)  # fmt: skip
def test_a_method_of_peft_that_is_not_read_says_what_can_be(theirs, tmp_path):
    peft.get_peft_model(tiny.encoder(), theirs).save_pretrained(tmp_path)
    model = tiny.encoder()
    with pytest.raises(CourseError) as e:
        coursekit.load_adapter(model, tmp_path)
    says = f"the checkpoint holds '{theirs.peft_type.value}', a method that is not read here (peft.PeftModel.from_pre"
    assert lines(e).startswith(says) and "; read are ADAPTER_DROP, " in lines(e) and ", LORA, " in lines(e)
    assert not methods.attached(model)


def test_folders_without_an_adapter_say_what_they_hold(tmp_path):
    model = tiny.encoder()
    with pytest.raises(CourseError, match="holds no adapter: it has nothing and no adapter_config.json; read are") as e:
        coursekit.load_adapter(model, tmp_path)
    assert "LoRA, (IA)³, prefix tuning, prompt tuning, MAM and UniPELT" in lines(e)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CourseError, match=r"it has config.json \(a whole model: load it with from_pretrained\)"):
        coursekit.load_adapter(model, tmp_path)
    config = tmp_path / "adapter_config.json"
    for text, said in [
        ("{", "is damaged"), ("[]", "is damaged .it holds no settings"), ("{}", "but no entries"),
        ('{"r": 8, "alpha": 1}', "neither peft's 'peft_type' nor the adapters library's 'config', but alpha, r"),
        ('{"peft_type": "OFTT"}', "no adapter_model.safetensors"), ('{"config": 3}', "'config' is neither settings"),
        ('{"config": {"architecture": "lora"}}', "neither pytorch_adapter.bin nor adapter.safetensors"),
        ('{"config": {"architecture": "reft"}}', "is reft, which no method here is"),
    ]:  # fmt: skip
        config.write_text(text)
        with pytest.raises(CourseError, match=said) as e:
            coursekit.load_adapter(model, tmp_path)
        lines(e)
    assert methods.attached(model) == {}


#: Of a stored folder, or of one part of a union: settings in the place of its own, and what is said.
REFUSED: dict[tuple[str, int | None], list[tuple[dict, str]]] = {
    ("lora", None): [
        ({"use_dora": True}, "has use_dora=True, which no LoRA here does"),
        ({"use_gating": True}, "has use_gating=True"), ({"vera_d": 0.1}, "has vera_d=0.1"),
        ({"dropout": 0.1}, "has dropout=0.1"), ({"composition_mode": "scale"}, "has r=2 and alpha=4, not 1 and 1"),
    ],
    ("ia3", None): [
        ({"alpha": 2}, "has r=1 and alpha=2, not 1 and 1"), ({"composition_mode": "add"}, "has no two matrices"),
    ],
    ("prefix", None): [
        ({"leave_out": [1]}, r"has leave_out=\[1\], which no prefix here does"),
        ({"non_linearity": "relu"}, "no network with tanh behind its prefix"),
        ({"flat": True}, "is damaged: it is not of 3 tokens"),
    ],
    ("prefix_flat", None): [
        ({"prefix_length": 5}, "is damaged: it is not of 5 tokens"),
        ({"prefix_length": 0}, "is damaged: it is not of 0 tokens"),
    ],
    ("prompt", None): [
        ({"combine": "prefix_after_bos"}, "has combine='prefix_after_bos', which no prompt here does"),
        ({"prompt_length": 5}, "is damaged: it is not of 5 tokens"),
        ({"prompt_length": "3"}, "is damaged: it is not of 3 tokens"),
    ],
    ("pfeiffer", None): [
        ({"phm_layer": True}, "n=4 does not divide the width of the bottleneck, r=3"),
        ({"ln_before": True}, "has ln_before=True"), ({"inv_adapter": "nice"}, "has inv_adapter='nice'"),
        ({"dropout": 0.1}, "has dropout=0.1"), ({"residual_before_ln": False}, "has residual_before_ln=False"),
        ({"mh_adapter": True}, "sits where no method here puts one: mh_adapter=True"),
        ({"scaling": 2.0}, "has scaling=2.0: only ParallelAdapter scales"),
        ({"non_linearity": "mish"}, "unknown activation 'mish'"),
        ({"leave_out": [1]}, r"leaves out blocks \[1\]: only the first ones"),
        ({"architecture": "reft"}, "is reft, which no method here is; read are bottlenecks, LoRA"),
        ({"architecture": "lora"}, "has bert.encoder.layer.0.output.adapters.pfeiffer.* which no method here has"),
        ({"config": "pfeifer"}, "unknown adapter configuration 'pfeifer'; did you mean 'pfeiffer'"),
        *((odd, ".") for odd in (  # of other types
            {"config": []}, {"config": 3}, {"config": None}, {"non_linearity": []}, {"non_linearity": None},
            {"leave_out": 5}, {"leave_out": ["a", 1]}, {"leave_out": [0, 0]}, {"scaling": []},
            {"phm_layer": True, "phm_dim": "a"},
        )),
    ],
    ("compacter", None): [
        ({"shared_phm_rule": False}, "has shared_phm_rule=False, which no method here has"),
        ({"factorized_phm_W": False}, "has factorized_phm_W=False"),
        ({"factorized_phm_rule": True}, "has factorized_phm_rule=True"),
        ({"shared_W_phm": True}, "has shared_W_phm=True"), ({"phm_rank": 2}, "has phm_rank=2"),
        ({"phm_bias": False}, "has phm_bias=False"),
        ({"is_parallel": True}, "sits where no method here puts one: mh_adapter=True"),
        ({"phm_dim": 3}, "n=3 does not divide the width of the bottleneck, r=4 of d=12"),
        ({"phm_dim": 4}, "is of another model"), ({"leave_out": [0]}, "adapter must be one of HoulsbyAdapter"),
    ],
    **{union: [(settings, "has settings that no method here has") for settings in strange] for union, strange in {
        ("mam", 0): ({"use_gating": True}, {"non_linearity": "relu"}, {"leave_out": [0]}),
        ("mam", 1): ({"is_parallel": False}, {"non_linearity": "swish"}, {"mh_adapter": True}, {"leave_out": [0]},
                     {"phm_layer": True}),
        ("unipelt", 0): ({"use_gating": False}, {"flat": True}),
        ("unipelt", 1): ({"scaling": 3.0},),
        ("unipelt", 2): ({"attn_matrices": ["q", "k"]}, {"output_lora": True}, {"composition_mode": "scale"}),
    }.items()},
}  # fmt: skip
REFUSED["unipelt", 1] += [
    (changes, f"has {key}={value!r}, which no method here has")
    for changes in ({"residual_before_ln": False}, {"original_ln_after": False}, {"adapter_residual_before_ln": True},
                    {"inv_adapter": "nice"})
    for key, value in changes.items()
]  # fmt: skip


@pytest.mark.parametrize("case, part, changes, said", [(*key, *row) for key, rows in REFUSED.items() for row in rows])
def test_folders_of_what_no_method_here_is(case, part, changes, said, tmp_path):
    model, folder = Stored(f"bert/{case}").model(), changed(f"bert/{case}", tmp_path, part, **changes)
    for load in (coursekit.load_adapter, adapterhub.load):
        with refused(said, model):
            load(model, folder)


@pytest.mark.parametrize("case", ["lora", "ia3", "prefix_flat", "prompt", "mam"])
def test_tensors_of_another_model_leave_this_one_as_it_was(case, tmp_path):
    for model in (tiny.encoder(num_hidden_layers=1), tiny.encoder()):
        with refused("of another model", model):
            coursekit.load_adapter(model, FIXTURES / "bert" / case)
    folder = changed(f"bert/{case}", tmp_path)
    for file in folder.glob("pytorch_adapter.bin"):
        tensors = torch.load(file, weights_only=True)
        torch.save({f"{key}.strange": value for key, value in tensors.items()} if case not in ("prefix_flat", "mam")
                   else tensors | {"strange": torch.zeros(1)}, file)  # fmt: skip
    with pytest.raises(CourseError, match="strange, which no method here has"):
        coursekit.load_adapter(Stored(f"bert/{case}").model(), folder)


def test_a_folder_of_another_type_or_without_its_tensors_is_said_in_a_line(tmp_path):
    folder = changed("bert/mam", tmp_path)
    file, stored = folder / "adapter_config.json", Stored("bert/mam")
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"model_type": "roberta"}))
    with pytest.raises(CourseError, match="trained on a roberta model"):
        adapterhub.load(stored.model(), folder)
    file.write_text(json.dumps(config))
    weights = folder / "pytorch_adapter.bin"
    tensors = torch.load(weights)
    for gone, said in [
        ("control_trans.0.weight", "no network with tanh behind its prefix"),
        ("adapter_down", "none wide"),
    ]:
        left = {key: value for key, value in tensors.items() if gone not in key}
        torch.save(left, weights)
        model = stored.model()
        MAMAdapter(n=2, hidden=None, r=2).attach(model, "first")
        MAMAdapter(n=2, hidden=None, r=2).attach(model, "second")
        with pytest.raises(CourseError, match=said):
            adapterhub.load(model, folder, "third")
        assert list(methods.attached(model)) == ["first", "second"] and model._coursekit.switch.active == "second"
    file.write_text(json.dumps(config | {"config": {"architecture": "union"}}))
    with pytest.raises(CourseError, match="does not say what it is made of"):
        adapterhub.load(model, folder)


def test_names_that_are_no_folder(tmp_path, monkeypatch):
    import huggingface_hub

    asked = []

    def download(name, allow_patterns):
        asked.append(name)
        assert "adapter_config.json" in allow_patterns and "pytorch_adapter.bin" in allow_patterns
        if name == "owner/none":
            raise OSError("no connection\nto anybody")
        return str(FIXTURES / "bert" / "lora")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    model = Stored("bert/lora").model()
    for name in ("nothing", "./nothing/here", "/no/such/folder", tmp_path / "none"):
        with pytest.raises(CourseError, match="there is no folder .* is called 'owner/name'"):
            coursekit.load_adapter(model, name)
    (tmp_path / "file").write_text("")
    with pytest.raises(CourseError, match="is a file: give the folder"):
        coursekit.load_adapter(model, tmp_path / "file")
    with pytest.raises(CourseError, match="cannot get 'owner/none' from the Hugging Face hub") as e:
        coursekit.load_adapter(model, "owner/none")
    lines(e)
    assert isinstance(coursekit.load_adapter(model, "owner/lora"), LoRA) and asked == ["owner/none", "owner/lora"]


def test_bitsandbytes_says_nothing_when_it_is_imported(caplog):
    from bitsandbytes.backends.cpu import ops

    # What it says on processors with AVX512-BF16, word for word; and something else.
    said = "Failed to load CPU gemm_4bit_forward from kernels-community: %s. Please make sure"
    assert said in Path(ops.__file__).read_text(encoding="utf-8")
    ops.logger.warning(said, ImportError("no kernels"))
    ops.logger.warning("another notice")
    assert [record.msg for record in caplog.records] == ["another notice"]
