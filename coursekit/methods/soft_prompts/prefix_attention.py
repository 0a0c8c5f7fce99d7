r"""The attention of one block, with a prefix before its keys and values.

The prefix is handed to each attention through the argument that carries the KV cache: what the attention stores and
gets back is the prefix followed by the real keys. The real cache holds real tokens only, so generation, beam search
and activation checkpointing need to know nothing about it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from coursekit.architecture import Architecture
from coursekit.autocast import autocast_dtype
from coursekit.errors import CourseError
from coursekit.methods.mechanism.modules import AdapterState, AdapterWrapper
from coursekit.methods.soft_prompts.attention import names_of


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


class BehindPrefix:
    r"""Passed to an attention as its KV cache: gives back the prefix, then the contents of the real cache, if any."""

    def __init__(
        self, keys: Float[Tensor, "batch kv_heads n head_dim"], values: Float[Tensor, "batch kv_heads n head_dim"],
        cache: Any, crop: int | None,
    ):  # fmt: skip
        self.keys, self.values, self.cache, self.crop = keys, values, cache, crop

    def update(self, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        r"""Keys and values, (batch, kv_heads, length, head_dim), stored in the real cache and prefixed."""
        if self.cache is not None:
            k, v = self.cache.update(k, v, *args, **kwargs)
            if self.crop is not None:  # a cache of fixed size has empty places behind the tokens
                k, v = k[:, :, : self.crop], v[:, :, : self.crop]
        return torch.cat((self.keys.to(k.dtype), k), dim=2), torch.cat((self.values.to(v.dtype), v), dim=2)


class PrefixAttention(AdapterWrapper):
    r"""The attention of one block; for each adapter the module that makes P_k and P_v of this block.

    Rows of one batch with prefixes of 3, 1 and 0 tokens (P), a text of 2 (k): the longest gives the width, shorter
    ones stand at its end, and the mask hides what is left (dots):

        keys   P P P k k        values likewise        shown   1 1 1 | the text's own mask
               . . P k k                                       0 0 1 |
               . . . k k                                       0 0 0 |
    """

    order = 2

    def __init__(self, attention: nn.Module, switch: AdapterState, arch: Architecture):
        super().__init__(attention, switch)
        self.arch = arch
        self.prefixes = nn.ModuleDict()  # by adapter

    def chosen(
        self, x: Float[Tensor, "batch seq d_model"]
    ) -> (
        tuple[
            Float[Tensor, "batch kv_heads n head_dim"],
            Float[Tensor, "batch kv_heads n head_dim"],
            Bool[Tensor, "batch n"] | int,
        ]
        | None
    ):
        r"""Keys and values for the rows of `x`, and which virtual tokens each row sees, or n where all see all.

        None where no row has a prefix.
        """
        if self.switch.rows is None:
            if self.switch.active not in self.prefixes:
                return None
            prefix = self.prefixes[self.switch.active]
            # Taken apart before it is repeated, so that its gradient is put together only after the rows' have been
            # added up.
            keys, values = (part.expand(len(x), -1, -1, -1) for part in prefix.keys_values())
            return keys, values, prefix.n
        n = {name: self.prefixes[name].n if name in self.prefixes else 0 for name, _ in self.switch.parts(x)}
        if not (longest := max(n.values())):
            return None
        nothing = x.new_zeros(2, self.arch.n_kv_heads, 0, self.arch.head_dim)
        made = [self.prefixes[name].keys_values() if n[name] else nothing for name in n]
        table = torch.stack([F.pad(both, (0, 0, longest - both.shape[2], 0)) for both in made])
        place = torch.empty(len(x), dtype=torch.long, device=x.device)
        shown = torch.zeros(len(x), longest, dtype=torch.bool, device=x.device)
        for i, (name, index) in enumerate(self.switch.parts(x)):
            place[index] = i
            shown[index, longest - n[name] :] = True
        # (parts, 2, kv_heads, n, head_dim) -> (batch, 2, kv_heads, n, head_dim)
        keys, values = table[place].unbind(1)
        return keys, values, shown

    def forward(
        self, hidden_states: Float[Tensor, "batch seq d_model"], *, attention_mask: Any = None, **kwargs: Any
    ) -> Any:
        if (chosen := self.chosen(hidden_states)) is None:
            return self.base_layer(hidden_states, attention_mask=attention_mask, **kwargs)
        carrier = names_of(self.arch).cache  # the name of the argument
        cache = kwargs.pop(carrier, None)
        keys, values, shown = chosen
        seq, real = hidden_states.shape[1], getattr(cache, "self_attention_cache", cache)
        implementation = self.base_layer.config._attn_implementation
        causal = kwargs.get("is_causal")
        causal = self.base_layer.is_causal if causal is None else causal
        # Without a mask sdpa looks at "all up to here", and only where the tokens are the first ones.
        causal = attention_mask is None and causal and seq > 1 and implementation == "sdpa"
        if real is None or causal:
            length = seq
        else:
            length, _ = real.get_mask_sizes(seq, self.base_layer.layer_idx)
        make = partial(with_prefix, attention_mask, shown, hidden_states, length, implementation, causal)
        if isinstance(shown, int):
            anchor = kwargs.get("position_ids") if attention_mask is None else attention_mask
            attention_mask = shared(anchor, (shown, seq, length, hidden_states.dtype, causal), make)
        else:
            attention_mask = make()
        behind = BehindPrefix(keys, values, real, seq if causal else None)
        return self.base_layer(hidden_states, attention_mask=attention_mask, **{carrier: behind}, **kwargs)
