r"""What the `adapters` library answered, in tests/fixtures/adapters/: tests/fixtures/make_adapters.py."""

from __future__ import annotations

import json
from pathlib import Path

import bits
import tiny
import torch
from safetensors import safe_open
from torch import nn

from coursekit.methods import PrefixTuning
from coursekit.methods.adapters import bottlenecks

FIXTURES = Path(__file__).resolve().parent / "fixtures" / "adapters"


class Stored:
    r"""One case, by its folder, such as "bert/houlsby"."""

    def __init__(self, stored: str):
        self.family, self.case = stored.split("/")
        self.folder = FIXTURES / stored
        with safe_open(FIXTURES / f"{self.family}.safetensors", "pt") as file:
            self.tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
            self.changes = json.loads(file.metadata()["changes"])

    def adapter(self) -> dict[str, torch.Tensor]:
        r"""The adapter's tensors under the library's keys."""
        return torch.load(self.folder / "pytorch_adapter.bin", weights_only=True)

    def model(self) -> nn.Module:
        model = tiny.model(self.family, attn_implementation="eager", **self.changes)
        base = {k.removeprefix("base."): v for k, v in self.tensors.items() if k.startswith("base.")}
        missing, unexpected = model.load_state_dict(base, strict=False)
        assert not unexpected and set(missing) <= {"lm_head.weight"}  # tied
        return model

    def assert_same(self, model: nn.Module, case: str, exactly: bool) -> None:
        one = {key: self.tensors[key] for key in ("input_ids", "attention_mask")}
        with torch.no_grad():
            out = model(**one, output_hidden_states=True)
        found = {"hidden": out.hidden_states[-1]}
        found["logits"] = out.logits if out.logits.dim() == 2 else out.logits[:, -1]
        for key, value in found.items():
            expected = self.tensors[f"{case}.{key}"]
            if exactly:
                assert torch.equal(value, expected), (case, key, (value - expected).abs().max())
            else:
                torch.testing.assert_close(value, expected, atol=2e-5, rtol=1e-4)  # by processor

    def has_these_bits(self) -> bool:
        r"""Whether this processor gives the bits that were stored, for a bottleneck and the model without adapters."""
        if not torch.equal(bits.bottleneck(), self.tensors["bits"]):
            return False
        try:
            self.assert_same(self.model(), "plain", exactly=True)
        except AssertionError:
            return False
        return True


# Parts of the library's hybrids, put where the same parts are here --------------------------------------------------


def put_prefix(model: nn.Module, tensors: dict[str, torch.Tensor], n: int) -> None:
    r"""The prefix that the library's network makes: keys and values of all blocks, (n, 2 L d_kv)."""
    found = {key.split("self_prefix.")[1]: value for key, value in tensors.items() if "self_prefix." in key}
    hidden = torch.tanh(
        found["wte.weight"] @ found["control_trans.0.weight"].T + found["control_trans.0.bias"]
    )
    made = hidden @ found["control_trans.2.weight"].T + found["control_trans.2.bias"]
    PrefixTuning(n)._put(model, "default", made)


def put_bottlenecks(model: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    r"""Both projections of the bottleneck of every block."""
    theirs = [v for k, v in tensors.items() if "adapter_down" in k or "adapter_up" in k]
    own = [
        p for b in bottlenecks(model, "default").values() for p in (*b.down.parameters(), *b.up.parameters())
    ]
    with torch.no_grad():
        for parameter, value in zip(own, theirs, strict=True):
            parameter.copy_(value)
