r"""What autograd keeps for the backward pass, and what the backward pass needs on top: closed forms.

A block is a list of steps in the order of the forward pass. Each says which tensors it keeps until its backward has
run, and how much is alive beside them while that runs (`work`: gradients of its output and of its inputs). Nothing
is counted twice: queries, keys and values share one kept input; an attention output that the output projection
needs as well is one tensor.

Symbols of the formulas: T = batch x sequence (tokens), S = heads x T x sequence (attention weights),
d = d_model, q = heads x head size, kv = KV heads x head size, f = d_ff, V = vocabulary, r = LoRA rank.

What decides whether a tensor is kept:
- $y = xW^\top$ keeps $x$ only if $W$ is trained: a frozen linear layer keeps nothing.
- LoRA keeps $x$ and $Ax$ of the layers it adapts.
- norms, activations and attention keep what they need for the gradient of their *input*, whatever is trained, as
  soon as anything before them is trained.
- What a method puts into a block writes its own steps: `coursekit.memory.inserted`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from coursekit.architecture import Architecture, Matrix
from coursekit.memory import transient
from coursekit.memory.breakdown import Term, summed


@dataclass(frozen=True)
class Setting:
    r"""What the activations depend on besides the architecture."""

    batch: int
    seq: int
    element: int  # bytes of one activation: 4 in fp32, 2 in bf16 and fp16
    attention: str  # "flash" (fused), "math" (PyTorch's unfused kernel) or "eager" (transformers' own)
    padded: bool  # whether the batch has a real padding mask
    on_gpu: bool
    prompt: int = 0  # so many of `seq` are virtual tokens, put before the text
    prefix: int = 0  # keys and values of so many virtual tokens stand before those of the tokens
    #: Matrices in codes: bytes of the weight while it is multiplied with, and of what unpacking takes before that.
    unpacked: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        r"""T."""
        return self.batch * self.seq

    @property
    def keys(self) -> int:
        r"""K = batch x keys of a row: T, and more behind a prefix."""
        return self.batch * (self.seq + self.prefix)

    @property
    def full(self) -> int:
        r"""Bytes of one number of what a method adds: never less than fp32."""
        return max(self.element, 4)

    @property
    def noise(self) -> int:
        r"""Bytes a dropout keeps for each element: a bool on the GPU, the scaled mask itself on the CPU."""
        return 1 if self.on_gpu else self.element


@dataclass(frozen=True)
class Written:
    r"""What a product with $\tilde W$ takes for a moment: elements, in the activations' precision."""

    weight: int = 0  # the matrix that is put together, in the forward and in the backward
    dense: int = 0  # the gradient of the matrix, before that of the values is taken from it
    tokens: int = 0  # of each token, what the gradient of the values is computed from
    apart: int = 0  # of each token, the gradient of the other rows, where they are a product of their own
    whole: bool = False  # all of it trains: in fp32 nothing has to be put together


