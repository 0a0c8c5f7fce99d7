r"""Full fine-tuning: the method that every other one is measured against."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from coursekit import counts, interop
from coursekit.architecture import describe
from coursekit.errors import CourseError
from coursekit.methods.mechanism.attachment import Attachment
from coursekit.methods.mechanism.method import Method
from coursekit.methods.mechanism.modules import in_codes


@dataclass(frozen=True)
class FullFineTuning(Method):
    r"""Train every weight of the model.

    The base is overwritten as it trains. With `keep_base=True` a copy of it stays in host memory, so that `detach`
    can bring it back; that copy is as large as the model, which is why it is not the default.
    """

    keep_base: bool = False
    kind: ClassVar[str] = "FULL"

    def count(self, config: Any) -> int:
        r"""Every parameter: a decoder with its output layer, an encoder's body without the task head."""
        if describe(config).encoder:
            return counts.full(config, "classification") - counts.head(config, "classification")
        return counts.full(config, "causal")

    def detach(self, model: nn.Module) -> nn.Module:
        r"""The base model back, where `keep_base` kept it.

        Raises CourseError otherwise: the weights it started from are gone.
        """
        self._named(model, None)
        kept = getattr(model, "_coursekit_base", None)
        if kept is None:
            raise CourseError(
                "full fine-tuning has overwritten the base weights; attach FullFineTuning(keep_base=True) to be able "
                "to go back, or load the model again"
            )
        with torch.no_grad():
            for key, value in model.state_dict().items():
                value.copy_(kept[key])
        del model._coursekit_base
        return super().detach(model)

    def merge(self, model: nn.Module, name: str | None = None) -> nn.Module:
        r"""Always a CourseError: there is nothing beside the weights that could be folded in."""
        raise CourseError("full fine-tuning has nothing to merge: what it learned is already in the weights")

    def _check(self, model: nn.Module) -> None:
        if any(in_codes(module) for module in model.modules()):
            raise CourseError(
                "weights in 4 bits do not train, there is nothing between two levels: attach LoRA beside them, or load "
                "the model without quantizing it"
            )
        if getattr(model, "_coursekit", None) is not None:
            raise CourseError(
                "full fine-tuning changes the base itself, so it cannot share it with another adapter"
            )

    def _insert(self, model: nn.Module, state: Attachment, name: str) -> list[nn.Parameter]:
        if self.keep_base:
            model._coursekit_base = {
                key: value.detach().cpu().clone() for key, value in model.state_dict().items()
            }
        return list(model.parameters())

    def _insert_heads(self, model: nn.Module, state: Attachment, name: str) -> list[nn.Parameter]:
        return []  # the head is among the parameters already

    def _tensors(self, model: nn.Module, name: str) -> dict[str, Tensor]:
        return dict(model.named_parameters())

    def _config(self, model: nn.Module) -> dict[str, Any]:
        return interop.common_config(model, self.kind)

    def save(self, model: nn.Module, folder: str | Path, name: str | None = None) -> Path:
        r"""Write the whole model, in transformers' own format: there is nothing smaller to write."""
        self._named(model, name)
        model.save_pretrained(folder)
        return Path(folder)

    def load(self, model: nn.Module, folder: str | Path, name: str = "default") -> nn.Module:
        r"""Read a whole model that `save` wrote into `model`, attaching first where that has not been done."""
        from transformers import AutoConfig

        if not Path(folder, "config.json").is_file():
            raise CourseError(
                f"{folder} holds no whole model (no config.json); adapters are loaded by their own method"
            )
        saved = AutoConfig.from_pretrained(folder)
        if describe(saved) != describe(model.config):
            raise CourseError(f"the model in {folder} has other shapes ({saved.model_type}) than this one")
        fresh = type(model).from_pretrained(folder, dtype=model.dtype)
        if getattr(model, "_coursekit", None) is None:
            self.attach(model, name)
        model.load_state_dict(fresh.state_dict())
        return model
