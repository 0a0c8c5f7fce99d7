r"""Reference answers of notebook 01b_forgetting, as a student would write them."""


def forgetting_ewc(theta, start, fisher, strength):
    return strength / 2 * (fisher * (theta - start) ** 2).sum()


def forgetting_replay(new, old, share, rows, order):
    kept = round(share * rows)
    mixed = [*new[: rows - kept], *old[:kept]]
    return [mixed[place] for place in order]
