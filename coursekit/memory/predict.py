r"""What training needs, from the config alone: weights, gradients, optimizer state and activations."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch

from coursekit import counts
from coursekit.architecture import Architecture
from coursekit.errors import CourseError, flag, number, one_of, whole
from coursekit.memory.activations.step import Setting
from coursekit.memory.activations.training import Training
from coursekit.memory.breakdown import Breakdown, GiB
from coursekit.memory.inserted import AFTER, BEFORE, Added, Inserted, has_entry, inserted
from coursekit.memory.measure import measure, random_batch
from coursekit.memory.moments import activations
from coursekit.memory.precision import Precision, optimizer_bytes, states
from coursekit.memory.quantized import Quantized

#: The families whose activations are modelled: those that were compared with measured steps.
MODELLED = ("bert", "roberta", "electra", "distilbert", "gpt2", "opt", "llama", "qwen3")


def bill(
    n: float, trained: float | None = None, precision: str = "mixed", optimizer: str | None = "adamw"
) -> Breakdown:
    r"""Bytes for `n` parameters of which `trained` (default: all) are trained. No activations: that needs shapes.

    The lecture's example: `bill(10e9)` is 20 GB of weights, 20 GB of gradients and 120 GB for the optimizer (40 GB
    of master weights and 80 GB of momentum and variance). `bill(70e9, 0, "fp32")`: 280 GB to load 70 B parameters.
    """
    p = Precision.of(precision)
    n = int(number("n", n, least=0, such_as=1e9))
    trained = int(number("trained", n if trained is None else trained, least=0, most=n))
    if optimizer == "adamw8bit":  # without shapes: as one tensor
        state = optimizer_bytes([trained], optimizer, p.state)
    else:
        state = states(optimizer) * p.state * trained
    return Breakdown(weights=p.weight * n, master=p.master * trained, gradients=p.weight * trained, optimizer=state)


def predict(
    config: Any,
    method: Any = None,
    *,
    batch: int,
    seq: int,
    precision: str = "fp32",
    optimizer: str | None = "adamw",
    checkpointing: bool = False,
    attention: str = "sdpa",
    task: str | None = None,
    num_labels: int | None = None,
    padded: bool = True,
    device: str = "cpu",
    quantized: Quantized | None = None,
    states_only: bool = False,
) -> Breakdown:
    r"""What one training step of the model that `config` describes takes, by category, in bytes.

    method: None for full fine-tuning, a method of the course, or anything with `trains(path) -> bool` for parameters
    of the base that train in place.
    batch, seq: rows and tokens of a row. task: "causal" or "classification"; None: what the family is for.
    num_labels: classes (default: the config's). padded: whether rows differ in length, so that there is a mask.
    attention: "sdpa" or "eager". device: "cpu" or "cuda", which use different attention kernels and dropout masks.
    quantized: for a base that went through `quantize_model`, its settings; `Quantized()` is QLoRA's own.
    states_only: leave the activations out, of any family.

    A method without an entry in `inserted.INSERTED` is measured instead, in one step of a model with random weights
    (`measured_instead`), and a warning says so.

    Weights, gradients and optimizer state are exact. Activations are modelled for the families in
    `MODELLED`; CourseError for others, without states_only. They follow PyTorch 2.13 and
    transformers 5.24; the CUDA figures come from the same formulas with CUDA's kernels put in, and are checked where
    there is a GPU.
    """
    arch = counts.architecture(config)
    task = task or ("classification" if arch.encoder else "causal")
    num_labels = int(getattr(config, "num_labels", 2)) if num_labels is None else num_labels
    batch = whole("batch", batch, least=1, such_as=8)
    seq = whole("seq", seq, least=1, such_as=128)
    num_labels = whole("num_labels", num_labels, least=1, such_as=2)
    one_of("attention", attention, ("sdpa", "eager"))
    one_of("device", device, ("cpu", "cuda"))
    for name, value in {"checkpointing": checkpointing, "padded": padded, "states_only": states_only}.items():
        flag(name, value)
    p = Precision.of(precision)
    if not (_in_place(method) or has_entry(method, config)):
        if not hasattr(method, "attach"):
            raise CourseError(
                f"the memory model does not know what {type(method).__name__} keeps; use bill(n, trained) for the rest"
            )
        if quantized:
            raise CourseError(
                f"the memory model has no entry for {type(method).__name__}, and it measures no base in 4 bits by "
                "itself: measure a step with memory.measure"
            )
        return measured_instead(
            config, method, batch, seq, precision, optimizer, checkpointing, attention, task, num_labels, padded, device
        )  # fmt: skip
    base = counts.tensors(arch, task, num_labels)
    training, copied, trained = _trained(arch, config, method, base, task)
    added = [t.size for t in training.added]
    # What a method adds is fp32 whatever the base is; what is copied from the base has its precision.
    factor = max(p.weight, 4)
    if quantized and _in_place(method):
        raise CourseError("weights in 4 bits do not train: give a method that puts its own beside them, such as LoRA")
    if quantized:
        frozen = quantized.weights(arch, base, p.weight)
    else:
        frozen = p.weight * sum(t.size for t in base)
    weights = frozen + p.weight * sum(t.size for t in copied) + factor * (sum(added) + training.fixed)
    tensors = [t.size for t in trained]
    on_gpu = device == "cuda"
    if optimizer == "adamw8bit":
        state = optimizer_bytes(tensors + added, optimizer, p.state, not on_gpu)
    else:
        state = optimizer_bytes(tensors, optimizer, p.state, not on_gpu)
        state += optimizer_bytes(added, optimizer, factor, not on_gpu)
    gradient = p.weight * sum(tensors) + factor * sum(added)
    known = Breakdown(weights=weights, master=p.master * sum(tensors), gradients=gradient, optimizer=state)
    if states_only:
        return known
    if arch.family not in MODELLED:
        raise CourseError(
            f"the activations of {arch.family} are not modelled: take states_only=True for weights, gradients and "
            "optimizer, which are exact, or measure a step with memory.measure"
        )
    setting = Setting(
        batch, seq + training.prompt, p.weight, _kernel(arch, attention, on_gpu), padded, on_gpu,
        prompt=training.prompt, prefix=training.prefix,
        unpacked=quantized.sizes(arch, p.weight, on_gpu) if quantized else {},
    )  # fmt: skip
    arrivals = _arrivals(arch, trained, training.added, p.weight, factor)
    return replace(known, **activations(arch, setting, training, task, checkpointing, arrivals))


#: What `measured_instead` builds at most, in bytes of weights.
MOST_MEASURED = 4 * GiB


def measured_instead(
    config: Any, method: Any, batch: int, seq: int, precision: str, optimizer: str | None, checkpointing: bool,
    attention: str, task: str, num_labels: int, padded: bool, device: str,
) -> Breakdown:  # fmt: skip
    r"""One measured step of `method` on a model with random weights; the arguments are those of `predict`.

    Raises CourseError for a model above `MOST_MEASURED`, and for a precision in which no step can be run.
    """
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    name, size = type(method).__name__, Precision.of(precision).weight * counts.full(config, task, num_labels)
    if precision not in MEASURED or size > MOST_MEASURED or (device == "cuda" and not torch.cuda.is_available()):
        raise CourseError(
            f"the memory model has no entry for {name}, and this step cannot be measured here: take precision='fp32' "
            f"or 'bf16', a model of at most {MOST_MEASURED / GiB:.0f} GiB, and a device that is there"
        )
    warnings.warn(
        f"the memory model has no entry for {name}: these figures are one measured step of a model with random weights",
        stacklevel=3,
    )
    config = copy.deepcopy(config)
    config.num_labels = num_labels
    auto = AutoModelForCausalLM if task == "causal" else AutoModelForSequenceClassification
    with torch.random.fork_rng(devices=[]):
        model = auto.from_config(config, dtype=MEASURED[precision], attn_implementation=attention).to(device)
        given = random_batch(model, batch, seq)
        if not padded:
            given["attention_mask"].fill_(1)
        if task == "classification":
            given["labels"] = torch.arange(batch, device=device) % num_labels
        return measure(method.attach(model), given, optimizer=optimizer, checkpointing=checkpointing)


#: Precisions in which a step is run as it is.
MEASURED = {"fp32": torch.float32, "bf16": torch.bfloat16}


def _trained(
    arch: Architecture, config: Any, method: Any, base: list[counts.Named], task: str
) -> tuple[Inserted, list[counts.Named], list[counts.Named]]:
    r"""(what the method does to the model, tensors copied from the base, trained tensors of the base's kind)."""
    body = f"{arch.prefix}."
    heads = [t for t in base if task == "classification" and not t.name.startswith(body)]
    if _is_full(method):
        return Inserted(Training(lambda path: True)), [], base
    if _in_place(method):
        chosen = [t for t in base if t in heads or method.trains(t.name)]
        return Inserted(Training(lambda path: method.trains(arch.in_model(path)))), heads, chosen
    return inserted(method, arch, config), heads, heads


def _in_place(method: Any) -> bool:
    r"""Whether the base's own tensors train."""
    return _is_full(method) or hasattr(method, "trains")


def _is_full(method: Any) -> bool:
    return method is None or getattr(method, "kind", None) == "FULL"


def _arrivals(
    arch: Architecture, trained: list[counts.Named], added: Iterable[Added], element: int, factor: int
) -> list[int]:
    r"""Bytes of gradients by when they arrive in the backward: [head, block 0, ..., last block, embeddings]."""
    found = [0] * (arch.n_layers + 2)
    tables = tuple(arch.in_model(f"{name}.") for name in arch.tables)
    body = f"{arch.prefix}." if arch.prefix else ""
    for t in trained:
        layer = arch.block_of(t.name.removeprefix(body))
        place = 1 + layer if layer is not None else -1 if t.name.startswith(tables) else 0
        found[place] += element * t.size
    outside = {AFTER: 0, BEFORE: -1}
    for t in added:
        found[outside[t.place] if t.place in outside else 1 + t.place] += factor * t.size
    return found


def _kernel(arch: Architecture, attention: str, on_gpu: bool) -> str:
    if attention == "eager":
        return "eager"
    # The CPU's fused kernel has no dropout; CUDA's have.
    return "math" if arch.attention_dropout and not on_gpu else "flash"
