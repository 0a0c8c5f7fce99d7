r"""Several adapters as one, and any adapter that folds as a LoRA.

What folds is a change of weights, $\Delta W$ for each matrix, and changes can be added. With weights $\lambda_t$ of the
adapters t (task arithmetic, Ilharco et al. 2022, arXiv:2212.04089):

$$\Delta W = \sum_t \lambda_t\, \Delta W_t, \qquad \Delta W_t = s_t B_t A_t \text{ for a LoRA}$$

TIES (Yadav et al. 2023, arXiv:2306.01708) keeps of each change its largest entries, a share `density`, lets every entry
elect the sign with the greater mass, and takes the mean of those that agree with it:

$$\sigma = \mathrm{sign} \sum_t \lambda_t \hat\tau_t, \quad T = \{t : \mathrm{sign}(\lambda_t \hat\tau_t) = \sigma\},
  \quad \Delta W = \frac{1}{|T|} \sum_{t \in T} \lambda_t \hat\tau_t$$

DARE (Yu et al. 2023, arXiv:2311.03099) drops entries at random and divides the rest by their share p = `density`, so
that the expected change stays: $\hat\tau = m \odot \Delta W / p,\ m \sim \mathrm{Bernoulli}(p)$.

The sum of updates of rank r has rank 2r, and TIES and DARE have full rank. Back to a LoRA of rank r leads the truncated
singular value decomposition, the nearest matrix of that rank. Never through sums of factors, which have cross terms:

$$(B_1 + B_2)(A_1 + A_2) = B_1A_1 + B_2A_2 + B_1A_2 + B_2A_1$$

peft's `add_weighted_adapter` has both ways: "linear", "ties", "dare_linear" and "dare_ties" work on A and B and have
the cross terms; those that end in "_svd" work on $\Delta W$, as here. It elects the sign before it weighs, so that an
adapter of weight 0 still votes; here it does not. Where the weights are equal both give the same. Like peft we keep the
largest entries of each matrix; the paper takes those of all matrices together. And peft 0.21 hands `use_rslora` on to
the result, whose s becomes $\sqrt r$ instead of 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coursekit.errors import CourseError, number, one_of, whole
from coursekit.fingerprint import fingerprint
from coursekit.methods.lora import LoRA
from coursekit.methods.lora_starts import pissa
from coursekit.methods.mechanism.attachment import name_of, unmerged
from coursekit.methods.mechanism.branch import BranchMethod
from coursekit.methods.mechanism.merge import undone_after_an_error
from coursekit.methods.mechanism.modules import at, is_conv1d, unwrap
from coursekit.methods.ranking import largest


@dataclass(frozen=True)
class Update:
    r"""A change of the weights of one base.

    deltas: $\Delta W$ (out, in) in fp32 by the path of its layer. base: by path, the fingerprint of the frozen weight.
    """

    deltas: dict[str, Tensor]
    base: dict[str, str]


def adapter(model: nn.Module, name: str | None) -> tuple[str, Any]:
    r"""The name and the method of an adapter on `model`: `name`, or the active one."""
    state, name = unmerged(model), name_of(model, name)
    return name, state.methods[name]


@torch.no_grad()
def update_of(model: nn.Module, name: str | None = None) -> Update:
    r"""What the adapter `name` (the active one, if None) adds to the weights of `model`, which stays as it is.

    Exact up to fp32 for LoRA, DoRA and (IA)³, also beside a base in 16 or 4 bits. Raises CourseError for a method that
    does not fold, and for a change that is no matrix: a bias, a norm, a task head.
    """
    name, method = adapter(model, name)
    if heads := method.heads(model):
        raise CourseError(f"adapter {name!r} trains {heads[0]} whole, which no update of matrices holds")
    deltas, base = {}, {}
    for path, (W, changed) in _changed(model, method, name).items():
        if set(changed) != {"weight"} or W.dim() != 2:
            other = next((key for key in changed if key != "weight"), "a vector")
            raise CourseError(f"{type(method).__name__} changes {path} ({other}), and an update holds matrices alone")
        deltas[path] = (changed["weight"].double() - W.double()).float()
        base[path] = fingerprint({"W": W})
    return Update(deltas, base)


def _changed(model: nn.Module, method: Any, name: str) -> dict[str, tuple[Tensor, dict[str, Tensor]]]:
    r"""By path: the frozen weight (out, in), and what base and adapter are together. The sum is made in fp64."""
    found = {}
    if isinstance(method, BranchMethod):
        for path, layer in method.branches(model, name):
            b = getattr(layer.unwrapped, "bias", None)
            weight, bias = layer.branches[name].merged(layer.W.double(), b)
            found[path] = layer.W, {"weight": weight} | ({} if bias is b else {"bias": bias})
        return found
    for path, tensors in method._merged_weights(model, name).items():
        original = unwrap(at(model, path))
        if _turned(original) and "weight" in tensors:
            tensors = tensors | {"weight": tensors["weight"].t()}
        found[path] = frozen_weight(model, path), tensors
    return found


def _turned(layer: nn.Module) -> bool:
    return is_conv1d(layer) or isinstance(layer, nn.Embedding)


def frozen_weight(model: nn.Module, path: str) -> Tensor:
    r"""The base's weight at `path`, as $W$ (out, in) of $Wx$. Raises CourseError where `model` has none there."""
    try:
        layer = unwrap(at(model, path))
        return layer.weight.t() if _turned(layer) else layer.weight
    except AttributeError:
        raise CourseError(f"this model has no layer {path}, which the update changes: another base?") from None


