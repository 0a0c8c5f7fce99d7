r"""AdapterDrop (Rücklé et al. 2021, arXiv:2010.11918): the first n blocks go without adapters.

block L   [adapter]
...       [adapter]
block n   [adapter]    <- the backward pass ends here
...                       block n-1 and below compute as in the base, once for many tasks
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor, nn

from coursekit import counts
from coursekit.architecture import describe
from coursekit.errors import CourseError, flag, keep, whole
from coursekit.methods.adapters.adapter import Adapter
from coursekit.methods.adapters.adapter_variants import ADAPTER, AroundAdapter
from coursekit.methods.adapters.passes import pass_start
from coursekit.methods.adapters.pfeiffer import PfeifferAdapter
from coursekit.methods.mechanism.attachment import Attachment
from coursekit.methods.mechanism.checkpoint import Setting, agree

#: What a checkpoint says of the blocks that were left out.
DROPPED = (Setting("n"), Setting("robust"))


@dataclass(frozen=True)
class AdapterDrop(AroundAdapter):
    r"""`adapter`, left out of the first `n` blocks.

    Specialised (robust=False): the first n blocks have no adapters, in training or later; 0 <= n <= L.
    Robust: all blocks have one, and each training step skips the first k, with k drawn uniformly from 0..n, so that
    `skipping` can leave out any number of them later; n=None draws from 0..L-1, as in the paper.

    Raises CourseError for an n that is no number of blocks, and for an `adapter` that is no bottleneck adapter.
    """

    adapter: Adapter = PfeifferAdapter()
    n: int | None = None
    robust: bool = False
    kind: ClassVar[str] = "ADAPTER_DROP"
    entries = (ADAPTER, *(replace(setting, binding=False) for setting in DROPPED))

    def __post_init__(self) -> None:
        super().__post_init__()
        flag("robust", self.robust)
        if self.n is not None:
            keep(self, n=whole("n", self.n, least=0, such_as=3))
        elif not self.robust:
            raise CourseError(
                "AdapterDrop needs to know how many first blocks go without an adapter: say n=3, or robust=True"
            )

    def first(self, config: Any) -> int:
        r"""Number of the first block that has an adapter. Raises CourseError for an n above the model's blocks."""
        layers = describe(config).n_layers
        if self.n is not None and self.n > layers:
            raise CourseError(f"n must be at most {layers}, the number of blocks of this model; got {self.n}.")
        return 0 if self.robust else self.n

    def count(self, config: Any) -> int:
        r"""The adapter's count without the first n of L blocks; all of it if robust."""
        arch, first = describe(config), self.first(config)
        norms = counts.norms(arch, first) if self.adapter.train_norms else 0
        return self.adapter.count_bottlenecks(config) // arch.n_layers * (arch.n_layers - first) + norms

    def _check(self, model: nn.Module) -> None:
        self.first(model.config)
        super()._check(model)

    def touched(self, model: nn.Module) -> set[str]:
        return self.adapter.touched(model)

    def _insert(self, model: nn.Module, state: Attachment, name: str, found: Any) -> list[nn.Parameter]:
        trained = self.adapter.insert(model, state, name, self.first(model.config))
        if self.robust:
            most = describe(model.config).n_layers - 1 if self.n is None else self.n
            pass_start(model, state).now.sampled[name] = most
        return trained

    def _tensors(self, model: nn.Module, name: str) -> dict[str, Tensor]:
        return self.adapter._tensors(model, name)

    def _check_config(self, config: dict[str, Any]) -> None:
        super()._check_config(config)
        agree(self, config, () if self.robust else DROPPED)  # robust: every block has an adapter, whatever the n
