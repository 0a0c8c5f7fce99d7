r"""Norms that train beside the bottlenecks, as in Houlsby et al. (section 2.1): each adapter has its own copies.

$$\mathrm{LN}(x) = \gamma \odot \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta,
\quad \gamma, \beta \in \mathbb{R}^d \text{ of the active adapter}$$
"""

from __future__ import annotations

import copy

from jaxtyping import Float
from torch import Tensor, nn

from coursekit import counts
from coursekit.architecture import describe
from coursekit.methods.adapters.passes import Pass
from coursekit.methods.mechanism.attachment import Attachment, by_rows, wrap
from coursekit.methods.mechanism.branch import adapter_dtype
from coursekit.methods.mechanism.modules import (
    AdapterState,
    AdapterWrapper,
    body_prefix,
    find_wrapper,
    named_base_modules,
)


class AdapterNorm(AdapterWrapper):
    r"""A norm that trains: the original, and a copy for each adapter that asked for one."""

    def __init__(self, norm: nn.Module, switch: AdapterState, number: int, now: Pass):
        super().__init__(norm, switch)
        self.norms = nn.ModuleDict()
        self.number, self.now = number, now

    def add(self, name: str) -> list[nn.Parameter]:
        r"""A copy for adapter `name`, in fp32 on a 16-bit base: near 1, bf16 moves in steps of 1/128."""
        norm = copy.deepcopy(self.unwrapped)
        self.norms[name] = norm.to(adapter_dtype(norm.weight.dtype))
        return list(self.norms[name].parameters())

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        return self.base_layer(x) if self.number < self.now.skipped else by_rows(self.switch, self.normalised, x)

    def normalised(self, name: str | None, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        r"""The output of adapter `name`'s copy, or of the original where it has none, in x's precision."""
        if name not in self.norms:
            return self.base_layer(x)
        norm = self.norms[name]
        # LayerNorm wants all of its inputs in one precision. An RMSNorm of transformers rounds to x's before it
        # multiplies by the weight, so it gets x as it is.
        return norm(x.to(norm.weight.dtype) if isinstance(norm, nn.LayerNorm) else x).to(x.dtype)


def norm_paths(model: nn.Module, first: int) -> list[tuple[str, int]]:
    r"""Path of each norm that trains with the blocks from `first` on, and the number of its block.

    A norm outside the blocks counts as the last of all, which is never skipped. The embeddings' (BERT) is left out
    where the first block is, so that the backward pass need not go down there.
    """
    arch, prefix = describe(model.config), body_prefix(model)
    return [
        (prefix + norm.name, arch.n_layers)
        if layer is None
        else (f"{prefix}{arch.block_path(layer)}.{norm.name}", layer)
        for norm, layer in counts.norms_from(arch, first)
        if norm.of_tokens
    ]


def add_norms(model: nn.Module, state: Attachment, name: str, first: int, now: Pass) -> list[nn.Parameter]:
    r"""A copy of each norm for adapter `name`, with the blocks from `first` on; gives the trainable parameters."""
    trained = []
    for path, number in norm_paths(model, first):
        norm = find_wrapper(model, path, AdapterNorm) or wrap(model, state, path, AdapterNorm, number, now)
        trained += norm.add(name)
    return trained


def norm_tensors(model: nn.Module, name: str) -> dict[str, Tensor]:
    r"""The norms that adapter `name` has trained, by the paths that the model's own have."""
    return {
        f"{path}.{key}": value
        for path, module in named_base_modules(model)
        if isinstance(module, AdapterNorm) and name in module.norms
        for key, value in module.norms[name].named_parameters()
    }
