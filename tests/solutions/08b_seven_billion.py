r"""Reference answers of notebook 08b_seven_billion, as a student would write them."""

import torch


def qlora_bytes(in_codes, dense, trained):
    codes = in_codes * 4 / 8
    scales = in_codes / 64
    scales_of_scales = in_codes / 64 / 256 * 4
    return codes + scales + scales_of_scales + 2 * dense + 4 * 4 * trained


def qlora_noise(M, levels, u):
    upper = torch.bucketize(M, levels).clamp(1, len(levels) - 1)
    below, above = levels[upper - 1], levels[upper]
    return torch.where(u < (M - below) / (above - below), above, below)
