r"""Fastfood: a random D x d matrix that is applied in $O(D \log d)$ and stored as D + 2d numbers.

Le, Sarlós and Smola 2013 (ICML), section 3; as a random subspace of weights: Li et al. 2018 (arXiv:1804.08838),
section S7, and Aghajanyan et al. 2020 (arXiv:2012.13255), section 3. A dense matrix for ten million weights and
1,000 directions would take 40 GB.

$$F(v) = \sigma\, H\, G\, \Pi\, H\, \operatorname{pad}(S \odot v), \qquad F \in \mathbb{R}^{D \times d}$$

S: random signs (the first paper's B). Π: a random permutation. G: independent normal numbers. H: Hadamard matrices.
$\sigma = 1/\sqrt{nD}$; the first paper's last factor, which draws the lengths of the rows, is left out. Every entry of
F is normal, and F has columns of length about 1, nearly orthogonal to each other: it embeds v in a random subspace.

F is a stack of blocks of n rows, as in the first paper, where n is some times d: each block has a G of its own and a
last H of its own. S and Π are common to all, so that $\Pi H \operatorname{pad}(S \odot v)$, n numbers, is computed
once.
(The two later papers take a single block, the power of two above D. Its first H is cheap in the same way, its last
one costs $D \log D$ and, for ten million weights, 2.5 times the memory.)

$Hx$ is computed without the matrix, by the fast Walsh-Hadamard transform:

$$H_1 = (1), \qquad H_{2n} = \begin{pmatrix} H_n & H_n \\ H_n & -H_n \end{pmatrix}, \qquad H_n H_n = n I$$

$H_{ab} = H_a \otimes H_b$, so with x laid out as a table, a by b, a small matrix goes along each of its sides. The
classical butterfly does that for one bit of the index at a time. Four bits a stage are a product with $H_{16}$,
which reads and writes memory a quarter as often: on a CPU four times as fast (measured).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from coursekit.autocast import without_autocast
from coursekit.errors import CourseError

#: Most bits of the index that one stage takes.
BITS = 4


@lru_cache(maxsize=64)
def hadamard(n: int, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "n n"]:
    r"""$H_n$ itself, for a power of two: the entry at (i, j) is -1 to the number of bits that i and j share."""
    entries = [[(-1) ** (i & j).bit_count() for j in range(n)] for i in range(n)]
    with torch.inference_mode(False):  # what is kept must serve training, too
        return torch.tensor(entries, dtype=dtype, device=device)


def stages(n: int) -> list[int]:
    r"""The bits of an index below `n` (a power of two), shared out evenly: 10 become 4, 3 and 3."""
    bits = n.bit_length() - 1
    count = max(1, -(-bits // BITS))
    return [bits // count + (i < bits % count) for i in range(count)]


def walsh_hadamard(x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
    r"""$H_n x$ for each row of `x`, not divided by anything. H is symmetric, so this is its own adjoint.

    Raises CourseError unless n is a power of two.
    """
    n = x.shape[-1]
    if n < 1 or n & (n - 1):
        raise CourseError(f"a Walsh-Hadamard transform of {n} numbers: their count must be a power of two")
    done = 1
    y = x
    with without_autocast(x):  # 16 bits would round sums of thousands of terms
        for bits in stages(n):
            H = hadamard(2**bits, x.dtype, x.device)
            # (rows, a, done): the next bits of the index stand in the middle
            y = y.reshape(-1, 2**bits, done)
            y = y.squeeze(-1) @ H if done == 1 else H @ y
            done *= 2**bits
    return y.reshape(x.shape)


#: A block has at least so many rows for each direction. With as many as directions Π H S would only turn v.
ROWS_PER_DIRECTION = 4
SMALLEST_BLOCK = 1024
#: Numbers that a CPU transforms at a time.
CHUNK = 2**18


class Fastfood:
    r"""F for d directions. Its D rows belong to `groups`, sizes in numbers, each of which starts a new block.

    What is random is a function of (d, groups, seed) alone, the same on every device: it is drawn on the CPU, when
    it is first needed. Nothing of it has to be saved.
    """

    def __init__(self, d: int, groups: Sequence[int], seed: int):
        self.d, self.groups, self.seed = d, tuple(groups), seed
        self.n = max(SMALLEST_BLOCK, 2 ** math.ceil(math.log2(ROWS_PER_DIRECTION * d)))
        self.blocks = [-(-size // self.n) for size in self.groups]
        self.sigma = 1 / math.sqrt(self.n * self.size)
        self._drawn: tuple[Tensor, Tensor, Tensor] | None = None

    def __call__(self, v: Float[Tensor, " d"]) -> Float[Tensor, " D"]:
        r"""F(v)."""
        w = self.mixed(v)
        return torch.cat([self.rows(w, i) for i in range(len(self.groups))])

    def group(self, v: Float[Tensor, " d"], i: int) -> Float[Tensor, " size"]:
        r"""The part of F(v) that belongs to group i."""
        return self.rows(self.mixed(v), i)

    def mixed(self, v: Float[Tensor, " d"]) -> Float[Tensor, " n"]:
        r"""$\Pi H \operatorname{pad}(S \odot v)$."""
        S, order, _ = self.drawn(v)
        padded = torch.zeros(self.n, dtype=v.dtype, device=v.device)
        padded[: self.d] = S * v
        return walsh_hadamard(padded)[order]

    def rows(self, w: Float[Tensor, " n"], group: int) -> Float[Tensor, " size"]:
        r"""$\sigma H G w$, the part of F(v) that belongs to a group; `w` is what `mixed` gave."""
        scaled = w * self.sigma
        parts = [walsh_hadamard(G * scaled) for (G,) in self._chunks(self._of(w, group))]
        return torch.cat(parts).view(-1)[: self.groups[group]]

    @property
    def size(self) -> int:
        r"""D."""
        return sum(self.groups)

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, Fastfood) and (self.d, self.groups, self.seed) == (other.d, other.groups, other.seed)

    def __hash__(self) -> int:
        return hash((self.d, self.groups, self.seed))

    def __deepcopy__(self, memo: dict) -> Fastfood:
        return self  # it never changes, and G is as large as the weights

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_drawn": None}  # drawn again from the seed

    def drawn(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        r"""S: (d,). Π: (n,), where each entry comes from. G: (blocks, n). On the device of `like`, in its precision."""
        held = self._drawn
        if held is None or held[2].device != like.device or held[2].dtype != like.dtype:
            with torch.inference_mode(False):
                random = torch.Generator().manual_seed(self.seed)
                S = torch.randint(2, (self.d,), generator=random, device="cpu") * 2 - 1
                order = torch.randperm(self.n, generator=random, device="cpu")
                G = torch.randn(sum(self.blocks), self.n, generator=random, device="cpu")
                held = self._drawn = (
                    S.to(like.device, like.dtype), order.to(like.device), G.to(like.device, like.dtype),
                )  # fmt: skip
        return held

    def fingerprint(self) -> str:
        r"""Tells what is drawn here from what another version of PyTorch might draw for the same seed."""
        random = torch.Generator().manual_seed(self.seed)
        signs = torch.randint(2, (self.d,), generator=random, device="cpu").tolist()
        order = torch.randperm(self.n, generator=random, device="cpu").tolist()
        normal = [round(g, 2) for g in torch.randn(16, generator=random, device="cpu").tolist()]
        return hashlib.sha256(repr((signs, order, normal)).encode()).hexdigest()[:16]

    def unmixed(self, w: Float[Tensor, " n"]) -> Float[Tensor, " d"]:
        r"""The adjoint, $S \odot \operatorname{pad}^\top H \Pi^\top w$."""
        S, order, _ = self.drawn(w)
        return S * walsh_hadamard(torch.empty_like(w).index_copy_(0, order, w))[: self.d]

    def unrows(self, g: Float[Tensor, " padded"], group: int) -> Float[Tensor, " n"]:
        r"""The adjoint, $\sigma G H g$ summed over the blocks. `g` has zeros up to whole blocks."""
        chunks = self._chunks(g.view(-1, self.n), self._of(g, group))
        return sum((walsh_hadamard(part) * G).sum(0) for part, G in chunks) * self.sigma

    def _chunks(self, *tables: Float[Tensor, "blocks n"]) -> Iterator[tuple[Tensor, ...]]:
        r"""The tables a few blocks at a time: what a CPU's cache holds is not written to memory between stages."""
        few = max(1, CHUNK // self.n) if tables[0].device.type == "cpu" else len(tables[0])
        return zip(*(table.split(few) for table in tables), strict=True)

    def _of(self, like: Tensor, group: int) -> Float[Tensor, "blocks n"]:
        first = sum(self.blocks[:group])
        return self.drawn(like)[2][first : first + self.blocks[group]]

    def padded(self, parts: Sequence[Tensor], group: int) -> Float[Tensor, " padded"]:
        r"""Tensors of any shape behind each other, then zeros up to whole blocks."""
        whole = parts[0].new_zeros(self.blocks[group] * self.n)
        start = 0
        for part in parts:
            whole[start : start + part.numel()] = part.reshape(-1)
            start += part.numel()
        return whole
