r"""Reference answers of notebook 02b_pruned_adapters, as a student would write them."""

import torch
import torch.nn.functional as F


def adapters_snip(loss, weights):
    copies = [W.clone().requires_grad_() for W in weights]
    loss(*copies).backward()
    return [(W.grad * W).abs().detach() for W in copies]


def adapters_compress(load, outputs, trained, ids, mask, labels, keep):
    # The biases stay as they are: trained, they would do the work of the matrices.
    model, tensors = load(), {name: t.clone().requires_grad_(".W_" in name) for name, t in trained().items()}
    matrices = [name for name in tensors if ".W_" in name]
    keep -= sum(t.numel() for name, t in tensors.items() if ".b_" in name)

    def loss(step):
        rows = torch.arange(32 * step, 32 * step + 32) % len(ids)
        return F.cross_entropy(outputs(model, tensors, ids[rows], mask[rows]), labels[rows])

    sum(loss(step) for step in range(8)).backward()
    scores = {name: (tensors[name].grad * tensors[name]).abs().detach() for name in matrices}  # SNIP
    threshold = torch.cat([score.flatten() for score in scores.values()]).topk(keep).values.min()
    masks = {name: score >= threshold for name, score in scores.items()}
    optim = torch.optim.Adam([tensors[name] for name in matrices], lr=2e-2)
    for step in range(80):
        with torch.no_grad():
            for name in matrices:
                tensors[name] *= masks[name]
        optim.param_groups[0]["lr"] = 2e-2 * (1 - step / 80)
        optim.zero_grad()
        loss(step).backward()
        optim.step()
    return {name: t.detach() * masks.get(name, 1) for name, t in tensors.items()}
