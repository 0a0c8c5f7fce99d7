r"""Reference answers of notebook 10_which_method, as a student would write them."""

import statistics


def hybrid_plan(pilot, smallest):
    accuracies = {}
    for method, _, accuracy in pilot:
        accuracies.setdefault(method, []).append(accuracy)
    s1, s2 = (statistics.stdev(values) for values in accuracies.values())
    n = 3
    while 2.8 * ((s1**2 + s2**2) / n) ** 0.5 > smallest:
        n += 1
    seeds, seed = [], 0
    while len(seeds) < n:
        if all(used != seed for _, used, _ in pilot):
            seeds.append(seed)
        seed += 1
    return seeds


def hybrid_conclude(runs, one, other, seeds, smallest, errors):
    found = {(method, seed): accuracy for method, seed, accuracy in runs}
    a, b = ([found[method, seed] for seed in seeds if (method, seed) in found] for method in (one, other))
    difference = statistics.mean(a) - statistics.mean(b)
    if len(a) < 2 or len(b) < 2:
        margin = 1.0
    else:
        margin = errors * (statistics.variance(a) / len(a) + statistics.variance(b) / len(b)) ** 0.5
    if len(a) + len(b) < 2 * len(seeds):
        return "incomplete", difference, margin
    if abs(difference) + margin < smallest:
        return "equal for practical purposes", difference, margin
    if difference > margin:
        return "better", difference, margin
    if -difference > margin:
        return "worse", difference, margin
    return "no clear difference", difference, margin


def which_method_leader(runs):
    seeds = runs.shape[-1]
    means = runs.mean(-1)
    of_seeds = runs.var(-1).mean((1, 2)) / seeds
    of_methods = (means.var(-1).mean(1) - of_seeds).clamp(min=0)
    expected = (of_methods / (of_methods + of_seeds))[:, None]
    middle = means.mean(-1)
    return {"leader": middle + expected * (means.max(-1).values - middle)}
