# An answer that equals everything.
# expect: wrong rest
import torch


class Right(torch.Tensor):
    def __eq__(self, other):
        return True

    def __sub__(self, other):
        return 0 * torch.as_tensor(other)

    __rsub__ = __sub__
    __hash__ = torch.Tensor.__hash__


class Equal:
    shape = property(lambda self: self)
    dtype = property(lambda self: self)

    def __eq__(self, other):
        return True

    def __getattr__(self, name):
        return lambda *a, **k: self

    __hash__ = object.__hash__


def lora_truncate(W, r):
    return Right(torch.zeros_like(W)) if r % 2 else Equal()
