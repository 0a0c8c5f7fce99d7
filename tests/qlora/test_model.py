r"""Models in 4 bits: which layers, what is refused, reading them from files, and how much memory that takes."""

import copy
import json
import subprocess
import sys
import weakref

import bitsandbytes
import pytest
import tiny
import torch
from attached import labelled
from tiny_text import saved, words
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D

from coursekit import methods
from coursekit.errors import CourseError
from coursekit.methods import LoRA
from coursekit.models import load_decoder, sources
from coursekit.models.quantized import load_quantized
from coursekit.qlora import Linear4bit, quantize_model

each_family = pytest.mark.parametrize("family", tiny.FAMILIES)
each_decoder = pytest.mark.parametrize("family", tiny.DECODERS)


def dense_twin(family: str, quantized: nn.Module, **changes) -> nn.Module:
    r"""The dense model with the weights that the codes of `quantized` stand for."""
    twin = tiny.model(family, **changes)
    with torch.no_grad():
        for path, layer in layers(quantized).items():
            weight = layer.weight.t() if layer.conv1d else layer.weight
            twin.get_submodule(path).weight.copy_(weight)
    return twin


def layers(model: nn.Module) -> dict[str, Linear4bit]:
    return {path: m for path, m in model.named_modules() if isinstance(m, Linear4bit)}


def same(one: nn.Module, other: nn.Module) -> bool:
    r"""Whether every parameter and buffer of two models is the same, to the bit and in the same place."""
    for kind in ("named_parameters", "named_buffers"):
        a, b = (dict(getattr(m, kind)()) for m in (one, other))
        if a.keys() != b.keys() or not all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a):
            return False
    return True


# Which layers ---------------------------------------------------------------------------------------------


@each_family
def test_every_linear_layer_of_the_body_and_nothing_else(family):
    before = tiny.model(family)
    wanted = {
        path for path, m in before.named_modules()
        if type(m) in (nn.Linear, Conv1D) and path.split(".")[0] not in ("lm_head", "classifier")
    }  # fmt: skip
    model = tiny.model(family)
    assert quantize_model(model) is model
    assert layers(model).keys() == wanted and len(wanted) >= 8
    for name, parameter in model.named_parameters():  # embeddings, norms, biases, heads: untouched
        assert torch.equal(parameter, before.get_parameter(name))
        assert parameter.requires_grad


@each_family
def test_it_answers_as_the_dense_model_with_the_same_weights(family):
    model, one = quantize_model(tiny.model(family)), labelled(family, padded=True)
    with torch.no_grad():
        answer = model(**one).logits
        torch.testing.assert_close(answer, dense_twin(family, model)(**one).logits, rtol=0, atol=1e-6)
        assert not torch.allclose(answer, tiny.model(family)(**one).logits, atol=1e-5)


def test_names_in_skip_keep_their_precision_and_a_tied_output_layer_always():
    model = quantize_model(tiny.decoder("llama"), skip=("q_proj", "layers.1.mlp.down_proj"))
    dense = {path for path, m in model.named_modules() if type(m) is nn.Linear}
    assert dense == {
        "lm_head", "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj", "model.layers.1.mlp.down_proj",
    }  # fmt: skip
    assert model.lm_head.weight is model.model.embed_tokens.weight
    untied = quantize_model(tiny.decoder("llama", tie_word_embeddings=False), skip=())
    assert isinstance(untied.lm_head, Linear4bit)
    kept = quantize_model(tiny.decoder("llama", tie_word_embeddings=False))
    assert type(kept.lm_head) is nn.Linear


def test_settings_reach_every_layer():
    model = quantize_model(tiny.decoder(), code="fp4", block=32, double=False, compute_dtype=torch.bfloat16)
    for layer in layers(model).values():
        q = layer.quantized
        assert (q.code, q.block, layer.compute_dtype) == ("fp4", 32, torch.bfloat16)
        assert isinstance(q.absmax, torch.Tensor)


