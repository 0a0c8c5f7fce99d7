r"""The open exercise of notebook 05_bitfit: a task learned by changing few of a model's own numbers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from coursekit.checks.adapters_train import JUDGE, graded, graded_sentences, judges_minilm, load_minilm
from coursekit.checks.draw import Draw
from coursekit.checks.training import Training, TrainingCase, TrainingScore, fitted

#: Numbers of MiniLM that may change, and the test accuracy that is asked.
KEEP, REACH = 1_200, 0.70


def _pose(draw: Draw) -> TrainingCase:
    learn, judge = graded_sentences(draw)
    return TrainingCase((load_minilm, *learn, KEEP), judge)


def _score(posing: TrainingCase, tensors: dict[str, Tensor]) -> TrainingScore | str:
    r"""Accuracy on sentences that were not learned from, of MiniLM with these tensors in place of its own."""
    _, ids, mask, labels, keep = posing.arguments
    own = dict(judges_minilm().named_parameters())
    if unknown := sorted(set(tensors) - set(own)):
        return f"MiniLM has no parameter {unknown[0]}: names are those of named_parameters()"
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            return f"{name} has the shape {tuple(own[name].shape)}; return the whole tensor"
    differ = {name: int((tensor.float() != own[name]).sum()) for name, tensor in tensors.items()}
    if any(count and name.startswith("classifier.") for name, count in differ.items()):
        return "the head stays as it is, random: change the numbers of the body"
    changed = sum(differ.values())
    if not changed:
        return "not a number differs from MiniLM's own: nothing was trained"
    if changed > keep:
        return f"{changed:,} numbers differ from MiniLM's own, and {keep:,} are allowed"
    model = _with(tensors)
    learned = lambda: _right(model, ids[:JUDGE], mask[:JUDGE], labels[:JUDGE])  # noqa: E731
    said = "Choose other numbers, a higher learning rate, more steps"
    return graded(_right(model, *posing.kept), REACH, learned, "", said)


def _with(tensors: dict[str, Tensor]) -> Any:
    model = copy.deepcopy(judges_minilm())
    with torch.no_grad():
        for name, tensor in tensors.items():
            model.get_parameter(name).copy_(tensor)
    return model


def _norms(blocks: range) -> list[str]:
    r"""The weights of the norms behind the feed-forward part of these blocks."""
    return [f"bert.encoder.layer.{i}.output.LayerNorm.weight" for i in blocks]


@torch.no_grad()
def _right(model: Any, ids: Tensor, mask: Tensor, labels: Tensor) -> float:
    return (model(input_ids=ids, attention_mask=mask).logits.argmax(-1) == labels).float().mean().item()


def _trained(
    load: Any, ids: Tensor, mask: Tensor, labels: Tensor, names: Sequence[str], steps: int, rate: float = 2e-2
) -> dict[str, Tensor]:
    r"""The parameters `names` after `steps` steps of Adam."""
    model = load()
    found = {name: model.get_parameter(name) for name in names}

    def loss(step: int) -> Tensor:
        rows = torch.arange(32 * step, 32 * step + 32) % len(ids)
        return F.cross_entropy(model(input_ids=ids[rows], attention_mask=mask[rows]).logits, labels[rows])

    return fitted(found, loss, steps, rate, falling=True)


TRAIN = Training(
    id="bitfit-budget", points=5, difficulty=4, minutes=20,
    seconds=240, reached="{:.1%} of new sentences are right", pose=_pose,
    fair=lambda load, ids, mask, labels, keep: _trained(load, ids, mask, labels, _norms(range(3, 6)), steps=60),
    score=_score,
    mutants={
        "the head stays as it is, random: change the numbers of the body":
            lambda load, ids, mask, labels, keep: {"classifier.bias": torch.ones(2)},
        "2,304 numbers differ from MiniLM's own, and 1,200 are allowed":
            lambda load, ids, mask, labels, keep: _trained(load, ids, mask, labels, _norms(range(6)), steps=1),
        "not a number differs from MiniLM's own: nothing was trained":
            lambda load, ids, mask, labels, keep: _trained(load, ids, mask, labels, _norms(range(3)), steps=0),
        "bert.encoder.layer.5.output.LayerNorm.weight has the shape (384,); return the whole tensor":
            lambda load, ids, mask, labels, keep: {
                "bert.encoder.layer.5.output.LayerNorm.weight": torch.ones(keep // 10)
            },
    },
)  # fmt: skip
