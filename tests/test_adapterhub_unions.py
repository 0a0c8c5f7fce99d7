r"""Unions of the `adapters` library are read as MAM and UniPELT, and answer what the library answered."""

from __future__ import annotations

import json
import shutil

import pytest
import tiny
import torch
from stored import FIXTURES, Stored

from coursekit import adapterhub_unions, methods
from coursekit.errors import CourseError
from coursekit.methods import MAMAdapter, UniPELT


@pytest.mark.parametrize("stored", ["bert/mam", "gpt2/mam", "llama/mam", "bert/unipelt"])
def test_a_union_answers_what_it_did_in_the_library(stored):
    stored = Stored(stored)
    model = adapterhub_unions.load(stored.model(), stored.folder)
    stored.assert_same(model, stored.case, exactly=False)
    with methods.disabled(model):
        stored.assert_same(model, "plain", exactly=False)


def test_the_settings_are_those_of_the_folder():
    read = {case: adapterhub_unions.read_method(FIXTURES / "bert" / case) for case in ("mam", "unipelt")}
    assert read == {
        "mam": MAMAdapter(n=3, hidden=None, r=3, scaling=4.0),
        "unipelt": UniPELT(n=3, hidden=None, r=3, rank=2, padded=True),
    }


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
    ("unipelt", 0, "use_gating", False),
])  # fmt: skip
def test_a_union_that_no_method_is_gets_an_explained_error(case, part, key, value, tmp_path):
    folder = changed(FIXTURES, case, tmp_path, lambda parts: parts[part].update({key: value}))
    with pytest.raises(CourseError, match="has settings that no method here has"):
        adapterhub_unions.read_method(folder)


def test_a_single_method_is_no_union():
    with pytest.raises(CourseError, match="is one method, not a union"):
        adapterhub_unions.read_method(FIXTURES / "bert" / "houlsby")


@pytest.mark.parametrize(
    "change", [dict(num_hidden_layers=1), dict(hidden_size=24)], ids=["shallower", "wider"]
)
def test_a_union_of_another_model_changes_nothing(change):
    stored = Stored("bert/mam")
    model = tiny.model("bert", **stored.changes | change)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CourseError):
        adapterhub_unions.load(model, stored.folder)
    assert not methods.attached(model) and model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
