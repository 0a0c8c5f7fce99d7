r"""Where in a block an adapter sits, for each family, without rewriting a block's forward.

A block adds what a sublayer answers, h, to what went into the sublayer, the residual res. A `Site` changes h just
before that addition: a hook on the module that answers h returns h + A(...) in its place. Where A reads the
residual too, a second hook, on the first module of the feed-forward, has kept it.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from coursekit.architecture import Architecture, describe
from coursekit.errors import CourseError
from coursekit.methods.mechanism.attachment import Attachment, beside, wrap
from coursekit.methods.mechanism.modules import around, at, body_prefix, standing
from coursekit.methods.mechanism.switch import Switch, Switched, bare

if TYPE_CHECKING:
    from coursekit.methods.adapters.bottleneck import Adapter


@dataclass(frozen=True)
class Places:
    r"""Paths inside a block."""

    attention: str  # answers the attention's h, dropped out where dropout is a module
    ffn: str  # the same for the feed-forward
    ffn_input: str  # its input is the residual of the feed-forward
    ffn_norm: str | None = None  # where norms come after the addition: what normalises h + res


_BERT = Places("attention.output.dropout", "output.dropout", "intermediate", "output.LayerNorm")
_PLACES = {
    "bert": _BERT,
    "roberta": _BERT,
    "gpt2": Places("attn", "mlp", "ln_2"),
    "opt": Places("self_attn", "fc2", "final_layer_norm"),
    "llama": Places("self_attn", "mlp", "post_attention_layernorm"),
}
#: OPT-350M (do_layer_norm_before=False) normalises after the addition, like BERT.
_OPT_POST_NORM = Places("self_attn", "fc2", "fc1", "final_layer_norm")


def places(arch: Architecture) -> Places:
    r"""The places in a block of this architecture."""
    return _OPT_POST_NORM if arch.family == "opt" and not arch.pre_norm else _PLACES[arch.family]


@dataclass
class Pass:
    r"""What all sites of a model need to know of the forward pass under way."""

    skipped: int = 0  # so many first blocks are passed over
    held: int | None = None  # the same, set from outside: nothing is sampled then
    batch: int = 0  # rows; OPT's feed-forward sees (batch * seq, d) and cannot tell
    sampled: dict[str, int] = field(default_factory=dict)  # adapter name -> most blocks that training skips


class PassStart(Switched):
    r"""Notes, when a forward pass reaches the first block, what the sites will ask for."""

    def __init__(self, switch: Switch):
        super().__init__(None, switch)
        self.now = Pass()

    def begin(self, block: nn.Module, args: tuple[Any, ...]) -> None:
        r"""Hook before the first block. It stands outside the checkpoint: recomputation sees the same numbers."""
        now = self.now
        now.batch = len(args[0])
        if now.held is not None:
            now.skipped = now.held
        elif block.training and (most := now.sampled.get(self.switch.active)) is not None:
            now.skipped = int(torch.randint(most + 1, ()))  # from torch's CPU generator: no wait for a GPU
        else:
            now.skipped = 0

    def forget(self, name: str) -> None:
        self.now.sampled.pop(name, None)


class Site(Switched, ABC):
    r"""One place in one block, with the bottlenecks of all named adapters that sit there."""

    #: Whether `reads` looks at the residual.
    needs_residual: ClassVar[bool] = False

    def __init__(self, block: nn.Module, number: int, where: Places, now: Pass, switch: Switch):
        super().__init__(None, switch)
        self.adapters = nn.ModuleDict()
        self.number, self.where, self.now = number, where, now
        self.block = (block,)  # in a tuple: as an attribute the block would be part of its own part
        self.res: Tensor | None = None

    @staticmethod
    @abstractmethod
    def answers(where: Places) -> str:
        r"""Path, in the block, of the module whose answer h is changed; "" is the block itself."""

    def reads(self, h: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        r"""What A reads: h, unless a subclass says otherwise. `self.res` is the residual if it needs it."""
        return h

    def hooks(self) -> Iterator[Any]:
        r"""Register the hooks that make the place work."""
        block = self.block[0]
        if self.needs_residual:
            yield block.get_submodule(self.where.ffn_input).register_forward_pre_hook(self.keep)
        # Before all other hooks there: transformers records hidden states by hooks, and is to see the changed ones.
        yield block.get_submodule(self.answers(self.where)).register_forward_hook(self.change, prepend=True)

    def keep(self, _module: nn.Module, args: tuple[Tensor, ...]) -> None:
        r"""Hook: keep the residual until h comes."""
        self.res = args[0] if self.speaks else None

    def change(self, _module: nn.Module, _args: Any, answer: Any) -> Any:
        r"""Hook: h + A(...) instead of h. An attention answers a tuple, (h, attention weights)."""
        return (self(answer[0]), *answer[1:]) if isinstance(answer, tuple) else self(answer)

    @property
    def speaks(self) -> bool:
        r"""Whether an adapter of this place may have something to add just now."""
        if self.number < self.now.skipped:
            return False
        return self.switch.active in self.adapters if self.switch.rows is None else True

    def forward(self, h: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        if not self.speaks:
            return h
        x, self.res = self.reads(h), None
        if self.switch.rows is None:
            return self.added(h, x, self.switch.active)
        by_row, x = in_rows(h, self.now), in_rows(x, self.now)
        y = by_row
        for name, index in self.switch.parts(by_row):
            if name in self.adapters:
                y = y.index_copy(0, index, self.added(by_row[index], x[index], name, index))
        return y.view(h.shape)

    def added(
        self,
        h: Float[Tensor, "*batch d"],
        x: Float[Tensor, "*batch d"],
        name: str,
        rows: Int[Tensor, " some"] | None = None,
    ) -> Float[Tensor, "*batch d"]:
        r"""$A(x) + h$, computed in the precision of A. rows: which of the batch these are, None where they are all."""
        A = self.adapters[name]
        return (A(x.to(A.up.bias.dtype)) + h).to(h.dtype)


class SwitchedNorm(Switched):
    r"""A norm that trains: the original, and a copy for each adapter that asked for one."""

    def __init__(self, norm: nn.Module, switch: Switch, number: int, now: Pass):
        super().__init__(norm, switch)
        self.norms = nn.ModuleDict()
        self.number, self.now = number, now

    @property
    def weight(self) -> nn.Parameter:
        r"""The frozen weight, for code that looks at `norm.weight`."""
        return self.bare.weight

    def add(self, name: str) -> list[nn.Parameter]:
        r"""A copy for adapter `name`, in fp32 on a 16-bit base: near 1, bf16 moves in steps of 1/128."""
        norm = copy.deepcopy(self.bare)
        self.norms[name] = norm if norm.weight.dtype == torch.float64 else norm.float()
        return list(self.norms[name].parameters())

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        if self.number < self.now.skipped:
            return self.base_layer(x)
        if self.switch.rows is None:
            name = self.switch.active
            return self.normalised(x, name) if name in self.norms else self.base_layer(x)
        by_row = in_rows(x, self.now)
        y = self.base_layer(by_row)
        for name, index in self.switch.parts(by_row):
            if name in self.norms:
                y = y.index_copy(0, index, self.normalised(by_row[index], name))
        return y.view(x.shape)

    def normalised(self, x: Float[Tensor, "*batch d"], name: str) -> Float[Tensor, "*batch d"]:
        r"""What the copy of adapter `name` answers, in x's precision."""
        norm = self.norms[name]
        # LayerNorm wants all of its inputs in one precision. An RMSNorm of transformers rounds to x's before it
        # multiplies by the weight, so it gets x as it is.
        return norm(x.to(norm.weight.dtype) if isinstance(norm, nn.LayerNorm) else x).to(x.dtype)


