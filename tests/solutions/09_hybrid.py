r"""Reference answers of notebook 09_hybrid, as a student would write them."""

import torch
from torch import nn


def hybrid_share(q, k, p_k):
    root = q.shape[1] ** 0.5
    on_prefix = torch.exp(q @ p_k.T / root).sum(1)
    on_text = torch.exp(q @ k.T / root).sum(1)
    return on_prefix / (on_prefix + on_text)


def hybrid_gate(x, w, b, mask):
    gates = []
    for sentence, real in zip(x, mask, strict=True):
        tokens = sentence[real.bool()]
        gates.append(torch.sigmoid(tokens @ w + b).mean())
    return torch.stack(gates)


class KroneckerLayer(nn.Module):
    def __init__(self, A, s, t):
        super().__init__()
        self.A, self.s, self.t = A, s, t

    def forward(self, x):
        n = len(self.A)
        pieces = x.chunk(n, dim=-1)
        out = []
        for p in range(n):
            piece = 0
            for i in range(n):
                for q in range(n):
                    piece = piece + self.A[i, p, q] * (pieces[q] @ self.t[i])[..., None] * self.s[i]
            out.append(piece)
        return torch.cat(out, dim=-1)


def hybrid_kronecker(*given):
    from coursekit.notebook.built import without_matrix

    return without_matrix(KroneckerLayer, *given)


def hybrid_parts(dW, most):
    rows, columns = dW.shape
    best, smallest = None, float("inf")
    for r in range(min(rows, columns)):
        entries = (most - r * (rows + columns)) // 2
        if entries < 0:
            break
        S = torch.zeros_like(dW)
        for _ in range(30):
            U, sigma, Vh = torch.linalg.svd(dW - S)
            B, A = U[:, :r] @ torch.diag(sigma[:r]), Vh[:r]
            left = dW - B @ A
            cut = left.abs().flatten().sort(descending=True).values[entries] if entries < left.numel() else -1
            S = torch.where(left.abs() > cut, left, torch.zeros_like(left))
        error = (dW - B @ A - S).square().sum().item()
        if error < smallest:
            best, smallest = (B, A, S), error
    return best
