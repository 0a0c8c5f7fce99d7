r"""How many parameters: closed forms, from the shapes alone. No model is built and no weight is read.

Symbols, as in the course: $d$ width of the model, $L$ blocks, $r$ rank or bottleneck, $n$ virtual tokens. Where a
function takes a `model`, that is a transformers config or an `Architecture`.
Published tables recomputed with these: `tests/comparison/test_published.py`.
"""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

from coursekit.architecture import Architecture, Matrix, Norm, describe
from coursekit.errors import CourseError, unknown

#: What stands on the body: nothing, the output layer over the vocabulary, or a classifier of whole sequences.
TASKS = (None, "causal", "classification")


class Named(NamedTuple):
    r"""One parameter tensor: its path in the model and its shape."""

    name: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        r"""Number of elements."""
        return prod(self.shape)


def architecture(model: Any) -> Architecture:
    r"""`model` itself if it is an Architecture, else the description of that config."""
    return model if isinstance(model, Architecture) else describe(model)


# The model itself ---------------------------------------------------------------------------------------------------


def tensors(model: Any, task: str | None = None, num_labels: int = 2) -> list[Named]:
    r"""Every parameter tensor of the model, named as in `model.named_parameters()`; a tied output layer is no tensor.

    `task`: None for the body alone (`AutoModel`), "causal" for `AutoModelForCausalLM` (`AutoModelForSeq2SeqLM` for
    T5), "classification" for `AutoModelForSequenceClassification` with `num_labels` classes. An optimizer needs the
    single shapes, not only their sum: an 8-bit one leaves small tensors in 32 bits.
    """
    arch = architecture(model)
    if task not in TASKS:
        raise unknown("task", task, [str(t) for t in TASKS])
    if task == "causal" and arch.encoder:
        raise CourseError(f"{arch.family} is an encoder and has no causal language model: take task='classification'")
    if arch.decoder and task == "classification":
        raise CourseError(f"the classifier of {arch.family} is not described: take task='causal', its language model")
    # RoBERTa drops BERT's pooler when a classifier takes its place, and has one in the body alone.
    pooler = [Named("pooler.dense.weight", (arch.d_model,) * 2), Named("pooler.dense.bias", (arch.d_model,))]
    inside = [*body(arch), *(pooler if arch.family == "roberta" and task is None else [])]
    if task is None:
        return inside
    head = (
        ([] if arch.tied else [Named("lm_head.weight", (arch.vocab, arch.d_embed))])
        if task == "causal"
        else _classifier(arch, num_labels)
    )
    return [*(Named(arch.in_model(name), shape) for name, shape in inside), *head]


def full(model: Any, task: str | None = None, num_labels: int = 2) -> int:
    r"""All parameters: matrices, biases, embeddings, norms, and the head of `task`. Tied weights count once."""
    return sum(t.size for t in tensors(model, task, num_labels))


def head(model: Any, task: str | None, num_labels: int = 2) -> int:
    r"""Parameters of the task head alone; 0 for an output layer that is the input embedding."""
    arch = architecture(model)
    return full(arch, task, num_labels) - sum(m.size for m in body(arch))


def bitfit(model: Any) -> int:
    r"""Every bias of the body, norms included (Ben Zaken et al. 2022). 0 for families without biases, like Llama."""
    return sum(t.size for t in tensors(model) if t.name.endswith("bias"))


def blocks(model: Any) -> list[int]:
    r"""Each transformer block: its matrices, biases and norms. All alike, but in T5 and in ModernBERT."""
    arch = architecture(model)
    sizes = [0] * arch.n_layers
    for t in body(arch):
        if (layer := arch.block_of(t.name)) is not None:
            sizes[layer] += t.size
    return sizes


def top_layers(model: Any, k: int) -> int:
    r"""The last `k` blocks, e.g. $FT^{Top2}$ of Li and Liang (2021)."""
    return sum(blocks(model)[-k:])


# Low rank -----------------------------------------------------------------------------------------------------------


def low_rank(d_in: int, d_out: int, r: int) -> int:
    r"""$r\,(d_{in} + d_{out})$: $A$ and $B$ of one matrix (Hu et al. 2021)."""
    return r * (d_in + d_out)


# Adapters -----------------------------------------------------------------------------------------------------------


