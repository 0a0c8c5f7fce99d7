r"""Reference answers of notebook 01b_forgetting, as a student would write them."""

import math

from coursekit.notebook import built


def penalty(theta, start, fisher, strength):
    return strength / 2 * (fisher * (theta - start) ** 2).sum()


def forgetting_ewc(theta, start, fisher, strength):
    return built.penalty(penalty, theta, start, fisher, strength)


def forgetting_replay(new, old, share, rows, order):
    kept = round(share * rows)
    mixed = [*new[: rows - kept], *old[:kept]]
    return [mixed[place] for place in order]


def forgetting_gap(new, old, plain):
    rivals = [(x, y) for x, y in plain if not any(u < x and v < y for u, v in plain)]
    below = max(p for p in rivals if p[0] <= new)
    above = min(p for p in rivals if p[0] > new)
    way = math.log(new / below[0]) / math.log(above[0] / below[0])
    return old - below[1] * (above[1] / below[1]) ** way
