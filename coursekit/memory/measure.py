r"""What one training step really takes: on the CPU by tracking live tensors, on CUDA from the allocator."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from coursekit import counts
from coursekit.errors import CourseError, one_of
from coursekit.labels import IGNORED
from coursekit.live import Live
from coursekit.memory.breakdown import Breakdown, Point

OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.0, weight_decay=0.0),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.0),
    "sgd-momentum": lambda p: torch.optim.SGD(p, lr=0.0, momentum=0.9),
    "adamw8bit": lambda p: _eight_bit(p),
}


def measure(
    model: nn.Module, batch: Mapping[str, Tensor], *, optimizer: str | None = "adamw", checkpointing: bool = False
) -> Breakdown:
    r"""Run one training step of `model` on `batch` (with labels) and say where the memory went.

    Trains what has `requires_grad`, in training mode, as `fit` does: `loss = model(**batch).loss`, backward, one
    optimizer step at learning rate 0. `checkpointing`: with activation checkpointing of every block.

    The model comes back as it was: weights bit for bit (what the step touches is copied to host memory first),
    gradients, mode, checkpointing, and the random generators. On the CPU one line of `timeline` is one operation.

    Raises CourseError if nothing is trainable, or the batch has no labels.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise CourseError("nothing in this model is trainable: attach a method, or set requires_grad, before measuring")
    if "labels" not in batch:
        raise CourseError("the batch has no labels, so there is no loss to run backward; prepare it for training")
    if optimizer is not None:
        one_of("optimizer", optimizer, OPTIMIZERS)
    device = trained[0].device
    with _as_it_was(model, trained, checkpointing):
        step = _on_cuda if device.type == "cuda" else _on_cpu
        return step(model, dict(batch), trained, optimizer)


