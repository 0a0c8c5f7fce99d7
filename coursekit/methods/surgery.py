r"""Finding modules in a model by name and putting others in their place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import nn
from transformers.pytorch_utils import Conv1D

from coursekit.errors import CourseError

#: Names under which transformers keeps the task head of an encoder or decoder with a classifier.
HEADS = ("classifier", "score", "qa_outputs")


def head_names(model: nn.Module) -> list[str]:
    r"""Names of the task heads of `model`: freshly initialised for a task, so every method trains them whole."""
    return [name for name, _ in model.named_children() if name in HEADS]


def matches(path: str, target: str) -> bool:
    r"""peft's rule: a target names a module by its whole path or by the last parts of it."""
    return path == target or path.endswith("." + target)


def all_linear(model: nn.Module, kinds: tuple[type, ...] = (nn.Linear, Conv1D)) -> dict[str, nn.Module]:
    r"""Every linear map inside the blocks, by path: not the embeddings, not the output layer, not the head."""
    return {
        path: module for path, module in _modules(model, kinds) if any(part.isdigit() for part in path.split("."))
    }  # fmt: skip


def find(model: nn.Module, targets: Iterable[str], kinds: tuple[type, ...]) -> dict[str, nn.Module]:
    r"""Modules of one of `kinds` that `targets` name, by path, in the model's order; task heads are left out.

    Raises CourseError, listing the candidates, for a target that names nothing.
    """
    candidates = dict(_modules(model, kinds))
    for target in targets:
        if not any(matches(path, target) for path in candidates):
            raise no_match(target, candidates)
    return {p: m for p, m in candidates.items() if any(matches(p, t) for t in targets)}


def no_match(target: str, paths: Iterable[str]) -> CourseError:
    r"""The error for a `target` that names none of `paths`."""
    # The part after the layer number is what a reader would write: "attention.self.query" rather than twelve paths.
    short = sorted({p.rsplit(".", 1)[-1] for p in paths})
    return CourseError(f"target {target!r} matches no module of this model; candidates: {', '.join(short)}")


def body_prefix(model: nn.Module) -> str:
    r"""Prefix of the paths of the body: "bert." in a classifier, "" where `model` is the body itself."""
    path = next(path for path, module in model.named_modules() if module is model.base_model)
    return f"{path}." if path else ""


def is_conv1d(layer: nn.Module) -> bool:
    r"""Whether `layer` is GPT-2's Conv1D, or one in 4 bits."""
    return isinstance(layer, Conv1D) or getattr(layer, "conv1d", False)


def replace(model: nn.Module, path: str, module: nn.Module) -> None:
    r"""Put `module` at `path`."""
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


def _modules(model: nn.Module, kinds: tuple[type, ...]) -> Iterator[tuple[str, nn.Module]]:
    heads = head_names(model)
    inside: tuple[
        str, ...
    ] = ()  # a module of one of `kinds` is one thing: what it is made of is not listed again
    for path, module in model.named_modules():
        if (
            isinstance(module, kinds)
            and path.split(".")[0] not in heads
            and not (inside and path.startswith(inside))
        ):
            inside = (*inside, path + ".")
            yield path, module
