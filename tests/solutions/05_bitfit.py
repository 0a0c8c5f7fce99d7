r"""Reference answers of notebook 05_bitfit, as a student would write them."""

import torch


def bitfit_count(shapes, head):
    total = 0
    for name, shape in shapes.items():
        if name.split(".")[0] == head or name.split(".")[-1] == "bias":
            total += torch.Size(shape).numel()
    return total


def bitfit_work(layers, k, matrices):
    forward, inputs = layers, k
    weights = k if matrices else 0
    return forward + inputs + weights


def bitfit_fisher(g, x, k):
    scores = torch.zeros(g.shape[-1], x.shape[-1], dtype=g.dtype)
    for g_sentence, x_sentence in zip(g, x, strict=True):
        scores += (g_sentence.T @ x_sentence) ** 2 / len(g)
    threshold = scores.flatten().sort(descending=True).values[k - 1]
    return scores, scores >= threshold


def bitfit_nodes(before, after, keep):
    moved = torch.linalg.vector_norm(after - before, ord=1, dim=1)
    return torch.argsort(moved, descending=True)[:keep].sort().values


def bitfit_layer(x, W_t, b_t, W_f, b_f, learners):
    n = len(W_t) + len(W_f)
    frozen = torch.ones(n, dtype=torch.bool)
    frozen[learners] = False
    y = x.new_empty(*x.shape[:-1], n)
    y[..., learners] = x @ W_t.T + b_t
    y[..., frozen] = x @ W_f.T + b_f
    return y
