r"""SparseAdapter (He et al. 2022, arXiv:2210.04284): an adapter with most of its weights pruned away.

$$A(x) = (M_{up} \odot W_{up})\,\sigma((M_{down} \odot W_{down})\,x + b_{down}) + b_{up}, \quad M \in \{0, 1\}$$

The masks keep the weights with the largest scores, by one threshold over all bottlenecks; biases stay. Pruning can
come before training, after it, or in rounds with training in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from coursekit import interop
from coursekit.architecture import describe
from coursekit.errors import CourseError, unknown
from coursekit.methods.adapters import masks, pruning
from coursekit.methods.adapters.bottleneck import Adapter
from coursekit.methods.adapters.drop import ADAPTERS
from coursekit.methods.adapters.houlsby import HoulsbyAdapter
from coursekit.methods.adapters.pruned import Projection, PrunedLinear, learned, prune
from coursekit.methods.adapters.scores import NEED_DATA, SCORES
from coursekit.methods.mechanism.attachment import (
    Attachment,
    attached,
    attachment_of,
)
from coursekit.methods.mechanism.method import Method
from coursekit.methods.mechanism.undo import undone_after_an_error


@dataclass(frozen=True)
class SparseAdapter(Method):
    r"""`adapter` with the fraction `pruned` of the weights of its projections gone.

    pruned: from 0 to below 1; 0.8 keeps a fifth. score: one of `SCORES`; "snip" and "grasp" look at batches of the
    task, "random" draws from `seed`.
    To prune before training: `attach(model, batches=...)`. After training: attach and train `adapter` itself, then
    `prune(model)`.

    Raises CourseError for a fraction that is none, an unknown score, and an `adapter` that is no bottleneck adapter.
    """

    adapter: Adapter = HoulsbyAdapter()
    pruned: float = 0.8
    score: str = "magnitude"
    seed: int = 0
    kind: ClassVar[str] = "SPARSE_ADAPTER"

    def __post_init__(self) -> None:
        if not isinstance(self.adapter, tuple(ADAPTERS.values())):
            names = ", ".join(kind.__name__ for kind in ADAPTERS.values())
            raise CourseError(f"adapter={self.adapter!r} has no bottlenecks to prune: take one of {names}")
        if isinstance(self.pruned, bool) or not isinstance(self.pruned, Real) or not 0 <= self.pruned < 1:
            raise CourseError(
                f"pruned={self.pruned!r}: it is the fraction of the weights that goes, from 0 to below 1, such as 0.8"
            )
        if self.score not in tuple(SCORES):
            raise unknown("score", self.score, SCORES)
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise CourseError(f"seed={self.seed!r}: take a whole number")

    # Numbers --------------------------------------------------------------------------------------------------------

    def weights(self, config: Any) -> int:
        r"""$2dr$ for each bottleneck: the weights of all projections before pruning."""
        arch = describe(config)
        return len(self.adapter.sites) * arch.n_layers * 2 * arch.d_model * self.adapter.r

    def kept(self, config: Any) -> int:
        r"""How many of `weights` stay."""
        return masks.kept(self.weights(config), self.pruned)

    def count(self, config: Any) -> int:
        r"""The kept weights, and all else that the adapter trains: biases, scales, norms."""
        return self.adapter.count(config) - self.weights(config) + self.kept(config)

    def large_sparse(self, config: Any, r: int) -> SparseAdapter:
        r"""Large-Sparse: bottlenecks of width `r` with exactly as many kept weights as this method has.

        Only the biases grow, by one number for each unit. Raises CourseError for an r that is too narrow.
        """
        wide = replace(self, adapter=replace(self.adapter, r=r))
        total, keep = wide.weights(config), self.kept(config)
        if keep > total:
            raise CourseError(
                f"r={r} has {total:,} weights, fewer than the {keep:,} to keep: take a larger r"
            )
        return replace(wide, pruned=masks.fraction(total, keep))

    # Pruning --------------------------------------------------------------------------------------------------------

    def attach(
        self, model: nn.Module, name: str = "default", batches: Iterable[dict[str, Tensor]] | None = None
    ) -> nn.Module:
        r"""Attach the adapter and prune it before it has learned anything.

        batches: batches of the task, with labels, for a score that looks at it; a few are enough.
        Raises CourseError where they are missing, and where the score cannot tell fresh weights apart.
        """
        batches = self._batches(batches)
        with undone_after_an_error(model, name):
            super().attach(model, name)
            return self.prune(model, name, batches=batches)

    def prune(
        self,
        model: nn.Module,
        name: str | None = None,
        *,
        batches: Iterable[dict[str, Tensor]] | None = None,
        pruned: float | None = None,
        threshold: float | None = None,
        rounds: int = 1,
        between: Callable[[], Any] | None = None,
        optimizer: Optimizer | None = None,
    ) -> nn.Module:
        r"""Prune adapter `name` of `model`: `adapter` itself, trained or not, or one that is already pruned in part.

        pruned: fraction of all weights that is gone afterwards, instead of the method's own.
        threshold: prune whatever scores below this instead.
        rounds: prune in so many steps, scoring anew before each. between: called after each step but the last, to
        train in between. batches: batches of the task, with labels, for a score that looks at it.
        optimizer: one that is to go on. It gets the kept weights in place of the old ones, with their moments; one
        that is not given here goes on with weights that are no longer in the model. (`fit` makes its own.)

        What is in force afterwards is `attached(model)[name]`; its `pruned` is the fraction that was reached.
        Raises CourseError, and changes nothing, for settings that make no sense or leave no weight.
        """
        name, batches = self._prunable(model, name), self._batches(batches)
        goal = self if pruned is None else replace(self, pruned=pruned)
        if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
            raise CourseError(f"rounds={rounds!r}: take a whole number from 1 up")
        if threshold is not None and (rounds > 1 or pruned is not None):
            raise CourseError("a threshold prunes once and decides the fraction: leave out pruned and rounds")
        total, keep = self.weights(model.config), goal.kept(model.config)
        now = sum(learned(layer).numel() for layer in pruning.projections(model, name).values())
        if threshold is not None:
            scores = pruning.score(model, name, self.score, batches, self.seed)
            keep = sum(int((score >= threshold).sum()) for score in scores)
        if keep < 1:
            raise CourseError(f"this would prune all of the {total:,} weights: prune less")
        if keep > now:
            raise CourseError(
                f"this would keep {keep:,} weights, and adapter {name!r} has only {now:,} left of {total:,}: pruned "
                "weights do not come back, so prune more, or start from the whole adapter"
            )
        for step, left in enumerate(masks.schedule(now, keep, rounds), start=1):
            last = step == rounds and threshold is None
            reached = goal if last else replace(self, pruned=masks.fraction(total, left))
            reached._prune_to(model, name, left, batches, optimizer)
            if between is not None and step < rounds:
                between()
        return model

    def _prune_to(
        self, model: nn.Module, name: str, keep: int, batches: pruning.Batches, optimizer: Optimizer | None
    ) -> None:
        old = list(pruning.projections(model, name).values())
        stay = masks.largest(pruning.score(model, name, self.score, batches, self.seed), keep)
        new = [prune(layer, mask) for layer, mask in zip(old, stay, strict=True)]
        pruning.put(model, name, new)
        if optimizer is not None:
            for before, mask, layer in zip(old, stay, new, strict=True):
                pruning.carry(optimizer, learned(before), mask, layer.values)
        attachment_of(model).methods[name] = self

    def _prunable(self, model: nn.Module, name: str | None) -> str:
        state = attachment_of(model)
        name = name or state.switch.active or next(iter(state.methods))
        if name not in state.methods:
            raise unknown("adapter", name, state.methods)
        there = state.methods[name]
        inside = there.adapter if isinstance(there, SparseAdapter) else there
        if inside != self.adapter:
            raise CourseError(f"adapter {name!r} is a {inside}, and this method prunes a {self.adapter}")
        return name

    def _batches(self, batches: Iterable[dict[str, Tensor]] | None) -> list[dict[str, Tensor]]:
        batches = list(batches or ())
        if self.score in NEED_DATA and not batches:
            raise CourseError(
                f"score={self.score!r} looks at the task: give some batches of it with labels, batches=[...], or take "
                "score='magnitude'"
            )
        return batches

    # Files ----------------------------------------------------------------------------------------------------------

    def save(
        self, model: nn.Module, folder: str | Path, name: str | None = None, dense: bool = False
    ) -> Path:
        r"""Write the kept weights and where they stand: about as much smaller than `adapter` as was pruned.

        Positions are stored as one bit for each weight of W, or as numbers where that is less.
        dense: write what `adapter` itself would write, zeros and all, for a program that knows no pruning.
        """
        if not dense:
            return super().save(model, folder, name)
        name = self._named(model, name)
        tensors = self.adapter._learned(model, name)
        for path, layer in pruning.projections(model, name).items():
            del tensors[f"{path}.values"]
            tensors[f"{path}.weight"] = layer.weight
        return interop.write(folder, self.adapter._config(model), tensors)

    def load(self, model: nn.Module, folder: str | Path, name: str = "default") -> nn.Module:
        r"""Read a checkpoint into `model`, attaching first where `name` is not attached yet.

        Raises CourseError, and changes nothing, if the checkpoint is of another method or another model.
        """
        if name in attached(model):
            return super().load(model, folder, name)
        config, _ = interop.read(folder)
        interop.same_method(self.kind, config)
        self._check_config(config)
        with undone_after_an_error(model, name):
            super().attach(model, name)  # whole: which weights stay is in the file, so nothing is scored
            return super().load(model, folder, name)

    def _check(self, model: nn.Module) -> None:
        self.adapter._check(model)

    def _insert(self, model: nn.Module, state: Attachment, name: str) -> list[nn.Parameter]:
        return self.adapter._insert(model, state, name)

    def _tensors(self, model: nn.Module, name: str) -> dict[str, Tensor]:
        tensors = self.adapter._tensors(model, name)
        for path, layer in pruning.projections(model, name).items():
            form, stored = masks.encode(layer.index, layer.out_features * layer.in_features)
            tensors[f"{path}.{form}"] = stored
        return tensors

    def _load(self, model: nn.Module, name: str, tensors: dict[str, Tensor], folder: str | Path) -> None:
        own, rest = self.adapter._learned(model, name), dict(tensors)
        new = []
        for path, layer in pruning.projections(model, name).items():
            own.pop(f"{path}.values" if isinstance(layer, PrunedLinear) else f"{path}.weight")
            new.append(_read(rest, path, layer, folder))
        interop.same_tensors(own, rest, folder)
        pruning.put(model, name, new)
        with torch.no_grad():
            for key, value in own.items():
                value.copy_(rest[key])

    def _config(self, model: nn.Module) -> dict[str, Any]:
        inside = {"peft_type": self.adapter.kind} | self.adapter.settings()
        return interop.common_config(model, self.kind) | {
            "pruned": self.pruned,
            "score": self.score,
            "seed": self.seed,
            "adapter": inside,
        }

    def _check_config(self, config: dict[str, Any]) -> None:
        interop.same_method(self.adapter.kind, config["adapter"])
        self.adapter._check_config(config["adapter"])
        if config["pruned"] != self.pruned:  # which score chose the weights does not matter any more
            raise CourseError(
                f"this checkpoint was made with pruned={config['pruned']}, the method here has {self.pruned}; "
                "SparseAdapter.from_checkpoint(folder) makes the method that fits"
            )

    @classmethod
    def from_checkpoint(cls, folder: Any) -> SparseAdapter:
        r"""The method with the hyperparameters of the checkpoint in `folder`."""
        config, _ = interop.read(folder)
        interop.same_method(cls.kind, config)
        inside = config["adapter"]
        adapter = ADAPTERS[inside["peft_type"]].from_settings(inside)
        return cls(adapter=adapter, pruned=config["pruned"], score=config["score"], seed=config["seed"])


def _read(tensors: dict[str, Tensor], path: str, layer: Projection, folder: str | Path) -> PrunedLinear:
    r"""What a checkpoint has for the projection `path`, taken out of `tensors`, in the shape of `layer`."""
    values = tensors.pop(f"{path}.values", None)
    stored = {
        form: tensors.pop(f"{path}.{form}") for form in ("mask", "index") if f"{path}.{form}" in tensors
    }
    shape = (layer.out_features, layer.in_features)
    index = masks.decode(*next(iter(stored.items())), shape[0] * shape[1]) if stored else None
    if values is None or index is None or values.shape != index.shape:
        raise CourseError(
            f"the checkpoint in {folder} is of another model: it has no weights for {path}, which is "
            f"{shape[0]} x {shape[1]} here"
        )
    own = learned(layer)
    return PrunedLinear(values.to(own), index.to(own.device), shape, layer.bias)
