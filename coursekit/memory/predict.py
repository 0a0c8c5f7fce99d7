r"""What training needs, from the config alone: weights, gradients, optimizer state and activations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from coursekit import counts
from coursekit.architecture import Architecture
from coursekit.errors import CourseError, unknown
from coursekit.memory.activations import (
    Setting,
    Step,
    Training,
    backward_peak,
    block_steps,
    forward_locals,
    kept,
    norm_work,
)
from coursekit.memory.breakdown import Breakdown, Point, Term, summed
from coursekit.memory.precision import optimizer_bytes, precision, states


def bill(
    n: float, trained: float | None = None, precision: str = "mixed", optimizer: str | None = "adamw"
) -> Breakdown:
    r"""Bytes for `n` parameters of which `trained` (default: all) are trained. No activations: that needs shapes.

    The lecture's example: `bill(10e9)` is 20 GB of weights, 20 GB of gradients and 120 GB for the optimizer (40 GB
    of master weights and 80 GB of momentum and variance). `bill(70e9, 0, "fp32")`: 280 GB to load 70 B parameters.
    """
    p = _precision(precision)
    n, trained = int(n), int(n if trained is None else trained)
    if not 0 <= trained <= n:
        raise CourseError(f"{trained} of {n} parameters cannot be trained: give a number from 0 to {n}")
    if optimizer == "adamw8bit":  # without shapes: as one tensor
        state = optimizer_bytes([trained], optimizer, p.state)
    else:
        state = states(optimizer) * p.state * trained
    return Breakdown(
        weights=p.weight * n, master=p.master * trained, gradients=p.weight * trained, optimizer=state
    )


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
) -> Breakdown:
    r"""What one training step of the model that `config` describes takes, by category, in bytes.

    method: None for full fine-tuning, a LoRA, or any method with `trains(path) -> bool` for base parameters.
    batch, seq: rows and tokens of a row. task: "causal" or "classification"; None: what the family is for.
    num_labels: classes (default: the config's). padded: whether rows differ in length, so that there is a mask.
    attention: "sdpa" or "eager". device: "cpu" or "cuda", which use different attention kernels and dropout masks.

    Weights, gradients and optimizer state are exact. Activations follow PyTorch 2.13 and transformers 5.24; the CUDA
    figures come from the same formulas with CUDA's kernels put in, and are checked where there is a GPU.
    """
    arch = counts.architecture(config)
    task = task or ("classification" if arch.encoder else "causal")
    num_labels = num_labels or int(getattr(config, "num_labels", 2))
    _check(batch, seq, attention, device)
    p = _precision(precision)
    base = counts.tensors(arch, task, num_labels)
    training, added, copied, trained = _trained(arch, config, method, base, task)
    # LoRA's factors are fp32 whatever the base is; what is copied from the base has its precision.
    factor = max(p.weight, 4)
    weights = p.weight * sum(t.size for t in base + copied) + factor * sum(added)
    tensors = [t.size for t in trained]
    on_gpu = device == "cuda"
    state = optimizer_bytes(tensors, optimizer, p.state, not on_gpu)
    if added:
        state = _mixed_state(tensors, added, optimizer, p.state, factor, not on_gpu)
    setting = Setting(batch, seq, p.weight, _kernel(arch, attention, on_gpu), padded, on_gpu)
    arrivals = _arrivals(arch, config, method, trained, p.weight, factor)
    gradient = p.weight * sum(tensors) + factor * sum(added)
    return Breakdown(
        weights=weights,
        master=p.master * sum(tensors),
        gradients=gradient,
        optimizer=state,
        **_activations(arch, setting, training, task, checkpointing, arrivals),
    )


def _mixed_state(
    tensors: list[int], added: list[int], optimizer: str | None, state: int, factor: int, step: bool
) -> int:
    if optimizer == "adamw8bit":
        return optimizer_bytes(tensors + added, optimizer, state, step)
    return optimizer_bytes(tensors, optimizer, state, step) + optimizer_bytes(added, optimizer, factor, step)


def _trained(
    arch: Architecture, config: Any, method: Any, base: list[counts.Named], task: str
) -> tuple[Training, list[int], list[counts.Named], list[counts.Named]]:
    r"""(what is trained, sizes of added tensors, tensors copied from the base, trained tensors of the base's kind)."""
    heads = [t for t in base if t.name.split(".")[0] in ("classifier", "score")]
    prefix = f"{arch.prefix}."
    if method is None or getattr(method, "kind", None) == "FULL":
        return Training(lambda path: True), [], [], base
    if hasattr(method, "trains"):
        chosen = [t for t in base if t in heads or method.trains(t.name)]
        return Training(lambda path: method.trains(prefix + path)), [], heads, chosen
    if not hasattr(method, "matrices"):
        raise CourseError(
            f"the memory model does not know what {type(method).__name__} keeps; use bill(n, trained) for the rest"
        )
    matrices = method.matrices(config)
    dora = bool(getattr(method, "dora", False))
    added = []
    for m in matrices:
        for _ in range(arch.copies(m)):
            added += [method.r * m.d_in, method.r * m.d_out, *([m.d_out] if dora else [])]
    names = frozenset(m.name for m in matrices)
    training = Training(lambda path: False, names, method.r, getattr(method, "dropout", 0.0), dora)
    return training, added, heads, heads


def _activations(
    arch: Architecture, s: Setting, training: Training, task: str, checkpointing: bool, arrivals: list[int]
) -> dict[str, Any]:
    td = s.tokens * arch.d_model * s.element
    before, flows = _embedding(arch, s, training, checkpointing)
    blocks = []
    for layer in range(arch.n_layers):
        steps, flows_out = block_steps(arch, s, training, layer, flows)
        blocks.append((steps, flows))
        flows = flows_out
    steps, first_flows = blocks[-1]
    if checkpointing:
        inputs = Term("inputs of the blocks", f"{arch.n_layers} T d", arch.n_layers * td)
        stored = [inputs, _mask(arch, s)]
        stack = summed(stored)
    else:
        stored = [_as_one(f"block {i}", steps) for i, (steps, _) in enumerate(blocks)]
        stack = sum(kept(steps) for steps, _ in blocks)
    head_kept, head_loss, head_forward, partial = _head(arch, s, training, task)
    kept_loss = sum(t.bytes for t in head_kept if t.name == "log softmax")
    # What the head kept beyond the final norm has gone when that norm's backward runs.
    head_off = sum(t.bytes for t in head_kept if t.name in ("log softmax", "input of the output layer"))
    after_forward = summed(before) + stack + summed(head_kept)
    # The last block's backward. Its input is one of the checkpoints already.
    last = backward_peak(steps)
    local = forward_locals(arch, s, training, steps)
    first = {t.name for step in blocks[0][0] for t in step.keeps}
    if not arch.pre_norm and not checkpointing and "input of q, k, v" not in first:
        local += td  # transformers holds the embedding's output until the last block is done
    at_norm = after_forward - head_off + norm_work(arch, s) + partial if arch.pre_norm else 0
    if checkpointing:
        last = max(last, kept(steps) + local + td) - (0 if _copies_input(arch, s) else td)
        at_last = summed(before) + stack + partial + last
    else:
        at_last = summed(before) + stack - kept(steps) + partial + last
    # The output layer's backward: the loss has let go, the gradient of the logits and of a tied table are there.
    at_logits = after_forward + (s.element * kept_loss // 4 - kept_loss) + partial
    # A tied table has two gradients, from the output layer at once and from the input at the very end. The first one
    # waits through the whole backward pass, and for a moment both stand beside their sum.
    at_end = 2 * partial + td
    if checkpointing:
        # Each block is recomputed: its input is there already, unless the norm keeps a copy of its own.
        shift = td if _copies_input(arch, s) else 0
        work = [shift + max(backward_peak(b), kept(b) + local + td) for b, _ in blocks]
    else:
        work = [backward_peak(b) for b, _ in blocks]
    at_head = max(at_logits, at_norm)
    points = _timeline(
        td,
        blocks,
        work,
        before,
        checkpointing,
        head_kept,
        head_loss,
        head_forward,
        partial,
        at_head,
        at_end,
        arrivals,
    )
    peak = max(
        after_forward + head_loss, after_forward + head_forward, at_logits, at_norm, at_last, at_end,
        summed(before) + stack + (0 if checkpointing else local),
    )  # fmt: skip
    return dict(
        activations=peak,
        kept=after_forward,
        terms=(*before, *stored, *head_kept),
        block=tuple(t for step in blocks[min(1, len(blocks) - 1)][0] for t in step.keeps),
        timeline=tuple(points),
    )


def _copies_input(arch: Architecture, s: Setting) -> bool:
    r"""Whether a recomputed block keeps its input as a new tensor: RMS norms in 16 bits keep an fp32 copy."""
    return arch.norm == "rms" and s.element < 4


def _timeline(
    td: int, blocks: list[tuple[list[Step], bool]], work: list[int], before: list[Term], checkpointing: bool,
    head_kept: list[Term], head_loss: int, head_forward: int, partial: int,
    at_head: int, at_end: int, arrivals: list[int],
) -> list[Point]:  # fmt: skip
    r"""Activations and gradients at the moments that matter, in order.

    work: bytes alive in the backward of each block; arrivals: gradients of the head, of each block, of the embedding.
    """
    sizes = [td if checkpointing else kept(steps) for steps, _ in blocks]
    now = summed(before)
    points = [Point("forward: embedding", now, 0)]
    for i, size in enumerate(sizes):
        now += size
        points.append(Point(f"forward: block {i}", now, 0))
    now += summed(head_kept)
    points += [
        Point("forward: head", now + head_forward, 0),
        Point("kept", now, 0),
        Point("loss", now + head_loss, 0),
        Point("backward: head", at_head, 0),
    ]
    now -= summed(head_kept)
    arrived = arrivals[0]
    for i in reversed(range(len(blocks))):
        now -= sizes[i]
        points.append(Point(f"backward: block {i}", now + partial + work[i], arrived))
        arrived += arrivals[1 + i]
    return [*points, Point("backward: embedding", at_end, arrived + arrivals[-1])]


def _arrivals(
    arch: Architecture, config: Any, method: Any, trained: list[counts.Named], element: int, factor: int
) -> list[int]:
    r"""Bytes of gradients by when they arrive in the backward: [head, block 0, ..., last block, embeddings]."""
    found = [0] * (arch.n_layers + 2)
    block = f"{arch.prefix}.{arch.block}."
    tables = tuple(f"{arch.prefix}.{m.name}." for m in arch.matrices if m.kind == "embedding")
    for t in trained:
        if t.name.startswith(block):
            place = 1 + int(t.name[len(block) :].split(".")[0])
        else:
            place = -1 if t.name.startswith(tables) else 0
        found[place] += element * t.size
    for m in method.matrices(config) if hasattr(method, "matrices") else ():
        size = factor * counts.lora(arch, [m], method.r, getattr(method, "dora", False)) // arch.copies(m)
        for place in range(1, 1 + arch.n_layers) if m.per_layer else (-1,):
            found[place] += size
    return found


def _mask(arch: Architecture, s: Setting) -> Term:
    r"""The mask that all checkpointed blocks share: none, yes or no for each pair of tokens, or a number to add."""
    eager = s.attention == "eager"
    needed = s.padded or (eager and arch.pre_norm)
    return Term("mask", "T seq", s.tokens * s.seq * (s.element if eager else 1) * needed)


def _as_one(name: str, steps: list[Step]) -> Term:
    return Term(name, "see `block`", kept(steps))


def _embedding(
    arch: Architecture, s: Setting, training: Training, checkpointing: bool
) -> tuple[list[Term], bool]:
    r"""Kept before the first block, and whether the blocks' input needs a gradient."""
    td = s.tokens * arch.d_model
    tables = [m.name for m in arch.matrices if m.kind == "embedding"]
    # Under checkpointing transformers makes the embedding's output require a gradient, trained or not.
    flows = checkpointing or any(training.weight(m) or m in training.low_rank for m in tables)
    terms = []
    if checkpointing and not any(training.weight(m) for m in tables) and arch.norm == "layer":
        # That makes it a leaf of the graph, which stays until the end. Llama's is the first block's input as well.
        terms.append(Term("output of the embedding", "T d", td * s.element))
    for m in tables:
        if m in training.low_rank:
            terms.append(Term(f"{m}: A x", "T r", 4 * s.tokens * training.r))
    if arch.norm == "layer" and not arch.pre_norm and arch.outer_norms:
        norm = training.any_of(arch.outer_norms[0])
        if flows or norm:
            terms += [
                Term("sum of the embeddings", "T d", td * s.element),
                Term("mean, 1 / std", "2 T", 8 * s.tokens),
            ]
        flows |= norm
    if arch.dropout and flows and arch.family != "opt":
        terms.append(Term("dropout mask", "T d", td * s.noise))
    if arch.family == "llama":
        terms.append(Term("cos, sin of the positions", "2 seq head", 2 * s.seq * arch.head_dim * s.element))
    return terms, flows


def _head(arch: Architecture, s: Setting, training: Training, task: str) -> tuple[list[Term], int, int, int]:
    r"""(kept, extra in the loss' backward, extra at the end of the forward, held through the backward)."""
    td = s.tokens * arch.d_model
    rms = arch.norm == "rms"
    terms: list[Term] = []
    for norm in arch.outer_norms if arch.pre_norm else ():
        terms.append(Term("residual stream", "T d", td * (4 if rms else s.element)))
        terms.append(
            Term("1 / rms", "T", 4 * s.tokens) if rms else Term("mean, 1 / std", "2 T", 8 * s.tokens)
        )
        if rms and training.weight(norm):
            terms.append(Term("normalised", "T d", td * s.element))
    if task == "classification":
        return [*terms, *_classifier(arch, s, training)], 0, 0, 0
    table = next(m.name for m in arch.matrices if m.kind == "embedding")
    # An untied output layer is trained when everything is.
    trained = training.weight(table) if arch.tied else training.weight("lm_head")
    if trained:
        terms.append(Term("input of the output layer", "T d", s.tokens * arch.d_embed * s.element))
    # The loss is computed in fp32 whatever the model is in. It keeps log softmax; its backward makes two more.
    tv = s.tokens * arch.vocab
    terms.append(Term("log softmax", "T V", 4 * tv))
    forward = tv * (s.element + (4 if s.element < 4 else 0))  # the logits, and their copy in fp32
    waits = arch.vocab * arch.d_embed * s.element if arch.tied and trained else 0
    return terms, 2 * 4 * tv, forward, waits


def _classifier(arch: Architecture, s: Setting, training: Training) -> list[Term]:
    b, d = s.batch, arch.d_model * s.element
    if arch.family == "bert":
        terms = [Term("pooled", "batch d", b * d)]
        if training.weight("pooler.dense"):
            terms.insert(0, Term("last hidden states", "T d", s.tokens * d))
        if arch.dropout:
            terms += [Term("dropout mask, dropped", "2 batch d", b * arch.d_model * (s.noise + s.element))]
        return terms
    if arch.family == "roberta":
        # Without dropout the first token's state is a view, and keeps the whole tensor alive.
        first = (
            Term("first token", "batch d", b * d)
            if arch.dropout
            else Term("hidden states", "T d", s.tokens * d)
        )
        return [first, Term("classifier", "4 batch d", 4 * b * d)]
    return [Term("input of the classifier", "T d", s.tokens * arch.d_embed * s.element)]


def _kernel(arch: Architecture, attention: str, on_gpu: bool) -> str:
    if attention == "eager":
        return "eager"
    # The CPU's fused kernel has no dropout; CUDA's have.
    return "math" if arch.attention_dropout and not on_gpu else "flash"


def _check(batch: int, seq: int, attention: str, device: str) -> None:
    if batch < 1 or seq < 1:
        raise CourseError(f"batch={batch}, seq={seq}: both must be at least 1")
    if attention not in ("sdpa", "eager"):
        raise unknown("attention", attention, ("sdpa", "eager"))
    if device not in ("cpu", "cuda"):
        raise unknown("device", device, ("cpu", "cuda"))


_precision: Callable = precision
