r"""Reference answers of notebook 07b_scales_and_formats, as a student would write them."""

import torch

from coursekit.notebook import built


def quantization_gptq(W, H, step):
    W = W.clone()
    for j in range(W.shape[1]):
        free = torch.linalg.inv(H[j:, j:])
        rounded = step * (W[:, j : j + 1] / step).round().clamp(-7, 7)
        lost = W[:, j : j + 1] - rounded
        W[:, j + 1 :] -= lost / free[0, 0] * free[0, 1:]
        W[:, j : j + 1] = rounded
    return W


def straight(W, rounded):
    lost = rounded - W
    return W + lost.detach()


def quantization_straight(*given):
    return built.straight_through(straight, *given)