def adapter(d: int, r: int) -> int:
    r"""One bottleneck, $2dr + r + d$: $W_{down}$ and $W_{up}$ with their biases (Houlsby et al. 2019)."""
    return 2 * d * r + r + d


def houlsby(model: Any, r: int) -> int:
    r"""$2L(2dr + r + d)$: after attention and after the feed-forward of each block."""
    arch = architecture(model)
    return 2 * arch.n_layers * adapter(arch.d_model, r)


def pfeiffer(model: Any, r: int) -> int:
    r"""$L(2dr + r + d)$: after the feed-forward only (Pfeiffer et al. 2021)."""
    arch = architecture(model)
    return arch.n_layers * adapter(arch.d_model, r)


def parallel(model: Any, r: int, learned_scale: bool = False) -> int:
    r"""$L(2dr + r + d)$: beside the feed-forward (He et al. 2022); $L$ more where each scale $s$ is learned."""
    arch = architecture(model)
    return arch.n_layers * (adapter(arch.d_model, r) + learned_scale)


def lin(model: Any, r: int) -> int:
    r"""$L(2dr + r + d) + 2Ld$: after the whole block, with a LayerNorm of its own (Lin et al. 2020)."""
    arch = architecture(model)
    return arch.n_layers * (adapter(arch.d_model, r) + 2 * arch.d_model)


def kronecker(d_in: int, d_out: int) -> int:
    r"""$d_{in} + 2d_{out}$: the vectors of one layer $\sum_i A_i \otimes s_i t_i^\top$, and its bias.

    There are n vectors $t_i$ of $d_{in}/n$ numbers and n vectors $s_i$ of $d_{out}/n$: n drops out.
    """
    return d_in + 2 * d_out


def compacter(model: Any, r: int, n: int, sites: int = 2) -> int:
    r"""$n^3 + 2L(3d + 3r)$: two Kronecker layers at two places of each block (Karimi Mahabadi et al. 2021).

    The n matrices $A_i$, $n \times n$ each, are there once for the whole model. `sites`: 1 for Compacter++.
    """
    arch = architecture(model)
    one = kronecker(arch.d_model, r) + kronecker(r, arch.d_model)
    return n**3 + sites * arch.n_layers * one


def norms(model: Any, first: int = 0) -> int:
    r"""The norms of the blocks from number `first` on, and those outside: $2d$ each, $d$ for one without a bias.

    They are those that read something of each token. A norm before the blocks (BERT's, on the embeddings) counts only
    with `first=0`, one after them while any block is left.
    """
    arch = architecture(model)
    return sum(sum(norm.sizes) for norm, _ in norms_from(arch, first) if norm.of_tokens)


def norms_from(arch: Architecture, first: int = 0) -> list[tuple[Norm, int | None]]:
    r"""The norms with the blocks from number `first` on, each with the number of its block; None: outside of them."""
    inside = [
        (norm, layer)
        for layer in range(first, arch.n_layers)
        for norm in arch.all_norms
        if layer in arch.layers_of(norm)
    ]
    outer = [norm for norm in arch.all_norms if not norm.per_layer]
    ahead = {norm.name: norm.name in arch.before for norm in outer}
    return inside + [(n, None) for n in outer if (first == 0 if ahead[n.name] else first < arch.n_layers)]


def ia3(model: Any) -> int:
    r"""$L(2 d_{kv} + d_{ff})$: one factor per key, per value, per hidden unit (Liu et al. 2022)."""
    arch = architecture(model)
    return arch.n_layers * (2 * arch.d_kv + arch.d_ff)


# Soft prompts -------------------------------------------------------------------------------------------------------


def prompt(model: Any, n: int) -> int:
    r"""$nd$: `n` trained vectors before the input (Lester et al. 2021); PreEmbed of the LoRA paper.

    model: or d itself, the width of the word embedding, here and for P-tuning.
    """
    return n * _width(model)


def p_tuning_lstm(model: Any, n: int, h: int, layers: int = 2) -> int:
    r"""$nd + \sum_l 8h(in_l + h + 2) + (2h+1)2h + (2h+1)d$: vectors, LSTM of both directions, two layers.

    Each direction of an LSTM layer has four gates, $4h(in + h)$ weights and, as torch keeps them, $8h$ biases;
    $in_1 = d$ and from there on $2h$ (Liu et al. 2021).
    """
    d = _width(model)
    lstm = sum(8 * h * ((d if layer == 0 else 2 * h) + h + 2) for layer in range(layers))
    return prompt(model, n) + lstm + (2 * h + 1) * 2 * h + (2 * h + 1) * d


