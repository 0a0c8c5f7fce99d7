r"""Full fine-tuning: everything trains, the whole model is saved, and going back needs a copy."""

import errno

import pytest
import tiny
import torch
from attached import nonzero, refused
from safetensors.torch import load_file, save_file

from coursekit import adapterhub
from coursekit.errors import CourseError
from coursekit.methods import FullFineTuning, LoRA, PfeifferAdapter, save_gguf


def shifted(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    return model


def test_there_is_no_way_back():
    model = FullFineTuning().attach(tiny.model("llama"))
    with pytest.raises(CourseError, match="overwritten the base weights: load the model again"):
        FullFineTuning().detach(model)
    with pytest.raises(CourseError, match="changes the base itself"):
        FullFineTuning().attach(model, "other")
    with pytest.raises(CourseError, match="nothing to merge"):
        FullFineTuning().merge(model, undo=False)


def test_checkpoints_that_do_not_fit(tmp_path):
    with pytest.raises(CourseError, match="no whole model"):
        FullFineTuning().load(tiny.model("llama"), tmp_path)
    FullFineTuning().save(FullFineTuning().attach(tiny.model("opt")), tmp_path / "opt")
    with pytest.raises(CourseError, match="other shapes"):
        FullFineTuning().load(tiny.model("llama"), tmp_path / "opt")
    LoRA().save(LoRA().attach(tiny.model("llama")), tmp_path / "lora")
    with pytest.raises(CourseError, match="adapters are loaded by their own method"):
        FullFineTuning().load(tiny.model("llama"), tmp_path / "lora")


def test_a_file_in_the_place_of_the_folder_is_an_error_and_nothing_is_lost(tmp_path):
    file = tmp_path / "model"
    file.write_text("mine")
    model = FullFineTuning().attach(tiny.model("llama"))
    with pytest.raises(CourseError, match="model cannot be a folder to write to"):
        FullFineTuning().save(model, file)
    assert file.read_text() == "mine"


#: What is saved: how, what of it fails where a disk is full, and what cannot be written then.
SAVED = {
    "adapter": (LoRA(r=2), lambda m, folder: LoRA().save(m, folder), "safetensors.torch.save_file", "a checkpoint"),
    "model": (FullFineTuning(), lambda m, folder: FullFineTuning().save(m, folder),
              "transformers.modeling_utils.safe_save_file", "the model"),
    "GGUF": (LoRA(r=2), lambda m, folder: save_gguf(m, folder / "a.gguf"), "gguf.GGUFWriter.write_tensors_to_file",
             "a.gguf"),
    "AdapterHub": (PfeifferAdapter(r=2), adapterhub.save, "torch.save", "an adapter"),
}  # fmt: skip


@pytest.mark.parametrize(("method", "save", "fails", "what"), SAVED.values(), ids=SAVED)
def test_what_is_saved_is_written_whole_or_not_at_all(method, save, fails, what, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    model = method.attach(tiny.decoder("llama"))
    save(model, tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    monkeypatch.setattr(fails, full)
    with pytest.raises(CourseError, match=f"cannot write {what} to .*No space left on device"):
        save(nonzero(model), tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def renamed(tensors):
    return {key.replace("layers.0", "layers.7"): value for key, value in tensors.items()}


@pytest.mark.parametrize(("damage", "said"), [
    (lambda t: {k: v for k, v in t.items() if "norm" not in k}, "missing keys, such as model.layers.0.input_layernorm"),
    (renamed, "missing keys, such as model.layers.0"),
    (lambda t: {}, "missing keys"),
    (lambda t: t | {"more": torch.zeros(2)}, "1 unexpected keys, such as more"),
    (lambda t: t | {"model.norm.weight": t["model.norm.weight"] * torch.nan}, "norm.weight holds NaN or infinity"),
    (lambda t: t | {"model.norm.weight": torch.ones(3)}, "is damaged|is another one"),
])  # fmt: skip
def test_a_damaged_model_is_an_error_and_changes_nothing(damage, said, tmp_path):
    FullFineTuning().save(FullFineTuning().attach(tiny.model("llama")), tmp_path)
    file = tmp_path / "model.safetensors"
    save_file(damage(load_file(file)), file, metadata={"format": "pt"})
    model = shifted(tiny.model("llama")).requires_grad_(False)
    with refused(said, model):
        FullFineTuning().load(model, tmp_path)


@pytest.mark.parametrize(("name", "text"), [
    ("config.json", "{"), ("config.json", "[1]"), ("config.json", '{"model_type": 3}'), ("model.safetensors", "{}"),
])  # fmt: skip
def test_files_that_are_none_are_an_error_in_a_line(name, text, tmp_path):
    FullFineTuning().save(FullFineTuning().attach(tiny.model("llama")), tmp_path)
    (tmp_path / name).write_text(text)
    model = tiny.model("llama")
    with refused(r"is damaged|is not described|holds no whole model", model):
        FullFineTuning().load(model, tmp_path)


def test_three_labels_do_not_go_into_two_and_leave_the_model_as_it_was(tmp_path):
    FullFineTuning().save(FullFineTuning().attach(tiny.encoder(num_labels=3)), tmp_path)
    model = tiny.encoder(num_labels=2).requires_grad_(False)
    with refused(r"another model: classifier.* is \(3.*\) there and \(2.*\) here", model):
        FullFineTuning().load(model, tmp_path)


def test_a_whole_model_does_not_load_into_one_with_an_adapter(tmp_path):
    FullFineTuning().save(FullFineTuning().attach(tiny.model("llama")), tmp_path)
    model = LoRA().attach(tiny.model("llama"))
    with pytest.raises(CourseError, match="is a LoRA, not a FullFineTuning"):
        FullFineTuning().load(model, tmp_path)
