r"""SparseAdapter (He et al. 2022, arXiv:2210.04284): an adapter with most of its weights pruned away.

$$A(x) = (M_{up} \odot W_{up})\,\sigma((M_{down} \odot W_{down})\,x + b_{down}) + b_{up}, \quad M \in \{0, 1\}$$

The masks keep the weights with the largest scores, by one threshold over all bottlenecks; biases stay. One such
projection, $(M \odot W)x + b$, is `pruned.PrunedLinear`; the scores are in `pruning.py`.

Pruning can come before training, after it, or again and again with training in between.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from coursekit import interop
from coursekit.architecture import describe
from coursekit.errors import CourseError, keep, number, one_of, whole
from coursekit.methods import positions
from coursekit.methods.adapters import pruning
from coursekit.methods.adapters.adapter import Adapter
from coursekit.methods.adapters.adapter_variants import ADAPTER, AroundAdapter
from coursekit.methods.adapters.houlsby import HoulsbyAdapter
from coursekit.methods.adapters.pruned import PrunedLinear, learned, prune
from coursekit.methods.adapters.pruning import NEED_DATA, SCORES
from coursekit.methods.mechanism.attachment import Attachment, attachment_of, name_of
from coursekit.methods.mechanism.checkpoint import Setting
from coursekit.methods.mechanism.merge import undone_after_an_error
from coursekit.methods.ranking import checked_batches, largest


@dataclass(frozen=True)
class SparseAdapter(AroundAdapter):
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
    #: Which score chose the weights does not matter any more once they are chosen.
    entries = (ADAPTER, Setting("pruned"), Setting("score", binding=False), Setting("seed", binding=False))

    def __post_init__(self) -> None:
        super().__post_init__()
        keep(self, pruned=number("pruned", self.pruned, least=0, below=1, such_as=0.8))
        one_of("score", self.score, SCORES)
        keep(self, seed=whole("seed", self.seed))

    def weights(self, config: Any) -> int:
        r"""$2dr$ for each bottleneck: the weights of all projections before pruning."""
        arch = describe(config)
        return len(self.adapter.sites) * arch.n_layers * 2 * arch.d_model * self.adapter.r

    def kept(self, config: Any) -> int:
        r"""How many of `weights` stay."""
        return pruning.kept(self.weights(config), self.pruned)

    def count(self, config: Any) -> int:
        r"""The kept weights, and all else that the adapter trains: biases, scales, norms."""
        return self.adapter.count(config) - self.weights(config) + self.kept(config)

    # Pruning --------------------------------------------------------------------------------------------------------

    def attach(
        self, model: nn.Module, name: str = "default", batches: Iterable[dict[str, Tensor]] | None = None
    ) -> nn.Module:
        r"""Attach the adapter and prune it before it has learned anything.

        batches: batches of the task, with labels, for a score that looks at it; a few are enough.
        Raises CourseError where they are missing, and where the score cannot tell fresh weights apart.
        """
        batches = checked_batches(self.score, NEED_DATA, batches)
        with undone_after_an_error(model, name):
            super().attach(model, name)
            return self.prune(model, name, batches=batches)

    def prune(
        self, model: nn.Module, name: str | None = None, *, batches: Iterable[dict[str, Tensor]] | None = None,
        pruned: float | None = None,
    ) -> nn.Module:  # fmt: skip
        r"""Prune adapter `name` of `model`: `adapter` itself, trained or not, or one that is already pruned in part.

        pruned: fraction of all weights that is gone afterwards, instead of the method's own.
        batches: batches of the task, with labels, for a score that looks at it.
        An optimizer has to be made anew: the kept weights are new parameters. (`fit` makes its own.)

        What is in force afterwards is `attached(model)[name]`.
        Raises CourseError, and changes nothing, for settings that make no sense or leave no weight.
        """
        name, batches = self._prunable(model, name), checked_batches(self.score, NEED_DATA, batches)
        goal = self if pruned is None else replace(self, pruned=pruned)
        keep = goal.kept(model.config)
        pruning.check_left(model, name, self.weights(model.config), keep)
        scores = pruning.score(model, name, self.score, batches, self.seed)
        layers = zip(pruning.projections(model, name).values(), largest(scores, keep), strict=True)
        pruning.put(model, name, [prune(layer, mask) for layer, mask in layers])
        attachment_of(model).methods[name] = goal
        return model

    def _prunable(self, model: nn.Module, name: str | None) -> str:
        name = name_of(model, name)
        there = attachment_of(model).methods[name]
        inside = there.adapter if isinstance(there, SparseAdapter) else there
        if inside != self.adapter:
            raise CourseError(f"adapter {name!r} is a {inside}, and this method prunes a {self.adapter}")
        return name

    # Files ----------------------------------------------------------------------------------------------------------

    def _insert(self, model: nn.Module, state: Attachment, name: str, found: Any) -> list[nn.Parameter]:
        return self.adapter._insert(model, state, name, found)

    def _tensors(self, model: nn.Module, name: str) -> dict[str, Tensor]:
        r"""The kept weights and where they stand: as one bit for each weight of W, or as numbers where that is less."""
        tensors = self.adapter._tensors(model, name)
        for path, layer in pruning.projections(model, name).items():
            form, stored = positions.encode(layer.index, layer.out_features * layer.in_features)
            tensors[f"{path}.{form}"] = stored
        return tensors

    def _load(self, model: nn.Module, name: str, tensors: dict[str, Tensor], folder: str | Path) -> None:
        own, rest, new = self.adapter._learned(model, name), dict(tensors), []
        for path, layer in pruning.projections(model, name).items():
            own.pop(f"{path}.values" if isinstance(layer, PrunedLinear) else f"{path}.weight")
            shape, weights = (layer.out_features, layer.in_features), learned(layer)
            size = shape[0] * shape[1]
            if (found := positions.take(rest, path, size, folder)) is None:
                raise positions.misfit(path, size, folder)
            index, values = found
            new.append(PrunedLinear(values.to(weights), index.to(weights.device), shape, layer.bias))
        interop.same_tensors(own, rest, folder)
        pruning.put(model, name, new)
        with torch.no_grad():
            for key, value in own.items():
                value.copy_(rest[key])
