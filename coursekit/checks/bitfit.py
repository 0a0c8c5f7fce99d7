r"""The exercises of notebooks 05_bitfit and 05b_masks."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from coursekit.checks.core import Exercise
from coursekit.checks.draw import Draw

# bitfit-trains ------------------------------------------------------------------------------------------

Names = tuple[str, ...]


def _model(block: str, biases: bool, tables: bool, head: str) -> Names:
    r"""Names as `named_parameters` gives them, of an encoder with a block at `block` and a task head."""
    names = ["embeddings.word.weight"]
    for path in ("query", "dense", "norm"):
        names += [f"{block}.{path}.weight", *[f"{block}.{path}.bias"] * biases]
    if tables:  # T5 and MPNet call a table of positions the first; both are embeddings
        names += ["encoder.relative_attention_bias.weight", "encoder.position_bias"]
    # In front of the head stands a norm, which is frozen with the body.
    return (*names, f"{head}_norm.weight", f"{head}.weight", *[f"{head}.bias"] * biases)


def trains(names: Names, head: str) -> Names:
    r"""Every bias of the body, and the whole head."""
    return tuple(name for name in names if name.endswith(".bias") or name.startswith(f"{head}."))


def _secret_names(draw: Draw) -> tuple[Names, str]:
    # A BERT; one with tables of positions; and a Llama, which has no biases.
    head = f"heads.{draw.whole(0, 999)}"
    block = f"{draw.pick(('encoder.layer', 'model.layers', 'transformer.h'))}.{draw.whole(0, 99)}"
    return _model(block, draw.kind < 2, draw.kind == 1, head), head


def _chosen(rule: Callable[[str, str], bool]) -> Callable[[Names, str], Names]:
    return lambda names, head: tuple(name for name in names if rule(name, head))


TRAINS = Exercise(
    id="bitfit-trains", points=3, difficulty=2, minutes=10,
    secret=_secret_names, reference=trains,
    mutants={
        "this is the slide's rule: the head's matrix is missing, and a table with 'bias' in its name is there":
            _chosen(lambda name, head: "bias" in name),
        "one tensor has 'bias' in its name and is none: a table of relative positions; ask how the name ends":
            _chosen(lambda name, head: "bias" in name or name.startswith(f"{head}.")),
        "position_bias ends in 'bias' and is a table of positions: a bias is called '.bias', with the dot":
            _chosen(lambda name, head: name.endswith("bias") or name.startswith(f"{head}.")),
        "two things: a table has 'bias' in its name and is none, so ask how a name ends; and a norm's name begins "
        "like the head's, so look for head + '.'": _chosen(lambda name, head: "bias" in name or name.startswith(head)),
        "two things: position_bias is a table, a bias is called '.bias'; and a norm's name begins like the head's, "
        "so look for head + '.'": _chosen(lambda name, head: name.endswith("bias") or name.startswith(head)),
        "the head's matrix is missing, and position_bias is there, a table: a bias is called '.bias'":
            _chosen(lambda name, head: name.endswith("bias")),
        "one norm's name begins like the head's and it is no part of it: look for head + '.', with the dot":
            _chosen(lambda name, head: name.endswith(".bias") or name.startswith(head)),
        "the head is new and trains whole: its matrix is missing (head may be a path, such as heads.3)":
            _chosen(lambda name, head: name.endswith(".bias")),
        "these are the biases of the body; the head trains as well":
            _chosen(lambda name, head: name.endswith(".bias") and not name.startswith(f"{head}.")),
        "this trains the head alone; BitFit trains the biases of the body with it":
            _chosen(lambda name, head: name.startswith(f"{head}.")),
        "these are the right names in another order; keep the order of names":
            lambda names, head: tuple(sorted(trains(names, head), key=lambda name: not name.endswith(".bias"))),
        "these are the names of what is frozen; give those that train":
            _chosen(lambda name, head: not (name.endswith(".bias") or name.startswith(f"{head}."))),
    },
    tolerance=0.0, kinds=3,
)  # fmt: skip


# bitfit-work ----------------------------------------------------------------------------------------------

#: What trains of a block.
NOTHING, BIASES, MATRICES = "nothing", "biases", "matrices"


def work(blocks: Sequence[str]) -> float:
    r"""Matrix products of a training step, as a share of those where all matrices train."""
    lowest = next((i for i, block in enumerate(blocks) if block != NOTHING), len(blocks))
    return _share(blocks, passed=len(blocks) - lowest)


def _share(blocks: Sequence[str], passed: int) -> float:
    r"""passed: blocks that the gradient gets through. Those of matrices have a product for their own gradient."""
    return (len(blocks) + passed + list(blocks).count(MATRICES)) / (3 * len(blocks))


def _secret_work(draw: Draw) -> tuple[tuple[str, ...]]:
    # Frozen blocks at the bottom; above the lowest that trains two are frozen, one trains biases and two matrices or
    # more. Of no two kinds, which mistakes leave out or count too many of, there are equally many.
    rest = (draw.pick((NOTHING, BIASES, MATRICES)) for _ in range(draw.whole(0, 4)))
    upper, lowest = [NOTHING, NOTHING, BIASES, MATRICES, MATRICES, *rest], draw.pick((BIASES, MATRICES))
    trained = [lowest, *upper]
    upper += [NOTHING] * (trained.count(NOTHING) == trained.count(MATRICES))
    below = draw.whole(1, 4)
    below += below == trained.count(BIASES)
    return ((*[NOTHING] * below, lowest, *(upper[i] for i in draw.order(len(upper)))),)


WORK = Exercise(
    id="bitfit-work", points=3, difficulty=3, minutes=10,
    secret=_secret_work, reference=work,
    mutants={
        "below the lowest block that trains there is no backward pass: nothing there needs a gradient":
            lambda blocks: _share(blocks, passed=len(blocks)),
        "a frozen block above one that trains costs a product as well: the gradient has to get through it":
            lambda blocks: _share(blocks, passed=len(blocks) - list(blocks).count(NOTHING)),
        "the lowest block that trains needs a gradient as well: the gradient passes it, too":
            lambda blocks: work(blocks) - 1 / (3 * len(blocks)),
        "the gradient of a bias is a sum over the tokens and no matrix product: leave it out":
            lambda blocks: work(blocks) + list(blocks).count(BIASES) / (3 * len(blocks)),
        "the forward pass is missing: it goes through every block, trained or not": lambda blocks: work(blocks) - 1 / 3,
        "the matrices' own gradients are missing: the third product, where matrices train":
            lambda blocks: work(blocks) - list(blocks).count(MATRICES) / (3 * len(blocks)),
        "this is a number of products; divide by that of full fine-tuning, three in every block":
            lambda blocks: 3 * len(blocks) * work(blocks),
        "this counts from the wrong end: blocks[0] is the lowest, next to the embeddings":
            lambda blocks: work(blocks[::-1]),
    },
    tolerance=1e-8,
)  # fmt: skip


# bitfit-fisher --------------------------------------------------------------------------------------------


Scored = tuple[Tensor, Tensor]


def _with_mask(scores: Tensor, k: int) -> Scored:
    mask = torch.zeros(scores.numel(), dtype=torch.bool)
    mask[scores.flatten().topk(k).indices] = True
    return scores, mask.view(scores.shape)


def fisher(g: Tensor, x: Tensor, k: int) -> Scored:
    r"""Mean over sentences of the squared gradient of each, and the k largest of all entries."""
    per_sentence = torch.einsum("nto,nti->noi", g, x)
    return _with_mask(per_sentence.square().mean(0), k)


def _masked(mask: Callable[[Tensor, int], Tensor]) -> Callable[..., Scored]:
    r"""The right scores with another mask of them and k."""

    def wrong(g: Tensor, x: Tensor, k: int) -> Scored:
        scores, _ = fisher(g, x, k)
        return scores, mask(scores, k)

    return wrong


def _by_row(scores: Tensor, k: int) -> Tensor:
    share = max(1, k // len(scores))
    return torch.zeros_like(scores).scatter(1, scores.topk(share, dim=1).indices, 1.0).bool()


def _secret_fisher(draw: Draw) -> tuple[Tensor, Tensor, int]:
    # Of kind 0 all four are one number: a sum over the wrong one then runs without an error.
    sizes = [draw.whole(4, 6)] * 4 if draw.kind == 0 else [4 + i for i in draw.order(4)]
    sentences, tokens, out, into = sizes
    g, x = draw.normal(sentences, tokens, out), draw.normal(sentences, tokens, into)
    loud = draw.uniform(sentences).mul(3).exp()
    return g * loud[:, None, None], x, draw.whole(out + 2, 2 * out - 1)


FISHER = Exercise(
    id="bitfit-fisher", points=4, difficulty=4, minutes=12,
    secret=_secret_fisher, reference=fisher,
    mutants={
        "this squares the mean gradient: sentences that pull in opposite directions cancel; square each "
        "sentence's gradient first": lambda g, x, k: _with_mask(torch.einsum("nto,nti->noi", g, x).mean(0).square(), k),
        "this squares token by token; a sentence has one loss, so add up its tokens before squaring":
            lambda g, x, k: _with_mask(torch.einsum("nto,nti->ntoi", g, x).square().sum(1).mean(0), k),
        "this averages over the tokens; the gradient of a sentence's loss is their sum":
            lambda g, x, k: _with_mask((torch.einsum("nto,nti->noi", g, x) / g.shape[1]).square().mean(0), k),
        "this averages |g|; the Fisher information averages the square":
            lambda g, x, k: _with_mask(torch.einsum("nto,nti->noi", g, x).abs().mean(0), k),
        "the mask is right, the scores are sums over the sentences; take the mean":
            lambda g, x, k: _with_mask(torch.einsum("nto,nti->noi", g, x).square().sum(0), k),
        "this takes a root after the mean; leave the square":
            lambda g, x, k: _with_mask(torch.einsum("nto,nti->noi", g, x).square().mean(0).sqrt(), k),
        "this is transposed: W is (out, in), and so is its gradient":
            lambda g, x, k: _with_mask(torch.einsum("nto,nti->nio", g, x).square().mean(0), k),
        "sentences and tokens are swapped: add up over the tokens, average over the sentences":
            lambda g, x, k: _with_mask(torch.einsum("nto,nti->toi", g, x).square().mean(0), k),
        "the scores are right, but the mask holds the k smallest": _masked(lambda scores, k: _with_mask(-scores, k)[1]),
        "the mask takes as many from each row; take the k largest of the whole matrix": _masked(_by_row),
        "one is missing: the k-th largest itself belongs to the mask":
            _masked(lambda scores, k: scores > scores.flatten().topk(k).values[-1]),
    },
    tolerance=1e-8, kinds=2,
)  # fmt: skip


# bitfit-layer ---------------------------------------------------------------------------------------------

Split = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def layer(x: Tensor, W_t: Tensor, b_t: Tensor, W_f: Tensor, b_f: Tensor, learners: Tensor) -> Tensor:
    r"""Run both, concatenate, and put output i of the learners at place learners[i]."""
    y = _concatenated(x, W_t, b_t, W_f, b_f)
    return y[..., _order(learners, y.shape[-1]).argsort()]


def _order(learners: Tensor, n: int) -> Tensor:
    # A layer's time is measured: no list of nodes in Python, which would take longer than the layer's products.
    frozen = torch.ones(n, dtype=torch.bool, device=learners.device)
    frozen[learners] = False
    return torch.cat([learners, frozen.nonzero()[:, 0]])


def _concatenated(x: Tensor, W_t: Tensor, b_t: Tensor, W_f: Tensor, b_f: Tensor) -> Tensor:
    return torch.cat([F.linear(x, W_t, b_t), F.linear(x, W_f, b_f)], dim=-1)


def _secret_layer(draw: Draw) -> Split:
    d, n = draw.whole(3, 6), draw.whole(7, 11)
    keep = draw.whole(3, n - 3)
    # As many tokens as outputs: who takes the second dimension for the last is told.
    x, W, b = draw.normal(2, n, d), draw.normal(n, d), draw.normal(n)
    order = torch.tensor(draw.order(n))
    learners, frozen = order[:keep], order[keep:].sort().values
    return x, W[learners], b[learners], W[frozen], b[frozen], learners


LAYER = Exercise(
    id="bitfit-layer", points=4, difficulty=3, minutes=15,
    secret=_secret_layer, reference=layer,
    mutants={
        "the outputs stand as they were concatenated, as on the slide; permute them back: node i at place i":
            lambda x, W_t, b_t, W_f, b_f, learners: _concatenated(x, W_t, b_t, W_f, b_f),
        "this permutes once more in the same direction; take the inverse of the order, order.argsort()":
            lambda x, W_t, b_t, W_f, b_f, learners: _concatenated(x, W_t, b_t, W_f, b_f)[
                ..., _order(learners, len(W_t) + len(W_f))
            ],
        "x has a dimension more, (..., in): put the outputs back along the last one, y[..., order]":
            lambda x, W_t, b_t, W_f, b_f, learners: _concatenated(x, W_t, b_t, W_f, b_f)[
                :, _order(learners, x.shape[1]).argsort()
            ],
        "the biases are missing":
            lambda x, W_t, b_t, W_f, b_f, learners: layer(x, W_t, 0 * b_t, W_f, 0 * b_f, learners),
        "the frozen nodes have a bias as well":
            lambda x, W_t, b_t, W_f, b_f, learners: layer(x, W_t, b_t, W_f, 0 * b_f, learners),
        "the learners have a bias as well":
            lambda x, W_t, b_t, W_f, b_f, learners: layer(x, W_t, 0 * b_t, W_f, b_f, learners),
        "the learners are not sorted: row i of W_t is node learners[i]":
            lambda x, W_t, b_t, W_f, b_f, learners: layer(x, W_t, b_t, W_f, b_f, learners.sort().values),
        "this puts the frozen nodes first and leaves them there; node i belongs at place i":
            lambda x, W_t, b_t, W_f, b_f, learners: torch.cat([F.linear(x, W_f, b_f), F.linear(x, W_t, b_t)], dim=-1),
        "the frozen nodes answer, too: frozen means that they do not learn":
            lambda x, W_t, b_t, W_f, b_f, learners: layer(x, W_t, b_t, 0 * W_f, 0 * b_f, learners),
    },
    tolerance=1e-8,
)  # fmt: skip


# bitfit-verdict -----------------------------------------------------------------------------------------

#: (method, learning rate, seed, validation accuracy, test accuracy)
Run = tuple[str, float, int, float, float]
Runs = tuple[Run, ...]
Rule = Callable[[Runs, str, str], tuple[str, float]]


def _table(name: str, peak: int, level: float, noise: Tensor, lucky: int | None = None) -> list[Run]:
    r"""Five learning rates, three seeds each, the best in validation at `peak`. In test the next rate looks better.

    lucky: the rate at which one seed of three was lucky in validation.
    """
    runs = []
    for i, rate in enumerate((1e-4, 3e-4, 1e-3, 3e-3, 1e-2)):
        for seed in range(3):
            validation = level + 0.02 - 0.03 * abs(i - peak) + 0.002 * float(noise[i, seed, 0])
            if i == lucky:
                validation += (-0.06, 0.09, -0.06)[seed]
            test = level - 0.03 * abs(i - peak - 0.6) + 0.004 * float(noise[i, seed, 1])
            runs.append((name, rate, seed, round(validation, 4), round(test, 4)))
    return runs


#: (where the first method peaks, the second; their levels; a rate with a lucky seed): a clear win of either, a narrow
#: miss, a best rate at an end of its grid, and two best rates with the same mean.
_KINDS = (
    (2, 1, 0.80, 0.74, 4), (1, 3, 0.73, 0.80, 3), (2, 3, 0.780, 0.7795, 0), (3, 0, 0.79, 0.70, 1),
    (2, 1, 0.79, 0.74, None),
)  # fmt: skip
_NARROW, _TIED = 2, 4

#: Standard errors that a difference of two means of three seeds exceeds by chance in 1 of 20 cases: Student's t with 4
#: degrees of freedom. (The normal distribution's 2 is for a variance that is known.)
ERRORS = 2.8


def _secret_runs(draw: Draw) -> tuple[Runs, str, str]:
    first, second, high, low, lucky = _KINDS[draw.kind]
    one, other = draw.pick(("fisher", "magnitude", "bitfit")), draw.pick(("random", "shira", "far"))
    noise = [draw.normal(5, 3, 2).clamp(-2, 2) for _ in range(2)]
    runs = _table(one, first, high, noise[0], lucky) + _table(other, second, low, noise[1])
    if draw.kind == _NARROW:
        runs = _apart(runs, one, other, 2.4)
    if draw.kind == _TIED:
        runs = _tied(runs, one, 1e-3, 3e-3)
    far = 1e-2 if second <= 2 else 1e-4  # a rate far behind has one seed, as in the stored evidence
    runs = [run for run in runs if not (run[0] == other and run[1] == far and run[2] > 0)]
    return tuple(runs[i] for i in draw.order(len(runs))), one, other


def _apart(runs: list[Run], one: str, other: str, errors: float) -> list[Run]:
    r"""The same with all test accuracies of `other` moved: so many standard errors below `one`'s, at the best rates."""
    own = [[run[4] for run in _by_rate(tuple(runs), name)[_by_validation(tuple(runs), name)]] for name in (one, other)]
    error = (sum(statistics.variance(values) for values in own) / len(own[0])) ** 0.5
    move = statistics.fmean(own[0]) - statistics.fmean(own[1]) - errors * error
    return [(*run[:4], round(run[4] + move * (run[0] == other), 6)) for run in runs]


