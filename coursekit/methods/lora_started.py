r"""What `LoRA(init=...)` has to do beside the equations of `lora_starts.py`: where it fits, what it looks at, copies.

A start that moves the base (PiSSA, OLoRA) is kept as two frozen matrices beside A and B. A checkpoint holds A and B
alone, as in peft, and `init` says that the start has to be found in the base again; for programs that do not know
`init`, `to_lora` makes a plain LoRA of rank 2r of the update.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from coursekit.errors import CourseError, short
from coursekit.methods.lora_starts import MOVED, Spread, loftq, ranks
from coursekit.methods.mechanism.branch import Branched, BranchMethod
from coursekit.methods.mechanism.merge import remove, undone_after_an_error
from coursekit.methods.mechanism.modules import LINEAR, at, in_codes, is_conv1d, unwrap
from coursekit.modes import in_mode

#: What `init` can be.
STARTS = (*MOVED, "loftq", "eva")
#: What a start looks at beside the model: the keyword of `attach`, and the words for it.
GIVEN = {
    "loftq": ("exact", "the dense model, as it was before it was quantized"),
    "eva": ("batches", "batches of the task"),
}


def check_start(method: Any) -> None:
    r"""Raise CourseError where `init` is no start, or does not go with another setting."""
    if method.init is None:
        return
    if not isinstance(method.init, str) or method.init not in STARTS:
        raise CourseError(f"init must be one of None, {', '.join(map(repr, STARTS))}; got {short(method.init)}.")
    for name in ("dora", "lora_bias"):
        if getattr(method, name):
            raise CourseError(f"init={method.init!r} does not go with {name}=True: leave one of the two out")


def check_start_at(init: str, path: str, module: nn.Module) -> None:
    r"""Raise CourseError where a LoRA with the start `init` cannot stand beside the `module` at `path`."""
    if isinstance(module, nn.Embedding):
        raise CourseError(f"init={init!r} is for linear layers, and {path} is an embedding: exclude it")
    if init == "eva":
        return
    if init == "loftq":
        if not in_codes(module):
            raise CourseError(f"init='loftq' mends a weight in codes, and {path} is dense: call quantize_model first")
        return
    if in_codes(module) or not module.weight.is_floating_point():
        raise CourseError(
            f"init={init!r} looks at the exact weight, and of {path} only codes are there: load the model unquantized"
        )
    if not (module.weight.is_meta or module.weight.isfinite().all()):
        raise CourseError(f"init={init!r} looks at the weight of {path}, which holds NaN or infinity")


def check_untied(init: str, model: nn.Module, paths: Iterable[str]) -> None:
    r"""Raise CourseError where a layer at one of `paths` has its weight from another module: peft would move both."""
    owners = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    for path in paths:
        if owners[id(unwrap(at(model, path)).weight)] > 1:
            raise CourseError(
                f"init={init!r} does not go with {path}, whose weight is the input embedding's too: in peft the "
                "checkpoint would move both; exclude it"
            )


def check_given(init: str | None, given: dict[str, Any]) -> None:
    r"""Raise CourseError where `attach` is not given what `init` looks at, or something else."""
    for other, (key, words) in GIVEN.items():
        if init == other and key not in given:
            raise CourseError(f"init={init!r} looks at {words}: give attach(model, {key}=...)")
        if init != other and key in given:
            raise CourseError(f"{key} is for init={other!r} alone: leave it out")
    if isinstance(given.get("batches"), Mapping):
        raise CourseError("batches: give a list of batches, such as [batch], and this is one batch")


class Started(BranchMethod):
    r"""A LoRA's methods that look at its `init`."""

    init: str | None
    #: A layer's rank is at most so many times its r after EVA has shared out the ranks, as in peft.
    rho: ClassVar[int] = 2

    def attach(
        self, model: nn.Module, name: str = "default", exact: nn.Module | None = None,
        batches: Iterable[Any] | None = None,
    ) -> nn.Module:  # fmt: skip
        r"""Attach, at the start that `init` names.

        exact: for "loftq", the model before its weights went into codes; it is left as it is. batches: for "eva",
        batches of the task; a few are enough. Padding, and tokens with the label -100, do not count. The method that
        EVA attaches has the ranks that it found as its `rank_pattern`.
        """
        given = {key: value for key, value in (("exact", exact), ("batches", batches)) if value is not None}
        check_given(self.init, given)
        with undone_after_an_error(model, name):
            super().attach(model, name)
            if exact is not None:
                start_loftq(self.branches(model, name), name, exact)
            if batches is not None:  # the ranks come from the inputs: attach once more, with these
                found = spreads(self, model, batches)
                remove(model, name)
                super(Started, shared_out(self, found)).attach(model, name)
                start_eva(self.branches(model, name), name, found)
        return model

    def load(self, model: nn.Module, folder: str | Path, name: str = "default") -> nn.Module:
        method: Any = self
        if self.init == "eva":  # the ranks are the file's
            found: Any = self.from_checkpoint(folder)
            own = {key: getattr(found, key) for key in ("targets", "rank_pattern", "alpha_pattern")}
            method = replace(method, **own)
        return super(Started, method).load(model, folder, name)

    def _check(self, model: nn.Module) -> dict[str, BranchMethod]:
        found = super()._check(model)
        if self.init in MOVED:
            check_untied(self.init, model, found)
        return found

    def touched(self, model: nn.Module) -> set[str]:
        if self.init in GIVEN:
            raise CourseError(
                f"init={self.init!r} looks at {GIVEN[self.init][1]}, which a hybrid has no place for: attach the LoRA "
                "alone"
            )
        return super().touched(model)