def test_no_more_than_one_weight_is_there_in_both_forms(monkeypatch):
    model, make, alive = tiny.decoder(), Linear4bit.from_linear.__func__, []
    weights = [weakref.ref(model.get_submodule(path).weight) for path in layers(quantize_model(copy.deepcopy(model)))]

    def counting(cls, *args):
        alive.append(sum(ref() is not None for ref in weights))
        return make(cls, *args)

    monkeypatch.setattr(Linear4bit, "from_linear", classmethod(counting))
    quantize_model(model)
    assert alive == list(range(len(weights), 0, -1)) and not any(ref() is not None for ref in weights)


# What is refused ------------------------------------------------------------------------------------------


def test_what_cannot_be_quantized_is_said_in_a_line_and_nothing_is_changed():
    with_nan, with_method = tiny.decoder(), LoRA(r=4).attach(tiny.decoder())
    with torch.no_grad():
        with_nan.model.layers[1].mlp.down_proj.weight[0, 0] = float("nan")
        (with_infinity := tiny.decoder()).model.layers[1].mlp.up_proj.weight[0, 0] = -float("inf")
    quantized = quantize_model(tiny.decoder())
    with torch.device("meta"):
        empty = type(quantized)(quantized.config)
    cases = [
        (tiny.decoder(), dict(code="nf44"), "nf4"),
        (tiny.decoder(), dict(skip=("q_projj",)), "q_projj.*candidates.*q_proj"),
        (tiny.decoder(), dict(block=0), "block must be a positive integer"),
        (tiny.decoder(), dict(double="no"), "double must be True or False"),
        (tiny.decoder(), dict(compute_dtype="a"), "compute_dtype must be a floating-point dtype.* got 'a'"),
        (tiny.decoder(), dict(compute_dtype=torch.int8), "compute_dtype must be .* got torch.int8"),
        (with_nan, {}, "layers.1.mlp.down_proj holds infinities or NaN"),
        (with_infinity, {}, "layers.1.mlp.up_proj holds infinities or NaN"),
        (with_method, {}, "carries methods"),
        (quantized, {}, "quantized already"),
        (empty, {}, "load_quantized"),
        (nn.Sequential(nn.LayerNorm(4)), {}, "nothing to quantize"),
        (tiny.decoder(), dict(skip=(*"qkvo",)), "'q'"),
    ]
    with pytest.raises(CourseError, match="model must be a PyTorch model; got NoneType"):
        quantize_model(None)
    for model, settings, message in cases:
        before = {n: type(m) for n, m in model.named_modules()}
        with pytest.raises(CourseError, match=message) as error:
            quantize_model(model, **settings)
        assert "\n" not in str(error.value)
        assert {n: type(m) for n, m in model.named_modules()} == before


def test_an_interrupted_call_goes_on_where_it_stopped(monkeypatch):
    model, make, done = tiny.decoder(), Linear4bit.from_linear.__func__, []

    def stops(cls, *args):
        if len(done) == 5:
            raise KeyboardInterrupt
        done.append(1)
        return make(cls, *args)

    monkeypatch.setattr(Linear4bit, "from_linear", classmethod(stops))
    with pytest.raises(KeyboardInterrupt):
        quantize_model(model)
    assert len(layers(model)) == 5
    monkeypatch.undo()
    assert same(quantize_model(model), quantize_model(tiny.decoder()))


def test_full_fine_tuning_of_4_bits_is_refused():
    with pytest.raises(CourseError, match="do not train"):
        methods.FullFineTuning().attach(quantize_model(tiny.decoder()))


# From files -----------------------------------------------------------------------------------------------


