r"""Adapters: how wide, with and without the residual, where, in how many blocks, and how many of their weights."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial

import torch
from topics._film import SETTING, arm
from torch import nn

from coursekit.comparison.candidates import CANDIDATES, Candidate, alone, drawn, on_batches
from coursekit.experiments.bench import Bench
from coursekit.experiments.recipe import Arm, Grid
from coursekit.methods import AdapterDrop, HoulsbyAdapter, PfeifferAdapter, SparseAdapter, skipping
from coursekit.methods.adapters import pruning
from coursekit.methods.adapters.adapter import bottlenecks
from coursekit.methods.adapters.pruning import NEED_DATA
from coursekit.methods.mechanism.method import Method
from coursekit.methods.ranking import largest

__all__ = ["GRID", "SETTING"]

#: Both start as Pfeiffer's and Lin's do: SNIP needs both projections away from 0.
NARROW, WIDE = (HoulsbyAdapter(r=r, init="bert") for r in (16, 64))


def additive(name: str, method: Method, rate: float = 3e-3, attach: object = alone, **of: object) -> Arm:
    return arm(name, Candidate("additive", method, rate, attach), rate, **of)


def without_residual(method: Method, model: nn.Module, bench: Bench, seed: int) -> nn.Module:
    r"""A(h) in place of h + A(h), at each place of Houlsby's."""
    model = method.attach(model)
    for bottleneck in bottlenecks(model, "default").values():
        bottleneck.register_forward_hook(lambda _module, inputs, output: output - inputs[0])
    return model


def skipped(model: nn.Module, bench: Bench, seed: int, *, n: int) -> AbstractContextManager[nn.Module]:
    r"""Adapters of the first n blocks left out after training."""
    return skipping(model, n)


@contextmanager
def pruned(model: nn.Module, bench: Bench, seed: int, *, score: str, share: float) -> Iterator[None]:
    r"""The weights of a trained adapter with the lowest scores at 0, and back."""
    layers = list(pruning.projections(model, "default").values())
    before = [layer.weight.detach().clone() for layer in layers]
    batches = bench.looked_at(seed) if score in NEED_DATA else []
    scores = pruning.score(model, "default", score, batches, seed)
    masks = largest(scores, pruning.kept(sum(weight.numel() for weight in before), share))
    with torch.no_grad():
        for layer, mask in zip(layers, masks, strict=True):
            layer.weight.mul_(mask)
    yield
    with torch.no_grad():
        for layer, weight in zip(layers, before, strict=True):
            layer.weight.copy_(weight)


def sparse(score: str, share: float, adapter: HoulsbyAdapter = WIDE) -> Arm:
    r"""Pruned before training."""
    method = SparseAdapter(adapter, pruned=share, score=score)
    attach = on_batches if score in NEED_DATA else drawn if score == "random" else alone
    return additive(f"{score} {share:.0%} before", method, 1e-2, attach)


AFTER = {
    f"{score} {share:.0%} after": partial(pruned, score=score, share=share)
    for share in (0.8, 0.95)
    for score in ("random", "magnitude", "snip")
}

GRID = Grid(
    topic="adapters",
    arms=(
        arm("full", CANDIDATES["full"], 1e-4),
        arm("head", CANDIDATES["head"], 1e-1),
        # Where: 78,432 parameters in two bottlenecks a block, 76,128 in one twice as wide, 80,736 in Lin's, which has a
        # norm of its own. All start alike and have relu, so that the place differs; `parallel` is as its paper has it.
        *(arm(name, CANDIDATES[name], 3e-3) for name in ("pfeiffer", "parallel", "lin")),
        # How wide. 16 is `pfeiffer`.
        *(additive(f"pfeiffer r={r}", PfeifferAdapter(r=r)) for r in (64, 1)),
        # With the residual and without.
        additive("narrow", NARROW),
        additive("houlsby r=16 without", NARROW, 3e-3, without_residual),
        # In how many blocks.
        arm("adapter-drop", CANDIDATES["adapter-drop"], 1e-2),
        additive("drop 4", AdapterDrop(PfeifferAdapter(r=16), n=4)),
        additive(
            "robust", AdapterDrop(PfeifferAdapter(r=16), robust=True),
            also={f"{n} skipped": partial(skipped, n=n) for n in (2, 4)},
        ),
        additive("houlsby r=8", HoulsbyAdapter(r=8, activation="relu", init="bert")),
        # How many of their weights: after training, before it, and as many as `narrow` has in a wider one.
        additive("wide", WIDE, also=AFTER),
        additive(
            "large-sparse", SparseAdapter(WIDE, pruned=0.75, score="snip"), 3e-3, on_batches
        ),
        arm("sparse-adapter", CANDIDATES["sparse-adapter"], 3e-3),
        *(sparse(score, 0.95) for score in ("snip", "random")),
        additive("houlsby r=64 without", WIDE, 3e-3, without_residual),
        # `wide` starts far from 0, as SNIP before training likes it, and one seed in three learns nothing above 3e-4.
        # From the small start of Houlsby et al.
        additive("houlsby r=64", HoulsbyAdapter(r=64), 1e-3, also=AFTER),
    ),
    reference="full",
)  # fmt: skip
