r"""What CONTRIBUTING.md shows works: its method is built from the page and keeps what every method promises."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
import tiny
import torch

from coursekit import memory, methods

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_the_method_on_the_page_is_a_method(tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "gain.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    method, model, batch = importlib.import_module("gain").Gain(), tiny.encoder("bert"), tiny.batch()
    before = model(**batch).logits
    method.attach(model)
    torch.testing.assert_close(model(**batch).logits, before, rtol=0, atol=0)
    head = methods.trainable(model.classifier)
    assert methods.trainable(model) - head == method.count(model.config) == 2 * 32
    for _, layer in method.branches(model, "default"):
        torch.nn.init.normal_(layer.branches["default"].g)
    after = model(**batch).logits
    assert not torch.allclose(after, before)
    with pytest.warns(UserWarning, match="no entry for Gain: these figures are one measured step"):
        bill = memory.predict(model.config, method, batch=3, seq=10)
    # its parameters and the head, their gradients, and two moments with a counter for each of the four tensors
    assert (bill.gradients, bill.optimizer) == (4 * (2 * 32 + head), 8 * (2 * 32 + head) + 4 * 4)
    assert bill.activations > bill.kept > 0
    method.save(model, tmp_path / "saved")
    other = methods.from_checkpoint(tmp_path / "saved")
    assert other == method
    torch.testing.assert_close(other.load(tiny.encoder("bert"), tmp_path / "saved")(**batch).logits, after)
    method.merge(model)
    torch.testing.assert_close(model(**batch).logits, after)
    torch.testing.assert_close(methods.detach(model)(**batch).logits, before, rtol=0, atol=0)
