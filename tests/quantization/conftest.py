r"""Shared by the tests of quantization."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def plain_bitsandbytes():
    r"""For odd sizes bitsandbytes compiles C++ code, which takes seconds and changes no result."""
    with torch.compiler.set_stance("force_eager"):
        yield
