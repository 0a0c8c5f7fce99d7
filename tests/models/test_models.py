r"""Loading by one call: bundled, from a folder in hub layout, or from the hub."""

import json
import socket
from functools import partial

import pytest
import tiny
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_text import saved

from coursekit.errors import CourseError
from coursekit.models import load_decoder, load_encoder


def test_a_snapshot_of_links_is_a_folder_too(tmp_path):
    r"""The hub's own cache holds links into a folder of blobs."""
    folder = saved(tiny.decoder("llama"), tmp_path / "model")
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    for path in folder.iterdir():
        (snapshot / path.name).symlink_to(path)
    assert load_decoder(snapshot, device="cpu")[0].config.model_type == "llama"


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("num_labels", [1, 3])
def test_a_fresh_head_is_drawn_from_its_seed_alone(tmp_path, family, num_labels, capfd):
    folder = saved(tiny.model(family), tmp_path / "model")
    capfd.readouterr()
    torch.manual_seed(123)
    before = torch.get_rng_state()
    model, tokenizer = load_encoder(folder, num_labels, device="cpu")
    assert torch.equal(before, torch.get_rng_state())
    torch.randn(7)
    again, _ = load_encoder(folder, num_labels, device="cpu")
    other, _ = load_encoder(folder, num_labels, device="cpu", seed=1)
    state, same, different = model.state_dict(), again.state_dict(), other.state_dict()
    assert all(torch.equal(state[name], same[name]) for name in state)
    body = model.base_model_prefix + "."
    changed = {n for n in state if not torch.equal(state[n], different[n])}
    assert changed and all(not n.startswith(body) or "pooler" in n for n in changed)
    assert model(**tiny.batch(padded=True)).logits.shape == (3, num_labels)
    assert not model.training and model.config.pad_token_id is not None and tokenizer.pad_token
    assert capfd.readouterr() == ("", "")


def test_a_head_of_the_right_size_is_kept_and_another_is_replaced(tmp_path):
    original = tiny.encoder("bert", num_labels=3)
    folder = saved(original, tmp_path / "model")
    kept, _ = load_encoder(folder, 3, device="cpu")
    assert torch.equal(kept.classifier.weight, original.classifier.weight)
    replaced, _ = load_encoder(folder, 5, device="cpu")
    assert replaced.classifier.weight.shape == (5, tiny.D_MODEL)
    assert torch.equal(replaced.bert.pooler.dense.weight, original.bert.pooler.dense.weight)


def test_dtype_attention_and_device_are_passed_on(tmp_path, monkeypatch):
    folder = saved(tiny.decoder("llama"), tmp_path / "model")
    model, _ = load_decoder(folder, device="cpu", dtype=torch.bfloat16, attention="eager")
    assert model.dtype is torch.bfloat16 and model.config._attn_implementation == "eager"
    monkeypatch.setenv("DEVICE", "cpu")
    model, _ = load_decoder(folder, attention="sdpa")
    assert model.dtype is torch.float32 and model.config._attn_implementation == "sdpa"
    monkeypatch.setenv("DEVICE", "abacus")
    with pytest.raises(CourseError, match="DEVICE=abacus"):
        load_decoder(folder)


def test_a_name_that_can_be_nothing_is_refused_without_the_network(monkeypatch):
    monkeypatch.setattr(socket, "socket", lambda *a, **k: pytest.fail("the network was asked"))
    for load, name, near in [(load_decoder, "smolm2", "smollm2"), (load_encoder, "mini-lm", "minilm")]:
        with pytest.raises(CourseError, match=f"unknown model '{name}'; did you mean '{near}'") as caught:
            load(name)
        assert "\n" not in str(caught.value)
    with pytest.raises(CourseError, match="no folder ./nowhere"):
        load_decoder("./nowhere")
    with pytest.raises(CourseError, match="load it with load_encoder"):
        load_decoder("minilm")
    with pytest.raises(CourseError, match="load it with load_decoder"):
        load_encoder("smollm2")


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(CourseError, match="has no config.json"):
        load_decoder(tmp_path)


