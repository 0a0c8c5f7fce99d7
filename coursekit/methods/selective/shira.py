r"""SHiRA, sparse high rank adapters (Bhardwaj et al. 2024, arXiv:2406.13175): a sparse update of each matrix.

$$\tilde W = W + S, \qquad S_{ij} = 0 \text{ except at } r\,(d_{in} + d_{out}) \text{ places drawn by chance}$$

As many parameters as a LoRA of rank r has in the same matrix, but $S$ is sparse where $BA$ is low-rank: its own rank is
as high as its places allow. No score looks at the task: the random mask of `FishMask`, matrix by matrix.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from coursekit import counts
from coursekit.errors import CourseError, keep, whole
from coursekit.methods import positions
from coursekit.methods.mechanism.checkpoint import Setting
from coursekit.methods.mechanism.names import QUERY_VALUE, Names, checked_names, names_in_config
from coursekit.methods.mechanism.targets import Targets
from coursekit.methods.selective.mask_method import MaskMethod, Place, weights_of
from coursekit.methods.selective.part_layer import Parts
from coursekit.methods.selective.parts import Entries

#: What peft calls the differences and their places.
WEIGHT, INDICES = "shira_weight", "shira_indices"


class Differences(Entries):
    r"""The nonzero entries of S for one tensor. Weight decay pulls it to 0, and W to W."""

    def __init__(self, tensor: Tensor, index: Int[Tensor, " k"], transposed: bool = False):
        super().__init__(tensor, index, transposed)
        nn.init.zeros_(self.values)

    def written(self, tensor: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        r"""$W + S$. On a 16-bit base the sum is made in fp32, then rounded."""
        moved = (self.taken(tensor) + self.values).to(tensor.dtype)
        return tensor.reshape(-1).index_copy(0, self.index, moved).view(tensor.shape)


def random_places(size: int, k: int, seed: int) -> Int[Tensor, " k"]:
    r"""k of the `size` places of a matrix, in rising order; those that peft draws from the same seed."""
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))[:k].sort().values


@dataclass(frozen=True)
class SHiRA(MaskMethod):
    r"""Add trained differences to $r(d_{in}+d_{out})$ entries of each matrix that `targets` name.

    r: size, as a LoRA's rank; it bounds no rank here. seed: where the places are drawn from, the same ones in matrices
    of one shape, as in peft. targets: as for `LoRA`; None: query and value. Checkpoints are peft's.

    Raises CourseError for settings that make no sense and, on attaching, for an r that a matrix has no places for.
    """

    r: int = 8
    seed: int = 0
    targets: Names = None
    kind: ClassVar[str] = "SHIRA"
    part: ClassVar[type[Entries]] = Differences
    #: The places are in the file: which seed chose them does not matter any more.
    entries: ClassVar[tuple[Setting, ...]] = (
        Setting("r"),
        Setting("seed", "random_seed", absent=0, binding=False, read=lambda seed: seed or 0),
        Setting("targets", "target_modules", binding=False, read=names_in_config),
    )

    def __post_init__(self) -> None:
        keep(self, r=whole("r", self.r, least=1, such_as=8))
        keep(self, seed=whole("seed", self.seed))
        object.__setattr__(self, "targets", checked_names(self.targets, ("q_proj", "v_proj")))

    @property
    def named(self) -> Targets:
        r"""The targets, query and value where none are given."""
        return Targets(self.targets, QUERY_VALUE)

    def among(self, config: Any) -> int:
        return sum(m.d_in * m.d_out for m in self.named.layers(config).values())

    def count(self, config: Any) -> int:
        r"""$\sum r (d_{in} + d_{out})$ over the adapted matrices, as for LoRA."""
        return sum(counts.low_rank(m.d_in, m.d_out, self.r) for m in self.named.layers(config).values())

    def _places(self, model: nn.Module) -> dict[Place, nn.Parameter]:
        return weights_of(model, self.named)

    def _check(self, model: nn.Module) -> None:
        super()._check(model)
        for (path, _), W in self._places(model).items():
            if self._size(W) > W.numel():
                rows, columns = W.shape
                raise CourseError(
                    f"r={self.r} is more than there is: {path} is {rows} x {columns}, so take r up to "
                    f"{W.numel() // (rows + columns)}"
                )

    def _parts(self, model: nn.Module) -> Parts:
        places = self._places(model).items()
        return self._entries_at(
            model, {place: random_places(W.numel(), self._size(W), self.seed) for place, W in places}
        )

    def _size(self, W: Tensor) -> int:
        return self.r * sum(W.shape)

    # peft's files -----------------------------------------------------------------------------------------------

    def _config(self, model: nn.Module) -> dict[str, Any]:
        own = {"target_modules": self.named.listed(model.config), "mask_type": "random"}
        return super()._config(model) | own | {"fan_in_fan_out": False}

    def _tensors(self, model: nn.Module, name: str) -> dict[str, Tensor]:
        r"""The differences, (k,), and their places as row and column, (2, k)."""
        found: dict[str, Tensor] = {}
        places = self._places(model)
        for path, parts in self._parts_of(model, name).items():
            part, d_in = parts["weight"], places[path, "weight"].shape[1]
            where = torch.stack([part.index // d_in, part.index % d_in])
            found |= {f"{path}.{WEIGHT}": part.values, f"{path}.{INDICES}": where.int()}
        return found

    def _load(self, model: nn.Module, name: str, tensors: dict[str, Tensor], folder: str | Path) -> None:
        rest = dict(tensors)
        for (path, key), W in self._places(model).items():
            values, indices = rest.pop(f"{path}.{WEIGHT}", None), rest.pop(f"{path}.{INDICES}", None)
            index = None if indices is None else _flat(indices, W.shape)
            if values is None or index is None or (values.shape, index.shape) != ((self._size(W),),) * 2:
                raise positions.misfit(path, W.numel(), folder)
            order = index.argsort()
            form, stored = positions.encode(index[order], W.numel())
            rest |= {f"{path}.{key}.values": values[order], f"{path}.{key}.{form}": stored}
        super()._load(model, name, rest | {"among": torch.tensor([self.among(model.config)])}, folder)


def _flat(indices: Tensor, shape: torch.Size) -> Int[Tensor, " k"] | None:
    r"""Rows and columns, (2, k), as places in a matrix of `shape`; None where they are none, or one comes twice."""
    if indices.dim() != 2 or len(indices) != 2 or indices.is_floating_point():
        return None
    row, column = indices.long()
    inside = ((row >= 0) & (row < shape[0]) & (column >= 0) & (column < shape[1])).all()
    flat = row * shape[1] + column
    return flat if inside and len(flat.unique()) == len(flat) else None
