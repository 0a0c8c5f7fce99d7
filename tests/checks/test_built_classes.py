r"""What the checks of 02 and 06 say of classes whose start or whose parameters are wrong."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from coursekit.checks import check
from coursekit.checks.memory import Recompute
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


@pytest.mark.parametrize("plain, said", [
    ("A", "A is not trained"), ("B", "B is not trained"), ("AB", "A and B are not trained"),
])  # fmt: skip
def test_a_tensor_that_is_no_parameter_is_named(plain, said):
    class LoRALinear(nn.Module):
        def __init__(self, base, r, alpha):
            super().__init__()
            self.base, self.alpha = base.requires_grad_(False), alpha
            A = torch.randn(r, base.in_features) / base.in_features**0.5
            B = torch.zeros(base.out_features, r)
            self.A, self.B = (t if name in plain else nn.Parameter(t) for name, t in (("A", A), ("B", B)))

        def forward(self, x):
            return self.base(x) + self.alpha / len(self.A) * (x @ self.A.T @ self.B.T)

    found = check("lora-linear", lambda *given: built.lora_layer(LoRALinear, *given))
    assert found.message.startswith(said)


def test_a_second_run_without_a_graph_is_told_what_it_lacks():
    class Unrecorded(Recompute):
        @staticmethod
        def backward(ctx, g):
            x = ctx.saved_tensors[0].detach().requires_grad_()
            ctx.run(x).backward(g)
            return None, x.grad

    result = check("memory-checkpoint", lambda *given: built.recomputed(Unrecorded, *given))
    assert result.status == "failed" and "within torch.enable_grad()" in result.message
