r"""What the classifier reads: MiniLM's [CLS] through its pooler, as in all other topics, or the mean of all tokens.

The checkpoint was trained for the mean, and its pooler never: how much of what a method gains over the head alone is
due to a head that starts so low?
"""

from dataclasses import replace
from typing import Any

import torch
from topics._film import SETTING, arm
from topics.methods import METHODS, RATES
from torch import Tensor, nn

from coursekit.experiments.bench import Bench
from coursekit.experiments.recipe import Grid
from coursekit.methods.mechanism.method import Method

__all__ = ["GRID", "SETTING"]


def mean_of_text(states: Tensor, mask: Tensor) -> Tensor:
    r"""The mean of the states where `mask` is 1. (rows, tokens, d), (rows, tokens) -> (rows, d)."""
    kept = mask.to(states.dtype)[..., None]  # (rows, tokens, 1)
    return (states * kept).sum(1) / kept.sum(1)


def reading_the_mean(method: Method, model: nn.Module, bench: Bench, seed: int) -> nn.Module:
    r"""Attach `method`, with the head on the mean of the text's last states and the pooler left out."""
    return read_the_mean(method.attach(model))


def read_the_mean(model: nn.Module, first: bool = False) -> nn.Module:
    r"""first: look at the mask before others do, who may make it longer."""
    body: Any = model.get_submodule("bert")
    masks: list[Tensor | None] = [None]

    def remember(_: nn.Module, __: tuple[Any, ...], named: dict[str, Any]) -> None:
        masks[0] = named.get("attention_mask")

    def mean(_: nn.Module, states: tuple[Tensor, ...], __: Tensor) -> Tensor:
        mask = masks[0]
        return mean_of_text(states[0], torch.ones(states[0].shape[:2]).to(states[0]) if mask is None else mask)

    body.register_forward_pre_hook(remember, with_kwargs=True, prepend=first)
    body.pooler.register_forward_hook(mean)
    return model


GRID = Grid(
    topic="pooling",
    arms=tuple(
        made
        for name in ("head", "lora")
        for made in (
            arm(name, METHODS[name], RATES[name]),
            arm(f"{name}-mean", replace(METHODS[name], attach=reading_the_mean), RATES[name]),
        )
    ),
    reference="head",
)
