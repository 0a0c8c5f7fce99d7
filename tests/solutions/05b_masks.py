r"""Reference answers of notebook 05b_masks, as a student would write them."""

import statistics

import torch


def bitfit_fisher(g, x, k):
    scores = torch.zeros(g.shape[-1], x.shape[-1], dtype=g.dtype)
    for g_sentence, x_sentence in zip(g, x, strict=True):
        scores += (g_sentence.T @ x_sentence) ** 2 / len(g)
    threshold = scores.flatten().sort(descending=True).values[k - 1]
    return scores, scores >= threshold


def bitfit_verdict(runs, one, other):
    test, at_an_end = {}, False
    for method in (one, other):
        own = [run for run in runs if run[0] == method]
        rates = sorted({run[1] for run in own})
        mean = {rate: statistics.mean(run[3] for run in own if run[1] == rate) for rate in rates}
        best = max(rates, key=mean.get)
        at_an_end = at_an_end or best in (rates[0], rates[-1])
        test[method] = [run[4] for run in own if run[1] == best]
    difference = statistics.mean(test[one]) - statistics.mean(test[other])
    error = sum(statistics.variance(values) / len(values) for values in test.values()) ** 0.5
    if at_an_end:
        return "widen", difference
    if abs(difference) <= 2.8 * error:
        return "cannot tell", difference
    return one if difference > 0 else other, difference
