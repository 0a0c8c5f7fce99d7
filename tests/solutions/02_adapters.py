r"""Reference answers of notebook 02_adapters, as a student would write them."""

import torch
import torch.nn.functional as F
from torch import nn


class Adapter(nn.Module):
    def __init__(self, d, r):
        super().__init__()
        self.down = nn.Linear(d, r)
        self.up = nn.Linear(r, d)
        for layer in (self.down, self.up):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)

    def forward(self, h):
        return h + self.up(F.relu(self.down(h)))


def adapters_module(*given):
    from coursekit.notebook.built import adapter_module

    return adapter_module(Adapter, *given)


def insert(model, places, adapters):
    for parameter in model.parameters():
        parameter.requires_grad = False

    def hook(adapter):
        return lambda module, inputs, h: adapter(h)

    return [
        model.get_submodule(place).register_forward_hook(hook(adapter))
        for place, adapter in zip(places, adapters, strict=True)
    ]


def adapters_insert(*given):
    from coursekit.notebook.built import inserted

    return inserted(insert, *given)


def adapters_pfeiffer(h, x, A, LN):
    normed = LN(x + h)
    return LN(x + h + A(normed))


def adapters_budget(load, outputs, ids, mask, labels, budget):
    # Width 1 in the three lower blocks, and no b_up: 3 (384 + 384 + 1) = 2,307 parameters.
    torch.manual_seed(0)
    tensors = {}
    for block in range(6):
        r = 1 if block < 3 else 0
        tensors[f"{block}.W_down"] = 0.05 * torch.randn(r, 384)
        tensors[f"{block}.b_down"] = torch.zeros(r)
        tensors[f"{block}.W_up"] = 0.05 * torch.randn(384, r)
        tensors[f"{block}.b_up"] = torch.zeros(384)
    trained = [t.requires_grad_() for name, t in tensors.items() if "b_up" not in name]
    model, optimizer, steps = load(), torch.optim.Adam(trained, lr=2e-2), 100
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 2e-2 * min((step + 1) / 20, 1 - step / steps)
        rows = torch.arange(32 * step, 32 * step + 32) % len(ids)
        loss = F.cross_entropy(outputs(model, tensors, ids[rows], mask[rows]), labels[rows])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return {name: t.detach() for name, t in tensors.items()}
