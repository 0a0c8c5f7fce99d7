r"""The exercises of notebook 05_bitfit."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from coursekit.checks.core import Exercise, Mutant, register
from coursekit.checks.draw import Draw


def _random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# bitfit-count ---------------------------------------------------------------------------------------------

Shapes = Mapping[str, tuple[int, ...]]


def _shapes(seed: int) -> tuple[dict[str, tuple[int, ...]], str]:
    block, d = f"encoder.layer.{seed}", 4 + seed
    linear = {f"{block}.query": (d, d), f"{block}.dense": (3 * d, d)}
    shapes: dict[str, tuple[int, ...]] = {"embeddings.word.weight": (20, d)}
    for path, shape in linear.items():
        shapes[f"{path}.weight"] = shape
        if seed < 2:  # the last of the three is of the Llama family: no biases
            shapes[f"{path}.bias"] = shape[:1]
    shapes[f"{block}.norm.weight"] = (d,)
    if seed < 2:
        shapes[f"{block}.norm.bias"] = (d,)
    if seed == 1:  # MPNet and T5 call a table of positions the first; both are embeddings
        shapes["encoder.relative_attention_bias.weight"] = (32, 2)
        shapes["encoder.position_bias"] = (32,)
    head = "score" if seed == 2 else "classifier"
    shapes[f"{head}_norm.weight"] = (d,)  # in front of the head, and frozen with the body
    shapes[f"{head}.weight"] = (2, d)
    if seed < 2:
        shapes[f"{head}.bias"] = (2,)
    return shapes, head


def count(shapes: Shapes, head: str) -> int:
    r"""Every bias of the body, and the whole head."""
    return sum(prod(s) for name, s in shapes.items() if name.endswith(".bias") or name.startswith(f"{head}."))


def _secret_count(draw: Draw) -> tuple[dict[str, tuple[int, ...]], str]:
    # A BERT; one with tables of positions; and a Llama, which has no biases.
    d, biases, shapes = draw.whole(4, 40), draw.kind < 2, {}
    head = draw.pick(("classifier", "score", "qa_outputs", "lm_head"))
    shapes["embeddings.word.weight"] = (draw.whole(20, 90), d)
    for layer in range(draw.whole(1, 3)):
        block = f"encoder.layer.{layer}"
        for path, shape in (
            (f"{block}.query", (d, d)),
            (f"{block}.dense", (3 * d, d)),
            (f"{block}.norm", (d,)),
        ):
            shapes[f"{path}.weight"] = shape
            if biases:
                shapes[f"{path}.bias"] = shape[:1]
    if draw.kind == 1:
        shapes["encoder.relative_attention_bias.weight"] = (draw.whole(8, 32), 2)
        shapes["encoder.position_bias"] = (draw.whole(8, 32),)
    classes = draw.whole(2, 5)
    shapes[f"{head}_norm.weight"] = (d,)
    shapes[f"{head}.weight"] = (classes, d)
    if biases:
        shapes[f"{head}.bias"] = (classes,)
    return shapes, head


COUNT = register(
    Exercise(
        id="bitfit-count",
        points=2,
        difficulty=1,
        minutes=10,
        hints=(
            "A tensor trains if it is a bias, or if it belongs to the head. Add up the sizes of those that do.",
            "A bias is called 'bias' at the end of its path: name.endswith('.bias').",
            "The head is whatever begins with head + '.', its matrix too. math.prod(shape) is the size of a tensor.",
        ),
        inputs=_shapes,
        secret=_secret_count,
        reference=count,
        mutants=(
            Mutant(
                lambda shapes, head: sum(prod(s) for name, s in shapes.items() if "bias" in name),
                "this is the slide's rule: the head's matrix is missing, and a table with 'bias' in its name is there",
            ),
            Mutant(
                lambda shapes, head: sum(
                    prod(s) for name, s in shapes.items() if "bias" in name or name.startswith(f"{head}.")
                ),
                "one tensor has 'bias' in its name and is none: a table of relative positions; ask how the name ends",
            ),
            Mutant(
                lambda shapes, head: sum(
                    prod(s)
                    for name, s in shapes.items()
                    if name.endswith("bias") or name.startswith(f"{head}.")
                ),
                "position_bias ends in 'bias' and is a table of positions: a bias is called '.bias', with the dot",
            ),
            Mutant(
                lambda shapes, head: sum(
                    prod(s) for name, s in shapes.items() if name.endswith(".bias") or name.startswith(head)
                ),
                "one norm's name begins like the head's and it is no part of it: look for head + '.', with the dot",
            ),
            Mutant(
                lambda shapes, head: sum(prod(s) for name, s in shapes.items() if name.endswith(".bias")),
                "the head is new and trains whole: its matrix is missing, and without it nothing can be learned",
            ),
            Mutant(
                lambda shapes, head: sum(
                    prod(s)
                    for name, s in shapes.items()
                    if name.endswith(".bias") and not name.startswith(f"{head}.")
                ),
                "these are the biases of the body; the head trains as well",
            ),
            Mutant(
                lambda shapes, head: (
                    sum(prod(s) for name, s in shapes.items() if name.endswith(".bias"))
                    + sum(prod(s) for name, s in shapes.items() if name.startswith(f"{head}."))
                ),
                "the bias of the head is counted twice",
            ),
            Mutant(
                lambda shapes, head: sum(
                    name.endswith(".bias") or name.startswith(f"{head}.") for name in shapes
                ),
                "this counts tensors; count the numbers in them",
            ),
            Mutant(
                lambda shapes, head: sum(prod(s) for s in shapes.values()) - count(shapes, head),
                "this counts what stays frozen",
            ),
            Mutant(
                lambda shapes, head: sum(
                    prod(s)
                    for name, s in shapes.items()
                    if (name.endswith(".bias") and "norm" not in name) or name.startswith(f"{head}.")
                ),
                "the norms have biases, too",
            ),
        ),
        tolerance=0.0,
        kinds=3,
    )
)


# bitfit-work ----------------------------------------------------------------------------------------------


def _depth(seed: int) -> tuple[int, int, bool]:
    return [(12, 3, True), (24, 5, False), (6, 4, True)][seed]


def work(layers: int, k: int, matrices: bool) -> int:
    r"""Forward through all `layers`; back through `k`, once for the inputs and once for the matrices that train."""
    return layers + k * (2 if matrices else 1)


def _secret_work(draw: Draw) -> tuple[int, int, bool]:
    layers = draw.whole(8, 200)
    return layers, draw.whole(2, layers - 2), draw.kind == 0


WORK = register(
    Exercise(
        id="bitfit-work",
        points=2,
        difficulty=2,
        minutes=10,
        hints=(
            "The forward pass goes through every block, whatever trains.",
            "The backward pass goes down to the lowest block that trains, and no further: k blocks.",
            "In each of those, one unit for the gradient of the inputs, and one more if matrices train.",
        ),
        inputs=_depth,
        secret=_secret_work,
        reference=work,
        mutants=(
            Mutant(
                lambda layers, k, matrices: layers + k * 2,
                "a bias needs no gradient of its matrix: its own is the sum over the tokens of what arrives",
            ),
            Mutant(
                lambda layers, k, matrices: 2 * layers + (k if matrices else 0),
                "the backward pass does not go through all blocks: below the lowest that trains, no gradient is needed",
            ),
            Mutant(
                lambda layers, k, matrices: k * (3 if matrices else 2),
                "the forward pass goes through the frozen blocks as well",
            ),
            Mutant(
                lambda layers, k, matrices: layers + (k if matrices else 0),
                "the gradient has to get from block to block: the products for the inputs are missing",
            ),
            Mutant(lambda layers, k, matrices: 3 * layers, "this is full fine-tuning"),
            Mutant(
                lambda layers, k, matrices: layers + (k - 1) + (k if matrices else 0),
                "true, the lowest block needs no gradient of its input; but count it here like the others",
            ),
            Mutant(
                lambda layers, k, matrices: layers * (1 + (2 if matrices else 1)),
                "this trains all blocks; only the last k do",
            ),
            Mutant(
                lambda layers, k, matrices: layers + (layers - k) * (2 if matrices else 1),
                "this goes back through the blocks that are frozen; the last k train",
            ),
        ),
        tolerance=0.0,
        kinds=2,
    )
)


# bitfit-fisher --------------------------------------------------------------------------------------------


def _gradients(seed: int) -> tuple[Tensor, Tensor, int]:
    # As many outputs as inputs, tokens and sentences: a sum over the wrong one then runs without an error.
    random, n = _random(seed), 5 + seed
    g, x = (torch.randn(n, n, n, generator=random, dtype=torch.float64) for _ in range(2))
    loud = torch.rand(n, generator=random, dtype=torch.float64).mul(3).exp()  # some sentences matter more
    return g * loud[:, None, None], x, 2 * n - 1


Scored = tuple[Tensor, Tensor]


def _with_mask(scores: Tensor, k: int) -> Scored:
    mask = torch.zeros(scores.numel(), dtype=torch.bool)
    mask[scores.flatten().topk(k).indices] = True
    return scores, mask.view(scores.shape)


def fisher(g: Tensor, x: Tensor, k: int) -> Scored:
    r"""Mean over sentences of the squared gradient of each, and the k largest of all entries."""
    per_sentence = torch.einsum("nto,nti->noi", g, x)
    return _with_mask(per_sentence.square().mean(0), k)


def _ascending(g: Tensor, x: Tensor, k: int) -> Scored:
    scores, _ = fisher(g, x, k)
    return scores, _with_mask(-scores, k)[1]


def _by_row(g: Tensor, x: Tensor, k: int) -> Scored:
    scores, _ = fisher(g, x, k)
    share = max(1, k // len(scores))
    return scores, torch.zeros_like(scores).scatter(1, scores.topk(share, dim=1).indices, 1.0).bool()


def _from_k_on(g: Tensor, x: Tensor, k: int) -> Scored:
    scores, _ = fisher(g, x, k)
    return scores, scores > scores.flatten().topk(k).values[-1]


def _secret_fisher(draw: Draw) -> tuple[Tensor, Tensor, int]:
    sizes = [draw.whole(4, 6)] * 4 if draw.kind == 0 else [4 + i for i in draw.order(4)]
    sentences, tokens, out, into = sizes
    g, x = draw.normal(sentences, tokens, out), draw.normal(sentences, tokens, into)
    loud = draw.uniform(sentences).mul(3).exp()
    return g * loud[:, None, None], x, draw.whole(out + 2, 2 * out - 1)


FISHER = register(
    Exercise(
        id="bitfit-fisher",
        points=4,
        difficulty=4,
        minutes=20,
        hints=(
            "For y = x W^T the gradient of W is g^T x, summed over the tokens. Do it for each sentence by itself.",
            "torch.einsum('nto,nti->noi', g, x) is that gradient for every sentence n: (n, out, in).",
            "Square first, then average over the sentences, then take the k largest of all entries of the matrix.",
        ),
        inputs=_gradients,
        secret=_secret_fisher,
        reference=fisher,
        mutants=(
            Mutant(
                lambda g, x, k: _with_mask(torch.einsum("nto,nti->noi", g, x).mean(0).square(), k),
                "this squares the mean gradient: sentences that pull in opposite directions cancel; square each "
                "sentence's gradient first",
            ),
            Mutant(
                lambda g, x, k: _with_mask(torch.einsum("nto,nti->ntoi", g, x).square().sum(1).mean(0), k),
                "this squares token by token; a sentence has one loss, so add up its tokens before squaring",
            ),
            Mutant(
                lambda g, x, k: _with_mask(
                    (torch.einsum("nto,nti->noi", g, x) / g.shape[1]).square().mean(0), k
                ),
                "this averages over the tokens; the gradient of a sentence's loss is their sum",
            ),
            Mutant(
                lambda g, x, k: _with_mask(torch.einsum("nto,nti->noi", g, x).abs().mean(0), k),
                "this averages |g|; the Fisher information averages the square",
            ),
            Mutant(
                lambda g, x, k: _with_mask(torch.einsum("nto,nti->noi", g, x).square().sum(0), k),
                "the mask is right, the scores are sums over the sentences; take the mean",
            ),
            Mutant(
                lambda g, x, k: _with_mask(torch.einsum("nto,nti->noi", g, x).square().mean(0).sqrt(), k),
                "this takes a root after the mean; leave the square",
            ),
            Mutant(
                lambda g, x, k: _with_mask(torch.einsum("nto,nti->nio", g, x).square().mean(0), k),
                "this is transposed: W is (out, in), and so is its gradient",
            ),
            Mutant(
                lambda g, x, k: _with_mask(torch.einsum("nto,nti->toi", g, x).square().mean(0), k),
                "sentences and tokens are swapped: add up over the tokens, average over the sentences",
            ),
            Mutant(_ascending, "the scores are right, but the mask holds the k smallest"),
            Mutant(_by_row, "the mask takes as many from each row; take the k largest of the whole matrix"),
            Mutant(_from_k_on, "one is missing: the k-th largest itself belongs to the mask"),
        ),
        tolerance=1e-8,
        kinds=2,
    )
)


# bitfit-nodes ---------------------------------------------------------------------------------------------


def _primed(seed: int) -> tuple[Tensor, Tensor, int]:
    # Square: a sum along the wrong axis then runs without an error. Cubes: a few large changes and many small ones,
    # so that other norms choose other nodes.
    random, n = _random(10 + seed), 9 + seed
    before, moved = (torch.randn(n, n, generator=random, dtype=torch.float64) for _ in range(2))
    return before, before + 0.1 * moved**3, 4


def nodes(before: Tensor, after: Tensor, keep: int) -> Tensor:
    r"""The `keep` rows with the largest sum of |change|, in rising order."""
    return (after - before).abs().sum(1).topk(keep).indices.sort().values


def _largest(scores: Tensor, keep: int) -> Tensor:
    return scores.topk(keep).indices.sort().values


def _secret_nodes(draw: Draw) -> tuple[Tensor, Tensor, int]:
    n = draw.whole(13, 16)
    before, moved = draw.normal(n, n), draw.normal(n, n)
    return before, before + 0.1 * moved**3, draw.whole(5, 7)


NODES = register(
    Exercise(
        id="bitfit-nodes",
        points=2,
        difficulty=2,
        minutes=10,
        hints=(
            "A node is one output of the layer: one row of W, which is (out, in).",
            "The L1 norm of a row's change is the sum of the absolute values of its entries.",
            "scores.topk(keep).indices gives the nodes from the largest score on; .sort().values puts them in order.",
        ),
        inputs=_primed,
        secret=_secret_nodes,
        reference=nodes,
        mutants=(
            Mutant(
                lambda before, after, keep: _largest((after - before).abs().sum(0), keep),
                "this adds up columns, which are inputs; a node is an output, so a row",
            ),
            Mutant(
                lambda before, after, keep: _largest((after - before).sum(1).abs(), keep),
                "this adds first and takes the absolute value then: ups and downs within a row cancel",
            ),
            Mutant(
                lambda before, after, keep: _largest((after - before).square().sum(1), keep),
                "this is the L2 norm, in which one large change outweighs many; L1 adds up absolute values",
            ),
            Mutant(
                lambda before, after, keep: _largest((after - before).abs().amax(1), keep),
                "this looks at the largest change only; L1 adds up all of them",
            ),
            Mutant(
                lambda before, after, keep: _largest(-(after - before).abs().sum(1), keep),
                "these are the nodes that moved least: they are frozen, the others learn",
            ),
            Mutant(
                lambda before, after, keep: _largest(after.abs().sum(1), keep),
                "this ranks the weights after priming; rank how far they moved",
            ),
            Mutant(
                lambda before, after, keep: _largest((after.abs().sum(1) - before.abs().sum(1)).abs(), keep),
                "this is the change of a norm; take the norm of the change",
            ),
            Mutant(
                lambda before, after, keep: (after - before).abs().sum(1).topk(keep).indices,
                "the right nodes, from the largest change on; give them in rising order",
            ),
            Mutant(
                lambda before, after, keep: (after - before).abs().sum(1).topk(keep).values,
                "these are the changes themselves; give the numbers of the nodes",
            ),
        ),
        tolerance=0.0,
    )
)


# bitfit-layer ---------------------------------------------------------------------------------------------

Split = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def _split(seed: int) -> Split:
    random, d = _random(20 + seed), 5
    n, keep = 9, 4  # as few frozen nodes as inputs; more learners than two, so that two permutations differ
    x, W = (torch.randn(k, d, generator=random, dtype=torch.float64) for k in (3, n))
    b = torch.randn(n, generator=random, dtype=torch.float64)
    order = torch.randperm(n, generator=random)
    learners, frozen = order[:keep], order[keep:].sort().values
    return x, W[learners], b[learners], W[frozen], b[frozen], learners


def layer(x: Tensor, W_t: Tensor, b_t: Tensor, W_f: Tensor, b_f: Tensor, learners: Tensor) -> Tensor:
    r"""Run both, concatenate, and put output i of the learners at place learners[i]."""
    y = torch.cat([F.linear(x, W_t, b_t), F.linear(x, W_f, b_f)], dim=-1)
    return y[..., _order(learners, y.shape[-1]).argsort()]


def _order(learners: Tensor, n: int) -> Tensor:
    frozen = [i for i in range(n) if i not in learners.tolist()]
    return torch.cat([learners, torch.tensor(frozen)])


def _concatenated(x: Tensor, W_t: Tensor, b_t: Tensor, W_f: Tensor, b_f: Tensor) -> Tensor:
    return torch.cat([F.linear(x, W_t, b_t), F.linear(x, W_f, b_f)], dim=-1)


def _there_instead_of_back(x, W_t, b_t, W_f, b_f, learners):
    y = _concatenated(x, W_t, b_t, W_f, b_f)
    return y[..., _order(learners, y.shape[-1])]


def _secret_layer(draw: Draw) -> Split:
    d, n = draw.whole(3, 6), draw.whole(7, 11)
    keep = draw.whole(3, n - 3)
    x, W, b = draw.normal(draw.whole(2, 4), d), draw.normal(n, d), draw.normal(n)
    order = torch.tensor(draw.order(n))
    learners, frozen = order[:keep], order[keep:].sort().values
    return x, W[learners], b[learners], W[frozen], b[frozen], learners


LAYER = register(
    Exercise(
        id="bitfit-layer",
        points=4,
        difficulty=3,
        minutes=20,
        hints=(
            "Two linear maps of the same x, their outputs side by side: the learners' first. Which node is where now?",
            "order = learners followed by the frozen nodes in rising order: output j of the concatenation is node "
            "order[j].",
            "Undo it: y[..., order.argsort()], or result = torch.empty_like(y) and then result[..., order] = y.",
        ),
        inputs=_split,
        secret=_secret_layer,
        reference=layer,
        mutants=(
            Mutant(
                lambda x, W_t, b_t, W_f, b_f, learners: _concatenated(x, W_t, b_t, W_f, b_f),
                "the outputs stand as they were concatenated, as on the slide; permute them back: node i at place i",
            ),
            Mutant(
                _there_instead_of_back,
                "this permutes once more in the same direction; take the inverse of the order, order.argsort()",
            ),
            Mutant(
                lambda x, W_t, b_t, W_f, b_f, learners: layer(x, W_t, 0 * b_t, W_f, 0 * b_f, learners),
                "the biases are missing",
            ),
            Mutant(
                lambda x, W_t, b_t, W_f, b_f, learners: layer(x, W_t, b_t, W_f, 0 * b_f, learners),
                "the frozen nodes have a bias as well",
            ),
            Mutant(
                lambda x, W_t, b_t, W_f, b_f, learners: layer(x, W_t, 0 * b_t, W_f, b_f, learners),
                "the learners have a bias as well",
            ),
            Mutant(
                lambda x, W_t, b_t, W_f, b_f, learners: layer(x, W_t, b_t, W_f, b_f, learners.sort().values),
                "the learners are not sorted: row i of W_t is node learners[i]",
            ),
            Mutant(
                lambda x, W_t, b_t, W_f, b_f, learners: torch.cat(
                    [F.linear(x, W_f, b_f), F.linear(x, W_t, b_t)], dim=-1
                ),
                "this puts the frozen nodes first and leaves them there; node i belongs at place i",
            ),
            Mutant(
                lambda x, W_t, b_t, W_f, b_f, learners: layer(x, W_t, b_t, 0 * W_f, 0 * b_f, learners),
                "the frozen nodes answer, too: frozen means that they do not learn",
            ),
        ),
        tolerance=1e-8,
    )
)
