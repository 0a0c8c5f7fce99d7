r"""The measured error of a block-wise code, against bitsandbytes' weights."""

import pytest
import torch

from coursekit.quantization.code_error import measured_error


def test_measured_error_is_free_of_units_and_bitsandbytes():
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    w = torch.randn(4096, generator=torch.Generator().manual_seed(0))
    one, scaled = measured_error(w), measured_error(w * 0.03125)  # a power of two, so that no bit changes
    assert one == pytest.approx(scaled, rel=1e-9)
    off = (w - dequantize_4bit(*quantize_4bit(w, quant_type="nf4", blocksize=64))).double()
    power = w.double().square().mean()
    assert one == pytest.approx((float(off.square().mean() / power), float(off.abs().mean() / power.sqrt())), rel=1e-6)
