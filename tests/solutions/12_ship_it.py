"""Reference answers of notebook 12_ship_it, as a student would write them."""

import torch


def ship_difference(one, other, mask):
    p = torch.log_softmax(one, dim=-1)
    q = torch.log_softmax(other, dim=-1)
    divergence = (torch.exp(p) * (p - q)).sum(dim=-1)
    last = [divergence[i, int(mask[i].sum()) - 1] for i in range(len(mask))]
    return divergence[mask == 1].mean().item(), torch.stack(last).mean().item()


def ship_sum(A, B, s, w):
    rows = [A[t] * (s[t] * w[t]) for t in range(len(A))]
    return torch.cat(rows, dim=0), torch.cat(B, dim=1)


def ship_blend(updates, inputs, r):
    U, S, Vh = torch.linalg.svd(updates[0] + updates[1], full_matrices=False)
    B = (U[:, :r] * S[:r].sqrt()).requires_grad_()
    A = (S[:r].sqrt()[:, None] * Vh[:r]).requires_grad_()
    optimizer = torch.optim.Adam([A, B], lr=0.03)
    steps = 800
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.03 * (1 - step / steps)
        losses = []
        for D, X in zip(updates, inputs, strict=True):
            missed = X @ (B @ A - D).T
            losses.append(missed.square().sum() / (X @ D.T).square().sum())
        optimizer.zero_grad()
        max(losses).backward()
        optimizer.step()
    return A.detach(), B.detach()


def ship_gguf(A, B, s, heads):
    alpha = s * A.shape[0]
    if heads == 0:
        return A, B, alpha
    rows = []
    for head in B.chunk(heads):
        first, second = head.chunk(2)
        for one, other in zip(first, second, strict=True):
            rows += [one, other]
    return A, torch.stack(rows), alpha