# Together -------------------------------------------------------------------------------------------------------------


def as_they_are(
    deltas: Float[Tensor, "n out in"], density: float, random: torch.Generator
) -> Float[Tensor, "n out in"]:
    r"""All entries."""
    return deltas


def trimmed(deltas: Float[Tensor, "n out in"], density: float, random: torch.Generator) -> Float[Tensor, "n out in"]:
    r"""Of each change the share `density` of its entries that is largest, the others 0."""
    k = int(density * deltas[0].numel())
    return torch.stack([d * largest([d.abs()], k)[0] for d in deltas])


def dropped(deltas: Float[Tensor, "n out in"], density: float, random: torch.Generator) -> Float[Tensor, "n out in"]:
    r"""Of each change a share `density` of its entries at random, divided by it."""
    kept = [torch.bernoulli(torch.full_like(d, density, device="cpu"), generator=random) for d in deltas]
    return deltas * torch.stack(kept).to(deltas.device) / density


def added(weighted: Float[Tensor, "n out in"]) -> Float[Tensor, "out in"]:
    r"""The sum."""
    return weighted.sum(0)


def elected(weighted: Float[Tensor, "n out in"]) -> Float[Tensor, "out in"]:
    r"""The mean of those that have the sign of the sum; 0 is none of them."""
    agree = (weighted.sign() == weighted.sum(0).sign()) & (weighted != 0)
    return (weighted * agree).sum(0) / agree.sum(0).clamp(min=1)


#: What is kept of each change, and how the changes become one.
HOW: dict[str, tuple[Callable[..., Tensor], Callable[[Tensor], Tensor]]] = {
    "sum": (as_they_are, added),
    "ties": (trimmed, elected),
    "dare": (dropped, added),
    "dare_ties": (dropped, elected),
}


def combine(
    updates: Sequence[Update], weights: Sequence[float], how: str = "sum", density: float = 1.0, seed: int = 0
) -> Update:
    r"""One update from several of one base; their ranks may differ. A layer that one leaves alone changes by 0 there.

    how: "sum" (task arithmetic), "ties", "dare" or "dare_ties". density: the share of entries that is kept, for all but
    "sum". seed: of what DARE drops. Raises CourseError for updates of different bases.
    """
    one_of("how", how, HOW)
    density = number("density", density, above=0, most=1, such_as=0.2)
    if how == "sum" and density != 1:
        raise CourseError('density is for "ties", "dare" and "dare_ties"; how="sum" keeps all entries')
    if not updates or len(weights) != len(updates):
        raise CourseError(f"give one weight for each update: {len(updates)} updates, {len(weights)} weights")
    own = torch.tensor([float(number("weights", w)) for w in weights])
    base: dict[str, str] = {}
    for update in updates:
        for path, print_ in update.base.items():
            if base.setdefault(path, print_) != print_:
                raise CourseError(f"these updates are of different bases: {path} has another weight in each")
    keep, join = HOW[how]
    random, deltas = torch.Generator().manual_seed(whole("seed", seed)), {}
    for path in base:
        there = [update.deltas.get(path) for update in updates]
        shaped = next(d for d in there if d is not None)
        stack = torch.stack([torch.zeros_like(shaped) if d is None else d for d in there])
        deltas[path] = join(keep(stack, density, random) * own.to(stack)[:, None, None])
    return Update(deltas, base)


@torch.no_grad()
def to_lora(model: nn.Module, update: Update, r: int, name: str = "combined") -> dict[str, float]:
    r"""Attach to `model` the LoRA of rank r that is nearest to `update`, under `name`, with $s = 1$; make it active.

    Gives what is lost, $\lVert \Delta W - BA \rVert_F / \lVert \Delta W \rVert_F$ for each layer. Raises CourseError,
    and leaves the model as it was, for a rank above a matrix's, an update of another base or one that is not finite.
    """
    for path, delta in update.deltas.items():
        W = frozen_weight(model, path)
        if W.shape != delta.shape or fingerprint({"W": W}) != update.base[path]:
            raise CourseError(f"this update is of another base: the weight of {path} is not the one it changes")
        if not delta.isfinite().all():
            raise CourseError(f"the update of {path} holds NaN or infinity")
    lost = {}
    with undone_after_an_error(model, name):
        method = LoRA(r=r, alpha=r, targets=tuple(update.deltas))
        method.attach(model, name)
        for path, layer in method.branches(model, name):
            delta, branch = update.deltas[path], layer.branches[name]
            A, B = pissa(delta, r, 1.0)  # the truncated decomposition
            branch.A.copy_(A)
            branch.B.copy_(B)
            lost[path] = float((delta - B @ A).norm() / delta.norm().clamp(min=1e-30))
    return lost