def p_tuning_mlp(model: Any, n: int, h: int) -> int:
    r"""$nd + (d+1)h + (h+1)h + (h+1)d$: vectors and three layers, $d \to h \to h \to d$."""
    d = _width(model)
    return prompt(model, n) + (d + 1) * h + (h + 1) * h + (h + 1) * d


def _width(model: Any) -> int:
    return model if isinstance(model, int) else architecture(model).d_embed


def prefix(model: Any, n: int, hidden: int | None = None) -> int:
    r"""$2Lnd_{kv}$: keys and values of `n` virtual tokens in every block (Li and Liang 2021).

    With `hidden` = $h$ what trains is the network that makes them, $nd_{kv} + (d_{kv} + 1)h + (h + 1)2Ld_{kv}$:
    an embedding, a linear map, tanh, a linear map. $d_{kv} = d$ but for grouped-query attention.
    """
    arch = architecture(model)
    width = 2 * arch.n_layers * arch.d_kv
    if hidden is None:
        return n * width
    return n * arch.d_kv + (arch.d_kv + 1) * hidden + (hidden + 1) * width


def llama_adapter(model: Any, n: int, layers: int, gates: int = 1) -> int:
    r"""$l(nd + g)$: `n` prompts and `gates` gates in each of the topmost `layers` blocks (Zhang et al. 2023)."""
    return layers * (n * architecture(model).d_model + gates)


def pre_layer(model: Any, n: int) -> int:
    r"""$Lnd$: PreLayer of the LoRA paper, which trains the activations of `n` virtual tokens after each layer.

    Asked for by its name in data/papers, as others here are.
    """
    arch = architecture(model)
    return arch.n_layers * n * arch.d_model


# The tensors of a model ---------------------------------------------------------------------------------------------


def body(model: Any) -> list[Named]:
    r"""The tensors of the body, by their paths in it: of an encoder as a classifier of whole sequences has it."""
    arch, found = architecture(model), []
    for matrix in arch.matrices:
        for path in arch.paths(matrix):
            found.append(Named(f"{path}.weight", _shape(matrix)))
            if matrix.bias:
                found.append(Named(f"{path}.bias", (matrix.d_out,)))
    for norm, layer in norms_from(arch):
        path = norm.name if layer is None else f"{arch.block_path(layer)}.{norm.name}"
        found += [Named(f"{path}.{key}", (size,)) for key, size in zip(("weight", "bias"), norm.sizes, strict=False)]
    return found


def _shape(matrix: Matrix) -> tuple[int, ...]:
    r"""nn.Linear stores (out, in), a convolution a window more; Conv1D and embeddings store (in, out)."""
    if matrix.kind == "convolution":
        return matrix.d_out, matrix.d_in, matrix.window
    return (matrix.d_out, matrix.d_in) if matrix.kind == "linear" else (matrix.d_in, matrix.d_out)


def _classifier(arch: Architecture, num_labels: int) -> list[Named]:
    d = arch.d_model
    if arch.family == "bert":
        return [Named("classifier.weight", (num_labels, d)), Named("classifier.bias", (num_labels,))]
    if arch.family in ("roberta", "electra"):
        return [
            Named("classifier.dense.weight", (d, d)), Named("classifier.dense.bias", (d,)),
            Named("classifier.out_proj.weight", (num_labels, d)), Named("classifier.out_proj.bias", (num_labels,)),
        ]  # fmt: skip
    if arch.encoder:  # a layer before the classifier, under each family's own name
        first = _BEFORE_CLASSIFIER[arch.family]
        bias = [Named(f"{first}.bias", (d,))] if arch.family != "modernbert" else []
        norm = [Named("head.norm.weight", (d,))] if arch.family == "modernbert" else []
        return [
            Named(f"{first}.weight", (d, d)), *bias, *norm,
            Named("classifier.weight", (num_labels, d)), Named("classifier.bias", (num_labels,)),
        ]  # fmt: skip
    return [Named("score.weight", (num_labels, arch.d_embed))]


_BEFORE_CLASSIFIER = {"distilbert": "pre_classifier", "deberta-v2": "pooler.dense", "modernbert": "head.dense"}
