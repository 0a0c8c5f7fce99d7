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
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from coursekit.architecture import Architecture, Matrix
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

    @property
    def tokens(self) -> int:
        r"""T."""
        return self.batch * self.seq

    @property
    def noise(self) -> int:
        r"""Bytes a dropout keeps for each element: a bool on the GPU, the scaled mask itself on the CPU."""
        return 1 if self.on_gpu else self.element


@dataclass(frozen=True)
class Training:
    r"""What is trained: base weights by name, and LoRA branches by matrix."""

    trains: Callable[[str], bool]  # path in the body, with ".weight" or ".bias" -> is this one trained
    low_rank: frozenset[str] = frozenset()  # names of the adapted matrices
    r: int = 0
    dropout: float = 0.0
    dora: bool = False

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


@dataclass
class _Builder:
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
            "S": s.tokens * s.seq * a.n_heads,
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

    def add(self, name: str, keeps: Iterable[Term], work: int) -> None:
        self.steps.append(Step(name, tuple(keeps), work))

    def step(self, name: str, keeps: Iterable[Term], *work: str) -> None:
        self.add(name, keeps, self.live(*work))

    # The parts of a block -----------------------------------------------------------------------------------------

    def norm(self, name: str, what: str) -> None:
        s, path = self.setting, self.path(name)
        keeps = []
        if self.arch.norm == "rms":
            if self.flows:
                half = s.element < 4
                keeps.append(self.term(f"{what}, in fp32" if half else what, "T d", 4))
                keeps.append(self.small("1 / rms", "T", 4 * s.tokens))
            if self.training.weight(path):
                keeps.append(self.term("normalised", "T d"))
        elif self.flows or self.training.any_of(path):
            keeps += [self.term(what, "T d"), self.small("mean, 1 / std", "2 T", 8 * s.tokens)]
        self.flows |= self.training.any_of(path)
        self.add(name, keeps, norm_work(self.arch, s))

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
        self.flows |= any(t.touches(self.path(n), n) for n in names)
        waiting, result, x = self.live(*beside), self.live(*out), self.live(width)
        work = waiting + result + x
        if adapted and not t.dora:
            x32 = self.term("", width, 4).bytes
            if half:  # the gradient is brought to fp32 for the branch, and that of x back
                work = waiting + result + x32 + max((self.live(*out) // s.element) * 4, x - x32)
            if own_copy or any(self._matrix(n).kind != "linear" for n in adapted):
                # Branch and frozen layer are two operations: the branch's gradient of x, the layer's, and their sum;
                # what the branch kept has gone by then. As one operation both meet in one tensor.
                released = summed(keeps) if len(names) == 1 else 0
                work = max(work, waiting + 3 * x - released, waiting + result + 2 * x - released)
        self.add(what, keeps, work)

    def _dora(self, name: str) -> list[Term]:
        r"""DoRA is written in plain operations, so autograd keeps each intermediate result."""
        matrix = self._matrix(name)
        out, short = self.setting.tokens * matrix.d_out, name.rsplit(".", 1)[-1]
        return [
            self.small(f"{short}: A x", "T r", 4 * self.setting.tokens * self.training.r),
            self.small(f"{short}: W x, B A x", "2 T out", 8 * out),
        ]

    def _matrix(self, name: str) -> Matrix:
        return next(m for m in self.arch.matrices if m.name == name)

    def dropout(self, name: str) -> None:
        if self.arch.dropout and self.flows:
            self.step(name, [self.term("dropout mask", "T d", self.setting.noise)], "2*T d")

    def attention(self, qkv: Sequence[str], flowed: bool) -> bool:
        r"""softmax(q k) v. `flowed`: whether the input of q, k, v needs a gradient.

        Returns whether its output is kept, for the output projection to share.
        """
        a, s, t = self.arch, self.setting, self.training
        if not self.flows:
            return False
        q, k, v = (flowed or t.touches(self.path(n), n) for n in (qkv if len(qkv) == 3 else (qkv[0],) * 3))
        repeats = a.n_heads != a.n_kv_heads and (s.attention != "flash" or s.padded)
        kv = "T q" if repeats else "T kv"
        if s.attention == "flash":
            keeps = [
                self.term("q", "T q"),
                self.term("k", kv),
                self.term("v", kv),
                self.term("attention output", "T q"),
            ]
            keeps.append(self.small("log sum exp", "T heads", 4 * s.tokens * a.n_heads))
            if s.padded:
                keeps.append(self.small("mask", "T seq", s.tokens * s.seq * s.element))
            self.step("attention", keeps, "T d", "4*T q")
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
        self.add("weighted sum", product, td + 2 * tq + heads)
        return False

    def feed_forward(self, up: Sequence[str], down: str) -> None:
        a = self.arch
        rising = self.flows or self.training.touches(self.path(up[-1]), up[-1])
        gate = self.flows or self.training.touches(self.path(up[0]), up[0])
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
        # Without dropout the gradient of the result is the one that waits for the residual, too.
        self.linear([down], "down", "T f", here, ["T d"], ["T d"] if a.dropout else [])


#: Tensors an activation keeps, and those alive in its backward; 1 and 2 for one fused operation.
_ACTIVATION = {"gelu_new": (4, 3), "relu": (1, 2)}


def block_steps(
    arch: Architecture, setting: Setting, training: Training, layer: int, flows: bool
) -> tuple[list[Step], bool]:
    r"""The steps of block `layer` and whether its output needs a gradient. `flows`: whether its input does."""
    b = _Builder(arch, setting, training, layer, flows)
    qkv, out, up, down = _roles([m for m in arch.matrices if m.per_layer])
    if arch.pre_norm:
        b.norm(arch.norms[0], "residual stream")
    flowed = b.flows
    b.linear(qkv, "q, k, v", "T d", False, ["2*T d"], ["T q", "2*T kv"])
    shared = b.attention(qkv, flowed)
    b.linear([out], "output projection", "T q", shared, ["T d"], ["T d"] if arch.dropout else [])
    b.dropout("attention dropout")
    b.norm(
        arch.norms[0 if not arch.pre_norm else 1],
        "residual stream" if arch.pre_norm else "sum before the norm",
    )
    b.feed_forward(up, down)
    b.dropout("feed-forward dropout")
    if not arch.pre_norm:
        b.norm(arch.norms[1], "sum before the norm")
    return b.steps, b.flows


def _roles(matrices: Sequence[Matrix]) -> tuple[list[str], str, list[str], str]:
    r"""Names of (query, key, value), output projection, up projections, down projection: the order of `describe`."""
    names = [m.name for m in matrices]
    n_up = 2 if len(names) == 7 else 1
    return names[: -n_up - 2], names[-n_up - 2], names[-n_up - 1 : -1], names[-1]


def norm_work(arch: Architecture, s: Setting) -> int:
    r"""Gradients alive in the backward of a norm. RMS norms are a chain of plain operations, in fp32."""
    td = s.tokens * arch.d_model
    if arch.norm == "rms" and s.element < 4:
        return td * s.element + 4 * td * 4
    return (3 if arch.norm == "rms" else 2) * td * s.element


def forward_locals(arch: Architecture, s: Setting, training: Training, steps: Sequence[Step]) -> int:
    r"""Bytes alive at the end of a block's forward pass that are not kept: local variables of transformers' code."""
    names = {t.name for step in steps for t in step.keeps}
    td, tf = s.tokens * arch.d_model * s.element, s.tokens * arch.d_ff * s.element
    hidden = 0 if "input of down" in names or arch.activation == "relu" else tf
    if arch.pre_norm:
        # A 16-bit base and an fp32 branch meet in fp32.
        half = s.element < 4
        down = [m.name for m in arch.matrices if m.per_layer][-1]
        meeting = 4 * s.tokens * arch.d_model if half and down in training.low_rank else 0
        # RMS norms keep fp32 copies, and a branch as well: the 16-bit tensors live beside them.
        beside = 2 * td if half and arch.norm == "rms" and "input of gate, up" not in names else 0
        return 2 * td + hidden + meeting + beside
    unkept = ("input of up" not in names) + ("input of q, k, v" not in names)
    return (2 + unkept) * td + hidden


def kept(steps: Iterable[Step]) -> int:
    r"""Bytes that `steps` keep until the backward pass."""
    return sum(summed(s.keeps) for s in steps)


def backward_peak(steps: Sequence[Step]) -> int:
    r"""Most bytes alive while the backward goes through `steps`: later steps have let go, this one works."""
    before, most = 0, 0
    for step in steps:
        before += summed(step.keeps)
        most = max(most, before + step.work)
    return most
