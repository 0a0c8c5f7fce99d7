r"""Freeze and Reconfigure (FAR; Vucetic et al. 2022, arXiv:2205.01541): train only the nodes that priming moves most.

A node of a linear layer is one of its outputs: a row of W and an entry of b. The nodes of the feed-forward layers that
a short fine-tuning moved most (`prime`) are learners, the others are frozen, and each layer is split into one
sub-layer of each kind:

$$y = P \begin{pmatrix} W_t x + b_t \\ W_f x + b_f \end{pmatrix}$$

$P$ puts the outputs back in their old order. The frozen sub-layer keeps no gradient and no optimizer state.

Priming, a short full fine-tuning of a copy, shows how far each node wants to move:

$$\Delta_i = \lVert W^{primed}_{i,:} - W_{i,:} \rVert_1, \quad i = 1, \dots, d_{out}$$
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coursekit import interop
from coursekit.architecture import Architecture, Matrix, describe
from coursekit.errors import CourseError, keep, number
from coursekit.methods.mechanism.attachment import attached
from coursekit.methods.mechanism.checkpoint import Setting
from coursekit.methods.mechanism.merge import detach
from coursekit.methods.mechanism.modules import at, body_prefix, in_codes, unwrap
from coursekit.methods.ranking import largest
from coursekit.methods.selective.part_layer import PartMethod, Parts
from coursekit.methods.selective.parts import Entries, transposed
from coursekit.methods.selective.rows import Rows


@dataclass(frozen=True)
class Priming:
    r"""How far a short training moved each node of the feed-forward layers.

    changes: path of the layer -> L1 norm of the change of each of its rows, (out,). In the model's order.
    """

    changes: dict[str, Float[Tensor, " out"]]

    def learners(self, share: float) -> tuple[tuple[int, ...], ...]:
        r"""For each layer the indices, rising, of so large a `share` of its nodes: those that moved most."""
        return tuple(
            tuple(largest([change], learners(share, len(change)))[0].nonzero().flatten().tolist())
            for change in self.changes.values()
        )


def learners(share: float, nodes: int) -> int:
    r"""How many of so many `nodes` learn."""
    return max(1, round(share * nodes))


def prime(model: nn.Module, paths: Sequence[str], train: Callable[[nn.Module], Any]) -> Priming:
    r"""`train` a copy of the bare `model`, all of it, and see how far each node of the layers at `paths` moved.

    Raises CourseError where nothing moved, or where a weight is not finite afterwards.
    """
    twin = copy.deepcopy(model)
    if attached(twin):
        detach(twin)
    twin.requires_grad_(True).train()
    if any(in_codes(twin.get_submodule(path)) for path in paths):
        raise CourseError(
            "weights in 4 bits do not move in priming: prime the model as it was before it was quantized, and "
            "attach(quantized, priming=priming)"
        )
    before = [twin.get_submodule(path).weight.detach().clone() for path in paths]
    train(twin)
    device, changes = next(model.parameters()).device, {}
    for path, old in zip(paths, before, strict=True):
        module = twin.get_submodule(path)
        # In fp32: a sum of 3,072 numbers in bf16 would stop growing.
        moved = (module.weight.detach().float() - old.float()).abs()  # (out, in), or (in, out) as stored
        changes[path] = moved.sum(0 if transposed(module) else 1).to(device)
    if not all(change.isfinite().all() for change in changes.values()):
        raise CourseError("priming has diverged, some weights are not finite: take a lower learning rate")
    if not any(change.any() for change in changes.values()):
        raise CourseError(
            "priming has moved no feed-forward weight: train the model that the function is given, for a few steps"
        )
    return Priming(changes)


@dataclass(frozen=True)
class FreezeAndReconfigure(PartMethod):
    r"""FAR: a share of the nodes of every feed-forward layer trains, weights and biases.

    learners: the share, from above 0 to 1. The nodes are ranked within each layer: rows of different length have no
    L1 norms that could be compared. nodes: the indices of the learners of each layer, in the model's order, instead
    of what `attach(model, priming=...)` chooses; a single tuple of them is for every layer, such as ((0, 5),).

    The learners are written into a copy of the frozen matrix, which multiplies once: at the start the outputs are the
    dense layer's to the bit on every device, as those of two products that are put together would not be.

    All else is frozen here, attention, norms and embeddings. To train them as well, make it a part of a `Hybrid`.
    Raises CourseError for a share that is none and, on attaching, where nobody has said which nodes are to learn.
    """

    learners: float = 0.4
    nodes: tuple[tuple[int, ...], ...] | None = field(default=None, repr=False)
    kind: ClassVar[str] = "FREEZE_AND_RECONFIGURE"
    entries = (Setting("learners", binding=False), Setting("nodes", binding=False, read=lambda nodes: _as_nodes(nodes)))

    def __post_init__(self) -> None:
        keep(self, learners=number("learners", self.learners, above=0, most=1, such_as=0.4))
        if self.nodes is not None:
            object.__setattr__(self, "nodes", _as_nodes(self.nodes))

    def count(self, config: Any) -> int:
        r"""$\sum k\,(d_{in} + 1)$ over the feed-forward layers, each with k learners; without the 1 where no biases."""
        layers = zip(self.learners_of(config), _layers(config), strict=True)
        return sum(k * (m.d_in + (1 if m.bias else 0)) for k, m in layers)

    def learners_of(self, config: Any) -> list[int]:
        r"""How many nodes of each feed-forward layer learn, in the model's order."""
        layers = _layers(config)
        if self.nodes is None:
            return [learners(self.learners, m.d_out) for m in layers]
        return [len(own) for own in self._of(layers)]

    def prime(self, model: nn.Module, train: Callable[[nn.Module], Any]) -> Priming:
        r"""Fine-tune a copy of the bare `model` for a short time, all of it, and see how far each node moved.

        train: gets the copy, in training mode and with every weight trainable, and trains it as long as the caller
        likes, such as `lambda m: fit(m, data, steps=10)`. `model` is not touched, but memory has to hold a second one.
        Raises CourseError where nothing moved.
        """
        return prime(model, self._paths(model), train)

    def chosen(self, priming: Priming) -> FreezeAndReconfigure:
        r"""This method with the nodes that `priming` moved most."""
        return replace(self, nodes=priming.learners(self.learners))

    def attach(self, model: nn.Module, name: str = "default", priming: Priming | None = None) -> nn.Module:
        r"""Take the feed-forward layers apart: the learners train, the other nodes are frozen."""
        method = self if priming is None else self.chosen(priming)
        return super(FreezeAndReconfigure, method).attach(model, name)

    def _paths(self, model: nn.Module) -> list[str]:
        r"""Where the feed-forward layers are, in the model's order."""
        arch, body = describe(model.config), body_prefix(model)
        return [f"{body}{arch.block_path(layer)}.{m.name}" for m, layer in _placed(arch)]

    def _check(self, model: nn.Module) -> None:
        if self.nodes is None:
            raise CourseError(
                "which nodes are to learn has not been said: run priming = far.prime(model, train) and "
                "attach(model, priming=priming), or give nodes; a checkpoint has them, and from_checkpoint(folder) "
                "makes the method that fits"
            )
        self._of(_layers(model.config))

    def _of(self, layers: list[Matrix]) -> tuple[tuple[int, ...], ...]:
        r"""The nodes of each of these layers; CourseError where they do not fit."""
        nodes = self.nodes * len(layers) if len(self.nodes) == 1 else self.nodes
        if len(nodes) != len(layers):
            raise CourseError(
                f"nodes are given for {len(nodes)} layers, and this model has {len(layers)} feed-forward layers"
            )
        for own, matrix in zip(nodes, layers, strict=True):
            if own[-1] >= matrix.d_out:
                raise CourseError(f"{matrix.name} has no node {own[-1]}: its nodes are 0 to {matrix.d_out - 1}")
        return tuple(tuple(map(int, own)) for own in nodes)

    def _parts(self, model: nn.Module) -> Parts:
        parts: Parts = {}
        for path, own in zip(self._paths(model), self._of(_layers(model.config)), strict=True):
            layer = unwrap(at(model, path))
            index = torch.tensor(own, device=layer.weight.device)
            parts[path] = {"weight": Rows(layer.weight, index, transposed(layer))}
            if layer.bias is not None:
                parts[path]["bias"] = Entries(layer.bias, index)
        return parts

    def touched(self, model: nn.Module) -> set[str]:
        return {f"{path}.{key}" for path in self._paths(model) for key in ("weight", "bias")}

    # Files ----------------------------------------------------------------------------------------------------------

    def load(self, model: nn.Module, folder: str | Path, name: str = "default") -> nn.Module:
        r"""Read a checkpoint into `model`, attaching first where `name` is not attached yet: its nodes are the file's.

        Raises CourseError, and changes nothing, if the checkpoint is of another method or another model.
        """
        if self.nodes is None and name not in attached(model):
            config, _ = interop.read(folder)
            interop.same_method(self.kind, config)
            return replace(self, nodes=_as_nodes(config["nodes"])).load(model, folder, name)
        return super().load(model, folder, name)

    def _check_config(self, config: dict[str, Any]) -> None:
        if self.nodes is not None and _as_nodes(config["nodes"]) != self.nodes:
            raise CourseError(
                "this checkpoint has other learners than the method here: use "
                "FreezeAndReconfigure.from_checkpoint(folder)"
            )


def _layers(config: Any) -> list[Matrix]:
    r"""The feed-forward matrices of all blocks, in the model's order."""
    return [matrix for matrix, _ in _placed(describe(config))]


def _placed(arch: Architecture) -> list[tuple[Matrix, int]]:
    r"""The same with the number of its block."""
    return [(m, layer) for layer in range(arch.n_layers) for m in arch.feedforward if layer in arch.layers_of(m)]


def _as_nodes(value: Any) -> tuple[tuple[int, ...], ...]:
    r"""`value` as a tuple of rising numbers for each layer; CourseError where it is none."""
    try:
        nodes = tuple(tuple(sorted(own)) for own in value)
    except TypeError:
        nodes = ()
    whole = all(isinstance(n, Integral) and not isinstance(n, bool) and int(n) >= 0 for own in nodes for n in own)
    if not nodes or not whole or not all(len(own) == len(set(own)) > 0 for own in nodes):
        raise CourseError(
            "nodes: give the indices of the learners, from 0 up and each once, for every feed-forward layer, such as "
            "((0, 5), (1, 2)) for a block of two, or ((0, 5),) for the same in each"
        )
    return tuple(tuple(map(int, own)) for own in nodes)
