r"""The open exercises of 02_adapters and 02b_pruned_adapters: adapters in a budget, and one pruned to a budget."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from coursekit.checks.draw import Draw
from coursekit.checks.training import Training, TrainingCase, TrainingScore, fitted
from coursekit.paths import DATA

#: Parameters that the adapters of `adapters-budget` may have, and the test accuracy that is asked of them.
BUDGET, REACH = 2_500, 0.70
#: Width of the adapter that `adapters-compress` prunes, its steps, the parameters that may be left of it, and the test
#: accuracy that is asked: what is left of it, untrained, misses that.
WIDE, STEPS, KEEP, ASKED = 32, 60, 5_000, 0.68
#: Up to here there are no points: adapters that do nothing get about this. So much more may be luck: two standard
#: errors of the share right of JUDGE sentences.
NOTHING, LUCK = 0.56, 0.055
#: On the sentences of the notebook's check: the wide adapter, and its largest weights (all biases and what KEEP leaves
#: for the matrices) without training again. A test measures both anew.
WHOLE, CUT = 0.82, 0.53
#: Sentences to learn from and to be judged by, and tokens of each.
LEARN, JUDGE, LENGTH = 1600, 320, 16
#: The last ones to learn from, which the adapter of `adapters-compress` has not seen: to measure on before the judge.
FRESH = 300
#: What the mistake of `BIASES` hands in, in float16. `python -m coursekit.checks.adapters_train` trains it in a minute.
_BIASES = DATA / "biases.safetensors"
#: Of one adapter, in their order.
PARTS = ("W_down", "b_down", "W_up", "b_up")


# The next four go into a box by their source: they use nothing of this file but what they are given.
def load_minilm() -> Any:
    r"""MiniLM with a random head for two classes, all of it frozen, on the CPU: only adapters can learn.

    The head is larger than usual, so that small changes of what it reads move the logits.
    """
    from coursekit.models import load_encoder

    model = load_encoder("minilm", num_labels=2, device="cpu")[0].requires_grad_(False)
    model.classifier.weight.mul_(5)
    return model


def outputs(model: Any, tensors: dict[str, Tensor], ids: Tensor, mask: Tensor) -> Tensor:
    r"""Logits, (batch, 2), of MiniLM with an adapter of any width r behind the feed-forward of each block.

    tensors: "0.W_down" (r, 384), "0.b_down" (r,), "0.W_up" (384, r), "0.b_up" (384,) to "5.b_up".
    """
    hooks = []
    for i, block in enumerate(model.bert.encoder.layer):
        A = [tensors[f"{i}.{part}"] for part in ("W_down", "b_down", "W_up", "b_up")]
        hooks.append(
            block.output.dense.register_forward_hook(
                lambda _, x, h, A=A: h + F.linear(F.relu(F.linear(h, A[0], A[1])), A[2], A[3])
            )
        )
    try:
        return model(input_ids=ids, attention_mask=mask).logits
    finally:
        for hook in hooks:
            hook.remove()


def _filled(value: float, r: int = 32) -> dict[str, Tensor]:  # of width WIDE
    r"""Tensors of `outputs`, all entries `value`."""
    shapes = {"W_down": (r, 384), "b_down": (r,), "W_up": (384, r), "b_up": (384,)}
    return {f"{i}.{part}": torch.full(shape, value) for i in range(6) for part, shape in shapes.items()}


def trained_wide(
    load: Any, outputs: Any, filled: Any, ids: Tensor, mask: Tensor, labels: Tensor, steps: int
) -> dict[str, Tensor]:
    r"""The wide adapters after `steps` steps of Adam on 32 rows each: the tensors of `outputs`."""
    model, random, found = load(), torch.Generator().manual_seed(0), filled(0.0)
    for name, tensor in found.items():
        if ".W" in name:
            tensor.normal_(0, 0.02, generator=random)
        tensor.requires_grad_()
    optimizer = torch.optim.Adam(found.values(), lr=3e-3)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / steps)
        rows = torch.arange(32 * step, 32 * step + 32) % len(ids)
        loss = F.cross_entropy(outputs(model, found, ids[rows], mask[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {name: tensor.detach() for name, tensor in found.items()}


#: What `_score` says of tensors that are no pruned adapter.
SHAPES = "a shape does not fit: in each block W_down is (r, 384), b_down (r,), W_up (384, r), b_up (384,)"
NARROW = "this is an adapter of another width: prune the one that trained() gives, and set to 0 what goes"
BIASES = (
    "its biases do the work: where the adapters no longer read their input, more than half of the gain stays; train "
    "the matrices, and leave the biases as they are"
)


@functools.cache
def judges_minilm() -> Any:
    r"""The judge's own, which stays as it is."""
    return load_minilm()


