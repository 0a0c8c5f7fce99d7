r"""Finding modules in a model by name and putting others in their place.

A path is always that of the bare model. Wrappers nest: prefix tuning stands around an attention in which LoRA stands
around the query. What is called by a path then does not depend on what else is attached, or on what came first.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from torch import nn
from transformers.pytorch_utils import Conv1D

from coursekit.errors import CourseError
from coursekit.methods.mechanism.patterns import Pattern
from coursekit.methods.mechanism.switch import Switch, Switched, bare

T = TypeVar("T", bound=Switched)

#: Names under which transformers keeps the task head of an encoder or decoder with a classifier.
HEADS = ("classifier", "score", "qa_outputs")


#: How transformers calls models of a task that pretraining does not have.
TASKS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForMultipleChoice")


def head_names(model: nn.Module) -> list[str]:
    r"""Names of the task heads of `model`: freshly initialised for a task, so every method trains them whole.

    In a model of a task these are all parts with parameters beside the body, such as DistilBERT's `pre_classifier`.
    """
    for_a_task = type(model).__name__.endswith(TASKS)
    return [
        name
        for name, part in model.named_children()
        if name in HEADS or (for_a_task and _is_head(model, part))
    ]


def _is_head(model: nn.Module, part: nn.Module) -> bool:
    beside = isinstance(part, Switched) and part.base_layer is None  # put there by a method
    return part is not model.base_model and not beside and any(True for _ in part.parameters())


def output_layer(model: nn.Module) -> nn.Module | None:
    r"""The bare layer that makes logits over the vocabulary, where `model` has one and transformers can name it."""
    named = getattr(model, "get_output_embeddings", None)
    return None if named is None else bare(named())


def matches(path: str, target: str) -> bool:
    r"""peft's rule: a target names a module by its whole path or by the last parts of it, or is a `Pattern`."""
    if isinstance(target, Pattern):
        return re.fullmatch(target, path) is not None
    return path == target or path.endswith("." + target)


def all_linear(model: nn.Module, kinds: tuple[type, ...] = (nn.Linear, Conv1D)) -> dict[str, nn.Module]:
    r"""Every linear map inside the blocks, by path: not the embeddings, not the output layer, not the head."""
    return {
        path: module for path, module in modules_of(model, kinds) if any(part.isdigit() for part in path.split("."))
    }  # fmt: skip


def find(model: nn.Module, targets: Iterable[str], kinds: tuple[type, ...]) -> dict[str, nn.Module]:
    r"""Modules of one of `kinds` that `targets` name, by path, in the model's order; task heads are left out.

    Raises CourseError, listing the candidates, for a target that names nothing.
    """
    candidates = dict(modules_of(model, kinds))
    for target in targets:
        if not any(matches(path, target) for path in candidates):
            raise no_match(target, candidates)
    return {p: m for p, m in candidates.items() if any(matches(p, t) for t in targets)}


def no_match(target: str, paths: Iterable[str]) -> CourseError:
    r"""The error for a `target` that names none of `paths`."""
    # The part after the layer number is what a reader would write: "attention.self.query" rather than twelve paths.
    short = sorted({p.rsplit(".", 1)[-1] for p in paths})
    return CourseError(f"target {target!r} matches no module of this model; candidates: {', '.join(short)}")


def no_default(kind: str, paths: Iterable[str], what: str = "targets") -> CourseError:
    r"""The error for a family of which no default is known: the names among `paths` by how often they occur."""
    often = Counter(path.rpartition(".")[2] for path in paths).most_common()
    names = ", ".join(f"{name} ({n})" for name, n in often)
    return CourseError(f"no default {what} are known for a {kind!r} model: name some of its modules, {names}")


def body_prefix(model: nn.Module) -> str:
    r"""Prefix of the paths of the body: "bert." in a classifier, "" where `model` is the body itself."""
    path = next(path for path, module in standing(model) if module is model.base_model)
    return f"{path}." if path else ""


def is_conv1d(layer: nn.Module) -> bool:
    r"""Whether `layer` is GPT-2's Conv1D, or one in 4 bits."""
    return isinstance(layer, Conv1D) or getattr(layer, "conv1d", False)


def in_codes(layer: nn.Module) -> bool:
    r"""Whether the weight of `layer` lies in a few bits (`qlora.linear.Linear4bit`): it is unpacked to be used, and
    does not train.
    """
    return isinstance(layer, nn.Linear) and hasattr(type(layer), "quantized")


def standing(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    r"""Every module of the bare model by its path, after the wrappers that stand around it, which have the same path.

    What a wrapper holds for its adapters is no part of the bare model and is not listed.
    """
    yield from _below("", model)


def at(model: nn.Module, path: str) -> nn.Module:
    r"""What stands at `path`: a wrapper, the outermost one, or the module itself."""
    parent, name = _parent(model, path)
    return getattr(parent, name)


def replace(model: nn.Module, path: str, module: nn.Module) -> None:
    r"""Put `module` at `path`, in the place of all that stands there."""
    parent, name = _parent(model, path)
    setattr(parent, name, module)


def around(model: nn.Module, path: str, kind: type[T]) -> T | None:
    r"""The wrapper of `kind` that stands around the module at `path`, or None."""
    found = at(model, path)
    while isinstance(found, Switched) and not isinstance(found, kind):
        found = found.base_layer
    return found if isinstance(found, kind) else None


def wrap(model: nn.Module, path: str, kind: type[T], switch: Switch, *args: Any) -> T:
    r"""Put a new `kind(inside, switch, *args)` around what stands at `path`, inside wrappers of a higher `order`.

    Hooks of other methods on what it stands around move to the wrapper: they look at what the place answers.
    """
    parent, name = _parent(model, path)
    while isinstance(outer := getattr(parent, name), Switched) and outer.order > kind.order:
        parent, name = outer, "base_layer"
    wrapper = kind(outer, switch, *args)
    wrapper.training = outer.training
    for hooks in ("_forward_hooks", "_forward_pre_hooks"):
        theirs, ours = getattr(outer, hooks), getattr(wrapper, hooks)
        for key in [k for k, hook in theirs.items() if isinstance(getattr(hook, "__self__", None), Switched)]:
            ours[key] = theirs.pop(key)
    setattr(parent, name, wrapper)
    return wrapper


def _below(path: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    yield path, module
    if isinstance(module, Switched):
        if module.base_layer is not None:
            yield from _below(path, module.base_layer)
        return
    for name, child in module.named_children():
        yield from _below(f"{path}.{name}" if path else name, child)


def _parent(model: nn.Module, path: str) -> tuple[nn.Module, str]:
    *parts, name = path.split(".")
    for part in parts:
        model = bare(getattr(model, part))
    return model, name


def modules_of(model: nn.Module, kinds: tuple[type, ...]) -> Iterator[tuple[str, nn.Module]]:
    r"""The modules of one of `kinds` by path, in the model's order, without task heads."""
    heads = head_names(model)
    #: A module of one of `kinds` is one thing: what it is made of, or stands around, is not listed again.
    inside: tuple[str, ...] = ()
    for path, module in standing(model):
        if (
            isinstance(module, kinds)
            and path.split(".")[0] not in heads
            and not (inside and f"{path}.".startswith(inside))
        ):
            inside = (*inside, path + ".")
            yield path, module
