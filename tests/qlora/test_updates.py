r"""Updates with made-up gradients are the same for every optimizer."""

import torch

from coursekit.qlora import PagedAdamW
from coursekit.qlora.updates import updates


def test_two_optimizers_see_the_same_gradients():
    weights, optimizer = updates(lambda p: torch.optim.SGD(p, lr=1.0), [(3, 4), 5], 2)
    again, _ = updates(lambda p: torch.optim.SGD(p, lr=1.0), [(3, 4), 5], 2)
    assert [w.shape for w in weights] == [(3, 4), (5,)] and isinstance(optimizer, torch.optim.SGD)
    assert all(torch.equal(a, b) for a, b in zip(weights, again, strict=True))
    start, _ = updates(lambda p: torch.optim.SGD(p, lr=1.0), [(3, 4), 5], 0)
    assert not torch.equal(start[0], weights[0])
    plain, _ = updates(lambda p: torch.optim.AdamW(p, foreach=False), [5000], 3)
    paged, made = updates(lambda p: PagedAdamW(p, page=8192, budget=8192), [5000], 3)
    assert torch.equal(plain[0], paged[0]) and len(made.history) == 3
