r"""A merged model as a GGUF file: every bit of it, its vocabulary, and what is refused. llama.cpp: `test_llama_cpp`."""

import json

import gguf
import pytest
import tiny
import torch
from attached import nonzero
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from coursekit import methods
from coursekit.errors import CourseError
from coursekit.methods import LoRA, save_gguf_model

TEXTS = ("the film is good", "14 + 8 = 22\n", " a  b\t\tc", "it's déjà vu, 東京!", "<s>the end</s>")


def bytes_tokenizer(digits: bool = False, **special):
    r"""Merged bytes, less than 300 tokens of which three are special; cuts a text like GPT-2 (or SmolLM2)."""
    built = Tokenizer(models.BPE())
    cut = pre_tokenizers.ByteLevel(add_prefix_space=False)
    one = pre_tokenizers.Digits(individual_digits=True)
    built.pre_tokenizer = pre_tokenizers.Sequence([one, cut]) if digits else cut
    trainer = trainers.BpeTrainer(
        vocab_size=291, initial_alphabet=cut.alphabet(), special_tokens=["<pad>", "<s>", "</s>"], show_progress=False
    )
    built.train_from_iterator(["the film is good and the end of it is not", "14 14 22 22 + + = ="] * 9, trainer)
    words = dict(pad_token="<pad>", bos_token="<s>", eos_token="</s>") | special
    return PreTrainedTokenizerFast(tokenizer_object=built, **words)


def decoder(dtype=torch.float32, **options):
    return tiny.decoder("llama", dtype=dtype, vocab_size=300, **options)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_every_bit_comes_back(dtype, tied, tmp_path):
    r"""By transformers' own reader, which puts the rows back."""
    model = decoder(dtype, tie_word_embeddings=tied)
    method = LoRA(r=4, targets="all-linear")
    nonzero(method.attach(model))
    method.merge(model)
    path = save_gguf_model(model, bytes_tokenizer(), tmp_path / "a.gguf")
    back = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, dtype=torch.float32)
    wanted = {name: value.float() for name, value in model.state_dict().items()}
    assert wanted.keys() == back.state_dict().keys() and len(wanted) == 2 * 9 + 3
    assert all(torch.equal(value, wanted[name]) for name, value in back.state_dict().items())
    with torch.no_grad():
        ids = tiny.batch(3)
        assert torch.equal(back(**ids).logits, model.float()(**ids).logits)
    types = {t.tensor_type.name for t in gguf.GGUFReader(path).tensors if len(t.shape) > 1}
    assert types == {{torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}[dtype]}
    assert ("output.weight" in {t.name for t in gguf.GGUFReader(path).tensors}) is not tied


@pytest.mark.parametrize("digits", [False, True])
def test_the_vocabulary_and_its_rule(digits, tmp_path):
    own = bytes_tokenizer(digits, unk_token="<pad>")
    own.add_tokens(["[film]"])
    own.chat_template = "{{ messages }}"
    path = save_gguf_model(decoder(), own, tmp_path / "a.gguf")
    fields = {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}
    words, kinds = (fields[f"tokenizer.ggml.{key}"] for key in ("tokens", "token_type"))
    n = len(own)
    assert words == own.convert_ids_to_tokens(range(n)) + [f"[PAD{i}]" for i in range(n, 300)] and n < 300
    assert kinds == [3] * 3 + [1] * (n - 4) + [4] + [5] * (300 - n)  # control, plain, of the user, unused
    assert fields["tokenizer.ggml.pre"] == ("smollm" if digits else "gpt-2")
    assert [fields[f"tokenizer.ggml.{t}_token_id"] for t in ("padding", "bos", "eos", "unknown")] == [0, 1, 2, 0]
    assert fields["tokenizer.ggml.add_bos_token"] is False and fields["tokenizer.chat_template"] == "{{ messages }}"
    assert fields["llama.rope.dimension_count"] == fields["llama.attention.key_length"] == tiny.D_MODEL // tiny.HEADS
    if not digits:  # transformers' reader knows no other rule
        back = AutoTokenizer.from_pretrained(tmp_path, gguf_file=path.name)
        assert [back(text)["input_ids"] for text in TEXTS] == [own(text)["input_ids"] for text in TEXTS]


def test_a_token_that_the_tokenizer_puts_in_front_is_told(tmp_path):
    from tokenizers.processors import TemplateProcessing

    own = bytes_tokenizer()
    own.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    fields = gguf.GGUFReader(save_gguf_model(decoder(), own, tmp_path / "a.gguf")).fields
    assert fields["tokenizer.ggml.add_bos_token"].contents() is True
    assert fields["tokenizer.ggml.add_eos_token"].contents() is False


def adapted():
    return LoRA(r=4).attach(decoder())


def mixed():
    model = decoder(torch.float16)
    model.lm_head.float()
    return model


REFUSED = {
    "adapter": (adapted, "an adapter is attached to this model: merge it first"),
    "family": (lambda: tiny.decoder("gpt2"), "written as GGUF for llama; this one is a gpt2"),
    "bias": (lambda: decoder(attention_bias=True), "a model with attention_bias=True is not written"),
    "gelu": (lambda: decoder(hidden_act="gelu"), "a model with hidden_act='gelu' is not written"),
    "rope": (
        lambda: decoder(rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}),
        "a model with rope_type='linear' is not written",
    ),
    "types": (mixed, "weights that are all in float32, float16 or bfloat16"),
    "small": (lambda: tiny.decoder("llama"), r"the tokenizer has 2\d\d tokens and the model 97"),
}


@pytest.mark.parametrize("made, said", REFUSED.values(), ids=REFUSED)
def test_a_model_that_the_file_cannot_hold_is_refused_in_one_line(made, said, tmp_path):
    with pytest.raises(CourseError, match=said) as error:
        save_gguf_model(made(), bytes_tokenizer(), tmp_path / "a.gguf")
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_weights_in_codes_are_refused(tmp_path):
    from coursekit.qlora import quantize_model

    with pytest.raises(CourseError, match="unlike a plain Llama in 16 or 32 bits"):
        save_gguf_model(quantize_model(decoder()), bytes_tokenizer(), tmp_path / "a.gguf")


def lowered():
    own = bytes_tokenizer()
    own.backend_tokenizer.normalizer = normalizers.Lowercase()
    return own


def spaced():
    own = bytes_tokenizer()
    own.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return own


def whole_words():
    import tiny_text

    return tiny_text.tokenizer()


@pytest.mark.parametrize("made", [lowered, spaced, whole_words, str], ids=lambda made: made.__name__)
def test_a_tokenizer_that_llama_cpp_has_no_name_for_is_refused(made, tmp_path):
    with pytest.raises(CourseError, match="none of merged bytes that llama.cpp has under a name"):
        save_gguf_model(decoder(), made(), tmp_path / "a.gguf")
    assert not list(tmp_path.iterdir()) and methods.attached(decoder()) == {}


def test_what_is_said_of_llama_cpp_s_own_answers(root):
    found = json.loads((root / "tests/fixtures/llama_cpp.json").read_text())["apart"]
    right = [found.pop(way) for way in ("base", "base, adapter beside", "merged")]
    assert max(mean for mean, _ in right) < 1e-10 and round(max(largest for _, largest in right), 4) == 0.0001
    assert min(mean for mean, _ in found.values()) > 1e-4, "16 and 4 bits, and every mistake"
    said = (root / "docs/as_a_library.md").read_text()
    assert "within 0.0001 nats of transformers" in said
    assert f"differs by {found['base in Q4_1'][0]:.1g} nats a token on average" in said
