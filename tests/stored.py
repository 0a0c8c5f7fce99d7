r"""What the `adapters` library answered, in tests/fixtures/adapters/: tests/fixtures/make_adapters.py."""

import json
import shutil
from pathlib import Path

import bits
import tiny
import torch
from safetensors import safe_open
from torch import nn

FIXTURES = Path(__file__).resolve().parent / "fixtures" / "adapters"


def changed(stored: str, target: Path, part: int | None = None, **changes) -> Path:
    r"""A copy in `target` of a stored folder, with other settings of it, or of one part of a union.

    `config` itself changes the whole of them.
    """
    shutil.copytree(FIXTURES / stored, target, dirs_exist_ok=True)
    file = target / "adapter_config.json"
    config = json.loads(file.read_text())
    if "config" in changes:
        config |= changes
    else:
        (config["config"] if part is None else config["config"]["configs"][part]).update(changes)
    file.write_text(json.dumps(config))
    return target


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
            if key == "hidden":  # of the text alone: the library gives a prompt's as well
                expected = expected[:, -value.shape[1] :]
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
