r"""(IA)³: Infused Adapter by Inhibiting and Amplifying Inner Activations (Liu et al. 2022, arXiv:2205.05638).

Three learned vectors in each block rescale what flows through it (section 3.3); they start at 1:

$$\operatorname{softmax}\Bigl(\frac{Q\,(l_k \odot K^\top)}{\sqrt{d_k}}\Bigr)(l_v \odot V), \qquad
\bigl(l_{ff} \odot \gamma(W_1 x)\bigr) W_2$$
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from coursekit import interop
from coursekit.errors import CourseError
from coursekit.methods.ia3_config import named, targets_in
from coursekit.methods.mechanism.anatomy import anatomy_of, in_attention, layers_of
from coursekit.methods.mechanism.branch import Branch, Branched, BranchMethod, like
from coursekit.methods.mechanism.modules import LINEAR, fan_in_fan_out, find
from coursekit.methods.mechanism.names import KEY_VALUE_DOWN, Names, checked_names, matched, matches, no_default


class ScaledOutputs(Branch):
    r"""$l_k$ or $l_v$: one factor for each output of a frozen linear layer. They start at 1.

    n: how many outputs at the end are scaled; those before (GPT-2's queries) are left alone.
    """

    def __init__(self, layer: IA3Layer, n: int | None = None):
        super().__init__()
        W = layer.W
        self.l = nn.Parameter(torch.ones(n or len(W), **like(W)))
        self.left = len(W) - len(self.l)

    def forward(self, y: Float[Tensor, "*batch out"], x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        r"""$h = l \odot (Wx + b)$."""
        return Rescale.apply(y, self.full)

    @property
    def full(self) -> Float[Tensor, " out"]:
        r"""l, with 1 for the outputs that are left alone."""
        return F.pad(self.l, (self.left, 0), value=1.0) if self.left else self.l

    compute = forward  # `Rescale` keeps the precision of y and needs no copy of x in another

    def merged(self, W: Float[Tensor, "out in"], b: Tensor | None) -> tuple[Tensor, Tensor | None]:
        r"""$l \odot (Wx + b) = (\operatorname{diag}(l) W) x + l \odot b$: rows of W, and b."""
        return (W * self.full[:, None]).to(W.dtype), None if b is None else (b * self.full).to(b.dtype)

    def tensors(self) -> dict[str, Tensor]:
        return {"ia3_l": self.full[:, None]}  # (out,) -> (out, 1)


class ScaledInputs(Branch):
    r"""$l_{ff}$: one factor for each input of a frozen linear layer, the hidden units of the feed-forward."""

    def __init__(self, layer: IA3Layer):
        super().__init__()
        W = layer.W
        self.l = nn.Parameter(torch.ones(W.shape[1], **like(W)))

    def before(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch in"]:
        r"""$l \odot x$, which the frozen layer then reads: $h = W(l \odot x) + b$."""
        return Rescale.apply(x, self.l)

    def forward(self, y: Float[Tensor, "*batch out"], x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        return y

    compute = forward

    def merged(self, W: Float[Tensor, "out in"], b: Tensor | None) -> tuple[Tensor, Tensor | None]:
        r"""$W(l \odot x) = (W \operatorname{diag}(l)) x$: columns of W."""
        return (W * self.l).to(W.dtype), b

    def tensors(self) -> dict[str, Tensor]:
        return {"ia3_l": self.l[None, :]}  # (in,) -> (1, in)


class Rescale(torch.autograd.Function):
    r"""$l \odot x$, every token times the same vector, with the backward pass written out.

    Plain autograd gives the same numbers. It takes a new tensor for $g \odot x$, which is only summed up, and another
    for $g \odot l$; here the second is written over the first.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Float[Tensor, "*batch width"], l: Float[Tensor, " width"]
    ) -> Float[Tensor, "*batch width"]:
        ctx.save_for_backward(x, l)
        return (x * l).to(x.dtype)  # an fp32 vector makes the product with a 16-bit x fp32

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Float[Tensor, "*batch width"]) -> tuple[Tensor | None, ...]:
        x, l = ctx.saved_tensors
        gx = g.to(l.dtype) * x
        dl = gx.sum(tuple(range(x.dim() - 1)))  # over all tokens: (*batch, width) -> (width,)
        dx = torch.mul(g, l, out=gx).to(x.dtype) if ctx.needs_input_grad[0] else None
        return dx, dl


def _keys_values(d_out: int, config: Any) -> int:
    r"""How many of the outputs of a fused layer, one width for each head, are keys and values."""
    heads = config.num_attention_heads
    both = 2 * (getattr(config, "num_key_value_heads", None) or heads)
    return d_out * both // (heads + both)


class IA3Layer(Branched):
    r"""A frozen layer with the (IA)³ vectors of all named adapters."""


