r"""Reference answers of notebook 07_quantization, as a student would write them."""

from statistics import NormalDist

import torch

from coursekit.quantization import measured_error, quantize_blockwise


def quantization_affine(x, bits):
    low, high = min(x.min().item(), 0.0), max(x.max().item(), 0.0)
    top = 2**bits - 1
    s = (high - low) / top
    z = round(-low / s)
    q = torch.round(x / s).add(z).clamp(0, top)
    return s, z, q.to(torch.uint8), s * (q - z)


def quantization_blockwise(x, code, block):
    absmax, values = [], []
    for part in x.split(block):
        largest = part.abs().max()
        distance = (part[:, None] / largest - code[None, :]).abs()
        absmax.append(largest)
        values.append(code[distance.argmin(1)] * largest)
    return torch.stack(absmax), torch.cat(values)


def quantization_normal_float(bits, tail):
    n, quantile = 2 ** (bits - 1), NormalDist().inv_cdf
    positive = [quantile(p) for p in torch.linspace(tail, 0.5, n + 1)[:-1].tolist()]
    negative = [-quantile(p) for p in torch.linspace(tail, 0.5, n)[:-1].tolist()]
    return torch.tensor(sorted(negative + [0.0] + positive)) / max(positive)


def quantization_q4_1(block):
    d, m = block[:4].view(torch.float16).tolist()
    codes = [byte % 16 for byte in block[4:].tolist()] + [byte // 16 for byte in block[4:].tolist()]
    return torch.tensor([d * q + m for q in codes])


def quantization_bits(k, block, second):
    if second == 0:
        return k + 32 / block
    scales_of_one = 8 + 32 / second
    return k + scales_of_one / block


def quantization_choose(W, room, codes, blocks):
    best = None
    for code in codes:
        for block in blocks:
            for double in (False, True):
                if quantize_blockwise(W, code, block, double).bits > room:
                    continue
                error = measured_error(W, code, block, double).squared
                if best is None or error < best[-1]:
                    best = code, block, double, error
    return best
