r"""The exercise of notebook 06_lora that trains: a LoRA for MiniLM, scored on sentences that it never saw."""

from __future__ import annotations

import copy
import functools
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from coursekit.checks.draw import Draw
from coursekit.checks.training import Training, TrainingCase, TrainingScore, fitted

#: Numbers that the model answers for each sentence, and sentences to learn from and to be measured on.
OUTPUTS, LEARN, MEASURE, LENGTH = 32, 64, 48, 16
#: Share of the distance to the targets that has to be closed for all points.
#: A step or three of Adam close half of it to two thirds, thirty about three quarters.
ASKED = 0.7
#: From here on a training without the scale has worked, and only the scale is wrong.
WORKED = 0.5
#: A scale of 8: who trains without it is far off with it, however short the training.
R, ALPHA = 8, 64.0


def load_minilm() -> Any:
    r"""MiniLM with a head of OUTPUTS numbers that is the same for everybody; nothing in it is to be trained."""
    from coursekit.models import load_encoder

    return load_encoder("minilm", num_labels=32, device="cpu")[0].requires_grad_(False)


@functools.cache
def _minilm() -> tuple[Any, Any]:
    r"""The judge's own model, which stays as it is, and its tokenizer."""
    from coursekit.models import load_encoder

    return load_minilm(), load_encoder("minilm", num_labels=OUTPUTS, device="cpu")[1]


def _names(model: Any) -> list[str]:
    r"""The query and value matrices of the last three layers."""
    found = [n for n, _ in model.named_modules() if n.endswith(("self.query", "self.value"))]
    return found[-6:]


