r"""One transformer block, step by step, in the order of its forward pass: a pre-norm one and BERT's side by side.

GPT-2, OPT, Llama   norm  q,k,v  attention  output projection (+)  norm  feed-forward (+)
BERT                      q,k,v  attention  output projection (+)  norm  feed-forward (+)  norm
"""

from __future__ import annotations

from collections.abc import Sequence

from coursekit.architecture import Architecture, Matrix
from coursekit.memory.activations.builder import Builder, Product
from coursekit.memory.activations.forward import alive
from coursekit.memory.activations.linear import linear
from coursekit.memory.activations.step import Setting, Step
from coursekit.memory.activations.training import Training


def attention(b: Builder, qkv: Sequence[str], flowed: bool) -> bool:
    r"""The attention over the results of the matrices `qkv`. `flowed`: whether their input needs a gradient.

    Returns whether its result is kept, for the output projection to share.
    """
    a, s = b.arch, b.setting
    if not (b.flows or s.prefix):
        b.add("attention without a gradient", [], 0, *_without_gradient(b))
        return False
    b.flows = True
    repeats = a.n_heads != a.n_kv_heads and (s.attention != "flash" or s.padded or bool(s.prefix))
    kv = ("K" if s.prefix else "T") + (" q" if repeats else " kv")
    if s.attention == "flash":
        _fused(b, kv)
        return True
    _unfused(b, kv, *_gradients(b, qkv, flowed))
    return False


def _gradients(b: Builder, qkv: Sequence[str], flowed: bool) -> tuple[bool, bool, bool]:
    r"""Whether queries, keys and values need gradients. Those of a prefix train; GPT-2 has one matrix for all."""
    q, k, v = (flowed or b.touches(n) for n in (qkv if len(qkv) == 3 else (qkv[0],) * 3))
    return q, k or bool(b.setting.prefix), v or bool(b.setting.prefix)


def _fused(b: Builder, kv: str) -> None:
    r"""A fused kernel computes the attention weights again, from their sums."""
    s = b.setting
    keeps = [
        b.term("q", "T q"), b.term("k", kv), b.term("v", kv), b.term("attention output", "T q"),
        b.small("log sum exp", "T heads", 4 * s.tokens * b.arch.n_heads),
    ]  # fmt: skip
    if s.padded and not s.prefix:  # a prefix has one mask for all blocks
        keeps.append(b.small("mask", "T seq", s.tokens * s.seq * s.element))
    b.step("attention", keeps, "T d", "2*T q", "2*K q")


def _unfused(b: Builder, kv: str, q: bool, k: bool, v: bool) -> None:
    r"""Scores, softmax, dropout and weighted sum. A product keeps one factor for the gradient of the other."""
    a, s = b.arch, b.setting
    # PyTorch's unfused kernel computes in fp32 throughout; transformers' own only the softmax, and not BERT's.
    size = 4 if s.attention == "math" else s.element
    upcast = s.attention == "eager" and a.family in ("llama", "qwen3", "opt")
    heads, td, tq = b.live("S", size=size), b.live("T d"), b.live("T q")
    b.add("scores", [b.term("q", "T q", size)] * k + [b.term("k", kv, size)] * q, td + 3 * tq + heads)
    weights = [b.term("softmax", "S", 4 if upcast else size)] * (q or k)
    b.add("softmax", weights, td + tq + 2 * heads)
    if a.attention_dropout and (q or k):
        noise = b.term("dropout mask", "S", 1 if s.on_gpu else size)
        b.add("softmax dropout", [noise], td + tq + 2 * heads)
    product = [b.term("v", kv, size)] * (q or k)
    if v and a.attention_dropout:
        product.append(b.term("dropped softmax", "S", size))
    elif v and (not weights or (upcast and s.half)):
        product.append(b.term("softmax, rounded" if upcast else "softmax", "S", size))
    b.add("weighted sum", product, td + 2 * tq + heads, _rounded(b))


