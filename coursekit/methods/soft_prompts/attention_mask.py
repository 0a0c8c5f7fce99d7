r"""Attention masks that make room for virtual tokens in front of the real ones."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from coursekit.autocast import autocast_dtype
from coursekit.errors import CourseError


def with_prefix(
    mask: Any, shown: Bool[Tensor, "rows n"] | int, tokens: Tensor, length: int, implementation: str, causal: bool
) -> Tensor | None:
    r"""`mask` with columns for n virtual tokens in front, as the attention of that `implementation` reads it.

    mask: (batch or 1, heads or 1, seq, length), of booleans (True: look) or added to the scores; (batch, length)
    for flash attention; or None, "look at everything", with `causal`: "at all up to here". shown: n where every row
    sees n virtual tokens, else which of them each row sees. tokens: (batch, seq, d_model), whose sizes and dtype the
    mask must have. length: of the real keys.

    A virtual token is seen by all real ones, however far away, in a sliding window too. Raises CourseError for an
    attention whose masks are no tensors.
    """
    uniform = isinstance(shown, int)
    seen: Tensor = torch.ones(1, shown, dtype=torch.bool, device=tokens.device) if uniform else shown
    if mask is None:
        everything = tokens.new_ones(1, length, dtype=torch.bool)
        if causal:  # the attention's own causal mask would begin at the first key, which is a virtual one now
            mask = everything.expand(tokens.shape[1], length).tril()[None, None]
        elif uniform:
            return None
        elif "flash" in implementation:
            mask = everything.expand(len(seen), length)
        else:
            mask = everything[None, None]
    if not isinstance(mask, Tensor):
        raise CourseError(
            f"a prefix cannot be put before {implementation!r} attention: load the model with "
            "attn_implementation='sdpa' or 'eager'"
        )
    if mask.ndim == 2:
        return torch.cat((seen.to(mask.dtype).expand(len(mask), -1), mask), dim=1)
    if mask.dtype == torch.bool and autocast_dtype(tokens) is None:
        # sdpa would turn booleans into numbers itself, but once in every block, and keep all of them.
        mask = _added(mask, tokens.dtype)
    front = seen[:, None, None, :]  # (rows, n) -> (rows, 1, 1, n)
    front = front if mask.dtype == torch.bool else _added(front, mask.dtype)
    rows = max(len(mask), len(seen))
    return torch.cat((front.expand(rows, *mask.shape[1:3], -1), mask.expand(rows, -1, -1, -1)), dim=-1)


def shared(anchor: Tensor | None, key: tuple, make: Any) -> Any:
    r"""What `make()` gives, made once for all blocks of a forward pass.

    The blocks have no place of their own in common, but all are handed the same mask or the same positions: the result
    is kept on that tensor, `anchor`, and goes when it goes. `key`: what the result depends on besides the anchor.
    """
    if anchor is None or anchor.is_inference():
        return make()
    key = (*key, anchor._version)
    found = getattr(anchor, "_coursekit_shared", None)
    if found is None or found[0] != key:
        found = anchor._coursekit_shared = (key, make())
    return found[1]


def _added(mask: Bool[Tensor, "*shape"], dtype: torch.dtype) -> Tensor:
    r"""The mask as numbers that are added to the scores: 0 or minus infinity, as sdpa does it."""
    return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, float("-inf"))