def _tied(runs: list[Run], name: str, low: float, high: float) -> list[Run]:
    r"""The same with the validation of `low` at `high` too, in multiples of 1/512: a sum of them has no rounding error,
    so that the means are equal in whatever order they are taken.
    """
    level = {run[2]: round(512 * run[3]) / 512 for run in runs if run[:2] == (name, low)}
    return [(*run[:3], level[run[2]], run[4]) if run[0] == name and run[1] in (low, high) else run for run in runs]


def _by_rate(runs: Runs, name: str) -> dict[float, list[Run]]:
    found: dict[float, list[Run]] = {}
    for run in sorted(runs):
        if run[0] == name:
            found.setdefault(run[1], []).append(run)
    return found


def _by(column: int, last: bool = False) -> Callable[[Runs, str], float]:
    r"""The learning rate with the best mean of that column; of equals the lowest, or the last."""

    def choose(runs: Runs, name: str) -> float:
        groups = _by_rate(runs, name)
        rates = reversed(groups) if last else groups
        return max(rates, key=lambda rate: statistics.fmean(run[column] for run in groups[rate]))

    return choose


_by_validation = _by(3)


def _judged(
    choose: Callable[[Runs, str], float] = _by_validation,
    column: int = 4,
    shared: bool = False,
    edges: bool = True,
    size: Callable[[float], float] = abs,
    margin: Callable[[float, int], float] = lambda variance, n: ERRORS * (variance / n) ** 0.5,
) -> Rule:
    r"""The right rule, or one with a single thing wrong."""

    def rule(runs: Runs, one: str, other: str) -> tuple[str, float]:
        best = {name: choose(runs, one if shared else name) for name in (one, other)}
        groups = {name: _by_rate(runs, name) for name in best}
        own = {name: [run[column] for run in groups[name][best[name]]] for name in best}
        gap = statistics.fmean(own[one]) - statistics.fmean(own[other])
        if edges and any(best[name] in (min(groups[name]), max(groups[name])) for name in (one, other)):
            return "widen", gap
        if size(gap) <= margin(sum(statistics.variance(values) for values in own.values()), len(own[one])):
            return "cannot tell", gap
        return (one if gap > 0 else other), gap

    return rule