def _moved(model: Any, updates: dict[str, Tensor]) -> Any:
    r"""A copy of `model` whose matrices are moved by `updates`."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for name, update in updates.items():
            model.get_submodule(name).weight += update
    return model


@torch.no_grad()
def _answers(model: Any, ids: Tensor, mask: Tensor) -> Tensor:
    return model(input_ids=ids, attention_mask=mask).logits


def _pose(draw: Draw) -> TrainingCase:
    r"""A colleague moved the weights by updates of rank 4, and tells what his model answers for some sentences."""
    from coursekit.tasks.sentiment import sentences

    model, tokenizer = _minilm()
    texts = [s.text for s in sentences("film") if 5 <= len(s.text.split()) <= 14]
    chosen = [texts[i] for i in draw.order(len(texts))[: LEARN + MEASURE]]
    rows = tokenizer(chosen, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt")
    ids, mask = rows["input_ids"], rows["attention_mask"]
    updates = {}
    for name in _names(model):
        W = model.get_submodule(name).weight
        update = draw.normal(W.shape[0], 4, dtype=W.dtype) @ draw.normal(4, W.shape[1], dtype=W.dtype)
        updates[name] = 0.5 * W.norm() / update.norm() * update
    targets = _answers(_moved(model, updates), ids, mask)
    arguments = (load_minilm, _names(model), ids[:LEARN], mask[:LEARN], targets[:LEARN], R, ALPHA)
    kept = ids[LEARN:], mask[LEARN:], targets[LEARN:]
    return TrainingCase(arguments, (*kept, F.mse_loss(_answers(model, *kept[:2]), kept[2])))


def _score(posing: TrainingCase, tensors: dict[str, Tensor]) -> TrainingScore | str:
    r"""The share of the squared distance to the targets that is closed, on sentences that were not learned from."""
    model, _ = _minilm()
    names = _names(model)
    wanted = {f"{name}.{factor}" for name in names for factor in "AB"}
    if set(tensors) != wanted:
        return "for every name given, it must return name + '.A' and name + '.B', and nothing else"
    for name in names:
        d_out, d_in = model.get_submodule(name).weight.shape
        A, B = tensors[f"{name}.A"], tensors[f"{name}.B"]
        if A.shape == (d_out, R) and B.shape == (R, d_in):
            return "A and B have changed places: A is (r, d_in), B is (d_out, r)"
        if A.shape != (R, d_in) or B.shape != (d_out, R):
            return "a tensor has another shape: A is (r, d_in), B is (d_out, r)"
    if not any(tensors[f"{name}.B"].any() for name in names):
        return "every B is still 0, as at the start: nothing was trained"
    still = [name for name in names if not tensors[f"{name}.B"].any()]
    closed = _closed(posing, tensors, ALPHA / R)
    share = min(1.0, max(0.0, closed / ASKED))
    measured = round(closed, 3) if math.isfinite(closed) else None
    if share == 1.0:
        return TrainingScore(1.0, "", measured)
    said = f"on new sentences it closes {max(0.0, closed):.0%} of the distance; {ASKED:.0%} are asked"
    if still:
        said = _never_moved(still, len(names))
    elif _closed(posing, tensors, 1.0) >= max(WORKED, closed):
        said = "without the scale it would be nearer: the branch that you train must be multiplied by alpha / r"
    elif not closed > 0:
        said = "with these A and B the model is further from the targets than without: is only the branch trained?"
    return TrainingScore(share if math.isfinite(share) else 0.0, said, measured)


def _never_moved(still: list[str], of: int) -> str:
    r"""What is said where these of the layers still have B = 0."""
    return (
        f"{len(still)} of {of} B are still 0, as at the start: those of {', '.join(still)}. A function made in a loop "
        "looks its variables up when it runs: bind them, as in lambda layer, inputs, output, A=A, B=B"
    )


def _closed(posing: TrainingCase, tensors: dict[str, Tensor], scale: float) -> float:
    model, (ids, mask, targets, before) = _minilm()[0], posing.kept
    updates = {name: scale * tensors[f"{name}.B"].float() @ tensors[f"{name}.A"].float() for name in _names(model)}
    after = F.mse_loss(_answers(_moved(model, updates), ids, mask), targets)
    closed = float(1 - after / before)
    return closed if math.isfinite(closed) else -math.inf


def _trained(
    load: Any, names: list[str], ids: Tensor, mask: Tensor, targets: Tensor, r: int, scale: float, steps: int = 40,
    late: bool = False, rate: float = 3e-3,
) -> dict[str, Tensor]:  # fmt: skip
    r"""A and B after a short training, for the mistakes. late: every layer uses the last A and B."""
    model, found, last = load(), {}, [ids, ids]
    for name in names:
        layer = model.get_submodule(name)
        A = torch.randn(r, layer.in_features) / layer.in_features**0.5
        B = torch.zeros(layer.out_features, r)
        found |= {f"{name}.A": A, f"{name}.B": B}
        used = last if late else [A, B]
        used[:] = A, B
        layer.register_forward_hook(lambda _, x, h, t=used: h + scale * F.linear(F.linear(x[0], t[0]), t[1]))

    def loss(step: int) -> Tensor:
        rows = slice(16 * step % len(ids), 16 * step % len(ids) + 16)
        return F.mse_loss(model(input_ids=ids[rows], attention_mask=mask[rows]).logits, targets[rows])

    return fitted(found, loss, steps, rate)


def _swapped(load: Any, names: list[str], ids: Tensor, mask: Tensor, targets: Tensor, r: int, alpha: float) -> Any:
    found = _trained(load, names, ids, mask, targets, r, alpha / r, steps=1)
    return {f"{n}.{f}": found[f"{n}.{g}"] for n in names for f, g in ("AB", "BA")}


#: (block, matrix) of every layer that is trained.
_MATRICES = [(i, matrix) for i in (3, 4, 5) for matrix in ("query", "value")]
TRAIN = Training(
    id="lora-train", points=4, difficulty=4, minutes=22,
    seconds=120, reached="on new sentences it closes {:.0%} of the distance", pose=_pose,
    fair=lambda load, names, ids, mask, targets, r, alpha: _trained(
        load, names, ids, mask, targets, r, alpha / r, steps=24
    ),
    score=_score,
    mutants={
        "every B is still 0, as at the start: nothing was trained":
            lambda load, names, ids, mask, targets, r, alpha: _trained(
                load, names, ids, mask, targets, r, alpha / r, steps=0
            ),
        "A and B have changed places: A is (r, d_in), B is (d_out, r)": _swapped,
        # After hardly a step, so that the one that moves cannot close by itself what is asked for.
        _never_moved([f"bert.encoder.layer.{i}.attention.self.{m}" for i, m in _MATRICES[:-1]], len(_MATRICES)): (
            lambda load, names, ids, mask, targets, r, alpha: _trained(
                load, names, ids, mask, targets, r, alpha / r, steps=1, late=True, rate=1e-4
            )
        ),
        "without the scale it would be nearer: the branch that you train must be multiplied by alpha / r":
            lambda load, names, ids, mask, targets, r, alpha: _trained(load, names, ids, mask, targets, r, 1.0),
    },
)  # fmt: skip
