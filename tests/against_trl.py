r"""The fixtures of trl's trainers (tests/fixtures/make_preference.py, make_grpo.py): their model with its LoRA."""

import json
from pathlib import Path

import tiny
import torch
from safetensors import safe_open
from torch import Tensor, nn

from coursekit.methods import LoRA

FIXTURES = Path(__file__).resolve().parent / "fixtures"


class Trl(dict[str, Tensor]):
    r"""Tensors of one fixture by name, and what trl was asked for."""

    def __init__(self, name: str):
        with safe_open(FIXTURES / f"{name}.safetensors", "pt") as file:
            super().__init__({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118 - not a dict
            self.made = json.loads(file.metadata()["made"])

    def policy(self) -> nn.Module:
        r"""The fixture's model, with its LoRA beside it."""
        model, settings = tiny.decoder("llama", **self.made["changes"]), self.made["lora"]
        base = {name.removeprefix("base."): t for name, t in self.items() if name.startswith("base.")}
        missing, unexpected = model.load_state_dict(base, strict=False)
        assert not unexpected and set(missing) <= {"lm_head.weight"}
        LoRA(r=settings["r"], alpha=settings["lora_alpha"], targets=("q_proj", "v_proj")).attach(model)
        with torch.no_grad():
            for name, parameter in lora(model).items():
                parameter.copy_(self[f"lora.{name}"])
        return model

    def assert_gradients(self, model: nn.Module, setting: str, **close: float) -> None:
        r"""Those of all eight matrices of the LoRA are the trainer's of `setting`."""
        parameters = lora(model)
        assert len(parameters) == 8
        for path, parameter in parameters.items():
            torch.testing.assert_close(parameter.grad, self[f"{setting}/grad.{path}"], **close)


def lora(model: nn.Module) -> dict[str, nn.Parameter]:
    r"""Our LoRA parameters under peft's names."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return {name.replace(".branches.default.", ".lora_") + ".weight": p for name, p in trained.items()}
