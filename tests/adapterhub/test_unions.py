r"""Unions of the `adapters` library are read as MAM and UniPELT, and answer what the library answered."""

from __future__ import annotations

import json
import shutil

import pytest
import tiny
import torch
from stored import FIXTURES, Stored

from coursekit import adapterhub, methods
from coursekit.adapterhub import unions
from coursekit.errors import CourseError
from coursekit.methods import MAMAdapter


def changed(folder, case, tmp_path, change):
    shutil.copytree(FIXTURES / "bert" / case, tmp_path / case)
    file = tmp_path / case / "adapter_config.json"
    config = json.loads(file.read_text())
    change(config["config"]["configs"])
    file.write_text(json.dumps(config))
    return tmp_path / case


@pytest.mark.parametrize("case, part, key, value", [
    ("mam", 0, "use_gating", True), ("mam", 1, "is_parallel", False), ("mam", 1, "non_linearity", "swish"),
    ("mam", 1, "mh_adapter", True), ("unipelt", 2, "attn_matrices", ["q", "k"]), ("unipelt", 2, "output_lora", True),
    ("unipelt", 0, "use_gating", False), ("unipelt", 1, "scaling", 3.0), ("mam", 0, "non_linearity", "relu"),
    ("unipelt", 0, "flat", True), ("mam", 0, "leave_out", [0]), ("mam", 1, "leave_out", [0]),
    ("mam", 1, "phm_layer", True), ("unipelt", 2, "composition_mode", "scale"),
])  # fmt: skip
def test_a_union_that_no_method_is_gets_an_explained_error(case, part, key, value, tmp_path):
    folder = changed(FIXTURES, case, tmp_path, lambda parts: parts[part].update({key: value}))
    with pytest.raises(CourseError, match="has settings that no method here has"):
        unions.read_method(folder)


@pytest.mark.parametrize("key, value", [
    ("residual_before_ln", False), ("original_ln_after", False), ("adapter_residual_before_ln", True),
    ("inv_adapter", "nice"),
])  # fmt: skip
def test_what_the_library_can_do_around_a_bottleneck_is_refused(key, value, tmp_path):
    folder = changed(FIXTURES, "unipelt", tmp_path, lambda parts: parts[1].update({key: value}))
    with pytest.raises(CourseError, match=f"has {key}={value!r}, which no method here has"):
        unions.read_method(folder)


def test_a_folder_of_another_type_or_without_its_tensors_is_said_in_a_line(tmp_path):
    folder = changed(FIXTURES, "mam", tmp_path, lambda parts: None)
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
        assert (
            list(methods.attached(model)) == ["first", "second"]
            and model._coursekit.switch.active == "second"
        )
    file.write_text(json.dumps(config | {"config": {"architecture": "union"}}))
    with pytest.raises(CourseError, match="does not say what it is made of"):
        unions.read_method(folder)


@pytest.mark.parametrize(
    "change", [dict(num_hidden_layers=1), dict(hidden_size=24)], ids=["shallower", "wider"]
)
def test_a_union_of_another_model_changes_nothing(change):
    stored = Stored("bert/mam")
    model = tiny.model("bert", **stored.changes | change)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CourseError):
        adapterhub.load(model, stored.folder)
    assert not methods.attached(model) and model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
