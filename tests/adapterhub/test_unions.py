r"""Unions of the `adapters` library are read as MAM and UniPELT, and answer what the library answered."""

import json

import pytest
import torch
from stored import Stored, changed

from coursekit import adapterhub, methods
from coursekit.adapterhub import unions
from coursekit.errors import CourseError
from coursekit.methods import MAMAdapter


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
        unions.read_method(folder)
