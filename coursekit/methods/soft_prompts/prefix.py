r"""Prefix tuning (Li and Liang 2021, arXiv:2101.00190): trained keys and values before those of every block.

$$\operatorname{head} = \operatorname{softmax}\Bigl(\frac{Q\,[P_k; K]^\top}{\sqrt{d_h}}\Bigr)\,[P_v; V],
\qquad P_k, P_v \in \mathbb{R}^{n \times d_{kv}} \text{ in each of } L \text{ blocks}$$

The prefix is handed to each attention through the argument that carries the KV cache: what the attention stores and
gets back is the prefix followed by the real keys. The real cache holds real tokens only, so generation, beam search
and activation checkpointing need to know nothing about it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from coursekit import counts, interop
from coursekit.architecture import Architecture, describe
from coursekit.errors import CourseError
from coursekit.methods.mechanism.attachment import Attachment, activate, disabled, find_attachment, wrap
from coursekit.methods.mechanism.method import Method
from coursekit.methods.mechanism.modules import around
from coursekit.methods.mechanism.switch import Switch, Switched
from coursekit.methods.soft_prompts.attention import (
    ATTENTION,
    attention_paths,
    like,
    positions_path,
    room,
)
from coursekit.methods.soft_prompts.masks import shared, with_prefix

#: peft's name for the one tensor of a prompt.
KEY = "prompt_embeddings"


class PrefixEncoder(nn.Module):
    r"""The first half of the reparameterisation, shared by all blocks: Emb(n, d_kv) -> Linear(d_kv, hidden) -> tanh."""

    def __init__(self, n: int, d_kv: int, hidden: int, **where: Any):
        super().__init__()
        self.embedding = nn.Embedding(n, d_kv, **where)
        self.linear = nn.Linear(d_kv, hidden, **where)

    def forward(self) -> Float[Tensor, "n hidden"]:
        return torch.tanh(self.linear(self.embedding.weight))


class BehindPrefix:
    r"""What an attention takes for its KV cache: it gives back the prefix, then what the real cache (if any) holds."""

    def __init__(
        self,
        keys: Float[Tensor, "batch kv_heads n head_dim"],
        values: Float[Tensor, "batch kv_heads n head_dim"],
        cache: Any,
        crop: int | None,
    ):
        self.keys, self.values, self.cache, self.crop = keys, values, cache, crop

    def update(self, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        r"""Keys and values, (batch, kv_heads, length, head_dim), stored in the real cache and prefixed."""
        if self.cache is not None:
            k, v = self.cache.update(k, v, *args, **kwargs)
            if self.crop is not None:  # a cache of fixed size has empty places behind the tokens
                k, v = k[:, :, : self.crop], v[:, :, : self.crop]
        return torch.cat((self.keys.to(k.dtype), k), dim=2), torch.cat((self.values.to(v.dtype), v), dim=2)


class PrefixAttention(Switched):
    r"""The attention of one block, with the part of each adapter's prefix that belongs to this block."""

    order = 2

    def __init__(self, attention: nn.Module, switch: Switch, arch: Architecture):
        super().__init__(attention, switch)
        self.arch = arch
        self.flat = nn.ParameterDict()  # (n, 2 * d_kv) by adapter: keys, then values, of n virtual tokens
        # Reparameterised: the shared first half, and the rows of the second linear map that make this block's part.
        self.encoder, self.out = nn.ModuleDict(), nn.ModuleDict()
        self.lengths: dict[str, int] = {}  # n by adapter

    def add(self, n: int, name: str, encoder: PrefixEncoder | None) -> list[nn.Parameter]:
        r"""A random prefix for adapter `name`; the encoder's own parameters are not in the list."""
        where, width = like(self.base_layer), 2 * self.arch.d_kv
        self.lengths[name] = n
        if encoder is None:
            self.flat[name] = nn.Parameter(torch.randn(n, width, **where))  # as in peft
            return [self.flat[name]]
        self.encoder[name] = encoder
        self.out[name] = nn.Linear(encoder.linear.out_features, width, **where)
        return list(self.out[name].parameters())

    def part(self, name: str) -> Float[Tensor, "n two_d_kv"]:
        r"""This block's columns of the prefix of adapter `name`: its keys, then its values."""
        return self.flat[name] if name in self.flat else self.out[name](self.encoder[name]())

    def put(self, name: str, part: Float[Tensor, "n two_d_kv"]) -> nn.Parameter:
        r"""Write this block's columns; a reparameterised prefix becomes a flat one."""
        if name in self.flat:
            self.flat[name].copy_(part)
        else:
            self.flat[name] = nn.Parameter(part.detach().to(**like(self.base_layer), copy=True))
            del self.encoder[name], self.out[name]
        return self.flat[name]

    def own(self, name: str) -> list[nn.Parameter]:
        r"""What adapter `name` trains here, the shared encoder included."""
        stores = (self.encoder, self.out)
        return [self.flat[name]] if name in self.flat else [p for s in stores for p in s[name].parameters()]

    def keys_values(self, name: str) -> Float[Tensor, "2 kv_heads n head_dim"]:
        r"""$P_k$ and $P_v$ of this block."""
        shape = (self.lengths[name], 2, self.arch.n_kv_heads, self.arch.head_dim)
        # (n, 2 * kv_heads * head_dim) -> (n, 2, kv_heads, head_dim) -> (2, kv_heads, n, head_dim)
        return self.part(name).view(shape).permute(1, 2, 0, 3)

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
        r"""Keys, values for the rows of `x`, and which virtual tokens each row sees, or n where all see all.

        None where no row has a prefix. Rows with a shorter prefix than others are filled up in front, unseen.
        """
        if self.switch.rows is None:
            name = self.switch.active
            if name not in self.lengths:
                return None
            # One prefix, shown to every row: taken apart before it is repeated, so that its gradient is put together
            # only after the rows' have been added up.
            keys, values = (part.expand(len(x), -1, -1, -1) for part in self.keys_values(name))
            return keys, values, self.lengths[name]
        lengths = {name: self.lengths.get(name, 0) for name, _ in self.switch.parts(x)}
        if not (longest := max(lengths.values())):
            return None
        table, shown = [], torch.zeros(len(x), longest, dtype=torch.bool, device=x.device)
        place = torch.empty(len(x), dtype=torch.long, device=x.device)
        for i, (name, index) in enumerate(self.switch.parts(x)):
            n = lengths[name]
            both = (
                self.keys_values(name) if n else x.new_zeros(2, self.arch.n_kv_heads, 0, self.arch.head_dim)
            )
            table.append(F.pad(both, (0, 0, longest - n, 0)))
            place[index] = i
            shown[index, longest - n :] = True
        # (parts, 2, kv_heads, n, head_dim) -> (batch, 2, kv_heads, n, head_dim)
        keys, values = torch.stack(table)[place].unbind(1)
        return keys, values, shown

    def forget(self, name: str) -> None:
        super().forget(name)
        self.lengths.pop(name, None)

    def forward(
        self,
        hidden_states: Float[Tensor, "batch seq d_model"],
        *,
        attention_mask: Any = None,
        cache: Any = None,
        **kwargs: Any,
    ) -> Any:
        if (chosen := self.chosen(hidden_states)) is None:
            return self.base_layer(hidden_states, attention_mask=attention_mask, cache=cache, **kwargs)
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
        return self.base_layer(hidden_states, attention_mask=attention_mask, cache=behind, **kwargs)