def test_a_hub_that_cannot_be_reached_is_one_line():
    with pytest.raises(CourseError, match="cannot get 'nobody/nothing' from the Hugging Face hub") as caught:
        load_decoder("nobody/nothing")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cause, says", [("GatedRepoError", "is gated"), ("RepositoryNotFoundError", "has no model")])
def test_what_the_hub_refuses_is_told_apart(monkeypatch, cause, says):
    def refuse(*args, **settings):
        raise OSError("You are trying to access\na long story") from type(cause, (Exception,), {})()

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", refuse)
    with pytest.raises(CourseError, match=says) as caught:
        load_decoder("owner/name")
    assert "\n" not in str(caught.value)


def test_a_checkpoint_that_lacks_weights_of_the_body_is_refused(tmp_path):
    r"""transformers would fill them with random numbers and a warning."""
    folder = saved(tiny.decoder("llama"), tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    for load in (load_decoder, load_encoder):
        with pytest.raises(CourseError, match="1 tensors would be random.*layers.1.mlp.up_proj"):
            load(folder, device="cpu")


def test_a_damaged_folder_is_one_line(tmp_path):
    folder = saved(tiny.decoder("llama"), tmp_path / "model")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CourseError, match="cannot load a model from the folder") as caught:
        load_decoder(folder, device="cpu")
    assert "\n" not in str(caught.value)
    (folder / "config.json").write_text(json.dumps({"model_type": "abacus"}))
    with pytest.raises(CourseError, match="cannot load a model from the folder"):
        load_decoder(folder, device="cpu")


def test_a_classifier_needs_an_output():
    for wrong in (0, None, True, 2.5, "2"):
        with pytest.raises(CourseError, match="num_labels must be a positive integer, such as 2; got"):
            load_encoder("minilm", wrong)


def test_settings_with_a_typo_are_not_blamed_on_the_model(tmp_path):
    folder = saved(tiny.decoder("llama"), tmp_path / "model")
    for load in (load_decoder, load_encoder, partial(load_decoder, quantize="nf4")):
        with pytest.raises(CourseError, match="unknown dtype 'bfloat1'; did you mean 'bfloat16'"):
            load(folder, dtype="bfloat1", device="cpu")
        with pytest.raises(CourseError, match="dtype must be a precision"):
            load(folder, dtype=torch.int8, device="cpu")
        with pytest.raises(CourseError, match="unknown attention 'sdap'; did you mean 'sdpa'"):
            load(folder, attention="sdap", device="cpu")
    assert load_decoder(folder, dtype="bfloat16", device="cpu")[0].dtype is torch.bfloat16


def test_a_home_of_nobody_is_one_line():
    with pytest.raises(CourseError, match="no user has this name"):
        load_decoder("~nobody-has-this-name/model")


@pytest.mark.slow
def test_the_bundled_decoder_answers():
    model, tokenizer = load_decoder(device="cpu")
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    batch = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**batch, max_new_tokens=30, do_sample=False)[0, batch["input_ids"].shape[1] :]
    assert answer[-1] == tokenizer.eos_token_id, "it knows where to stop"
    assert "Paris" in tokenizer.decode(answer, skip_special_tokens=True)


@pytest.mark.slow
def test_the_bundled_encoder_places_like_with_like():
    model, tokenizer = load_encoder(device="cpu")
    assert sum(p.numel() for p in model.bert.parameters()) == 22_713_216  # the model card of all-MiniLM-L6-v2
    texts = ["A man is eating food.", "A man eats a meal.", "The stock market fell sharply."]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model.bert(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1)
    means = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
    near, far = (means[0] @ means[1]).item(), (means[0] @ means[2]).item()
    assert near > 0.7 > 0.3 > far


@pytest.mark.parametrize("kind", ["decoder", "encoder"])
def test_a_tensor_of_another_shape_in_the_body_is_no_model(kind, tmp_path):
    saved(tiny.decoder("llama") if kind == "decoder" else tiny.encoder("bert"), tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    name = next(
        n for n in stored if n.endswith("0.self_attn.q_proj.weight") or n.endswith("0.attention.self.query.weight")
    )
    stored[name] = stored[name][:-1].clone()
    save_file(stored, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(CourseError, match="1 tensors would be random, for example"):
        (load_decoder if kind == "decoder" else load_encoder)(tmp_path, device="cpu")
