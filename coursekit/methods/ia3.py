r"""(IA)³: Infused Adapter by Inhibiting and Amplifying Inner Activations (Liu et al. 2022, arXiv:2205.05638).

Three learned vectors in each block rescale what flows through it (section 3.3); they start at 1:

$$\operatorname{softmax}\Bigl(\frac{Q\,(l_k \odot K^\top)}{\sqrt{d_k}}\Bigr)(l_v \odot V), \qquad
\bigl(l_{ff} \odot \gamma(W_1 x)\bigr) W_2$$
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.pytorch_utils import Conv1D

from coursekit import counts, interop
from coursekit.architecture import Architecture, describe
from coursekit.errors import CourseError
from coursekit.methods.mechanism.attachment import Attachment, wrap
from coursekit.methods.mechanism.method import Method
from coursekit.methods.mechanism.modules import find, is_conv1d, matches, no_match, standing
from coursekit.methods.mechanism.switch import Switch, Switched

#: Keys and values, then the second feed-forward matrix, under each family's names. peft's own defaults are others
#: for some: queries instead of values for OPT, queries instead of keys for Qwen2, queries as well for GPT-2.
PAPER_TARGETS = {
    "bert": ("key", "value", "output.dense"),
    "roberta": ("key", "value", "output.dense"),
    "gpt2": (
        "c_attn",
        "mlp.c_proj",
    ),  # query, key and value are one matrix here; its query third is left alone
    "opt": ("k_proj", "v_proj", "fc2"),
    "llama": ("k_proj", "v_proj", "down_proj"),
}


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
    def backward(ctx: Any, g: Float[Tensor, "*batch width"]):
        x, l = ctx.saved_tensors
        gx = g.to(l.dtype) * x
        dl = gx.sum(tuple(range(x.dim() - 1)))  # over all tokens: (*batch, width) -> (width,)
        dx = torch.mul(g, l, out=gx).to(x.dtype) if ctx.needs_input_grad[0] else None
        return dx, dl


class IA3Layer(Switched):
    r"""A frozen linear layer with a factor for each of its outputs, or for each of its inputs."""

    def __init__(self, layer: nn.Module, switch: Switch):
        super().__init__(layer, switch)
        self.outgoing = nn.ParameterDict()  # l_k, l_v, by adapter name
        self.ingoing = nn.ParameterDict()  # l_ff

    @property
    def weight(self) -> nn.Parameter:
        r"""The frozen weight, for code that looks at `layer.weight`."""
        return self.bare.weight

    @property
    def widths(self) -> tuple[int, int]:
        r"""(in, out)."""
        layer = self.bare
        return (layer.nx, layer.nf) if isinstance(layer, Conv1D) else (layer.in_features, layer.out_features)

    def add(self, name: str, feedforward: bool, only_last: int | None) -> list[nn.Parameter]:
        r"""A vector of ones for adapter `name`, for the inputs of a `feedforward` layer, else for the outputs.

        only_last: scale so many outputs at the end (keys and values of GPT-2) and leave those before alone.
        """
        weight, (d_in, d_out) = self.weight, self.widths
        # A 16-bit base gets fp32 vectors: the bf16 number next to 1 is 0.004 away, a step of training less.
        dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
        n = d_in if feedforward else only_last or d_out
        store = self.ingoing if feedforward else self.outgoing
        store[name] = nn.Parameter(torch.ones(n, device=weight.device, dtype=dtype))
        return [store[name]]

    def forward(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        r"""$l \odot (Wx + b)$ with the vector of the active adapter, or $W(l \odot x) + b$."""
        return self.scaled(self.base_layer(self.scaled(x, self.ingoing)), self.outgoing)

    def scaled(
        self, x: Float[Tensor, "*batch width"], store: nn.ParameterDict
    ) -> Float[Tensor, "*batch width"]:
        r"""$l \odot x$ for every token of `x`, or `x` itself where no vector of `store` is asked for."""
        if self.switch.rows is not None:
            return self.scaled_by_row(x, store) if len(store) else x
        name = self.switch.active
        return Rescale.apply(x, full(store[name], x.shape[-1])) if name in store else x

    def scaled_by_row(
        self, x: Float[Tensor, "*batch width"], store: nn.ParameterDict
    ) -> Float[Tensor, "*batch width"]:
        r"""Each row of a mixed batch times the vector of its own adapter, or 1 where it has none."""
        width, rows = x.shape[-1], sum(map(len, self.switch.rows.values()))
        if x.dim() == 2 and len(x) % rows == 0:  # OPT's feed-forward gets all tokens in one dimension
            x_rows = x.view(rows, -1, width)  # (batch * seq, width) -> (batch, seq, width)
        else:
            x_rows = x
        l = torch.ones(rows, width, device=x.device, dtype=next(iter(store.values())).dtype)
        for name, index in self.switch.parts(x_rows):
            if name in store:
                l = l.index_copy(0, index, full(store[name], width).expand(len(index), width))
        return (x_rows * l[:, None]).to(x.dtype).reshape(x.shape)

    def folded(self, name: str) -> dict[str, Tensor]:
        r"""Weight, and bias where it changes, of the one linear layer that does the same as adapter `name`."""
        W, conv1d = self.weight, isinstance(self.bare, Conv1D)
        d_in, d_out = self.widths
        if name in self.ingoing:
            l = self.ingoing[name]  # W (l ⊙ x) = (W diag(l)) x: columns of W
            return {"weight": (W * (l[:, None] if conv1d else l)).to(W.dtype)}
        l = full(self.outgoing[name], d_out)  # l ⊙ (W x + b) = (diag(l) W) x + l ⊙ b: rows of W, and b
        new = {"weight": (W * (l if conv1d else l[:, None])).to(W.dtype)}
        if (b := self.bare.bias) is not None:
            new["bias"] = (b * l).to(b.dtype)
        return new

    def vector(self, name: str) -> Tensor | None:
        r"""The vector of adapter `name`, None where it has none here."""
        return next((store[name] for store in (self.outgoing, self.ingoing) if name in store), None)


def full(l: Float[Tensor, " n"], width: int) -> Float[Tensor, " width"]:
    r"""`l` for the last n of `width` numbers, 1 for those before."""
    return l if len(l) == width else F.pad(l, (width - len(l), 0), value=1.0)


@dataclass(frozen=True)
class IA3(Method):
    r"""(IA)³ on keys, values and the hidden units of the feed-forward, as in the paper, for every family.

    targets, feedforward: modules by peft's names instead, such as `targets=("q_proj", "v_proj", "down_proj"),
    feedforward=("down_proj",)`. Outputs are scaled, and inputs for those of the targets that `feedforward` repeats.

    Raises CourseError where the two do not fit together and, on attaching, for a target that names nothing.
    """

    targets: tuple[str, ...] | str | None = None
    feedforward: tuple[str, ...] | str | None = None
    kind: ClassVar[str] = "IA3"

    def __post_init__(self) -> None:
        for field in ("targets", "feedforward"):
            value = getattr(self, field)
            if isinstance(value, str):
                value = (value,)
            if value is not None and not (
                isinstance(value, (tuple, list, set)) and all(isinstance(name, str) for name in value)
            ):
                raise CourseError(f'{field}={value!r}: give names of modules, such as ("k_proj", "v_proj")')
            object.__setattr__(self, field, None if value is None else tuple(value))
        if self.targets == ():
            raise CourseError(
                'targets is empty: name at least one module, such as ("k_proj", "v_proj", "down_proj"), or leave it '
                "out for the paper's own"
            )
        if (self.targets is None) != (self.feedforward is None):
            raise CourseError(
                "targets and feedforward belong together: targets names all modules, feedforward those of them whose "
                "inputs are scaled (() for none); leave both out for the paper's own"
            )
        strange = set(self.feedforward or ()) - set(self.targets or ())
        if strange:
            raise CourseError(
                f"feedforward names {min(strange)!r}, which is not among the targets: name it there, too"
            )

    def count(self, config: Any) -> int:
        r"""$L(2 d_{kv} + d_{ff})$ as in the paper; for other targets one factor for each scaled output or input."""
        shapes = describe(config)
        if self.targets is None:
            return counts.ia3(shapes)
        sizes, paths = 0, {f"{shapes.prefix}.{path}": m for path, m in _linear_paths(shapes)}
        for target in self.targets:
            if not any(matches(path, target) for path in paths):
                raise no_match(target, paths)
        for path, matrix in paths.items():
            if any(matches(path, t) for t in self.targets):
                sizes += matrix.d_in if self._is_feedforward(path, self.feedforward) else matrix.d_out
        return sizes

    def vectors(self, model: nn.Module, name: str | None = None) -> dict[str, Tensor]:
        r"""What was learned: the vector of each scaled module, by its path. GPT-2's c_attn has l_k, then l_v."""
        name = self._named(model, name)
        return {path: layer.vector(name) for path, layer in _layers(model, name).items()}

    def _merged_weights(self, model: nn.Module, name: str) -> dict[str, dict[str, Tensor]]:
        r"""Every vector folds into the weight beside it: rows and bias for keys and values, columns for l_ff."""
        return {path: layer.folded(name) for path, layer in _layers(model, name).items()}

    def touched(self, model: nn.Module) -> set[str]:
        inward, found = self._names(describe(model.config))[1], set()
        for path in self._modules(model):
            # The output's factor meets the bias as well, also one that another method would add.
            outward = not self._is_feedforward(path, inward)
            found |= {f"{path}.weight"} | ({f"{path}.bias"} if outward else set())
        return found

    def _names(self, shapes: Architecture) -> tuple[tuple[str, ...], tuple[str, ...]]:
        r"""Targets and feed-forward targets in the model of `shapes`, so that peft takes them as they are."""
        if self.targets is not None:
            return self.targets, self.feedforward
        *keys_values, down = PAPER_TARGETS[shapes.family]
        same_name = {m.name for path, m in _linear_paths(shapes) if matches(path, down)}
        if len(same_name) == 1:
            feedforward: tuple[str, ...] = (down,)
        else:  # BERT's "output.dense" is also the end of "attention.output.dense": name each block's own
            feedforward = tuple(f"{shapes.block}.{i}.{down}" for i in range(shapes.n_layers))
        return (*keys_values, *feedforward), feedforward

    @staticmethod
    def _is_feedforward(path: str, feedforward: tuple[str, ...]) -> bool:
        return any(matches(path, t) for t in feedforward)

    def _modules(self, model: nn.Module) -> dict[str, nn.Module]:
        # A layer that already carries another adapter is one module to the targets, not a wrapper with parts.
        return find(model, self._names(describe(model.config))[0], (nn.Linear, Conv1D, IA3Layer))

    def _check(self, model: nn.Module) -> None:
        self._modules(model)

    def _insert(self, model: nn.Module, state: Attachment, name: str) -> list[nn.Parameter]:
        shapes, trained = describe(model.config), []
        feedforward = self._names(shapes)[1]
        for path, module in self._modules(model).items():
            if not isinstance(module, IA3Layer):
                module = wrap(model, state, path, IA3Layer)
            fused = self.targets is None and shapes.family == "gpt2" and matches(path, "c_attn")
            trained += module.add(
                name, self._is_feedforward(path, feedforward), 2 * shapes.d_kv if fused else None
            )
        return trained

    def _tensors(self, model: nn.Module, name: str) -> dict[str, Tensor]:
        tensors = {}
        for path, layer in _layers(model, name).items():
            if name in layer.ingoing:
                tensors[f"{path}.ia3_l"] = layer.ingoing[name][None, :]  # (in,) -> (1, in)
            else:
                l = full(layer.outgoing[name], layer.widths[1])
                tensors[f"{path}.ia3_l"] = l[:, None]  # (out,) -> (out, 1)
        return tensors

    def _load(self, model: nn.Module, name: str, tensors: dict[str, Tensor], folder: Any) -> None:
        interop.same_tensors(self._learned(model, name), tensors, folder)
        fused = {path: layer for path, layer in _layers(model, name).items() if _untrained(layer, name)}
        for path, layer in fused.items():
            if not torch.all(tensors[f"{path}.ia3_l"][: _untrained(layer, name)] == 1):
                raise CourseError(
                    f"the checkpoint in {folder} scales queries as well, which the paper's targets leave alone: load "
                    'it with IA3(targets=("c_attn", "mlp.c_proj"), feedforward=("mlp.c_proj",)), peft\'s default for '
                    "GPT-2, or with IA3.from_checkpoint(folder)"
                )
        super()._load(model, name, tensors, folder)
        with torch.no_grad():
            for path, layer in fused.items():
                layer.outgoing[name].copy_(tensors[f"{path}.ia3_l"][_untrained(layer, name) :, 0])

    def _config(self, model: nn.Module) -> dict[str, Any]:
        targets, feedforward = self._names(describe(model.config))
        return interop.common_config(model, self.kind) | {
            "target_modules": list(targets),
            "feedforward_modules": list(feedforward),
            "fan_in_fan_out": any(is_conv1d(layer.bare) for layer in _layers(model).values()),
            "init_ia3_weights": True,
        }

    @classmethod
    def from_checkpoint(cls, folder: Any) -> IA3:
        r"""The method that fits a checkpoint, ours or peft's, whatever way its config has to name the targets.

        A checkpoint of a fused attention (GPT-2) whose query factors are all 1 is the paper's own.
        """
        config, tensors = interop.read(folder)
        interop.same_method(cls.kind, config)
        found = {k.removesuffix(".ia3_l"): t for k, t in tensors.items() if k.endswith(".ia3_l")}
        inward = {path for path, t in found.items() if len(t) == 1}
        targets, feedforward = config["target_modules"], config.get("feedforward_modules")
        by_name = (
            _explains(targets, found) and _explains(feedforward, inward) and set(feedforward) <= set(targets)
        )
        if not by_name or config.get("exclude_modules"):
            # A pattern, or names with exceptions: each module by its path.
            targets, feedforward = found, inward
        fused = [t for path, t in found.items() if matches(path, "c_attn") and path not in inward]
        queries = [t[: len(t) // 3] for t in fused]
        if fused and set(targets) == set(PAPER_TARGETS["gpt2"]) and all(torch.all(q == 1) for q in queries):
            return cls()
        return cls(targets=tuple(sorted(targets)), feedforward=tuple(sorted(feedforward)))


def _explains(names: Any, paths: Any) -> bool:
    r"""Whether the list `names` names each of `paths` and each of the names is used."""
    return (
        isinstance(names, list)
        and all(any(matches(path, name) for name in names) for path in paths)
        and all(any(matches(path, name) for path in paths) for name in names)
    )


def _linear_paths(shapes: Architecture) -> Iterator[tuple[str, Any]]:
    r"""Every linear map of the body with its path, block by block."""
    for matrix in shapes.matrices:
        if matrix.kind != "embedding":
            for layer in range(shapes.copies(matrix)):
                yield shapes.path(matrix, layer), matrix


def _layers(model: nn.Module, name: str | None = None) -> dict[str, IA3Layer]:
    r"""The scaled layers by path; those of adapter `name` alone where one is given."""
    found = {path: module for path, module in standing(model) if isinstance(module, IA3Layer)}
    return {p: m for p, m in found.items() if name is None or m.vector(name) is not None}


def _untrained(layer: IA3Layer, name: str) -> int:
    r"""How many outputs before the scaled ones are left alone: GPT-2's queries."""
    return layer.widths[1] - len(layer.outgoing[name]) if name in layer.outgoing else 0