class ShiftedPositions(Switched):
    r"""What makes vectors or rotations of positions, asked for positions behind the prefix, as peft does it."""

    order = 2

    def __init__(self, positions: nn.Module, switch: Switch, config: Any):
        super().__init__(positions, switch)
        family = describe(config).family
        self.lengths: dict[str, int] = {}  # n by adapter
        # Which argument the positions are, where they come without their name: a rotation is first shown the tokens.
        self.place = {"llama": 1, "opt": 2}.get(family, 0)
        # OPT's padding has position -1, RoBERTa's the padding's number, and real tokens come after it.
        self.first = {"opt": 0, "roberta": config.pad_token_id + 1}.get(family)
        self.room = room(config)

    @property
    def weight(self) -> nn.Parameter:
        r"""The table of positions, for code that looks at `layer.weight`."""
        return self.bare.weight

    def forget(self, name: str) -> None:
        super().forget(name)
        self.lengths.pop(name, None)

    def count_rows(self, model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        r"""Hook of the model: positions are often made for one row and do not tell how many there are."""
        if self.switch.rows is not None:
            given = (*args, kwargs.get("input_ids"), kwargs.get("inputs_embeds"))
            list(self.switch.parts(next(x for x in given if x is not None)))

    def shifted(self, positions: Int[Tensor, "rows seq"]) -> Int[Tensor, "rows_or_batch seq"]:
        r"""`positions` moved on by the length of each row's prefix; those of padding stay."""
        if self.switch.rows is None:
            n = shift = self.lengths.get(self.switch.active, 0)
        else:
            lengths = {name: self.lengths.get(name, 0) for name in self.switch.rows}
            n = max(lengths.values())
            shift = positions.new_zeros(sum(map(len, self.switch.rows.values())), 1)
            for name, index in self.switch.rows.items():
                shift[index] = lengths[name]
        if n == 0:
            return positions
        if self.room is not None and positions.shape[1] + n > self.room:
            raise CourseError(
                f"{n} virtual tokens and {positions.shape[1]} real ones need more positions than the {self.room} that "
                f"this model has: shorten the texts to {self.room - n} tokens"
            )
        return positions + (shift if self.first is None else shift * (positions >= self.first))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if "position_ids" in kwargs:
            kwargs["position_ids"] = self.shifted(kwargs["position_ids"])
        else:
            args = (*args[: self.place], self.shifted(args[self.place]), *args[self.place + 1 :])
        return self.base_layer(*args, **kwargs)


@dataclass(frozen=True)
class PrefixTuning(Method):
    r"""Prefix tuning with `n` virtual tokens, in every block of a frozen model.

    hidden: None trains the keys and values themselves. A number trains them through a network of that width,
    Emb(n, d_kv) -> Linear(d_kv, hidden) -> tanh -> Linear(hidden, 2 L d_kv), which the paper found to train more
    steadily (section 4.3; its code has 512). The network is thrown away afterwards: what `save` writes is the prefix
    it makes, and a loaded prefix is a flat one.

    shifted: the text's positions begin at n, behind the prefix, as in the paper and in peft. False leaves them where
    they are, as the methods do that have a prefix as one of their parts (MAM, UniPELT), and as `adapters` does.

    Raises CourseError for sizes that make no sense.
    """

    n: int = 20
    hidden: int | None = None
    shifted: bool = True
    kind: ClassVar[str] = "PREFIX_TUNING"
    wrapper: ClassVar[type[PrefixAttention]] = PrefixAttention

    def __post_init__(self) -> None:
        for name, value in (("n", self.n), ("hidden", self.hidden)):
            if value is None and name == "hidden":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise CourseError(
                    f"{name}={value!r} makes no prefix: take a whole number from 1 up, such as 20"
                )

    def count(self, config: Any) -> int:
        r"""$2Lnd_{kv}$, or with `hidden` = h: $nd_{kv} + (d_{kv} + 1)h + (h + 1)2Ld_{kv}$ while training."""
        return counts.prefix(config, self.n, self.hidden)

    def start_from(self, model: nn.Module, ids: Int[Tensor, " n"], name: str | None = None) -> nn.Module:
        r"""Let the prefix begin as the keys and values that the frozen model makes of the n tokens `ids`.

        A text behind this prefix is answered exactly as behind the words themselves. The paper begins so with few
        examples (section 7.4). Raises CourseError for an encoder, where the words would see the text as well, and for
        another number of tokens than n.
        """
        name = self._named(model, name)
        if describe(model.config).encoder:
            raise CourseError(
                "words in front of an encoder see what follows: its prefix cannot begin as words"
            )
        if self.hidden is not None:
            raise CourseError("a prefix that comes out of a network cannot begin as words: take hidden=None")
        if not self.shifted:
            raise CourseError("words have positions: a prefix that begins as words needs shifted=True")
        if len(ids) != self.n:
            raise CourseError(
                f"{len(ids)} tokens for a prefix of n={self.n}: give as many tokens as the prefix has"
            )
        with torch.no_grad(), disabled(model):
            mode, _ = model.training, model.eval()
            try:
                cache = model(input_ids=ids[None].to(model.device), use_cache=True).cache
            finally:
                model.train(mode)
        # (1, kv_heads, n, head_dim) -> (n, kv_heads * head_dim), keys before values in each block
        made = [
            part[0].transpose(0, 1).flatten(1)
            for layer in cache.layers
            for part in (layer.keys, layer.values)
        ]
        self._put(model, name, torch.cat(made, dim=1))
        return model

    def network(self, model: nn.Module, name: str | None = None) -> dict[str, Tensor]:
        r"""The tensors of the network that makes the prefix, under the names that peft's `PrefixEncoder` has for them.

        Raises CourseError for a flat prefix.
        """
        name, layers = self._named(model, name), _layers(model)
        if name not in layers[0].encoder:
            raise CourseError(f"the prefix {name!r} is a flat one: there is no network behind it")
        first, second = layers[0].encoder[name], [layer.out[name] for layer in layers]
        return {
            "embedding.weight": first.embedding.weight,
            "transform.0.weight": first.linear.weight,
            "transform.0.bias": first.linear.bias,
            "transform.2.weight": torch.cat([linear.weight for linear in second]),
            "transform.2.bias": torch.cat([linear.bias for linear in second]),
        }

    def _check(self, model: nn.Module) -> None:
        have = room(model.config)
        if self.shifted and have is not None and self.n >= have:
            raise CourseError(
                f"n={self.n} virtual tokens leave no position for a text: this model has {have}"
            )

    def touched(self, model: nn.Module) -> set[str]:
        return {ATTENTION}

    def _insert(self, model: nn.Module, state: Attachment, name: str) -> list[nn.Parameter]:
        arch = describe(model.config)
        if self.shifted:
            _shifted(model, state).lengths[name] = self.n
        encoder, trained = None, []
        for path in attention_paths(model):
            attention = around(model, path, PrefixAttention)
            if attention is None:
                attention = wrap(model, state, path, self.wrapper, arch)
            if self.hidden and encoder is None:
                encoder = PrefixEncoder(self.n, arch.d_kv, self.hidden, **like(attention.base_layer))
                trained += encoder.parameters()
            trained += attention.add(self.n, name, encoder)
        return trained

    def _tensors(self, model: nn.Module, name: str) -> dict[str, Tensor]:
        return {KEY: torch.cat([layer.part(name) for layer in _layers(model)], dim=1)}

    def _load(self, model: nn.Module, name: str, tensors: dict[str, Tensor], folder: Any) -> None:
        own = self._learned(model, name)
        interop.same_tensors(own, tensors, folder)  # all of them, before the first is written
        self._put(model, name, tensors[KEY])
        with torch.no_grad():
            for key in own.keys() - {KEY}:
                own[key].copy_(tensors[key])

    def _put(self, model: nn.Module, name: str, prefix: Float[Tensor, "n width"]) -> None:
        r"""Write a whole flat prefix into the blocks."""
        layers, state = _layers(model), find_attachment(model)
        gone = {id(p) for layer in layers for p in layer.own(name)}
        with torch.no_grad():
            parts = prefix.split(2 * layers[0].arch.d_kv, dim=1)
            kept = [layer.put(name, part) for layer, part in zip(layers, parts, strict=True)]
        state.parameters[name] = [*kept, *(p for p in state.parameters[name] if id(p) not in gone)]
        activate(model, state.switch.active)

    def _config(self, model: nn.Module) -> dict[str, Any]:
        arch = describe(model.config)
        return interop.common_config(model, self.kind) | {
            "num_virtual_tokens": self.n,
            "token_dim": arch.d_kv,
            "num_attention_heads": arch.n_kv_heads,
            "num_layers": arch.n_layers,
            "num_transformer_submodules": 1,
            "prefix_projection": self.hidden is not None,
            "encoder_hidden_size": self.hidden or arch.d_kv,
            # peft shifts always, and is told nothing that it does not know.
            **({} if self.shifted else {"shifted": False}),
        }

    def _check_config(self, config: dict[str, Any]) -> None:
        if config.get("num_virtual_tokens") != self.n:
            raise CourseError(
                f"this checkpoint was trained with n={config.get('num_virtual_tokens')}, the method here has {self.n}; "
                "PrefixTuning.from_checkpoint(folder) makes the method that fits"
            )
        if config.get("shifted", True) != self.shifted:
            raise CourseError(
                f"this checkpoint was trained with shifted={not self.shifted}, the method here has {self.shifted}; "
                "PrefixTuning.from_checkpoint(folder) makes the method that fits"
            )

    @classmethod
    def from_checkpoint(cls, folder: Any) -> PrefixTuning:
        r"""The method with the hyperparameters of a checkpoint, ours or peft's."""
        config, _ = interop.read(folder)
        interop.same_method(cls.kind, config)
        return cls(
            n=config["num_virtual_tokens"],
            hidden=config["encoder_hidden_size"] if config.get("prefix_projection") else None,
            shifted=config.get("shifted", True),
        )


def _shifted(model: nn.Module, state: Attachment) -> ShiftedPositions:
    path = positions_path(model)
    positions = around(model, path, ShiftedPositions)
    if positions is None:
        positions = wrap(model, state, path, ShiftedPositions, model.config)
        state.hooks.append(model.register_forward_pre_hook(positions.count_rows, with_kwargs=True))
    return positions


def _layers(model: nn.Module) -> list[PrefixAttention]:
    return [around(model, path, PrefixAttention) for path in attention_paths(model)]
