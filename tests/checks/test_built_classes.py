r"""What the check of 02 says of classes whose start is wrong."""

from __future__ import annotations

import pytest
import torch.nn.functional as F
from torch import nn

from coursekit.checks import check
from coursekit.notebook import built


def adapter_check(down, up, biases):
    r"""What is said of a right Adapter whose weights start at these deviations; biases: left at PyTorch's start."""

    class Adapter(nn.Module):
        def __init__(self, d, r):
            super().__init__()
            self.down, self.up = nn.Linear(d, r), nn.Linear(r, d)
            for layer, std in ((self.down, down), (self.up, up)):
                nn.init.normal_(layer.weight, std=std)
                if not biases:
                    nn.init.zeros_(layer.bias)

        def forward(self, h):
            return h + self.up(F.relu(self.down(h)))

    return check("adapters-module", lambda *given: built.adapter_module(Adapter, *given))


@pytest.mark.parametrize("down, up, biases, said", [
    (0.01, 0.01, True, "a bias takes it too far from h"), (0.0, 0.0, True, "a bias takes it too far from h"),
    (1.0, 1.0, True, "it starts too far from h: draw both weights"),
    (0.0, 0.0, False, "both weights start at 0"), (0.0, 1.0, False, "W_down starts at 0"),
])  # fmt: skip
def test_what_is_wrong_with_an_adapter_s_start_is_named(down, up, biases, said):
    assert adapter_check(down, up, biases).message.startswith(said)


def test_an_adapter_whose_second_matrix_starts_at_0_passes():
    assert adapter_check(0.01, 0.0, False).status == "passed"