def random_batch(model: nn.Module, rows: int, tokens: int, seed: int = 0) -> dict[str, Tensor]:
    r"""Random token ids on the model's device, with labels. All rows but the first are padded, as in a real batch.

    `input_ids` and `attention_mask` are (rows, tokens). `labels`: (rows, tokens) for a decoder, (rows,) for an encoder.
    """
    random = torch.Generator().manual_seed(seed)
    most = min(20_000, model.config.vocab_size)
    ids = torch.randint(min(1000, most // 2), most, (rows, tokens), generator=random)  # past the special ones
    mask = torch.ones_like(ids)
    mask[1:, tokens * 3 // 4 :] = 0
    encoder = counts.architecture(model.config).encoder
    labels = torch.arange(rows) % 2 if encoder else ids.masked_fill(mask == 0, IGNORED)
    device = next(model.parameters()).device
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device), "labels": labels.to(device)}


def _on_cpu(
    model: nn.Module, batch: dict[str, Tensor], trained: list[nn.Parameter], optimizer: str | None
) -> Breakdown:
    live = Live()
    weights = live.add(_weights(model))
    buffers = live.add(model.buffers()) - weights
    inputs = live.add(batch.values()) - weights - buffers
    with live:
        live.mark("forward")
        loss = model(**batch).loss
        live.mark("backward")
        loss.backward()
        live.mark("end")
        # A storage counts as gradient for its whole life if it is one in the end.
        gradients = live.add(p.grad for p in trained if p.grad is not None)
    events = live.events
    sizes = {e.storage: e.change for e in events if e.change >= 0}  # 0: of a tensor without elements
    timeline, kept = _curve(events, weights | buffers | inputs, gradients)
    return Breakdown(
        weights=sum(sizes[s] for s in weights), gradients=sum(sizes[s] for s in gradients),
        optimizer=_state_bytes(trained, optimizer), activations=max(p.activations for p in timeline), kept=kept,
        timeline=timeline, buffers=sum(sizes[s] for s in buffers), batch=sum(sizes[s] for s in inputs),
    )  # fmt: skip


def _curve(events: list, known: set[int], gradients: set[int]) -> tuple[tuple[Point, ...], int]:
    r"""Activations and gradients after each event, and the activations at the end of the forward pass."""
    points, activations, gradient, kept = [], 0, 0, 0
    for event in events:
        if event.storage is None:
            if event.label == "backward":
                kept = activations
            if event.label == "end":
                break
        elif event.storage in gradients:
            gradient += event.change
        elif event.storage not in known:
            activations += event.change
        points.append(Point(event.label, activations, gradient))
    return tuple(points), kept


def _on_cuda(
    model: nn.Module, batch: dict[str, Tensor], trained: list[nn.Parameter], optimizer: str | None
) -> Breakdown:
    device = trained[0].device
    # Libraries allocate workspaces at their first use, which are not the step's: one step to warm up.
    model(**batch).loss.backward()
    _drop_gradients(trained)
    meter = Allocator(device)
    timeline, kept = by_allocator(meter, model, batch, trained)
    weights = _weights(model)
    return Breakdown(
        weights=sum(w.nbytes for w in weights),
        gradients=sum(p.grad.nbytes for p in trained if p.grad is not None),
        optimizer=_state_bytes(trained, optimizer),
        activations=max(p.activations for p in timeline),
        kept=kept,
        timeline=timeline,
        buffers=sum(b.nbytes for b in model.buffers() if id(b) not in set(map(id, weights))),
        batch=sum(t.nbytes for t in batch.values()),
    )


class Allocator:
    r"""CUDA's caching allocator: bytes in use now, and the most since the last look."""

    def __init__(self, device: torch.device):
        self.device = device

    def now(self) -> int:
        r"""Bytes that tensors occupy."""
        return torch.cuda.memory_allocated(self.device)

    def highest(self) -> int:
        r"""The most bytes occupied since this was last asked."""
        most = torch.cuda.max_memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        return most


def by_allocator(
    meter: Any, model: nn.Module, batch: dict[str, Tensor], trained: list[nn.Parameter]
) -> tuple[tuple[Point, ...], int]:
    r"""Forward and backward with a look at `meter` whenever a parameter has its gradient; (timeline, kept).

    The allocator does not say what a byte is for. But between two such moments the number of gradient bytes is
    known, so the highest reading between them, less the gradients, is what activations took. (A gradient that is
    allocated just before its moment counts as a temporary until then: an overcount by one matrix at most.)
    """
    points: list[Point] = []
    meter.highest()
    before, done = meter.now(), 0

    def look(label: str) -> None:
        points.append(Point(label, meter.highest() - before - done, done))

    def arrived(parameter: Tensor) -> None:
        nonlocal done
        look("backward")
        done += parameter.grad.nbytes

    hooks = [p.register_post_accumulate_grad_hook(arrived) for p in trained]
    try:
        loss = model(**batch).loss
        look("forward")
        kept = meter.now() - before
        loss.backward()
        look("end")
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(points), kept


def _weights(model: nn.Module) -> list[Tensor]:
    r"""Parameters, and the codes and scales of layers in 4 bits."""
    # Where the module is not loaded nothing is of it, and this file needs PyTorch only.
    quantized = getattr(sys.modules.get("coursekit.qlora.linear"), "Linear4bit", ())
    codes = [b for m in model.modules() if isinstance(m, quantized) for b in m.buffers(recurse=False)]
    return [*model.parameters(), *codes]


def _state_bytes(trained: list[nn.Parameter], name: str | None) -> int:
    r"""Bytes of optimizer state after one update, read off the optimizer itself."""
    if name is None:
        return 0
    optimizer = OPTIMIZERS[name](trained)
    optimizer.step()
    tensors = {
        t.untyped_storage()._cdata: t
        for state in optimizer.state.values() for t in state.values() if isinstance(t, Tensor)
        # The step counters of Adam stay in host memory; the 8-bit code table is one for all.
        if t.device == trained[0].device
    }  # fmt: skip
    return sum(t.untyped_storage().nbytes() for t in tensors.values())


def _eight_bit(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    from bitsandbytes.optim import AdamW8bit

    return AdamW8bit(parameters, lr=0.0, weight_decay=0.0)


def _drop_gradients(trained: list[nn.Parameter]) -> None:
    for p in trained:
        p.grad = None


@contextlib.contextmanager
def _as_it_was(model: nn.Module, trained: list[nn.Parameter], checkpointing: bool) -> Iterator[None]:
    gradients = [p.grad for p in trained]
    weights = [p.detach().to("cpu", copy=True) for p in trained]
    training = {m: m.training for m in model.modules()}
    checkpointed = any(getattr(m, "gradient_checkpointing", False) for m in model.modules())
    hooked = bool(getattr(model, "_require_grads_hooks", None))
    config = getattr(model, "config", None)
    cache = getattr(config, "use_cache", None)
    devices = [trained[0].device] if trained[0].device.type == "cuda" else []
    _drop_gradients(trained)
    model.train()
    if cache is not None:
        config.use_cache = False  # as `fit` does: training needs no KV cache
    if checkpointing != checkpointed:
        _set_checkpointing(model, checkpointing)
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        if checkpointing != checkpointed:
            _set_checkpointing(model, checkpointed)
            if not hooked:  # `enable` hooks the embedding, and `disable` leaves that hook where it is
                model.disable_input_require_grads()
        if cache is not None:
            config.use_cache = cache
        for module, mode in training.items():
            module.training = mode
        with torch.no_grad():
            for p, weight, gradient in zip(trained, weights, gradients, strict=True):
                p.copy_(weight)
                p.grad = gradient


def _set_checkpointing(model: nn.Module, on: bool) -> None:
    verb = "enable" if on else "disable"
    # transformers before 5.20 knows the older name only.
    switch = getattr(model, f"activation_checkpointing_{verb}", None) or getattr(
        model, f"gradient_checkpointing_{verb}"
    )
    switch()
