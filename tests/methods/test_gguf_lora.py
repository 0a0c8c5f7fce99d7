r"""A LoRA as a GGUF file: its layout, every bit of it, and what llama.cpp makes of it.

llama.cpp itself runs in `test_llama_cpp` alone. What stands for it here: the decoder's own GGUF file, whose rows its
converter put in order; transformers, which reads that order; and its formula, computed with the file's tensors.
"""

import gguf
import numpy as np
import pytest
import tiny
import torch
from attached import nonzero, refused
from torch import Tensor
from transformers.modeling_gguf_pytorch_utils import LlamaTensorProcessor

from coursekit import methods
from coursekit.errors import CourseError
from coursekit.methods import IA3, LoRA, load_gguf, save_gguf, to_lora, update_of
from coursekit.methods.gguf_lora import read_gguf, reordered

PLAIN = {
    "plain": LoRA(r=4, alpha=6, targets="all-linear"),
    "rslora": LoRA(r=4, alpha=6, targets="all-linear", rslora=True),
    "ranks": LoRA(r=4, alpha=4, targets=("q_proj", "k_proj"), rank_pattern={"1.*": 2}),
}
OWN_S = LoRA(r=4, alpha=6, targets=("q_proj", "o_proj"), alpha_pattern={"0.*o_proj": 7})


def adapted(method: LoRA, family: str = "llama", **options):
    return nonzero(method.attach(tiny.decoder(family, **options)))


def answers(model, name: str | None = "default") -> Tensor:
    methods.activate(model, name)
    with torch.no_grad():
        return model(**tiny.batch(4)).logits


def written(path) -> tuple[dict, dict]:
    reader = gguf.GGUFReader(path)
    return {k: f.contents() for k, f in reader.fields.items()}, {t.name: t for t in reader.tensors}


@pytest.mark.parametrize("method", PLAIN.values(), ids=PLAIN)
def test_every_bit_comes_back(method, tmp_path):
    model = adapted(method)
    load_gguf(model, save_gguf(model, tmp_path / "a.gguf"), "back")
    for (path, layer), (other, twin) in zip(
        method.branches(model, "default"), method.branches(model, "back"), strict=True
    ):
        one, two = layer.branches["default"], twin.branches["back"]
        assert path == other and one.s == pytest.approx(two.s, rel=1e-7)
        assert torch.equal(one.A, two.A) and torch.equal(one.B, two.B)
    assert (answers(model, "back") - answers(model)).abs().max() < 1e-5


def test_the_words_and_names_that_llama_cpp_reads(tmp_path):
    words, tensors = written(save_gguf(adapted(PLAIN["plain"]), tmp_path / "a.gguf"))
    assert words["general.architecture"] == "llama" and words["general.type"] == "adapter"
    assert words["adapter.type"] == "lora" and words["adapter.lora.alpha"] == 6
    inner = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    assert set(tensors) == {f"blk.{i}.{n}.weight.lora_{k}" for i in range(2) for n in inner for k in "ab"}
    assert {t.tensor_type.name for t in tensors.values()} == {"F32"}
    # ggml counts dimensions from the inside: a is (in, r), b is (r, out), so that a's second is b's first
    a, b = (tensors[f"blk.0.ffn_down.weight.lora_{k}"] for k in "ab")
    assert a.shape.tolist() == [tiny.D_FF, 4] and b.shape.tolist() == [4, tiny.D_MODEL]


@pytest.mark.parametrize("method", [*PLAIN.values(), OWN_S], ids=[*PLAIN, "own s"])
def test_its_formula_with_the_file_s_tensors_gives_the_update(method, tmp_path):
    r"""alpha / rows of A, as `get_scale` of llama-adapter.h has it; the rows put back by transformers' reader."""
    model = adapted(method)
    _, tensors = written(save_gguf(model, tmp_path / "a.gguf"))
    alpha, _ = read_gguf(tmp_path / "a.gguf")
    theirs = LlamaTensorProcessor({"num_attention_heads": tiny.HEADS, "num_key_value_heads": 2})
    names = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output"}
    names |= {"gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down"}
    update = update_of(model)
    for path, delta in update.deltas.items():
        parts = path.split(".")
        name = f"blk.{parts[2]}.{names[parts[-1]]}.weight"
        a, b = (np.array(tensors[f"{name}.lora_{k}"].data) for k in "ab")
        made = theirs.process(np.float32(alpha / len(a)) * (b @ a), name).weights
        assert np.allclose(made, delta.numpy(), atol=1e-6), name