def _without_gradient(b: Builder) -> tuple[int, int]:
    r"""(most bytes alive in an attention that keeps nothing, those that stay until the block ends)."""
    a, s = b.arch, b.setting
    if s.attention == "flash":
        return alive(b, "attention") + b.live("3*T q", "2*T kv"), 0
    size = 4 if s.attention == "math" else s.element
    heads, q = b.live("S", size=size), b.live("T q", size=size)
    mask = s.tokens * s.seq * s.element * s.padded
    if s.attention == "math":  # the scaled queries, and in 16 bits fp32 copies of all three
        extra = q + mask + (3 * q if s.half else 0)
    else:  # the weights are handed up, though nobody asks for them
        extra = b.live("2*T q") * (a.n_heads != a.n_kv_heads)
    # Scores and softmax, or softmax, dropout's mask and result; Llama and OPT have the softmax in fp32 in any case.
    weights = 3 * heads if a.attention_dropout else 2 * heads
    if s.half and a.family in ("llama", "qwen3", "opt") and s.attention == "eager":
        weights = heads + 2 * b.live("S", size=4)
    most = alive(b, "attention") + b.live("T q", "2*T kv") + extra + weights
    return most, heads if s.attention == "eager" else 0


def _rounded(b: Builder) -> int | None:
    r"""PyTorch's unfused kernel on 16-bit tensors: fp32 copies of q, k and v, q scaled, the result; weights rounded."""
    s = b.setting
    if s.attention != "math" or not s.half:
        return None
    rounded = b.live("2*T q", "2*K kv", "S") + s.keys * s.seq * s.element * s.padded
    # Behind a prefix the copy of v is the tensor that is kept.
    copies = b.live("3*T q", "K kv" if s.prefix else "2*K kv", size=4)
    return alive(b, "attention") + rounded + copies


def norm(b: Builder, name: str, what: str) -> None:
    r"""The norm called `name`, of `what`. It keeps its input for the input's gradient, whatever else is trained."""
    s, path = b.setting, b.path(name)
    trained = b.training.any_of(path)
    keeps = []
    if b.arch.norm == "rms":
        if b.flows:
            keeps.append(b.term(f"{what}, in fp32" if s.half else what, "T d", 4))
            keeps.append(b.small("1 / rms", "T", 4 * s.tokens))
        if b.training.weight(path):
            keeps.append(b.term("normalised", "T d"))
    elif b.flows or trained:
        size = s.full if b.training.copies_norm(path) else s.element
        sized = what if size == s.element else f"{what}, in fp32"
        keeps += [b.term(sized, "T d", size), b.small("mean, 1 / std", "2 T", 8 * s.tokens)]
    b.flows |= trained
    b.add(name, keeps, norm_work(b.arch, s, b.training, path))


def norm_of_heads(b: Builder, which: str) -> None:
    r"""The RMS norm of all heads of the queries or the keys, `which`: "q" or "k" (Qwen3)."""
    s, path = b.setting, b.path(f"self_attn.{which}_norm")
    heads, size = (b.arch.n_heads, "T q") if which == "q" else (b.arch.n_kv_heads, "T kv")
    keeps = []
    if b.flows:
        keeps.append(b.term(f"{which} before its norm", size, 4))
        keeps.append(b.small(f"{which}: 1 / rms", "T heads", 4 * s.tokens * heads))
    if b.training.weight(path):
        keeps.append(b.term(f"{which} normalised", size))
    b.flows |= b.training.weight(path)
    b.add(f"{which} norm", keeps, b.live("T d") + b.live(f"{5 if s.half else 3}*{size}", size=4))


def norm_work(arch: Architecture, s: Setting, training: Training, path: str) -> int:
    r"""Gradients alive in the backward of the norm at `path`. RMS norms are a chain of plain operations, in fp32."""
    td, trained = s.tokens * arch.d_model, training.any_of(path)
    if arch.norm == "rms" and s.half:
        return 5 * td * 4 - td * s.element * trained  # by then what the gradient of the weight needed is gone
    if training.copies_norm(path) and s.half:
        return td * s.element + 2 * td * 4
    return (3 if arch.norm == "rms" else 2) * td * s.element


#: Tensors that an activation keeps, and those alive in its backward; 1 and 2 for one fused operation.
_ACTIVATION = {"gelu_new": (4, 3), "relu": (1, 2)}
#: Tensors alive in the forward of an activation, its input and its result among them; 2 for one fused operation.
_MADE = {"gelu_new": 4}


