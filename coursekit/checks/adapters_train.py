r"""The exercises of notebook 02_adapters that train: adapters put in by hooks, and an adapter pruned to a budget."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from coursekit.checks.core import Exercise, Mutant, register
from coursekit.checks.draw import Draw
from coursekit.checks.soft_prompts_train import load_tiny, sgd
from coursekit.checks.training import Budget, Posing, Scored, Training

Batch = tuple[Tensor, Tensor, Tensor]
#: W_down (r, d), b_down (r,), W_up (d, r), b_up (d,).
Weights = tuple[Tensor, Tensor, Tensor, Tensor]

# adapters-train ---------------------------------------------------------------------------------------------------

_PLACES = ("model.layers.0.mlp", "model.layers.1.mlp")


def _case(normal: Callable[..., Tensor], whole: Callable[..., Tensor], lengths: Sequence[int], r: int) -> Any:
    r"""The arguments of one case: two places of a model of width 16, and batches of three rows."""
    start = [tuple(0.4 * normal(*s) for s in ((r, 16), (r,), (16, r), (16,))) for _ in _PLACES]
    batches = []
    for length in lengths:
        ids, mask = whole(1, 39, 3, length), torch.ones(3, length, dtype=torch.long)
        mask[1, length - 1 :] = 0
        batches.append((ids, mask, ids.masked_fill(mask == 0, -100)))
    return load_tiny, list(_PLACES), start, batches, sgd


def _public(seed: int) -> tuple[Any, ...]:
    random = torch.Generator().manual_seed(seed)
    return _case(
        lambda *shape: torch.randn(*shape, generator=random),
        lambda low, high, *shape: torch.randint(low, high + 1, shape, generator=random),
        (5, 4 + seed, 6), r=2 + seed,
    )  # fmt: skip


def _secret(draw: Draw) -> tuple[Any, ...]:
    lengths = [draw.whole(4, 7) for _ in range(3)]
    return _case(
        functools.partial(draw.normal, dtype=torch.float32), draw.integers, lengths, draw.whole(2, 4)
    )


def train(
    load: Any, places: list[str], start: list[Weights], batches: list[Batch], optimizer: Any
) -> tuple[Weights, ...]:
    r"""h + A(h) for the output h of each place; one step for each batch, on the adapters alone."""
    return _trained(load, places, start, batches, optimizer)


def _added(x: Tensor, h: Tensor, A: Weights) -> Tensor:
    W_down, b_down, W_up, b_up = A
    return h + F.linear(F.relu(F.linear(h, W_down, b_down)), W_up, b_up)


def _replaced(x: Tensor, h: Tensor, A: Weights) -> Tensor:
    return _added(x, h, A) - h


def _beside(x: Tensor, h: Tensor, A: Weights) -> Tensor:
    return h + _replaced(x, x, A)


def _trained(
    load: Any, places: list[str], start: list[Weights], batches: list[Batch], optimizer: Any, *,
    change: Any = _added, shared: bool = False, weights: bool = False, zero: bool = True, at_once: bool = False,
) -> tuple[Weights, ...]:  # fmt: skip
    model = load().requires_grad_(weights)
    adapters = [tuple(t.clone().requires_grad_() for t in A) for A in start]
    for place, own in zip(places, adapters, strict=False):
        A = adapters[len(places) - 1] if shared else own
        model.get_submodule(place).register_forward_hook(lambda _, x, h, A=A: change(x[0], h, A))
    trained = [t for A in adapters for t in A]
    optim = optimizer([*trained, *(model.parameters() if weights else ())])
    for ids, mask, labels in batches:
        if zero and not at_once:
            optim.zero_grad()
        model(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
        if not at_once:
            optim.step()
    if at_once:
        optim.step()
    return tuple(tuple(t.detach() for t in A) for A in adapters)


def _mistake(message: str, **settings: Any) -> Mutant:
    return Mutant(lambda *arguments: _trained(*arguments, **settings), message)


TRAIN = register(
    Exercise(
        id="adapters-train",
        points=5,
        difficulty=4,
        minutes=25,
        hints=(
            "model = load(); model.requires_grad_(False) freezes it. The adapters are copies of `start` with "
            "requires_grad_(), and the only thing that the optimizer gets: a list of tensors.",
            "model.get_submodule(place).register_forward_hook(f) calls f(module, inputs, h), and what f returns takes "
            "the place of h. Your adapters_forward computes it.",
            "A function made in a loop looks its variables up when it runs. Bind them: lambda m, x, h, A=A: ...",
            "For each batch: zero_grad(), backward(), step(). The loss is model(input_ids=ids, attention_mask=mask, "
            "labels=labels).loss.",
        ),
        inputs=_public,
        secret=_secret,
        reference=train,
        mutants=(
            Mutant(
                lambda load, places, start, batches, optimizer: tuple(start),
                "the adapters are still those that came in: a hook must return the new output, and the tensors in it "
                "must be the ones that the optimizer has",
            ),
            _mistake(
                "every hook uses the last adapter: a function made in a loop looks its variables up when it runs; "
                "bind the adapter, as in lambda m, x, h, A=A",
                shared=True,
            ),
            _mistake(
                "the hook returns A(h): the residual is missing, it is h + A(h)",
                change=_replaced,
            ),
            _mistake(
                "A reads the module's input: that is the parallel adapter; a hook's third argument is the output h",
                change=_beside,
            ),
            Mutant(
                lambda load, places, start, batches, optimizer: _trained(
                    load, places[:1], start, batches, optimizer
                ),
                "only the first place has an adapter: each place gets its own",
            ),
            _mistake(
                "the model's weights train along: the optimizer must have the adapters alone", weights=True
            ),
            _mistake(
                "gradients add up from batch to batch: call zero_grad() before each backward()", zero=False
            ),
            Mutant(
                lambda load, places, start, batches, optimizer: _trained(
                    load, places, start, batches[:1], optimizer
                ),
                "only the first batch is used: one step for each of them",
            ),
            _mistake("there is one step for all batches together: step after each of them", at_once=True),
        ),
        tolerance=1e-4,
    )
)

# adapters-compress ------------------------------------------------------------------------------------------------

#: Width of the trained adapter, its steps, and parameters that may be left of it.
WIDE, STEPS, KEEP = 32, 60, 5_000
#: Test accuracies for no points and for all: adapters that do nothing get about the first, and what is left of the
#: wide adapter, untrained, misses the second.
NOTHING, ASKED = 0.56, 0.68
#: On the sentences of the notebook's check: the wide adapter, and its largest weights (all biases and what KEEP leaves
#: for the matrices) without training again. A test measures both anew.
WHOLE, CUT = 0.80, 0.53
#: Sentences to learn from and to be judged by, and tokens of each.
LEARN, JUDGE, LENGTH = 1600, 320, 16
#: Of one adapter, in their order.
PARTS = ("W_down", "b_down", "W_up", "b_up")


# The next three go into a box by their source: they use nothing of this file.
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


def trained_wide(
    load: Any, outputs: Any, ids: Tensor, mask: Tensor, labels: Tensor, r: int, steps: int
) -> dict[str, Tensor]:
    r"""Adapters of width r after `steps` steps of Adam on 32 rows each: the tensors of `outputs`."""
    model, random, found = load(), torch.Generator().manual_seed(0), _filled(0.0, r)
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
SHAPES = "a shape does not fit: W_down is (32, 384), b_down (32,), W_up (384, 32), b_up (384,)"
NARROW = "this is an adapter of another width: prune the one that trained() gives, and set to 0 what goes"
BIASES = (
    "its biases do the work: where the adapters no longer read their input, more than half of the gain stays; leave "
    "the biases as they are in trained(), and train what is left of the matrices"
)


@functools.cache
def _minilm() -> Any:
    return load_minilm()


def _pose(draw: Draw) -> Posing:
    r"""Graded film sentences in token ids: most to learn from, and others to judge by."""
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
        parts.append((texts["input_ids"], texts["attention_mask"], labels))
    learn, judge = parts
    trained = functools.partial(trained_wide, load_minilm, outputs, *learn, WIDE, STEPS)
    return Posing((load_minilm, outputs, trained, *learn, KEEP), judge)


def _score(posing: Posing, tensors: dict[str, Tensor]) -> Scored:
    r"""Accuracy on sentences that were not learned from, with at most KEEP parameters that are not 0.

    Biases alone can move the logits too: what the bottlenecks make of their input must carry half of the gain at least.
    """
    if wrong := _unlike(tensors):
        return Scored(0.0, wrong)
    if not any(tensors[f"{i}.W_up"].any() and tensors[f"{i}.W_down"].any() for i in range(6)):
        return Scored(0.0, "of every adapter W_down or W_up is 0 altogether: nothing is left of it")
    left = sum(int(t.count_nonzero()) for t in tensors.values())
    if left > KEEP:
        return Scored(
            0.0,
            f"{left:,} parameters of its adapters are not 0, and {KEEP:,} are allowed: prune more",
        )
    right = _right(tensors, *posing.kept)
    share = min(1.0, max(0.0, (right - NOTHING) / (ASKED - NOTHING)))
    if share and _constant(tensors, posing) > (right + NOTHING) / 2:
        return Scored(0.0, BIASES, round(right, 3))
    if share == 1.0:
        return Scored(1.0, "", round(right, 3))
    always = max(posing.kept[2].float().mean().item(), 1 - posing.kept[2].float().mean().item())
    said = f"{right:.1%} of new sentences are right, {always:.1%} by one label for all; {ASKED:.0%} are asked"
    own = _right(tensors, *(t[:JUDGE] for t in posing.arguments[3:6]))
    if own > right + 0.15:
        said += f". It is {own:.0%} on those that it learned from: train less"
    else:
        said += ". Pruning costs accuracy that training gives back: train what is left, or prune in rounds"
    return Scored(share, said, round(right, 3))


def _unlike(tensors: dict[str, Tensor]) -> str | None:
    r"""What is wrong with the names, the shapes or the entries."""
    wanted = {f"{i}.{part}" for i in range(6) for part in PARTS}
    if any(name.startswith("head") for name in tensors):
        return "it returns a head: the model's own stays as it is, and only the adapters may change"
    if set(tensors) != wanted:
        return 'it must return the tensors that `outputs` reads, "0.W_down" to "5.b_up"'
    if any(not t.is_floating_point() or not t.isfinite().all() for t in tensors.values()):
        return (
            "its tensors must be floating-point numbers without NaN or infinity: try a smaller learning rate"
        )
    for i in range(6):
        shapes = [tuple(tensors[f"{i}.{part}"].shape) for part in PARTS]
        r = shapes[1][0] if len(shapes[1]) == 1 else 0
        if shapes != [(r, 384), (r,), (384, r), (384,)]:
            return SHAPES
        if r != WIDE:
            return NARROW
    return None


def _constant(tensors: dict[str, Tensor], posing: Posing) -> float:
    r"""Accuracy with adapters that add the same to every token: b_up or W_up relu(b_down) + b_up, the better one."""
    without = ({n: t * (part not in n) for n, t in tensors.items()} for part in ("W_up", "W_down"))
    return max(_right(each, *posing.kept) for each in without)


@torch.no_grad()
def _right(tensors: dict[str, Tensor], ids: Tensor, mask: Tensor, labels: Tensor) -> float:
    found = outputs(_minilm(), {name: t.float() for name, t in tensors.items()}, ids, mask).argmax(-1)
    return (found == labels).float().mean().item()


def _filled(value: float, r: int = WIDE) -> dict[str, Tensor]:
    r"""Tensors of the right shapes, all entries `value`."""
    shapes = {"W_down": (r, 384), "b_down": (r,), "W_up": (384, r), "b_up": (384,)}
    return {f"{i}.{part}": torch.full(shape, value) for i in range(6) for part, shape in shapes.items()}


def _zeros_and_a_head(
    load: Any, outputs: Any, trained: Any, ids: Tensor, mask: Tensor, labels: Tensor, keep: int
) -> dict[str, Tensor]:
    r"""No adapter left, and a logistic regression on what the head reads of 64 sentences."""
    model, read = load(), []
    model.classifier.register_forward_hook(lambda _, x, y: read.append(x[0]))
    with torch.no_grad():
        model(input_ids=ids[:64], attention_mask=mask[:64])
    head = {"head.W": torch.zeros(2, 384, requires_grad=True), "head.b": torch.zeros(2, requires_grad=True)}
    optimizer = torch.optim.Adam(head.values(), lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        F.cross_entropy(F.linear(read[0], *head.values()), labels[:64]).backward()
        optimizer.step()
    return _filled(0.0) | {name: tensor.detach() for name, tensor in head.items()}


def _biases_alone(
    load: Any, outputs: Any, trained: Any, ids: Tensor, mask: Tensor, labels: Tensor, keep: int
) -> dict[str, Tensor]:
    r"""Nothing pruned and nothing read: b_up trained, and one weight of each matrix different from 0."""
    model, tensors = load(), _filled(0.0)
    for name, tensor in tensors.items():
        if ".W_" in name:
            tensor[0, 0] = 1e-3
    free = [tensor.requires_grad_() for name, tensor in tensors.items() if name.endswith("b_up")]
    optimizer = torch.optim.Adam(free, lr=1e-2)
    for step in range(50):
        rows = torch.arange(32 * step, 32 * step + 32) % len(ids)
        loss = F.cross_entropy(outputs(model, tensors, ids[rows], mask[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {name: tensor.detach() for name, tensor in tensors.items()}


COMPRESS = register(
    Training(
        id="adapters-compress",
        points=6,
        difficulty=5,
        minutes=40,
        hints=(
            "tensors = trained() is the wide adapter. outputs(load(), tensors, ids, mask) are its logits, and "
            "F.cross_entropy(logits, labels) is a loss that you can train with.",
            "Your adapters_prune makes masks for a tuple of matrices, or of your adapters_snip's scores. Score all "
            "matrices together: which blocks do the 2,504 weights go to, and do both projections of a block keep some?",
            "Multiply by the masks after each optimizer step, and pruned weights stay 0 while the others train on; few "
            "parameters need a higher learning rate. Keep some rows back to see what helps: a better score, rounds, "
            "more steps.",
            "In outline: copies of trained(), those of the matrices with requires_grad_(); a mask for each matrix; "
            "Adam over the matrices. In each step: 32 rows, cross_entropy, zero_grad, backward, step, and under "
            "torch.no_grad() each matrix times its mask. At the end return all copies, detached.",
        ),
        budget=Budget(minutes=4, model="minilm"),
        pose=_pose,
        score=_score,
        mutants=(
            Mutant(
                lambda *_: _filled(0.01),
                "149,952 parameters of its adapters are not 0, and 5,000 are allowed: prune more",
            ),
            Mutant(
                lambda *_: {name: t.T if ".W" in name else t for name, t in _filled(0.0).items()},
                SHAPES,
            ),
            Mutant(
                lambda *_: _filled(0.01, 1),
                NARROW,
            ),
            Mutant(
                _biases_alone,
                BIASES,
            ),
            Mutant(
                lambda *_: _filled(0.0),
                "of every adapter W_down or W_up is 0 altogether: nothing is left of it",
            ),
            Mutant(
                _zeros_and_a_head,
                "it returns a head: the model's own stays as it is, and only the adapters may change",
            ),
        ),
    )
)