def in_rows(x: Tensor, now: Pass) -> Tensor:
    r"""`x` with the rows of the batch first: (batch * seq, d), as in OPT's feed-forward, becomes (batch, seq, d)."""
    return x.view(now.batch, -1, x.shape[-1]) if x.dim() == 2 else x


# Finding and filling the places -------------------------------------------------------------------------------------


def blocks(model: nn.Module) -> dict[str, nn.Module]:
    r"""The blocks of `model` by path, from the bottom up."""
    arch = describe(model.config)
    path = body_prefix(model) + arch.block
    return {f"{path}.{i}": block for i, block in enumerate(model.get_submodule(path))}


def sites(model: nn.Module) -> dict[str, Site]:
    r"""All places with adapters, by path, in the order of the blocks."""
    return {path: module for path, module in model.named_modules() if isinstance(module, Site)}


def check(method: Adapter, model: nn.Module) -> None:
    r"""Raise CourseError where `model` has not what `method` needs."""
    norms = [bare(at(model, path)) for path, _ in norm_paths(model, 0)]  # an unknown family is an error here
    if method.train_norms and any(norm.weight is None for norm in norms):
        raise CourseError("the norms of this model have no weights that could train: take train_norms=False")


def norm_paths(model: nn.Module, first: int) -> list[tuple[str, int]]:
    r"""Path of each norm that trains with the blocks from `first` on, and the number of its block.

    A norm outside the blocks counts as the last of all, which is never passed over. The embeddings' (BERT) is left
    out where the first block is, so that the backward pass need not go down there.
    """
    arch, prefix = describe(model.config), body_prefix(model)
    inside = [
        (f"{path}.{norm}", number)
        for number, path in enumerate(blocks(model))
        for norm in arch.norms
        if number >= first
    ]
    with_outer = first < arch.n_layers if arch.pre_norm else first == 0
    return inside + [(prefix + norm, arch.n_layers) for norm in arch.outer_norms if with_outer]


