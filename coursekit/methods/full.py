r"""Full fine-tuning: the method that every other one is measured against."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from coursekit import counts, interop
from coursekit.errors import CourseError
from coursekit.files import replaced_files
from coursekit.methods.mechanism.anatomy import described, skeleton
from coursekit.methods.mechanism.attachment import Attachment
from coursekit.methods.mechanism.method import Method
from coursekit.methods.mechanism.modules import head_names, in_codes


@dataclass(frozen=True)
class FullFineTuning(Method):
    r"""Train every weight of the model.

    The base is overwritten as it trains: there is no way back to it, and nothing to merge.
    """

    kind: ClassVar[str] = "FULL"

    def count(self, config: Any) -> int:
        r"""Every parameter: a decoder with its output layer, an encoder's body without the task head.

        A closed form; for a family without a description, those of the model itself, built on the meta device.
        """
        arch = described(config)
        if arch is None:
            model = skeleton(config)
            heads = [p for name in head_names(model) for p in model.get_submodule(name).parameters()]
            return sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in heads)
        if arch.encoder:
            return counts.full(config, "classification") - counts.head(config, "classification")
        return counts.full(config, "causal")

    def detach(self, model: nn.Module) -> nn.Module:
        r"""Always a CourseError: the weights it started from are gone."""
        self._named(model, None)
        raise CourseError("full fine-tuning has overwritten the base weights: load the model again to go back")

    def merge(self, model: nn.Module, name: str | None = None, undo: bool = True) -> nn.Module:
        r"""Always a CourseError: there is nothing beside the weights that could be merged into them."""
        raise CourseError("full fine-tuning has nothing to merge: what it learned is already in the weights")

    def _check(self, model: nn.Module) -> None:
        if any(in_codes(module) for module in model.modules()):
            raise CourseError(
                "weights in 4 bits do not train, there is nothing between two levels: attach LoRA beside them, or load "
                "the model without quantizing it"
            )
        if getattr(model, "_coursekit", None) is not None:
            raise CourseError("full fine-tuning changes the base itself, so it cannot share it with another adapter")

    def _insert(self, model: nn.Module, state: Attachment, name: str, found: Any) -> list[nn.Parameter]:
        return list(model.parameters())

    def _insert_heads(self, model: nn.Module, state: Attachment, name: str, heads: list[str]) -> list[nn.Parameter]:
        return []  # the head is among the parameters already

    def _tensors(self, model: nn.Module, name: str) -> dict[str, Tensor]:
        return dict(model.named_parameters())

    def save(self, model: nn.Module, folder: str | Path, name: str | None = None) -> Path:
        r"""Write the whole model, in transformers' own format: there is nothing smaller to write.

        Whole or not at all. Raises CourseError where it cannot be written: a file in the way, a full disk.
        """
        self._named(model, name)
        with replaced_files(folder, "the model", old="model*.safetensors*") as part:
            model.save_pretrained(part)
        return Path(folder)

    def load(self, model: nn.Module, folder: str | Path, name: str = "default") -> nn.Module:
        r"""Read a whole model that `save` wrote into `model`, attaching first where that has not been done.

        Raises CourseError, and changes nothing, for a folder that holds no whole model or one of other shapes, with
        tensors missing, or damaged.
        """
        if getattr(model, "_coursekit", None) is not None:
            self._named(model, None)
        tensors = whole_model(model, Path(folder))
        if getattr(model, "_coursekit", None) is None:
            self.attach(model, name)
        model.load_state_dict(tensors)
        return model


def whole_model(model: nn.Module, folder: Path) -> dict[str, Tensor]:
    r"""The tensors of a model like `model` that transformers has written to `folder`, checked against its own."""
    from safetensors import SafetensorError
    from transformers import AutoConfig

    if not (folder / "config.json").is_file():
        raise CourseError(f"{folder} holds no whole model (no config.json); adapters are loaded by their own method")
    try:
        saved = AutoConfig.from_pretrained(folder)
        if saved.model_type != model.config.model_type or described(saved) != described(model.config):
            raise CourseError(f"the model in {folder} has other shapes ({saved.model_type}) than this one")
        fresh, found = type(model).from_pretrained(folder, dtype=model.dtype, output_loading_info=True)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        raise CourseError(f"the model in {folder} is damaged ({first_line(error)}); save it again") from error
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if keys := found.get(what):
            raise CourseError(
                f"the model in {folder} is another one, or damaged: {len(keys)} {what.replace('_', ' ')}, such as "
                f"{min(map(str, keys))}"
            )
    tensors = fresh.state_dict()
    interop.same_tensors(model.state_dict(), tensors, folder)
    return tensors


def first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