def feed_forward(b: Builder, up: Sequence[str], down: str) -> None:
    r"""The steps from the input of the matrices `up` to the result of `down`."""
    a = b.arch
    rising, gate = b.flows or b.touches(up[-1]), b.flows or b.touches(up[0])
    name, width = ("gate, up", "2*T f") if a.gated else ("up", "T f")
    linear(b, Product(up, name, "T d", False, ["2*T d"], [width]))
    if not b.flows:  # nothing is kept, but for a moment as much is there
        made = 3 if a.gated else _MADE.get(a.activation, 2)
        b.add(f"{a.activation} without a gradient", [], 0, alive(b, "feed-forward") + b.live(f"{made}*T f"))
    elif a.gated:
        if gate:
            b.step("silu", [b.term("gate", "T f")], "T d", "3*T f")
        factors = [b.term("silu(gate)", "T f")] * rising + [b.term("up", "T f")] * gate
        b.step("product", factors, "T d", "3*T f")
    else:
        kept, back = _ACTIVATION.get(a.activation, (1, 2))
        b.step(a.activation, [b.term(f"{a.activation}: kept", f"{kept}*T f")], "T d", f"{back}*T f")
    here = a.activation == "relu" and not a.gated and b.flows  # relu keeps its result, which is the next input
    linear(b, Product([down], "down", "T f", here, ["T d"], b.own_gradient("feed-forward output")))


def block_steps(
    arch: Architecture, setting: Setting, training: Training, layer: int, flows: bool
) -> tuple[list[Step], list[Step], bool]:
    r"""The steps of block `layer`, those behind it, and whether its output needs a gradient; `flows`: its input.

    Behind it stands what a method does to the block's output. A checkpoint of the block does not reach that far.
    """
    b = Builder(arch, setting, training, layer, flows)
    qkv, out, up, down = _roles([m for m in arch.matrices if m.per_layer])
    if training.moved:
        _move(b, qkv)
    if arch.pre_norm:
        norm(b, arch.norms[0], "residual stream")
    flowed = b.flows
    linear(b, Product(qkv, "q, k, v", "T d", False, ["2*T d"], ["T q", "2*T kv"]))
    if arch.normed_heads:
        norm_of_heads(b, "q")
        norm_of_heads(b, "k")
    shared = attention(b, qkv, flowed)
    b.insert("attention")
    linear(b, Product([out], "output projection", "T q", shared, ["T d"], b.own_gradient("attention output")))
    # DistilBERT drops out at the end of its feed-forward only.
    _end(b, "attention output", "attention dropout" if arch.family != "distilbert" else None)
    if arch.pre_norm:
        norm(b, arch.norms[1], "residual stream")
    else:
        norm(b, arch.norms[0], "sum before the norm")
    feed_forward(b, up, down)
    _end(b, "feed-forward output", "feed-forward dropout")
    if not arch.pre_norm:
        norm(b, arch.norms[1], "sum before the norm")
    inside, b.steps = b.steps, []
    b.insert("block output")
    return inside, b.steps, b.flows


def _roles(matrices: Sequence[Matrix]) -> tuple[list[str], str, list[str], str]:
    r"""Names of (query, key, value), output projection, up projections, down projection: the order of `describe`."""
    names = [m.name for m in matrices]
    n_up = 2 if len(names) == 7 else 1
    return names[: -n_up - 2], names[-n_up - 2], names[-n_up - 1 : -1], names[-1]


def _end(b: Builder, place: str, dropout: str | None) -> None:
    r"""The end of a sublayer: its dropout, if it has one, and what the method inserts there."""
    if b.drops_late:
        b.insert(place)
    if dropout and b.arch.dropout and b.flows:
        b.step(dropout, [b.term("dropout mask", "T d", b.setting.noise)], "2*T d")
    if not b.drops_late:
        b.insert(place)


def _move(b: Builder, qkv: Sequence[str]) -> None:
    r"""The moved weights of the block: they, and then their gradients, stay until its backward has ended."""
    s, moved = b.setting, b.training.moved
    used = moved.used
    if not (b.flows or b.arch.pre_norm):  # nobody asks for the gradient of what they read
        used -= sum(b.matrix(n).d_in * b.matrix(n).d_out for n in qkv)
    keeps = [b.small("moved weights", "weights of a block", s.element * used)]
    biases = s.element * (moved.groups[b.layer] - used)
    work = b.live("T d") + biases + moved.backward(b.layer, s)
    b.add("moved weights", keeps, work, forward=moved.forward(b.layer, s))