def graded_sentences(draw: Draw) -> tuple[list[Any], list[Any]]:
    r"""Graded film sentences in token ids, with masks and labels: LEARN to learn from, JUDGE others to judge by."""
    from coursekit.models import load_encoder
    from coursekit.tasks.task import load_task

    tokenizer = load_encoder("minilm", num_labels=2, device="cpu")[1]
    parts = []
    for split, n in (("train", LEARN), ("test", JUDGE)):
        rows = load_task("film", "two").short(12).data[split][:]
        chosen = draw.order(len(rows["text"]))[:n]
        texts = tokenizer(
            [rows["text"][i] for i in chosen], padding="max_length", truncation=True, max_length=LENGTH,
            return_tensors="pt",
        )  # fmt: skip
        labels = torch.tensor([rows["label"][i] for i in chosen])
        parts.append([texts["input_ids"], texts["attention_mask"], labels])
    return parts[0], parts[1]


def _pose_budget(draw: Draw) -> TrainingCase:
    learn, judge = graded_sentences(draw)
    return TrainingCase((load_minilm, outputs, *learn, BUDGET), judge)


def _pose_compress(draw: Draw) -> TrainingCase:
    learn, judge = graded_sentences(draw)
    trained = functools.partial(trained_wide, load_minilm, outputs, _filled, *(part[:-FRESH] for part in learn), STEPS)
    return TrainingCase((load_minilm, outputs, trained, *learn, KEEP), judge)


def _score(
    posing: TrainingCase, tensors: dict[str, Tensor], *, asked: float, width: int | None, said: str
) -> TrainingScore | str:
    r"""Accuracy on sentences that were not learned from, with no more parameters than `keep` different from 0.

    asked: the accuracy for all points. width: the adapters' own, None for any. said: what helps. Biases alone can move
    the logits too: what the bottlenecks make of their input must carry half of the gain at least.
    """
    *_, ids, mask, labels, keep = posing.arguments
    if wrong := _unlike(tensors, width):
        return wrong
    if not any(tensors[f"{i}.W_up"].any() and tensors[f"{i}.W_down"].any() for i in range(6)):
        return "of every adapter W_down or W_up is 0 altogether: nothing is left of it"
    left = sum(int(t.count_nonzero()) for t in tensors.values())
    if left > keep:
        return f"{left:,} parameters of its adapters are not 0, and {keep:,} are allowed"
    right = _right(tensors, *posing.kept)
    if right > NOTHING + LUCK and _constant(tensors, posing) > (right + NOTHING) / 2:
        return TrainingScore(0.0, BIASES, round(right, 3))
    always = max(posing.kept[2].float().mean().item(), 1 - posing.kept[2].float().mean().item())
    learned = lambda: _right(tensors, ids[:JUDGE], mask[:JUDGE], labels[:JUDGE])  # noqa: E731
    return graded(right, asked, learned, f", {always:.1%} by one label for all", said)


def graded(right: float, asked: float, learned: Callable[[], float], beside: str, said: str) -> TrainingScore:
    r"""Points for the accuracy `right` between NOTHING and `asked`. learned: the accuracy on what was learned from."""
    share = min(1.0, max(0.0, (right - NOTHING) / (asked - NOTHING)))
    if share == 1.0:
        return TrainingScore(1.0, "", round(right, 3))
    if learned() > right + 0.15:
        said = "It does much better on those that it learned from: train less"
    found = f"{right:.1%} of new sentences are right{beside}; {asked:.0%} are asked"
    return TrainingScore(share, f"{found}. {said}", round(right, 3))


def _unlike(tensors: dict[str, Tensor], width: int | None) -> str | None:
    r"""What is wrong with the names, the shapes or the entries."""
    wanted = {f"{i}.{part}" for i in range(6) for part in PARTS}
    if any(name.startswith("head") for name in tensors):
        return "it returns a head: the model's own stays as it is, and only the adapters may change"
    if set(tensors) != wanted:
        return 'it must return the tensors that `outputs` reads, "0.W_down" to "5.b_up"'
    for i in range(6):
        shapes = [tuple(tensors[f"{i}.{part}"].shape) for part in PARTS]
        r = shapes[1][0] if len(shapes[1]) == 1 else 0
        if shapes != [(r, 384), (r,), (384, r), (384,)]:
            return SHAPES
        if width not in (None, r):
            return NARROW
    return None


