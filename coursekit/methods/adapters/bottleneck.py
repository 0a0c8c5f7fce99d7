r"""The bottleneck that all adapters share, and what all methods that insert one have in common.

$$A(x) = W_{up}\,\sigma(W_{down} x + b_{down}) + b_{up},
\quad W_{down} \in \mathbb{R}^{r \times d}, W_{up} \in \mathbb{R}^{d \times r}$$

Houlsby et al. 2019 (arXiv:1902.00751), figure 2. What stands around A, the residual above all, is the placement's.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from coursekit import counts, interop
from coursekit.architecture import describe
from coursekit.errors import CourseError, unknown
from coursekit.methods.adapters import placement
from coursekit.methods.adapters.placement import Site
from coursekit.methods.mechanism.attachment import Attachment
from coursekit.methods.mechanism.method import Method
from coursekit.methods.mechanism.modules import at
from coursekit.methods.mechanism.switch import bare


def identity(z: Tensor) -> Tensor:
    r"""No non-linearity."""
    return z


#: $\sigma$ by name. "identity" leaves a low-rank update without a non-linearity, for comparison.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "swish": F.silu,
    "tanh": torch.tanh,
    "identity": identity,
}


def _start_bert(down: nn.Linear, up: nn.Linear) -> None:
    for W in (down.weight, up.weight):
        nn.init.normal_(W, std=0.02)


def _start_houlsby(down: nn.Linear, up: nn.Linear) -> None:
    for W in (down.weight, up.weight):
        nn.init.trunc_normal_(W, std=1e-3, a=-2e-3, b=2e-3)  # cut at two standard deviations


def _start_zero(down: nn.Linear, up: nn.Linear) -> None:
    nn.init.kaiming_uniform_(down.weight, a=math.sqrt(5))
    nn.init.zeros_(up.weight)


#: Starting values by name; the biases start at 0 in all of them. "bert": N(0, 0.02), as in the `adapters` library.
#: "houlsby": truncated normal with a standard deviation of 1e-3, as in the code of Houlsby et al., close to no
#: change. "zero": W_up = 0 (He et al. 2022), exactly no change: the model answers as before, to the bit.
INITS: dict[str, Callable[[nn.Linear, nn.Linear], None]] = {
    "bert": _start_bert,
    "houlsby": _start_houlsby,
    "zero": _start_zero,
}


class Bottleneck(nn.Module):
    r"""$A(x) = W_{up}\,\sigma(W_{down}x + b_{down}) + b_{up}$, without a residual: $2dr + r + d$ parameters."""

    def __init__(
        self,
        d: int,
        r: int,
        activation: str = "relu",
        init: str = "bert",
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.down = nn.Linear(d, r, device=device, dtype=dtype)
        self.up = nn.Linear(r, d, device=device, dtype=dtype)
        self.act = ACTIVATIONS[activation]
        INITS[init](self.down, self.up)
        for layer in (self.down, self.up):
            nn.init.zeros_(layer.bias)

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        return self.up(self.act(self.down(x)))  # (*batch, d) -> (*batch, r) -> (*batch, d)


@dataclass(frozen=True)
class Adapter(Method):
    r"""What the bottleneck adapters have in common. A subclass says where they sit (`sites`) and what one is.

    r: width of the bottleneck. activation: one of `ACTIVATIONS`. init: one of `INITS`. train_norms: each adapter also
    trains its own copy of the model's norms, as in Houlsby et al. (section 2.1); the base's own stay untouched.

    Raises CourseError for an r that is no width and for names that do not exist.
    """

    r: int = 64
    activation: str = "relu"
    init: str = "bert"
    train_norms: bool = False
    #: Names of the places in a block that get a bottleneck -> how the answer of A is used there.
    sites: ClassVar[dict[str, type[Site]]]
    #: Names that `init` may have.
    inits: ClassVar[Iterable[str]] = INITS

    def __post_init__(self) -> None:
        self._check_width()
        if self.activation not in tuple(ACTIVATIONS):
            raise unknown("activation", self.activation, ACTIVATIONS)
        if self.init not in tuple(self.inits):
            raise unknown("initialisation", self.init, self.inits)

    @abstractmethod
    def count_bottlenecks(self, config: Any) -> int:
        r"""Closed form: parameters of the bottlenecks of all blocks."""

    def bottleneck(self, d: int, device: torch.device, dtype: torch.dtype) -> Bottleneck:
        r"""One new bottleneck for a model of width `d`."""
        return Bottleneck(d, self.r, self.activation, self.init, device, dtype)

    def count(self, config: Any) -> int:
        r"""All bottlenecks, and with `train_norms` a copy of every norm."""
        return self.count_bottlenecks(config) + (counts.norms(describe(config)) if self.train_norms else 0)

    def insert(self, model: nn.Module, state: Attachment, name: str, first: int = 0) -> list[nn.Parameter]:
        r"""Put bottlenecks named `name` into the blocks from number `first` on; give their parameters."""
        return placement.insert(self, model, state, name, first)

    def _check_width(self) -> None:
        if isinstance(self.r, bool) or not isinstance(self.r, int) or self.r < 1:
            raise CourseError(f"r={self.r!r} is no width: take a whole number from 1 up, such as 16")

    def _check(self, model: nn.Module) -> None:
        placement.check(self, model)

    def touched(self, model: nn.Module) -> set[str]:
        norms = placement.norm_paths(model, 0) if self.train_norms else []
        keys = {f"{path}.{key}" for path, _ in norms for key, _ in bare(at(model, path)).named_parameters()}
        return {"what the bottlenecks of the blocks add"} | keys

    def _insert(self, model: nn.Module, state: Attachment, name: str) -> list[nn.Parameter]:
        return self.insert(model, state, name)

    def _tensors(self, model: nn.Module, name: str) -> dict[str, Tensor]:
        inside = {
            f"{path}.{key}": value
            for path, bottleneck in bottlenecks(model, name).items()
            for key, value in bottleneck.named_parameters()
        }
        return inside | placement.norm_tensors(model, name)

    def settings(self) -> dict[str, Any]:
        r"""Hyperparameters as they stand in a checkpoint."""
        return {
            "r": self.r,
            "activation": self.activation,
            "init": self.init,
            "train_norms": self.train_norms,
        }

    def _config(self, model: nn.Module) -> dict[str, Any]:
        return interop.common_config(model, self.kind) | self.settings()

    def _check_config(self, config: dict[str, Any]) -> None:
        for key, value in self.settings().items():
            if key != "init" and config.get(key, value) != value:  # how it started does not matter any more
                raise CourseError(
                    f"this checkpoint was trained with {key}={config[key]}, the method here has {value}; "
                    f"{type(self).__name__}.from_checkpoint(folder) makes the method that fits"
                )

    @classmethod
    def from_settings(cls, config: dict[str, Any]) -> Adapter:
        r"""The method with the hyperparameters that stand in a checkpoint's `config`."""
        interop.same_method(cls.kind, config)
        return cls(**{key: config[key] for key in cls().settings()})

    @classmethod
    def from_checkpoint(cls, folder: Any) -> Adapter:
        r"""The method with the hyperparameters of the checkpoint in `folder`."""
        return cls.from_settings(interop.read(folder)[0])


def bottlenecks(model: nn.Module, name: str) -> dict[str, Bottleneck]:
    r"""The bottlenecks of adapter `name`, by the path of the place where they sit, in the order of the blocks."""
    return {
        path: site.adapters[name] for path, site in placement.sites(model).items() if name in site.adapters
    }
