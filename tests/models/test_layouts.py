r"""Folders as they are on the hub: every family, any kind of file, with and without what a tokenizer may lack."""

import json
import pickle

import families
import pytest
import tiny
import torch
from tiny_text import saved, words

from coursekit import methods
from coursekit.errors import CourseError
from coursekit.models import load_decoder, load_encoder
from coursekit.models.hub import is_encoder

DECODERS = tuple(kind for kind in families.OTHERS if kind not in (*families.ENCODERS, "t5"))


@pytest.mark.parametrize("kind", (*tiny.DECODERS, *DECODERS))
def test_a_decoder_of_every_family_without_padding_token_with_either_output_layer(kind, tmp_path, capfd):
    batch = tiny.batch(padded=True)
    for tied, shards in ((True, {}), (False, {"max_shard_size": "20KB"})):
        original = families.model(kind, tie_word_embeddings=tied, pad_token_id=None)
        folder = saved(original, tmp_path / str(tied), **shards)
        assert bool(shards) == (folder / "model.safetensors.index.json").exists()
        capfd.readouterr()
        model, tokenizer = load_decoder(str(folder), device="cpu")
        assert capfd.readouterr() == ("", "") and not model.training
        assert torch.equal(model(**batch).logits, original(**batch).logits)
        assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tied
        assert tokenizer.pad_token == "<end>" and tokenizer.chat_template is None
        assert model.config.pad_token_id == tokenizer.pad_token_id
    assert not is_encoder(tmp_path / "True")


@pytest.mark.parametrize("kind", families.ENCODERS)
def test_an_encoder_of_every_family(kind, tmp_path):
    original = families.model(kind)
    saved(original, tmp_path, words(pad_token="<pad>", cls_token="<cls>", sep_token="<sep>"))
    model, tokenizer = load_encoder(tmp_path, device="cpu")
    batch = tokenizer(["w5 w6 w7", "w8"], padding=True, return_tensors="pt", return_token_type_ids=False)
    assert torch.equal(model(**batch).logits, original(**batch).logits)
    assert is_encoder(tmp_path)
    with pytest.raises(CourseError, match=rf"is an encoder \({kind}\): load it with load_encoder"):
        load_decoder(tmp_path, device="cpu")


def test_an_encoder_decoder_is_no_decoder(tmp_path):
    saved(families.model("t5"), tmp_path)
    with pytest.raises(CourseError, match=r"is an encoder-decoder \(t5\).*AutoModelForSeq2SeqLM"):
        load_decoder(tmp_path, device="cpu")


@pytest.mark.parametrize("kind", ["qwen3", "gemma3_text"])
def test_shards_and_a_chat_template(kind, tmp_path):
    tokenizer = words(eos_token="<end>", pad_token="<pad>")
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}"
    original = families.model(kind)
    saved(original, tmp_path, tokenizer, max_shard_size="20KB")
    model, tokenizer = load_decoder(tmp_path, device="cpu")
    batch = tiny.batch()
    assert torch.equal(model(**batch).logits, original(**batch).logits)
    assert tokenizer.apply_chat_template([{"role": "w1", "content": "w2"}], tokenize=False) == "w1 w2 "
    four_bits, _ = load_decoder(tmp_path, device="cpu", quantize="nf4")
    assert methods.LoRA(r=2).attach(four_bits)(**batch).logits.shape == original(**batch).logits.shape


def test_a_tokenizer_with_no_token_to_pad_with(tmp_path):
    saved(families.model("qwen3"), tmp_path, words())
    with pytest.raises(CourseError, match="no token to pad with.*set tokenizer.pad_token"):
        load_decoder(tmp_path, device="cpu")
    saved(families.model("qwen3"), tmp_path, words(bos_token="<s>"))
    assert load_decoder(tmp_path, device="cpu")[1].pad_token == "<s>"


class Harm:
    r"""What runs when it is unpickled."""

    ran = False

    def __reduce__(self):
        return setattr, (Harm, "ran", True)


def test_weights_in_a_bin_file_are_read_as_tensors_and_never_run(tmp_path):
    original = families.model("phi3")
    saved(original, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(original.state_dict(), tmp_path / "pytorch_model.bin")
    batch = tiny.batch()
    assert torch.equal(load_decoder(tmp_path, device="cpu")[0](**batch).logits, original(**batch).logits)
    with pytest.raises(CourseError, match=r"no model\.safetensors: load it dense"):
        load_decoder(tmp_path, device="cpu", quantize="nf4")

    torch.save({"model.norm.weight": Harm()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CourseError, match="cannot load a model from the folder") as error:
        load_decoder(tmp_path, device="cpu")
    assert not Harm.ran and "\n" not in str(error.value)
    with open(tmp_path / "pytorch_model.bin", "wb") as file:
        pickle.dump({"model.norm.weight": Harm()}, file)
    with pytest.raises(CourseError, match="cannot load a model from the folder"):
        load_decoder(tmp_path, device="cpu")
    assert not Harm.ran


def test_a_gguf_file_says_how_to_convert_it(tmp_path):
    (tmp_path / "model-q4_0.gguf").write_bytes(b"GGUF")
    for name in (tmp_path, tmp_path / "model-q4_0.gguf"):
        with pytest.raises(CourseError, match=r"model-q4_0\.gguf is a GGUF file: convert it once.*gguf_file="):
            load_decoder(name)


def test_a_family_that_transformers_does_not_know_is_one_line(tmp_path):
    saved(families.model("qwen3"), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "qwen33"}))
    with pytest.raises(CourseError, match="qwen33") as error:
        load_decoder(tmp_path, device="cpu")
    assert "\n" not in str(error.value)
