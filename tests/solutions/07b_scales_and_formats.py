r"""Reference answers of notebook 07b_scales_and_formats, as a student would write them."""

import torch


def quantization_bits(k, block, second, zero):
    if second == 0:
        return k + (32 + zero) / block
    scales_of_one = 8 + 32 / second
    return k + (scales_of_one + zero) / block


def quantization_gptq(W, H, step):
    W = W.clone()
    for j in range(W.shape[1]):
        free = torch.linalg.inv(H[j:, j:])
        rounded = step * (W[:, j : j + 1] / step).round().clamp(-7, 7)
        lost = W[:, j : j + 1] - rounded
        W[:, j + 1 :] -= lost / free[0, 0] * free[0, 1:]
        W[:, j : j + 1] = rounded
    return W
