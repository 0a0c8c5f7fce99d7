r"""AdapterHub's format: what the `adapters` library wrote computes the same here, and is written as it was."""

import json
from pathlib import Path

import pytest
import tiny
import torch
from attached import alive, answers
from stored import FIXTURES, Stored, changed

from coursekit import adapterhub, methods
from coursekit.adapterhub.forms import library_config
from coursekit.errors import CourseError
from coursekit.methods import AdapterDrop, HoulsbyAdapter, LinAdapter, ParallelAdapter, PfeifferAdapter

#: Of the folders there, the bottlenecks; the others have tests of their own.
STORED = sorted(
    str(p.parent.relative_to(FIXTURES))
    for p in FIXTURES.glob("*/*/adapter_config.json")
    if p.parent.name in ("houlsby", "pfeiffer", "parallel", "learned_scale", "drop", "compacter", "compacterpp")
)
FAMILIES = (*tiny.FAMILIES, *tiny.RELATIVES)
each_stored = pytest.mark.parametrize("stored", STORED)


# AdapterHub -----------------------------------------------------------------------------------------------


@each_stored
def test_what_is_read_is_written_as_the_library_wrote_it(stored, tmp_path):
    r"""The library itself has read such folders: see `--read` in tests/fixtures/make_adapters.py."""
    stored = Stored(stored)
    model = adapterhub.load(stored.model(), stored.folder, stored.case)
    adapterhub.save(model, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {
        p.name for p in stored.folder.iterdir() if p.name != "adapter_interface.json"
    } | ({"pytorch_model_head.bin", "head_config.json"} if stored.family == "roberta" else set())
    for name in ("pytorch_adapter.bin", "pytorch_model_head.bin"):
        if (stored.folder / name).exists():
            ours, theirs = (torch.load(f / name, weights_only=True) for f in (tmp_path, stored.folder))
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    for name in ("adapter_config.json", "head_config.json"):
        if (stored.folder / name).exists():
            ours, theirs = (json.loads((f / name).read_text()) for f in (tmp_path, stored.folder))
            for entries in (theirs, theirs["config"] or {}):  # how a bottleneck started is not written down here
                entries.pop("init_weights", None)
            inner = ours["config"] or {}
            assert inner.keys() - {"init_weights"} <= (theirs["config"] or {}).keys()
            theirs["config"] = theirs["config"] and {k: v for k, v in theirs["config"].items() if k in inner}
            assert inner.pop("init_weights", "bert") == "bert"
            assert ours == theirs


@pytest.mark.parametrize("d", [12, 576, 768, 1000])
def test_the_library_finds_our_width_from_its_reduction_factor(d):
    for r in range(1, d + 1):
        factor = library_config(PfeifferAdapter(r=r), d, 0)["reduction_factor"]
        assert int(d // factor) == r


@pytest.mark.parametrize("method", [
    HoulsbyAdapter(r=5, activation="identity"),
    ParallelAdapter(r=7, activation="tanh", init="bert", scaling=0.5),
    AdapterDrop(ParallelAdapter(r=2, scaling="learned"), n=1),
])  # fmt: skip
@pytest.mark.parametrize("family", FAMILIES)
def test_folders_go_round(family, method, tmp_path):
    model = alive(method, tiny.model(family), "film")
    adapterhub.save(model, tmp_path)
    again = adapterhub.load(tiny.model(family), tmp_path, "product")
    assert methods.attached(again)["product"].count(model.config) == method.count(model.config)
    assert torch.equal(answers(again, tiny.batch()), answers(model, tiny.batch()))


def test_robust_adapters_are_written_whole_and_safetensors_are_read(tmp_path):
    from safetensors.torch import save_file

    model = alive(AdapterDrop(PfeifferAdapter(r=3), robust=True), tiny.deep("llama"), "film")
    adapterhub.save(model, tmp_path)
    tensors = torch.load(tmp_path / "pytorch_adapter.bin", weights_only=True)
    (tmp_path / "pytorch_adapter.bin").unlink()
    save_file(tensors, tmp_path / "adapter.safetensors")
    again = adapterhub.load(tiny.deep("llama"), tmp_path)
    assert methods.attached(again) == {"default": PfeifferAdapter(r=3)}
    assert torch.equal(answers(again, tiny.batch()), answers(model, tiny.batch()))


def test_old_folders_name_their_form_and_their_tensors_otherwise(tmp_path):
    stored = Stored("bert/pfeiffer")
    folder = changed("bert/pfeiffer", tmp_path, config="pfeiffer")
    weights = torch.load(folder / "pytorch_adapter.bin", weights_only=True)
    old = {k.replace("output.adapters.", "output.layer_text_task_adapters."): v for k, v in weights.items()}
    assert old.keys() != weights.keys()
    torch.save(old, folder / "pytorch_adapter.bin")
    model = adapterhub.load(stored.model(), folder)
    assert methods.attached(model) == {"default": PfeifferAdapter(r=3)}
    stored.assert_same(model, "pfeiffer", exactly=stored.has_these_bits())


@pytest.mark.parametrize("written, read", [("gelu_orig", "gelu"), ("gelu", None)])
def test_folders_from_before_gelu_meant_gelu(written, read, tmp_path):
    folder = changed("bert/pfeiffer", tmp_path, non_linearity=written)
    config = json.loads((folder / "adapter_config.json").read_text())
    del config["version"]
    (folder / "adapter_config.json").write_text(json.dumps(config))
    model = Stored("bert/pfeiffer").model()
    if read:
        adapterhub.load(model, folder)
        assert methods.attached(model) == {"default": PfeifferAdapter(r=3, activation=read)}
    else:
        with pytest.raises(CourseError, match="unknown activation 'gelu_new'; did you mean 'gelu'"):
            adapterhub.load(model, folder)


def test_folders_that_do_not_fit_leave_the_model_as_it_was(tmp_path):
    folder = FIXTURES / "bert" / "pfeiffer"
    model = alive(PfeifferAdapter(r=2), tiny.encoder(), "film")
    alive(PfeifferAdapter(r=2), model, "product")
    before = answers(model, tiny.batch())
    for target, source, said in [
        (model, folder, r"of another model: .* is \(3, 12\) there and \(3, 32\) here"),
        (model, FIXTURES / "bert" / "houlsby", "cannot attach: this model already carries PfeifferAdapter"),
        (model, tmp_path, "is not an adapter of AdapterHub: it has no adapter_config.json"),
        (Stored("gpt2/pfeiffer").model(), folder, "was trained on a bert model, this one is gpt2"),
        (tiny.encoder(num_hidden_layers=1), folder, "of other targets: .* unexpected, such as block 1"),
        (tiny.encoder(num_labels=3, hidden_size=12, num_attention_heads=3), folder, "classifier.weight is"),
    ]:
        names = list(methods.attached(target))
        with pytest.raises(CourseError, match=said):
            adapterhub.load(target, source, "third")
        assert list(methods.attached(target)) == names
    assert model._coursekit.switch.active == "product"
    assert torch.equal(answers(model, tiny.batch()), before)
    methods.activate(model, None)
    with pytest.raises(CourseError, match="of another model"):
        adapterhub.load(model, folder, "third")
    assert model._coursekit.switch.active is None


def test_the_output_layer_of_a_language_model_stays_the_base_s(tmp_path):
    stored = Stored("gpt2/pfeiffer")
    folder, model = changed("gpt2/pfeiffer", tmp_path), stored.model()
    torch.save({"lm_head.weight": torch.zeros_like(model.lm_head.weight)}, folder / "pytorch_model_head.bin")
    before = model.lm_head.weight.clone()
    adapterhub.load(model, folder)
    assert torch.equal(model.lm_head.weight, before)
    stored.assert_same(model, "pfeiffer", exactly=stored.has_these_bits())


class Evil:
    r"""A pickle that would write a file when it is read."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_folder_cannot_run_code_and_damage_is_said(tmp_path):
    folder = changed("bert/pfeiffer", tmp_path / "adapter")
    whole = (folder / "pytorch_adapter.bin").read_bytes()
    torch.save({"w": Evil(tmp_path / "ran")}, folder / "pytorch_adapter.bin")
    with pytest.raises(CourseError, match="is damaged or more than tensors"):
        adapterhub.load(tiny.encoder(), folder)
    assert not (tmp_path / "ran").exists()
    for content in (whole[:-100], b"", b"no archive"):
        (folder / "pytorch_adapter.bin").write_bytes(content)
        with pytest.raises(CourseError, match="is damaged"):
            adapterhub.load(tiny.encoder(), folder)
    (folder / "pytorch_adapter.bin").unlink()
    with pytest.raises(CourseError, match="has neither pytorch_adapter.bin nor adapter.safetensors"):
        adapterhub.load(tiny.encoder(), folder)
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(CourseError, match="adapter_config.json is damaged"):
        adapterhub.load(tiny.encoder(), folder)
    PfeifferAdapter().save(PfeifferAdapter().attach(tiny.encoder()), folder)
    with pytest.raises(CourseError, match="has no entry 'config'; a checkpoint of this course or of peft"):
        adapterhub.load(tiny.encoder(), folder)


def test_files_of_other_things_than_an_adapter_are_said_in_a_line(tmp_path):
    folder, model = changed("bert/pfeiffer", tmp_path), Stored("bert/pfeiffer").model()
    tensors = torch.load(folder / "pytorch_adapter.bin", weights_only=True)
    key = next(iter(tensors))
    for content in (
        [1, 2], torch.ones(3), {"a": 1}, tensors | {key: tensors[key] * torch.nan}, tensors | {key: tensors[key] > 0},
        tensors | {key: tensors[key].int()}, tensors | {key: torch.tensor(1.0)}, tensors | {3: tensors[key]},
    ):  # fmt: skip
        torch.save(content, folder / "pytorch_adapter.bin")
        with pytest.raises(CourseError):
            adapterhub.load(model, folder)
        assert methods.attached(model) == {}
    torch.save(tensors, folder / "pytorch_adapter.bin")
    for config in ("[]", "null", "[" * 100_000, "\xff"):
        (folder / "adapter_config.json").write_text(config, encoding="latin-1")
        with pytest.raises(CourseError):
            adapterhub.load(model, folder)


def test_what_the_library_has_no_place_for_is_not_written(tmp_path):
    cases = [
        (LinAdapter(r=2), "LinAdapter is not written in AdapterHub's form"),
        (methods.LoRA(r=2), "LoRA is not written in AdapterHub's form"),
        (AdapterDrop(LinAdapter(r=2), n=1), "LinAdapter is not written in AdapterHub's form"),
        (PfeifferAdapter(r=2, train_norms=True), "no place for trained norms"),
    ]
    for method, said in cases:
        with pytest.raises(CourseError, match=said):
            adapterhub.save(method.attach(tiny.encoder()), tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with pytest.raises(CourseError, match="unknown adapter 'flim'; did you mean 'film'"):
        adapterhub.save(PfeifferAdapter(r=2).attach(tiny.encoder(), "film"), tmp_path, "flim")
    with pytest.raises(CourseError, match="no method is attached"):
        adapterhub.save(tiny.encoder(), tmp_path)