verdict = _judged()

VERDICT = Exercise(
    id="bitfit-verdict", points=5, difficulty=4, minutes=18,
    secret=_secret_runs, reference=verdict,
    mutants={
        "the learning rate is chosen by test accuracy, which is then no test any more; choose by validation":
            _judged(choose=_by(4)),
        "the single best run chose the learning rate, and one seed was lucky; take the mean over the seeds":
            _judged(choose=lambda runs, name: max((r for r in runs if r[0] == name), key=lambda r: r[3])[1]),
        "of two rates with the same mean this takes the higher; take the lower": _judged(choose=_by(3, last=True)),
        "both methods have the rate that suits the first: that decides the contest before it begins":
            _judged(shared=True),
        "where the best rate lies at the end of its grid a better one may lie beyond: say 'widen'":
            _judged(edges=False),
        "this compares validation accuracies, which the learning rates were chosen by; compare test accuracies":
            _judged(column=3),
        # No margin at all goes wrong at the same cases, and so does 2.8 with a variance over n.
        "up to 2.8 standard errors three seeds each tell nothing: say 'cannot tell'. Is the factor 2.8, and does "
        "the variance divide by n - 1?": _judged(margin=lambda variance, n: 2 * (variance / n) ** 0.5),
        "a difference below 0 can be as clear as one above: compare its absolute value with 2.8 standard errors":
            _judged(size=lambda gap: gap),
        "the sign is the other way round: the first method's accuracy minus the second's":
            lambda runs, one, other: (verdict(runs, one, other)[0], -verdict(runs, one, other)[1]),
    },
    tolerance=1e-6, kinds=5,
)  # fmt: skip