def _constant(tensors: dict[str, Tensor], posing: TrainingCase) -> float:
    r"""Accuracy with adapters that add the same to every token: b_up or W_up relu(b_down) + b_up, the better one."""
    without = ({n: t * (part not in n) for n, t in tensors.items()} for part in ("W_up", "W_down"))
    return max(_right(each, *posing.kept) for each in without)


@torch.no_grad()
def _right(tensors: dict[str, Tensor], ids: Tensor, mask: Tensor, labels: Tensor) -> float:
    found = outputs(judges_minilm(), {name: t.float() for name, t in tensors.items()}, ids, mask).argmax(-1)
    return (found == labels).float().mean().item()


def _zeros_and_a_head(load: Any, ids: Tensor, mask: Tensor, labels: Tensor) -> dict[str, Tensor]:
    r"""No adapter left, and a logistic regression on what the head reads of 64 sentences."""
    model, read = load(), []
    model.classifier.register_forward_hook(lambda _, x, y: read.append(x[0]))
    with torch.no_grad():
        model(input_ids=ids[:64], attention_mask=mask[:64])
    head = {"head.W": torch.zeros(2, 384), "head.b": torch.zeros(2)}
    loss = lambda _: F.cross_entropy(F.linear(read[0], *head.values()), labels[:64])  # noqa: E731
    return _filled(0.0) | fitted(head, loss, steps=100, lr=1e-2)


def _bias_trained() -> dict[str, Tensor]:
    r"""b_up of every block, trained alone on one draw. It serves every other: their sentences are of one task."""
    load, outputs, ids, mask, labels, _ = _pose_budget(Draw(b"biases", BUDGETED.id)).arguments
    model, tensors = load(), _filled(0.0)

    def loss(step: int) -> Tensor:
        rows = torch.arange(32 * step, 32 * step + 32) % len(ids)
        return F.cross_entropy(outputs(model, tensors, ids[rows], mask[rows]), labels[rows])

    free = {name: tensor for name, tensor in tensors.items() if name.endswith("b_up")}
    return fitted(free, loss, steps=120, lr=3e-2)  # of 60 a draw in some gained nothing


def _biases_alone(*_: Any) -> dict[str, Tensor]:
    r"""Nothing pruned and nothing read: b_up trained, and one weight of each matrix different from 0."""
    tensors = _filled(0.0)
    for name, tensor in tensors.items():
        if ".W_" in name:
            tensor[0, 0] = 1e-3
    return tensors | {name: tensor.float() for name, tensor in load_file(_BIASES).items()}


_LAID = "of every adapter W_down or W_up is 0 altogether: nothing is left of it"
_HEAD = "it returns a head: the model's own stays as it is, and only the adapters may change"


def _turned(*_: Any) -> dict[str, Tensor]:
    return {name: t.T if ".W" in name else t for name, t in _filled(0.0).items()}


BUDGETED = Training(
    id="adapters-budget", points=5, difficulty=4, minutes=25,
    seconds=240, reached="{:.1%} of new sentences are right", pose=_pose_budget,
    score=functools.partial(
        _score, asked=REACH, width=None, said="Try other blocks, a higher learning rate, more steps"
    ),
    mutants={
        "149,952 parameters of its adapters are not 0, and 2,500 are allowed": lambda *_: _filled(0.01),
        SHAPES: _turned,
        BIASES: _biases_alone,
        _LAID: lambda *_: _filled(0.0, 1),
        _HEAD: lambda load, outputs, ids, mask, labels, keep: _zeros_and_a_head(load, ids, mask, labels),
    },
)  # fmt: skip

COMPRESS = Training(
    id="adapters-compress", points=6, difficulty=5, minutes=22,
    seconds=240, reached="{:.1%} of new sentences are right", pose=_pose_compress,
    score=functools.partial(
        _score, asked=ASKED, width=WIDE,
        said="Pruning costs accuracy that training gives back: train what is left, or prune in rounds",
    ),
    mutants={
        "149,952 parameters of its adapters are not 0, and 5,000 are allowed": lambda *_: _filled(0.01),
        SHAPES: _turned,
        NARROW: lambda *_: _filled(0.01, 1),
        BIASES: _biases_alone,
        _LAID: lambda *_: _filled(0.0),
        _HEAD: lambda load, outputs, _, ids, mask, labels, keep: _zeros_and_a_head(load, ids, mask, labels),
    },
)  # fmt: skip

if __name__ == "__main__":
    save_file({name: tensor.half() for name, tensor in _bias_trained().items()}, _BIASES)