@dataclass(frozen=True)
class Moved:
    r"""All weights, moved along directions: a group for each block and, where everything moves, one for the rest."""

    n: int  # rows of a block of the random matrix
    groups: tuple[int, ...]  # weights of each group
    blocks: tuple[int, ...]  # of n rows, for each group
    used: int  # of a block's weights those that its backward pass asks for: all but the biases
    outside: int  # the same of the rest, embeddings and output layer aside
    tables: int  # of the rest those that no backward pass asks for: embeddings

    def forward(self, group: int, s: Setting) -> int:
        r"""Bytes while a group is computed: its part of F(v), in chunks and put together."""
        padded = 4 * self.n * self.blocks[group]
        return padded + max(padded, 2 * self._chunk(group, s))

    def backward(self, group: int, s: Setting) -> int:
        r"""Bytes while the gradient of a group becomes one of v, beside the gradient itself."""
        copies = 4 * self.groups[group] if s.element < 4 else 0
        return copies + 4 * self.n * self.blocks[group] + 2 * self._chunk(group, s)

    def _chunk(self, group: int, s: Setting) -> int:
        from coursekit.methods.intrinsic.fastfood import CHUNK

        blocks = self.blocks[group]
        return 4 * self.n * (blocks if s.on_gpu else min(blocks, max(1, CHUNK // self.n)))


@dataclass(frozen=True)
class Training:
    r"""What is trained: base weights by name, LoRA branches by matrix, and what a method inserts into the blocks."""

    trains: Callable[[str], bool]  # path in the body, with ".weight" or ".bias" -> is this one trained
    low_rank: frozenset[str] = frozenset()  # names of the adapted matrices
    r: int = 0
    dropout: float = 0.0
    dora: bool = False
    gated: bool = False  # each low-rank branch is scaled by a gate
    parts: tuple[Part, ...] = ()
    norm_copies: bool = False  # the norms that train are copies of the base's, in fp32
    #: Matrices that are put together anew in each pass, with the values that train in their places, by name.
    written: Mapping[str, Written] = field(default_factory=dict)
    moved: Moved | None = None  # all that `trains` is computed from the frozen weights, once in each pass

    def weight(self, path: str) -> bool:
        r"""Whether the weight at `path` is trained."""
        return self.trains(f"{path}.weight")

    def any_of(self, path: str) -> bool:
        r"""Whether weight or bias at `path` is trained."""
        return self.weight(path) or self.trains(f"{path}.bias")

    def touches(self, path: str, name: str) -> bool:
        r"""Whether anything of the matrix at `path`, called `name` in its block, is trained, LoRA included."""
        return name in self.low_rank or self.any_of(path)


@dataclass(frozen=True)
class Step:
    r"""One step of a block: what it keeps, and the bytes of gradients alive while its backward runs."""

    name: str
    keeps: tuple[Term, ...] = ()
    work: int = 0
    #: Bytes alive beside what is kept while the forward runs. None: no more than `transient.forward_peak` knows of.
    forward: int | None = None
    holds: int = 0  # of them, bytes that stay until the block's forward ends
    leaves: int = 0  # gradients of moved weights, which stay until the block's backward ends


class Part(ABC):
    r"""Something that a method inserts into blocks, at one place of each."""

    #: One of `PLACES`, or "into" or "out of" and the name of a matrix.
    place: str
    blocks: frozenset[int]

    @abstractmethod
    def write(self, b: Builder) -> None:
        r"""Add the steps of this part to the block that `b` is writing down."""


#: The answer of the attention before its output projection, and after it (with dropout where that is a module of its
#: own, before dropout where the block drops out by itself); the same of the feed-forward; what the block answers.
PLACES = ("attention", "attention output", "feed-forward output", "block output")


@dataclass
class Builder:
    r"""Writes down the steps of one block, for block number `layer`."""

    arch: Architecture
    setting: Setting
    training: Training
    layer: int
    flows: bool  # whether the block's input needs a gradient
    steps: list[Step] = field(default_factory=list)

    def __post_init__(self) -> None:
        a, s = self.arch, self.setting
        self.sizes = {
            "T d": s.tokens * a.d_model, "T q": s.tokens * a.d_q, "T kv": s.tokens * a.d_kv, "T f": s.tokens * a.d_ff,
            "S": s.keys * s.seq * a.n_heads, "K q": s.keys * a.d_q, "K kv": s.keys * a.d_kv,
        }  # fmt: skip

    def term(self, name: str, formula: str, size: int | None = None) -> Term:
        r"""A kept tensor of `formula` elements, `size` bytes each (default: the activations' precision)."""
        factor, _, symbol = formula.rpartition("*")
        elements = int(factor or 1) * self.sizes[symbol.strip()]
        return Term(name, formula, elements * (size or self.setting.element))

    def small(self, name: str, formula: str, nbytes: int) -> Term:
        return Term(name, formula, nbytes)

    def live(self, *formulas: str) -> int:
        return sum(self.term("", f).bytes for f in formulas)

    def path(self, name: str) -> str:
        return f"{self.arch.block}.{self.layer}.{name}"

    def add(
        self,
        name: str,
        keeps: Iterable[Term],
        work: int,
        forward: int | None = None,
        holds: int = 0,
        leaves: int = 0,
    ) -> None:
        self.steps.append(Step(name, tuple(keeps), work, forward, holds, leaves))

    def has(self, place: str) -> bool:
        r"""Whether the method inserts something at `place` of this block."""
        return any(p.place == place and self.layer in p.blocks for p in self.training.parts)

    def insert(self, place: str) -> None:
        r"""The steps of what the method inserts at `place` of this block."""
        for part in self.training.parts:
            if part.place == place and self.layer in part.blocks:
                part.write(self)

    @property
    def residual_is_kept(self) -> bool:
        r"""Whether a step keeps the residual of the feed-forward, in the activations' precision."""
        norm = self.arch.norms[1]
        if self.arch.pre_norm:
            return any(t.name == "residual stream" for s in self.steps if s.name == norm for t in s.keeps)
        return self.keeps("input of up")

    def keeps(self, name: str) -> bool:
        r"""Whether a step so far keeps the tensor called `name`."""
        return any(term.name == name for step in self.steps for term in step.keeps)

    @property
    def drops_late(self) -> bool:
        r"""Whether dropout comes after what is inserted at the sublayers' outputs: OPT's blocks drop out themselves."""
        return bool(self.arch.dropout) and self.arch.family == "opt"

    def step(self, name: str, keeps: Iterable[Term], *work: str) -> None:
        self.add(name, keeps, self.live(*work))

    # The parts of a block -----------------------------------------------------------------------------------------

    def norm(self, name: str, what: str) -> None:
        s, path = self.setting, self.path(name)
        trained = self.training.any_of(path)
        keeps = []
        if self.arch.norm == "rms":
            if self.flows:
                half = s.element < 4
                keeps.append(self.term(f"{what}, in fp32" if half else what, "T d", 4))
                keeps.append(self.small("1 / rms", "T", 4 * s.tokens))
            if self.training.weight(path):
                keeps.append(self.term("normalised", "T d"))
        elif self.flows or trained:
            size = s.full if trained and self.training.norm_copies else s.element
            sized = what if size == s.element else f"{what}, in fp32"
            keeps += [self.term(sized, "T d", size), self.small("mean, 1 / std", "2 T", 8 * s.tokens)]
        self.flows |= trained
        self.add(name, keeps, transient.norm_work(self.arch, s, self.training, path))

    def linear(
        self,
        names: Sequence[str],
        what: str,
        width: str,
        here: bool,
        beside: Sequence[str],
        out: Sequence[str],
    ) -> None:
        r"""Matrices that read one input, `width` wide.

        here: an earlier step keeps that very tensor. In the backward: `out`, the gradients of the results;
        `beside`, gradients that wait there for others.
        """
        t, s = self.training, self.setting
        for n in names:
            self.insert(f"into {n}")
        adapted = [n for n in names if n in t.low_rank]
        half = s.element < 4
        own_copy = bool(t.dropout) or half  # a dropped or fp32 copy for each branch
        shared = any(t.weight(self.path(n)) for n in names) or (adapted and not own_copy)
        keeps = [self.term(f"input of {what}", width)] if shared and not here else []
        for n in adapted:
            short = n.rsplit(".", 1)[-1]
            if own_copy:
                keeps.append(
                    self.term(f"{short}: input in fp32" if half else f"{short}: dropped input", width, 4)
                )
            if t.dropout and self.flows:
                keeps.append(self.term(f"{short}: dropout mask", width, s.noise))
            keeps += self._dora(n) if t.dora else [self.small(f"{short}: A x", "T r", 4 * s.tokens * t.r)]
            if t.gated:
                keeps += self._gated(n)
        self.flows |= any(map(self.touches, names))
        waiting, result, x = self.live(*beside), self.live(*out), self.live(width)
        weight, scratch = max(s.unpacked.get(n, (0, 0)) for n in names)
        unpacked = weight + max(x, scratch)  # what unpacking takes has gone when the gradient of x comes
        unpacked = max([unpacked, *(self._written(n, x) for n in names)])
        work = waiting + result + (x if adapted else unpacked)
        if adapted and not t.dora:
            x32 = self.term("", width, 4).bytes
            if half:  # the gradient is brought to fp32 for the branch, and that of x back
                work = waiting + result + x32 + max((self.live(*out) // s.element) * 4, x - x32)
            if own_copy or weight or any(self.matrix(n).kind != "linear" for n in adapted):
                # Branch and frozen layer are two operations: the branch's gradient of x, the layer's, and their sum;
                # what the branch kept has gone by then. As one operation both meet in one tensor.
                released = summed(keeps) if len(names) == 1 else 0
                work = max(work, waiting + 3 * x - released)
                # Of several branches with copies of their own the last one's has gone when its layer unpacks.
                gone = summed(keeps) // len(adapted) if own_copy and weight else released
                work = max(work, waiting + result + x + unpacked - gone)
        gradients = [s.element * self.matrix(n).d_in * self.matrix(n).d_out for n in names if t.moved]
        # A gradient takes the place of the moved weight when that has served; for a moment both are there.
        work += max(gradients, default=0)
        forward = max((f for n in names if (f := self._joined(n))), default=None)
        self.add(what, keeps, work, forward=forward, leaves=sum(gradients))
        for n in names:
            self.insert(f"out of {n}")

    def move(self, qkv: Sequence[str]) -> None:
        r"""The moved weights of the block: they, and then their gradients, stay until its backward has ended."""
        s, moved = self.setting, self.training.moved
        used = moved.used
        if not (self.flows or self.arch.pre_norm):  # nobody asks for the gradient of what they read
            used -= sum(self.matrix(n).d_in * self.matrix(n).d_out for n in qkv)
        keeps = [self.small("moved weights", "weights of a block", s.element * used)]
        biases = s.element * (moved.groups[self.layer] - used)
        work = self.live("T d") + biases + moved.backward(self.layer, s)
        self.add("moved weights", keeps, work, forward=moved.forward(self.layer, s))

    def _written(self, name: str, x: int) -> int:
        r"""Bytes in the backward of a matrix that is put together anew, the gradient of its input among them."""
        s, own = self.setting, self.training.written.get(name)
        if own is None or not self.training.weight(self.path(name)) or (own.whole and s.element >= 4):
            return 0
        # The matrix has gone when the gradient of the values is computed.
        put = own.weight + s.tokens * own.apart
        return x + s.element * max(put, own.dense + s.tokens * own.tokens)

    def _joined(self, name: str) -> int:
        r"""Bytes in the forward of two products that are joined: both, the two together, and these in their order."""
        own = self.training.written.get(name)
        if own is None or not own.apart or not self.training.weight(self.path(name)):
            return 0
        return transient.alive(self, "feed-forward") + 3 * self.setting.tokens * self.matrix(name).d_out * (
            self.setting.element
        )

    def touches(self, name: str) -> bool:
        r"""Whether the result of the matrix `name` depends on something trained beside or around it."""
        inserted = self.has(f"into {name}") or self.has(f"out of {name}")
        return inserted or self.training.touches(self.path(name), name)

    def _dora(self, name: str) -> list[Term]:
        r"""DoRA is written in plain operations, so autograd keeps each intermediate result."""
        matrix = self.matrix(name)
        out, short = self.setting.tokens * matrix.d_out, name.rsplit(".", 1)[-1]
        return [
            self.small(f"{short}: A x", "T r", 4 * self.setting.tokens * self.training.r),
            self.small(f"{short}: W x, B A x", "2 T out", 8 * out),
        ]

    def _gated(self, name: str) -> list[Term]:
        r"""What the gate scales, and its sigmoids. It reads what the branch reads."""
        number, short = self.setting.full * self.setting.tokens, name.rsplit(".", 1)[-1]
        scaled = self.small(f"{short}: B A x", "T out", number * self.matrix(name).d_out)
        return [scaled, self.small(f"{short}: gate", "2 T", 2 * number)]

    def matrix(self, name: str) -> Matrix:
        r"""The shapes of the matrix `name`."""
        return next(m for m in self.arch.matrices if m.name == name)

    def dropout(self, name: str) -> None:
        if self.arch.dropout and self.flows:
            self.step(name, [self.term("dropout mask", "T d", self.setting.noise)], "2*T d")

    def attention(self, qkv: Sequence[str], flowed: bool) -> bool:
        r"""softmax(q k) v. `flowed`: whether the input of q, k, v needs a gradient.

        Returns whether its output is kept, for the output projection to share.
        """
        a, s = self.arch, self.setting
        if not (self.flows or s.prefix):
            self.add("attention without a gradient", [], 0, *transient.attention(self))
            return False
        self.flows = True
        q, k, v = (flowed or self.touches(n) for n in (qkv if len(qkv) == 3 else (qkv[0],) * 3))
        k, v = k or bool(s.prefix), v or bool(s.prefix)
        repeats = a.n_heads != a.n_kv_heads and (s.attention != "flash" or s.padded or bool(s.prefix))
        kv = ("K" if s.prefix else "T") + (" q" if repeats else " kv")
        if s.attention == "flash":
            keeps = [
                self.term("q", "T q"),
                self.term("k", kv),
                self.term("v", kv),
                self.term("attention output", "T q"),
            ]
            keeps.append(self.small("log sum exp", "T heads", 4 * s.tokens * a.n_heads))
            if s.padded and not s.prefix:  # a prefix has one mask for all blocks
                keeps.append(self.small("mask", "T seq", s.tokens * s.seq * s.element))
            self.step("attention", keeps, "T d", "2*T q", "2*K q")
            return True
        # PyTorch's unfused kernel computes in fp32 throughout; transformers' own only the softmax, and not BERT's.
        size = 4 if s.attention == "math" else s.element
        upcast = s.attention == "eager" and a.family in ("llama", "opt")
        heads, td, tq = self.term("", "S", size).bytes, self.live("T d"), self.live("T q")
        # A product keeps one factor for the gradient of the other.
        self.add(
            "scores", [self.term("q", "T q", size)] * k + [self.term("k", kv, size)] * q, td + 3 * tq + heads
        )
        weights = [self.term("softmax", "S", 4 if upcast else size)] * (q or k)
        self.add("softmax", weights, td + tq + 2 * heads)
        if a.attention_dropout and (q or k):
            self.add(
                "softmax dropout",
                [self.term("dropout mask", "S", 1 if s.on_gpu else size)],
                td + tq + 2 * heads,
            )
        product = [self.term("v", kv, size)] * (q or k)
        if v and a.attention_dropout:
            product.append(self.term("dropped softmax", "S", size))
        elif v and (not weights or (upcast and s.element < 4)):
            product.append(self.term("softmax, rounded" if upcast else "softmax", "S", size))
        self.add("weighted sum", product, td + 2 * tq + heads, transient.rounded_attention(self))
        return False

    def feed_forward(self, up: Sequence[str], down: str) -> None:
        a = self.arch
        rising = self.flows or self.touches(up[-1])
        gate = self.flows or self.touches(up[0])
        self.linear(
            up, "gate, up" if a.gated else "up", "T d", False, ["2*T d"], ["2*T f" if a.gated else "T f"]
        )
        here = False
        if a.gated and self.flows:
            if gate:
                self.step("silu", [self.term("gate", "T f")], "T d", "3*T f")
            factors = [self.term("silu(gate)", "T f")] * rising + [self.term("up", "T f")] * gate
            self.step("product", factors, "T d", "3*T f")
        elif self.flows:
            kept, back = _ACTIVATION.get(a.activation, (1, 2))
            here = a.activation == "relu"  # relu keeps its result, which is the next input
            self.step(a.activation, [self.term(f"{a.activation}: kept", f"{kept}*T f")], "T d", f"{back}*T f")
        else:  # nothing is kept, but for a moment as much is there
            self.add(f"{a.activation} without a gradient", [], 0, transient.feed_forward(self))
        self.linear([down], "down", "T f", here, ["T d"], self.own_gradient("feed-forward output"))

    def own_gradient(self, place: str) -> list[str]:
        r"""The gradient of a sublayer's result, where it is not the very one that waits for the residual, too."""
        return ["T d"] if self.arch.dropout or self.has(place) else []

    def end(self, place: str, dropout: str) -> None:
        r"""The end of a sublayer: its dropout, and what the method inserts there."""
        if self.drops_late:
            self.insert(place)
        self.dropout(dropout)
        if not self.drops_late:
            self.insert(place)


#: Tensors an activation keeps, and those alive in its backward; 1 and 2 for one fused operation.
_ACTIVATION = {"gelu_new": (4, 3), "relu": (1, 2)}


def block_steps(
    arch: Architecture, setting: Setting, training: Training, layer: int, flows: bool
) -> tuple[list[Step], list[Step], bool]:
    r"""The steps of block `layer`, those behind it, and whether its output needs a gradient; `flows`: its input.

    Behind it stands what a method does to the block's output. A checkpoint of the block does not reach that far.
    """
    b = Builder(arch, setting, training, layer, flows)
    qkv, out, up, down = _roles([m for m in arch.matrices if m.per_layer])
    if training.moved:
        b.move(qkv)
    if arch.pre_norm:
        b.norm(arch.norms[0], "residual stream")
    flowed = b.flows
    b.linear(qkv, "q, k, v", "T d", False, ["2*T d"], ["T q", "2*T kv"])
    shared = b.attention(qkv, flowed)
    b.insert("attention")
    b.linear([out], "output projection", "T q", shared, ["T d"], b.own_gradient("attention output"))
    b.end("attention output", "attention dropout")
    b.norm(
        arch.norms[0 if not arch.pre_norm else 1],
        "residual stream" if arch.pre_norm else "sum before the norm",
    )
    b.feed_forward(up, down)
    b.end("feed-forward output", "feed-forward dropout")
    if not arch.pre_norm:
        b.norm(arch.norms[1], "sum before the norm")
    inside, b.steps = b.steps, []
    b.insert("block output")
    return inside, b.steps, b.flows


def _roles(matrices: Sequence[Matrix]) -> tuple[list[str], str, list[str], str]:
    r"""Names of (query, key, value), output projection, up projections, down projection: the order of `describe`."""
    names = [m.name for m in matrices]
    n_up = 2 if len(names) == 7 else 1
    return names[: -n_up - 2], names[-n_up - 2], names[-n_up - 1 : -1], names[-1]


def kept(steps: Iterable[Step]) -> int:
    r"""Bytes that `steps` keep until the backward pass."""
    return sum(summed(s.keeps) for s in steps)


def backward_peak(steps: Sequence[Step], beside: bool = False) -> int:
    r"""Most bytes alive while the backward goes through `steps`: later steps have let go, this one works.

    beside: moved weights stay, and do not make room for their gradients.
    """
    before, most, left = 0, 0, sum(step.leaves for step in steps) * beside
    for step in steps:
        before += summed(step.keeps)
        left -= step.leaves * beside
        most = max(most, before + step.work + left)
    return most