def insert(method: Adapter, model: nn.Module, state: Attachment, name: str, first: int) -> list[nn.Parameter]:
    r"""Put bottlenecks of `method` named `name` into the blocks from number `first` on; give their parameters."""
    arch = describe(model.config)
    where, now, trained = places(arch), start(model, state).now, []
    if method.train_norms:
        for path, number in norm_paths(model, first):
            trained += _switched_norm(model, state, path, number, now).add(name)
    for number, (path, block) in enumerate(blocks(model).items()):
        if number < first:
            continue
        weight = next(block.parameters())
        dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
        for key, kind in method.sites.items():
            here = f"{path}.{key}"
            if here not in state.added:
                if kind.needs_residual and where.ffn_input in arch.norms:
                    # The hook goes on a wrapper, for the norm may be replaced when a later adapter trains it.
                    _switched_norm(model, state, f"{path}.{where.ffn_input}", number, now)
                site = beside(model, state, here, kind(block, number, where, now, state.switch))
                state.hooks += site.hooks()
            site = model.get_submodule(here)
            site.adapters[name] = method.bottleneck(arch.d_model, weight.device, dtype)
            trained += site.adapters[name].parameters()
    return trained


def start(model: nn.Module, state: Attachment) -> PassStart:
    r"""The module that notes the start of each forward pass of `model`."""
    path = f"{body_prefix(model)}adapter_pass"
    if path not in state.added:
        module = beside(model, state, path, PassStart(state.switch))
        state.hooks.append(next(iter(blocks(model).values())).register_forward_pre_hook(module.begin))
    return model.get_submodule(path)


def norm_tensors(model: nn.Module, name: str) -> dict[str, Tensor]:
    r"""The norms that adapter `name` has trained, by the paths that the model's own have."""
    return {
        f"{path}.{key}": value
        for path, module in standing(model)
        if isinstance(module, SwitchedNorm) and name in module.norms
        for key, value in module.norms[name].named_parameters()
    }


def _switched_norm(model: nn.Module, state: Attachment, path: str, number: int, now: Pass) -> SwitchedNorm:
    there = around(model, path, SwitchedNorm)
    return wrap(model, state, path, SwitchedNorm, number, now) if there is None else there
