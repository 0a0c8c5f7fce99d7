r"""Reference answers of notebook 06b_intrinsic_dimension, as a student would write them."""

import math

import torch


def intrinsic_hadamard(x):
    n, step = len(x), 1
    x = x.clone()
    while step < n:  # the butterfly, in place of recursion
        for start in range(0, n, 2 * step):
            a, b = x[start : start + step].clone(), x[start + step : start + 2 * step].clone()
            x[start : start + step], x[start + step : start + 2 * step] = a + b, a - b
        step *= 2
    return x


def intrinsic_fastfood(v, S, order, G, H):
    n = len(H)
    padded = torch.zeros(n, dtype=v.dtype)
    padded[: len(v)] = S * v
    return H @ (G * (H @ padded)[order]) / n


def intrinsic_dimension(curve, full, share):
    mark = share * sum(full) / len(full)
    before = None
    for d, values in sorted(curve):
        mean = sum(values) / len(values)
        if mean >= mark and before is not None:
            d0, mean0 = before
            part = (mark - mean0) / (mean - mean0)
            return math.exp(math.log(d0) + part * (math.log(d) - math.log(d0)))
        before = (d, mean)
    return math.inf


def intrinsic_search(train, ds, seeds, mark):
    enough = None
    while ds:
        middle = len(ds) // 2
        if sum(train(ds[middle], seed) for seed in seeds) / len(seeds) >= mark:
            enough, ds = ds[middle], ds[:middle]
        else:
            ds = ds[middle + 1 :]
    return enough