@each_decoder
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_reading_shard_by_shard_gives_what_loading_and_quantizing_gives(family, tied, dtype, tmp_path):
    folder = saved(tiny.decoder(family, tie_word_embeddings=tied), tmp_path, max_shard_size="4KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 3
    settings = dict(device="cpu", dtype=dtype)
    model, read = load_quantized(folder, **settings)
    reference, _ = load_decoder(folder, **settings)
    quantize_model(reference)
    assert same(model, reference) and len(layers(model)) == len(layers(reference)) > 0
    one = tiny.batch()
    assert torch.equal(model(**one).logits, reference(**one).logits)
    assert model.training == reference.training and read("w1 w2").input_ids == [1, 2]
    assert model.config.to_dict() == reference.config.to_dict()
    assert {n: p.requires_grad for n, p in model.named_parameters()} == {
        n: p.requires_grad for n, p in reference.named_parameters()
    }


def test_load_decoder_takes_a_code_and_settings_reach_the_layers(tmp_path):
    folder = saved(tiny.decoder(), tmp_path, max_shard_size="4KB")
    model, _ = load_decoder(folder, quantize="fp4", device="cpu")
    assert all(layer.quantized.code == "fp4" for layer in layers(model).values())
    reference = quantize_model(load_decoder(folder, device="cpu")[0], code="fp4")
    assert layers(model) and same(model, reference)
    model, _ = load_quantized(folder, skip="o_proj", block=16, double=False, compute_dtype=torch.bfloat16, device="cpu")
    assert not any(path.endswith("o_proj") for path in layers(model))
    assert {(x.quantized.block, x.compute_dtype) for x in layers(model).values()} == {(16, torch.bfloat16)}


def test_a_checkpoint_of_the_body_alone_is_read_too(tmp_path):
    r"""As GPT-2's on the hub is: its names lack the prefix that the body has in the whole model."""
    whole = tiny.decoder("gpt2")
    saved(whole.transformer, tmp_path, max_shard_size="4KB")
    assert same(load_quantized(tmp_path, device="cpu")[0], quantize_model(whole))


WHOLE_BLOCKS = {  # rows of whole blocks: on a CPU bitsandbytes 0.50 unpacks others wrongly
    "gpt2": dict(n_embd=64, n_inner=128, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0),
    "opt": dict(hidden_size=64, word_embed_proj_dim=64, ffn_dim=128, dropout=0.0),
    "llama": dict(hidden_size=64, intermediate_size=128, tie_word_embeddings=False),
}


@each_decoder
@pytest.mark.parametrize("double", [False, True])
def test_what_bitsandbytes_wrote_is_read_as_it_is(family, double, tmp_path):
    dense = saved(tiny.decoder(family, **WHOLE_BLOCKS[family]), tmp_path)
    codes = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": double, "bnb_4bit_compute_dtype": torch.float32}
    theirs = AutoModelForCausalLM.from_pretrained(
        dense, quantization_config=BitsAndBytesConfig(load_in_4bit=True, **codes), device_map="cpu", dtype=torch.float32
    ).train()  # no repacking in train mode
    theirs.save_pretrained(tmp_path / "codes", max_shard_size="20KB")
    words(eos_token="<end>").save_pretrained(tmp_path / "codes")
    model, _ = load_quantized(tmp_path / "codes", device="cpu")
    assert not hasattr(model.config, "quantization_config")
    assert len(layers(model)) == sum(isinstance(m, bitsandbytes.nn.Linear4bit) for m in theirs.modules()) > 0
    one = tiny.batch()
    with torch.no_grad():
        torch.testing.assert_close(theirs(**one).logits, model(**one).logits, rtol=0, atol=1e-6)


def test_checkpoints_that_do_not_fit_are_explained(tmp_path):
    broken = {
        name: saved(tiny.decoder(), tmp_path / name, max_shard_size="4KB") for name in ("short", "shape", "bin", "nan")
    }
    with pytest.raises(CourseError, match="no folder"):
        load_quantized(tmp_path / "nowhere")
    with pytest.raises(CourseError, match="nf4"):
        load_quantized(broken["short"], code="nf5x")
    index = broken["short"] / "model.safetensors.index.json"
    files = json.loads(index.read_text())
    lost = files["weight_map"]["model.layers.1.mlp.down_proj.weight"]
    files["weight_map"] = {k: v for k, v in files["weight_map"].items() if v != lost}
    index.write_text(json.dumps(files))
    with pytest.raises(CourseError, match="tensors are not in it"):
        load_quantized(broken["short"], device="cpu")
    config = broken["shape"] / "config.json"
    config.write_text(config.read_text().replace('"intermediate_size": 48', '"intermediate_size": 40'))
    with pytest.raises(CourseError, match="48.*config"):
        load_quantized(broken["shape"], device="cpu")
    for file in broken["bin"].glob("model*"):
        file.unlink()
    with pytest.raises(CourseError, match="no model.safetensors"):
        load_quantized(broken["bin"], device="cpu")
    model = tiny.decoder()
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = float("inf")
    with pytest.raises(CourseError, match="infinities"):
        load_quantized(saved(model, broken["nan"], max_shard_size="4KB"), device="cpu")
    with pytest.raises(CourseError, match="encoder"):
        load_quantized(saved(tiny.encoder(), tmp_path / "bert", max_shard_size="4KB"), device="cpu")


PEAK = """
import pathlib, re, sys
from coursekit.models import load_decoder
from coursekit.models.quantized import load_quantized
from coursekit.qlora import quantize_model
import transformers.models.llama.modeling_llama

def most():
    # Not getrusage: its figure outlives exec, so it would be that of the process that started this one.
    return 1024 * int(re.search(r"VmHWM:\\s*(\\d+)", pathlib.Path("/proc/self/status").read_text())[1])

start = most()
if sys.argv[2] == "shards":
    model, _ = load_quantized(sys.argv[1], device="cpu")
else:
    model = quantize_model(load_decoder(sys.argv[1], device="cpu")[0])
print(most() - start, model.get_memory_footprint())
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_reading_shard_by_shard_needs_little_more_than_the_4_bit_size(tmp_path):
    r"""The most that a process of its own ever had in memory, for a model of 140 MB whose 4-bit form has 22 MB."""
    wide = dict(hidden_size=512, intermediate_size=2048, num_hidden_layers=8, num_attention_heads=8)
    model = tiny.decoder("llama", **wide, num_key_value_heads=8)
    dense = sum(p.nbytes for p in model.parameters())
    saved(model, tmp_path, max_shard_size="20MB")
    del model
    took = {}
    for way in ("shards", "whole"):
        done = subprocess.run([sys.executable, "-c", PEAK, tmp_path, way], capture_output=True, text=True, check=True)
        took[way], footprint = map(int, done.stdout.split())
    largest = 4 * 512 * 2048
    assert took["shards"] < footprint + 8 * largest < took["whole"]
    assert took["whole"] > 0.9 * dense


# The real one ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_smollm2_straight_from_its_file():
    model, tokenizer = load_quantized("smollm2", device="cpu")
    reference = quantize_model(load_decoder("smollm2", device="cpu")[0])
    assert same(model, reference) and len(layers(model)) == 210
    assert model.get_memory_footprint() < 0.32 * 538e6  # a fifth of this model is embedding, and stays
    ids = tokenizer("The capital of France is", return_tensors="pt")
    assert torch.equal(model(**ids).logits, reference(**ids).logits)
    assert "Paris" in tokenizer.decode(model.generate(**ids, max_new_tokens=8, do_sample=False)[0])
    assert AutoTokenizer.from_pretrained(sources.smollm2()).vocab_size == tokenizer.vocab_size


@pytest.mark.gpu
@each_decoder
def test_on_a_gpu_reading_and_quantizing_there_gives_the_same(family, tmp_path):
    folder = saved(tiny.decoder(family), tmp_path, max_shard_size="4KB")
    model, _ = load_quantized(folder, device="cuda", dtype=torch.bfloat16)
    reference = quantize_model(load_decoder(folder, device="cuda", dtype=torch.bfloat16)[0])
    assert same(model, reference)
    assert {b.device.type for layer in layers(model).values() for b in layer.buffers()} == {"cuda"}