@torch.no_grad()
def start_loftq(layers: Iterable[tuple[str, Branched]], name: str, exact: nn.Module) -> None:
    r"""Put LoftQ's start into adapter `name` at `layers`, whose weights are in codes; `exact` has them as they were.

    One layer after the other: at no time is more than one weight unpacked.
    """
    for path, layer in layers:
        branch: Any = layer.branches[name]
        W = _exact_weight(exact, path, (len(branch.B), branch.A.shape[1])).to(branch.A)
        A, B = loftq(W, layer.W.to(W), len(branch.A), branch.s)  # both in the adapter's precision
        branch.A.copy_(A)
        branch.B.copy_(B)


def _exact_weight(exact: nn.Module, path: str, shape: tuple[int, int]) -> Float[Tensor, "out in"]:
    r"""The dense weight at `path` of the model `exact`. Raises CourseError where there is none of this `shape`."""
    try:
        found = unwrap(at(exact, path))
    except AttributeError:
        found = None
    if not isinstance(found, LINEAR) or in_codes(found):
        raise CourseError(f"exact has no dense layer {path}: give the model as it was before it was quantized")
    W = found.weight.t() if isinstance(found, Conv1D) else found.weight
    if W.shape != shape:
        raise CourseError(f"{path} is {_size(W.shape)} in exact and {_size(shape)} here: give the same model")
    if not (W.is_meta or W.isfinite().all()):
        raise CourseError(f"init='loftq' looks at the weight of {path} in exact, which holds NaN or infinity")
    return W


def _size(shape: Iterable[int]) -> str:
    return " x ".join(map(str, shape))


@torch.no_grad()
def spreads(method: Any, model: nn.Module, batches: Iterable[dict[str, Tensor]]) -> dict[str, Spread]:
    r"""How the inputs of each target vary in the base model, by path. Raises CourseError for too few tokens."""
    places = method.places(model)
    found = {}
    for path, module in places.items():
        d_in, d_out = module.weight.shape if is_conv1d(module) else module.weight.shape[::-1]
        found[path] = Spread(min(method.rho * method.at(path, module).r, d_in, d_out), d_in)
    counted: list[Tensor] = []  # which tokens of the batch at hand

    def look(path: str, _: nn.Module, args: tuple[Any, ...]) -> None:
        X = args[0].flatten(0, -2).to(torch.promote_types(args[0].dtype, torch.float32))  # (tokens, in)
        if len(counted[-1]) == len(X):  # else something that is not read token by token, such as a pooled row
            X = X[counted[-1]]
        if not X.isfinite().all():
            raise CourseError(f"the inputs of {path} on these batches hold NaN or infinity")
        if len(X):
            found[path].add(X)

    hooks = [module.register_forward_pre_hook(partial(look, path)) for path, module in places.items()]
    try:
        with in_mode(model, False):  # as the base answers: B is still 0
            for batch in batches:
                counted.append(_counted(batch))
                model(**batch)
    finally:
        for hook in hooks:
            hook.remove()
    for path, spread in found.items():
        if spread.n <= spread.k:  # one direction goes with the mean
            raise CourseError(
                f"EVA looks for {spread.k} directions among the inputs of {path}, and these batches have "
                f"{spread.n}: give more"
            )
    return found


def _counted(batch: dict[str, Tensor]) -> Bool[Tensor, " tokens"]:
    r"""The tokens of a batch that are read and, where each has a label, learned from."""
    ids, labels = batch["input_ids"], batch.get("labels")
    read = batch.get("attention_mask", torch.ones_like(ids)).bool()
    return (read & (labels != -100) if labels is not None and labels.shape == ids.shape else read).flatten()


def shared_out(method: Any, found: dict[str, Spread]) -> Any:
    r"""`method` with the ranks that EVA gives, and alpha in proportion, as in peft; a layer of rank 0 is no target."""
    own = {path: method.at(path) for path in found}
    got = dict(zip(found, ranks([s.shares for s in found.values()], sum(o.r for o in own.values())), strict=True))
    alphas = {path: own[path].alpha * (r / own[path].r) for path, r in got.items()}
    return replace(
        method,
        targets=method.targets if all(got.values()) else tuple(path for path, r in got.items() if r),
        rank_pattern={path: r for path, r in got.items() if r not in (0, method.r)},
        alpha_pattern={path: alpha for path, alpha in alphas.items() if alpha not in (0, method.alpha)},
    )


@torch.no_grad()
def start_eva(layers: Iterable[tuple[str, Branched]], name: str, found: dict[str, Spread]) -> None:
    r"""Put the directions that were found into A of adapter `name`; B is 0 by its own start."""
    for path, layer in layers:
        A: Any = layer.branches[name].A
        A.copy_(found[path].directions[: len(A)])
