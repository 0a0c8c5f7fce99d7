r"""Reference answers of notebook 03_ia3, as a student would write them."""

import torch
import torch.nn.functional as F


def ia3_attention(q, k, v, l_k, l_v):
    # With a scale of its own unless told otherwise, PyTorch divides by the root of d.
    return F.scaled_dot_product_attention(q, k * l_k, v * l_v)


def ia3_count(layers, d, d_kv, d_ff):
    l_k, l_v, l_ff = d_kv, d_kv, d_ff
    return layers * (l_k + l_v + l_ff)


def ia3_fold(W_k, b_k, l_k, W_2, b_2, l_ff):
    return torch.diag(l_k) @ W_k, l_k * b_k, W_2 @ torch.diag(l_ff), b_2


def ia3_absorb(W_q, b_q, l_k):
    return torch.diag(l_k) @ W_q, l_k * b_q


def ia3_gradient(g, x, W, b, l):
    dl = torch.zeros_like(l)
    for g_token, x_token in zip(g, x, strict=True):
        dl += g_token * (W @ x_token + b)
    return dl, g @ torch.diag(l) @ W
