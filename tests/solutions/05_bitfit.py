r"""Reference answers of notebook 05_bitfit, as a student would write them."""

import torch
import torch.nn.functional as F


def bitfit_trains(names, head):
    chosen = []
    for name in names:
        if name.split(".")[-1] == "bias" or name.startswith(head + "."):
            chosen.append(name)
    return chosen


def bitfit_layer(x, W_t, b_t, W_f, b_f, learners):
    n = len(W_t) + len(W_f)
    frozen = torch.ones(n, dtype=torch.bool)
    frozen[learners] = False
    y = x.new_empty(*x.shape[:-1], n)
    y[..., learners] = x @ W_t.T + b_t
    y[..., frozen] = x @ W_f.T + b_f
    return y


def bitfit_work(blocks):
    passed, own = 0, 0
    reached = False
    for block in blocks:
        reached = reached or block != "nothing"
        passed += reached
        own += block == "matrices"
    return (len(blocks) + passed + own) / (3 * len(blocks))


def bitfit_budget(load, ids, mask, labels, keep):
    # The weights of the norms behind the feed-forward part of the upper three blocks: 3 * 384 = 1,152 numbers.
    model = load()
    names = [f"bert.encoder.layer.{i}.output.LayerNorm.weight" for i in (3, 4, 5)]
    free = [model.get_parameter(name).requires_grad_() for name in names]
    optimizer = torch.optim.Adam(free, lr=2e-2)
    for step in range(90):
        optimizer.param_groups[0]["lr"] = 2e-2 * (1 - step / 90)
        rows = torch.arange(32 * step, 32 * step + 32) % len(ids)
        loss = F.cross_entropy(model(input_ids=ids[rows], attention_mask=mask[rows]).logits, labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {name: parameter.detach() for name, parameter in zip(names, free, strict=True)}