def test_qwen_s_rows_stay_where_they_are(tmp_path):
    from transformers import AutoConfig, AutoModelForCausalLM

    own = dict(vocab_size=97, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen2", intermediate_size=48, **own))
    nonzero(LoRA(r=4, targets=("q_proj", "k_proj")).attach(model))
    words, tensors = written(save_gguf(model, tmp_path / "a.gguf"))
    assert words["general.architecture"] == "qwen2"
    B = model.model.layers[0].self_attn.q_proj.branches["default"].B
    assert np.array_equal(tensors["blk.0.attn_q.weight.lora_b"].data, B.detach().numpy())


@pytest.mark.slow
def test_rows_as_llama_cpp_s_converter_put_them_in_the_decoder_s_own_file():
    from coursekit.models import load_decoder, sources
    from coursekit.quantization.gguf import decode_q4_1

    model, _ = load_decoder("smollm2", device="cpu", dtype="float32")
    found = {t.name: t for t in gguf.GGUFReader(sources.smollm2_gguf()).tensors}
    for letter, heads in (("q", 9), ("k", 3)):
        stored = torch.tensor(found[f"blk.7.attn_{letter}.weight"].data)
        W = model.get_submodule(f"model.layers.7.self_attn.{letter}_proj").weight.detach()
        assert torch.equal(reordered(W, heads), decode_q4_1(stored))
        assert not torch.equal(W, decode_q4_1(stored))


REFUSED = {
    "PromptTuning": (methods.PromptTuning(n=3), "GGUF holds LoRA alone, and adapter 'default' is a PromptTuning"),
    "IA3": (IA3(), "adapter 'default' is a IA3: to_lora makes one of what folds"),
    "dora": (LoRA(r=2, dora=True), "adapter 'default' has dora=True: to_lora makes it a plain LoRA"),
    "bias": (LoRA(r=2, lora_bias=True), "has lora_bias=True"),
    "pissa": (LoRA(r=2, init="pissa"), "has init='pissa'"),
    "embedding": (LoRA(r=2, targets=("q_proj", "embed_tokens")), "model.embed_tokens is none: exclude it"),
    "head": (LoRA(r=2, modules_to_save=("lm_head",)), "trains lm_head whole"),
}


@pytest.mark.parametrize("method, said", REFUSED.values(), ids=REFUSED)
def test_what_the_file_has_no_place_for_is_refused_in_one_line(method, said, tmp_path):
    model = nonzero(method.attach(tiny.decoder("llama", tie_word_embeddings=False)))
    with refused(said, model):
        save_gguf(model, tmp_path / "a.gguf")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("method", [IA3(), LoRA(r=4, dora=True), LoRA(r=4, init="pissa")], ids=repr)
def test_through_to_lora_they_fit(method, tmp_path):
    model = nonzero(method.attach(tiny.decoder("llama")), scale=0.05)
    wanted, update = answers(model), update_of(model)
    methods.detach(model)
    to_lora(model, update, r=16)
    load_gguf(model, save_gguf(model, tmp_path / "a.gguf"), "back")
    assert (answers(model, "back") - answers(model, "combined")).abs().max() < 1e-6
    assert (answers(model, "back") - wanted).abs().max() < 0.2 * (answers(model, None) - wanted).abs().max()


def test_another_family_is_refused(tmp_path):
    with pytest.raises(CourseError, match="written for llama, mistral, qwen2, qwen3; this model is a gpt2"):
        save_gguf(adapted(LoRA(r=4), "gpt2"), tmp_path / "a.gguf")


def test_files_that_are_none_or_of_another_model_leave_the_model_as_it_was(tmp_path):
    path = save_gguf(adapted(PLAIN["plain"]), tmp_path / "a.gguf")
    (tmp_path / "b.gguf").write_bytes(b"GGUF")
    writer = gguf.GGUFWriter(tmp_path / "c.gguf", "llama")
    writer.add_tensor("blk.0.attn_q.weight", np.zeros((4, 4), dtype=np.float32))
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    model = tiny.decoder("llama", num_hidden_layers=1)
    for name, other, said in (
        ("none.gguf", model, "there is no file"),
        ("b.gguf", model, "b.gguf is no GGUF adapter"),
        ("c.gguf", model, "c.gguf is no GGUF adapter"),
        ("a.gguf", model, "for another model: there is no blk.1"),
        ("a.gguf", tiny.decoder("llama", intermediate_size=40), "for another model: blk.* has other sizes"),
        ("a.gguf", tiny.decoder("llama", hidden_size=64, num_attention_heads=4), "has other sizes here"),
    ):
        with refused(said, other):
            load_gguf(other, tmp_path / name)
    assert path.is_file() and not list(tmp_path.glob(".writing-*"))