@dataclass(frozen=True)
class IA3(BranchMethod):
    r"""(IA)³ on keys, values and the hidden units of the feed-forward, as in the paper, for every family.

    targets, feedforward: modules by peft's names instead, such as `targets=("q_proj", "v_proj", "down_proj"),
    feedforward=("down_proj",)`. Outputs are scaled, and inputs for those of the targets that `feedforward` repeats.
    A model whose family is not known needs both.

    Raises CourseError where the two do not fit together and, on attaching, for a target that names nothing.
    """

    targets: Names = None
    feedforward: Names = None
    kind: ClassVar[str] = "IA3"
    layer: ClassVar[type[Branched]] = IA3Layer

    def __post_init__(self) -> None:
        such_as = ("k_proj", "v_proj", "down_proj")
        object.__setattr__(self, "targets", checked_names(self.targets, such_as, words=()))
        inward = checked_names(self.feedforward, such_as[-1:], "feedforward", least=0, words=())
        object.__setattr__(self, "feedforward", inward)
        if (self.targets is None) != (self.feedforward is None):
            raise CourseError(
                "targets and feedforward belong together: targets names all modules, feedforward those of them whose "
                "inputs are scaled (() for none); leave both out for the paper's own"
            )
        strange = set(self.feedforward or ()) - set(self.targets or ())
        if strange:
            raise CourseError(f"feedforward names {min(strange)!r}, which is not among the targets: name it there, too")

    def count(self, config: Any) -> int:
        r"""$L(2 d_{kv} + d_{ff})$ as in the paper; for other targets one factor for each scaled output or input."""
        targets, inward = self.names(config)
        found = matched(layers_of(config, ("linear", "conv1d")), targets)
        fused = self._fused(config)
        return sum(
            m.d_in if named(path, inward) else (_keys_values(m.d_out, config) if fused else m.d_out)
            for path, m in found.items()
        )

    def vectors(self, model: nn.Module, name: str | None = None) -> dict[str, Tensor]:
        r"""The learned vector of each scaled module, by its path. GPT-2's c_attn has l_k, then l_v."""
        name = self._named(model, name)
        return {path: layer.branches[name].l for path, layer in self.branches(model, name)}

    def places(self, model: nn.Module) -> dict[str, nn.Module]:
        return find(model, self.names(model.config)[0], LINEAR)

    def branch(self, path: str, layer: Branched, config: Any) -> Branch:
        down = self.feedforward if self.targets is not None else (KEY_VALUE_DOWN[config.model_type].down,)
        if named(path, down) and (self.targets is not None or not in_attention(path)):
            return ScaledInputs(layer)
        return ScaledOutputs(layer, _keys_values(len(layer.W), config) if self._fused(config) else None)

    def touched(self, model: nn.Module) -> set[str]:
        inward, found = self.names(model.config)[1], super().touched(model)
        # The output's factor meets the bias as well, also one that another method would add.
        return found | {f"{path}.bias" for path in self.places(model) if not named(path, inward)}

    def names(self, config: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
        r"""Targets and feed-forward targets in the model that `config` describes, as peft takes them."""
        if self.targets is not None:
            return self.targets, self.feedforward  # type: ignore[return-value]  # tuples by now
        shapes, kind = anatomy_of(config), getattr(config, "model_type", None) or config.family
        if kind not in KEY_VALUE_DOWN:
            raise no_default(kind, (*shapes.attention, *shapes.feedforward), "targets and feedforward")
        outputs, down, _ = KEY_VALUE_DOWN[kind]
        inward: tuple[str, ...] = (down,)
        if any(matches(path, down) for path in shapes.attention):
            # BERT's "output.dense" is also the end of "attention.output.dense": name each block's own
            inward = tuple(path for path in shapes.feedforward if matches(path, down))
        return (*outputs, *inward), inward

    def _fused(self, config: Any) -> bool:
        r"""Whether the outputs are queries, keys and values side by side, and the queries are left alone."""
        return self.targets is None and KEY_VALUE_DOWN[config.model_type].fused

    # Checkpoints ----------------------------------------------------------------------------------------------------

    def _config(self, model: nn.Module) -> dict[str, Any]:
        targets, inward = self.names(model.config)
        return super()._config(model) | {
            "target_modules": list(targets),
            "feedforward_modules": list(inward),
            "fan_in_fan_out": fan_in_fan_out(self.places(model).values()),
            "init_ia3_weights": True,
        }

    def _load(self, model: nn.Module, name: str, tensors: dict[str, Tensor], folder: Any) -> None:
        interop.same_tensors(self._learned(model, name), tensors, folder)
        fused = {
            f"{path}.ia3_l": branch
            for path, layer in self.branches(model, name)
            if isinstance(branch := layer.branches[name], ScaledOutputs) and branch.left
        }
        if any(torch.any(tensors[key][: branch.left] != 1) for key, branch in fused.items()):
            outputs, down, _ = KEY_VALUE_DOWN[model.config.model_type]
            raise CourseError(
                f"the checkpoint in {folder} scales queries as well, which the paper's targets leave alone: load "
                f'it with IA3(targets=("{outputs[0]}", "{down}"), feedforward=("{down}",)), as peft has it, or with '
                "IA3.from_checkpoint(folder)"
            )
        super()._load(model, name, tensors, folder)
        with torch.no_grad():  # what a checkpoint has of these is a copy with ones before it
            for key, branch in fused.items():
                branch.l.copy_(tensors[key][branch.left :, 0])

    @classmethod
    def restored(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> IA3:
        interop.same_method(cls.kind, config)
        targets, inward, queries = targets_in(config, tensors)
        fused = [{*k.outputs, k.down} for k in KEY_VALUE_DOWN.values() if k.fused]
        if set(targets) in fused and queries is not None and bool((queries == 1).all()):
            return cls()  # fused, with the queries left alone: the paper's own
        return cls(targets=tuple(sorted(targets)), feedforward=tuple(sorted(inward)))
