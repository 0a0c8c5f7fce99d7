r"""OFT: Orthogonal Fine-Tuning (Qiu et al. 2023, arXiv:2306.07280), on the inputs, as in OFTv2 (arXiv:2506.19847).

$$h = W_0 R^\top x + b, \quad R = \operatorname{diag}(R_1, \dots, R_n), \quad R_i^\top R_i = I$$

R turns all neurons, the rows of $W_0$, alike: their lengths and the angles between them stay. One block turns
`block_size` neighbouring inputs. It is made of a skew $Q_i = -Q_i^\top$, whose part above the diagonal learns, by
Cayley's formula $R_i = (I + Q_i)(I - Q_i)^{-1}$, or by the first terms of its series, $I + 2Q_i + 2Q_i^2 + \dots$,
which need no inverse and are orthogonal as long as $Q_i$ is small. In the formula peft turns the sign of Q around.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coursekit.errors import CourseError, flag, keep, number, whole
from coursekit.methods.linear_layers import LinearLayersMethod
from coursekit.methods.mechanism.branch import Branch, Branched, like, meeting_dtype
from coursekit.methods.mechanism.checkpoint import Setting
from coursekit.methods.mechanism.names import Names, checked_names


class OFTBranch(Branch):
    r"""The rotation of one adapter before one frozen layer. Q starts at 0, so that R is exactly I."""

    keys: ClassVar[dict[str, str]] = {"q": "oft_R.weight"}

    def __init__(self, layer: OFTLayer, method: OFT):
        super().__init__()
        W = layer.W  # once: a base in 4 bits unpacks it each time
        self.size = method.size(W.shape[1])
        self.n = W.shape[1] // self.size
        learned = (1 if method.share else self.n, above_diagonal(self.size))
        self.q = nn.Parameter(torch.zeros(learned, **like(W)))
        above = torch.triu_indices(self.size, self.size, 1, device=W.device)
        self.register_buffer("above", above, persistent=False)
        self.terms = method.terms if method.neumann else None
        self.most = method.eps / math.sqrt(len(self.q)) if method.coft else None

    def before(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch in"]:
        r"""$R^\top x$, which the frozen layer then reads: $h = W_0 (R^\top x) + b$."""
        parts = x.to(meeting_dtype(x, self.q.dtype)).unflatten(-1, (self.n, self.size))  # (*batch, n, size)
        return torch.einsum("...nk,nkc->...nc", parts, self.R).flatten(-2).to(x.dtype)

    def forward(self, y: Float[Tensor, "*batch out"], x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        return y

    compute = forward

    @property
    def R(self) -> Float[Tensor, "n size size"]:
        r"""The blocks of R; with `share` one block n times."""
        if self.most is not None:
            self.constrain()
        Q = self.q.new_zeros(len(self.q), self.size, self.size)
        Q[:, self.above[0], self.above[1]] = self.q
        Q = Q - Q.mT
        return (cayley(Q) if self.terms is None else neumann(Q, self.terms)).expand(self.n, -1, -1)

    @torch.no_grad()
    def constrain(self) -> None:
        r"""COFT: brings each Q back to a Frobenius norm of at most eps / sqrt(n), as peft does before each use."""
        norm = math.sqrt(2) * self.q.norm(dim=1, keepdim=True)  # each entry is in Q twice
        self.q.copy_(torch.where(norm <= self.most, self.q, self.most * (self.q / norm)))

    def merged(self, W: Float[Tensor, "out in"], b: Tensor | None) -> tuple[Tensor, Tensor | None]:
        r"""$W_0 R^\top$."""
        own = torch.promote_types(W.dtype, self.q.dtype)
        parts = W.to(own).unflatten(1, (self.n, self.size))  # (out, n, size)
        return torch.einsum("onc,nkc->onk", parts, self.R.to(own)).flatten(1).to(W.dtype), b


def cayley(Q: Float[Tensor, "n size size"]) -> Float[Tensor, "n size size"]:
    r"""$(I - Q)(I + Q)^{-1}$, orthogonal for every skew Q."""
    I = torch.eye(Q.shape[-1], device=Q.device, dtype=Q.dtype)
    return torch.linalg.solve(I + Q, I - Q, left=False)


def neumann(Q: Float[Tensor, "n size size"], terms: int) -> Float[Tensor, "n size size"]:
    r"""$(I + Q)(I + Q + \dots + Q^k) = I + 2Q + \dots + 2Q^k + Q^{k+1}$ with k = terms - 2.

    As in peft two terms are $I + 2Q$, without the last product, and three are as many as four.
    """
    R = torch.add(torch.eye(Q.shape[-1], device=Q.device, dtype=Q.dtype), Q, alpha=2)
    if terms == 2:
        return R
    power = Q @ Q
    R.add_(power, alpha=2)
    for _ in range(terms - 4):
        power = power @ Q
        R.add_(power, alpha=2)
    return R.add_(power @ Q)


def above_diagonal(size: int) -> int:
    r"""Entries above the diagonal: what a block learns."""
    return size * (size - 1) // 2


class OFTLayer(Branched):
    r"""A frozen layer with the OFT branches of all named adapters."""


@dataclass(frozen=True)
class OFT(LinearLayersMethod):
    r"""OFT on the modules that `targets` name.

    block_size: how many inputs a block turns; it divides the width of every layer. blocks: so many blocks in each
    layer, whatever its width, in place of `block_size` (peft: r). targets: names as in peft, such as ("q_proj",
    "v_proj"), or "all-linear"; None: query and value. neumann: the series of `terms` terms; else the exact formula.
    coft: keep Q within eps of 0, so that the model stays near the base. share: one block for all inputs of a layer.

    Raises CourseError for settings that make no sense and, on attaching, for a target that names nothing and a size
    that does not divide a width, where peft takes another size.
    """

    block_size: int = 32
    blocks: int = 0
    targets: Names = None
    neumann: bool = True
    terms: int = 5
    coft: bool = False
    eps: float = 6e-5
    share: bool = False
    kind: ClassVar[str] = "OFT"
    layer: ClassVar[type[Branched]] = OFTLayer
    parts: ClassVar[tuple[str, ...]] = (".oft_R.weight",)
    aside: ClassVar[frozenset[str]] = frozenset({"module_dropout"})  # peft 0.21 stores it and applies it nowhere
    entries = (
        Setting("block_size", "oft_block_size", binding=False),  # the shapes of the tensors bind
        Setting("blocks", "r", absent=0, binding=False),
        Setting("targets", "target_modules", binding=False, read=tuple),
        Setting("neumann", "use_cayley_neumann", absent=False),
        Setting("terms", "num_cayley_neumann_terms", absent=5),
        Setting("coft", absent=False),
        Setting("eps", absent=6e-5),
        Setting("share", "block_share", absent=False),
    )

    def __post_init__(self) -> None:
        blocks = whole("blocks", self.blocks, least=0)
        if blocks and self.block_size not in (0, type(self).block_size):
            raise CourseError(f"give block_size={self.block_size} or blocks={blocks}: one follows from the other")
        keep(
            self,
            block_size=0 if blocks else whole("block_size", self.block_size, least=2, such_as=32),
            blocks=blocks,
            targets=checked_names(self.targets, ("q_proj", "v_proj")),
            neumann=flag("neumann", self.neumann),
            terms=whole("terms", self.terms, least=2, most=100, such_as=5),
            coft=flag("coft", self.coft),
            eps=number("eps", self.eps, above=0, such_as=6e-5),
            share=flag("share", self.share),
        )

    def size(self, d_in: int, path: str = "a layer") -> int:
        r"""How many inputs a block turns in a layer of `d_in`. Raises CourseError where that does not come out even."""
        size = d_in // self.blocks if self.blocks else self.block_size
        if size < 2 or d_in % (self.blocks or size):
            asked = f"blocks={self.blocks} leaves" if self.blocks else f"block_size={size} leaves"
            near = sorted((k for k in range(2, d_in + 1) if d_in % k == 0), key=lambda k: abs(k - size))[:2]
            fit = sorted({d_in // k for k in near} if self.blocks else near)
            raise CourseError(
                f"{asked} no whole blocks of the {d_in} inputs of {path}: take {' or '.join(map(str, fit))}"
            )
        return size

    def count(self, config: Any) -> int:
        r"""$\sum n \cdot b(b - 1)/2$ over the adapted layers, n blocks of b inputs each; n is 1 with `share`."""
        found = [(m.d_in, self.size(m.d_in, path)) for path, m in self.layers(config).items()]
        return sum((1 if self.share else d_in // b) * above_diagonal(b) for d_in, b in found)

    def at(self, path: str, module: nn.Module) -> OFT:
        self.size(getattr(module, "in_features", None) or module.weight.shape[0], path)  # Conv1D stores W^T
        return self

    def branch(self, path: str, layer: Branched, config: Any) -> OFTBranch:
        return OFTBranch(layer, self)

    # Checkpoints ----------------------------------------------------------------------------------------------------

    def _config(self, model: nn.Module) -> dict[str, Any]:
        return super()._config(model) | {"peft_version": SERIES}  # without it peft would warn of an older series

    @classmethod
    def _refuse(cls, config: dict[str, Any], tensors: Any) -> None:
        super()._refuse(config, tensors)
        found = config.get("peft_version")
        if config.get("use_cayley_neumann") and not (found and _version(found) >= _version(SERIES)):
            said = f"says peft_version={found}" if found else "does not say 'peft_version'"
            raise CourseError(
                f"the config of this checkpoint {said}: before {SERIES} use_cayley_neumann was another series; train "
                "it again, or let that peft's merge_and_unload() make a whole model of it"
            )

    @classmethod
    def restored(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> Any:
        blocks = [t for key, t in tensors.items() if key.endswith(cls.parts) and t.dim() == 2]
        if blocks and "oft_block_size" in config and isinstance(config.get("r", 0), int):
            # peft changes what does not divide a width, at that layer alone; the tensors say to what.
            key, found = "oft_block_size", {(1 + math.isqrt(1 + 8 * t.shape[1])) // 2 for t in blocks}
            if config.get("r"):
                key, found = "r", {config["r"]} if config.get("block_share") else {len(t) for t in blocks}
            if len(found) > 1:
                raise CourseError(
                    f"this checkpoint was trained with {key}={config[key]}, for which peft took "
                    f"{' and '.join(map(str, sorted(found)))} in layers of other widths, which the OFT here does not: "
                    "use peft, or let its merge_and_unload() make a whole model of it"
                )
            config = config | {key: found.pop()}
        return super().restored(config, tensors)


#: The peft from which on the series is this one.
SERIES = "0.18.0"


def _version(text: Any) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", str(text))[:2]]
