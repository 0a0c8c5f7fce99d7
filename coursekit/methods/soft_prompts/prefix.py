r"""Prefix tuning (Li and Liang 2021, arXiv:2101.00190): trained keys and values before those of every block.

$$\operatorname{head} = \operatorname{softmax}\Bigl(\frac{Q\,[P_k; K]^\top}{\sqrt{d_h}}\Bigr)\,[P_v; V],
\qquad P_k, P_v \in \mathbb{R}^{n \times d_{kv}} \text{ in each of } L \text{ blocks}$$
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from coursekit import counts, interop
from coursekit.architecture import describe
from coursekit.errors import CourseError, flag, keep, whole
from coursekit.methods.mechanism.attachment import Attachment, activate, find_attachment, wrap
from coursekit.methods.mechanism.checkpoint import Setting, fields
from coursekit.methods.mechanism.method import Method
from coursekit.methods.mechanism.modules import AdapterState, AdapterWrapper, body_prefix, find_wrapper
from coursekit.methods.soft_prompts.attention import ATTENTION, attention_paths, like, names_of
from coursekit.methods.soft_prompts.input_prompt import KEY, check_length
from coursekit.methods.soft_prompts.prefix_attention import PrefixAttention
from coursekit.methods.soft_prompts.room import check_room, room


class ShiftedPositions(AdapterWrapper):
    r"""Wraps the module that makes vectors or rotations of positions: asks for those behind the prefix, as in peft."""

    order = 2

    def __init__(self, positions: nn.Module, switch: AdapterState, model: nn.Module):
        super().__init__(positions, switch)
        arch = describe(model.config)
        self.lengths: dict[str, int] = {}  # n by adapter
        # Which argument the positions are, where they come without their name: a rotation is first shown the tokens.
        self.place = 1 if names_of(arch).positions == "rotary_emb" else 2 if arch.family == "opt" else 0
        # Positions below this one are padding's and stay: OPT's is -1, RoBERTa's the padding token's id.
        self.room, first = room(model)
        self.first = first if arch.family in ("opt", "roberta") else None

    def forget(self, name: str) -> None:
        super().forget(name)
        self.lengths.pop(name, None)

    def shifted(self, positions: Int[Tensor, "rows seq"]) -> Int[Tensor, "rows_or_batch seq"]:
        r"""`positions` moved on by the length of each row's prefix; those of padding stay."""
        if self.switch.rows is None:
            n = shift = self.lengths.get(self.switch.active, 0)
        else:
            lengths = {name: self.lengths.get(name, 0) for name in self.switch.rows}
            n = max(lengths.values())
            shift = positions.new_zeros(self.switch.rows.size, 1)
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


def shifted_positions(model: nn.Module, state: Attachment) -> ShiftedPositions:
    r"""The `ShiftedPositions` of `model`, put in where there was none."""
    path = body_prefix(model) + names_of(describe(model.config)).positions
    return find_wrapper(model, path, ShiftedPositions) or wrap(model, state, path, ShiftedPositions, model)


class Prefix(nn.Module):
    r"""The prefix of one adapter in one block: n keys and values, trained themselves or made by a network."""

    def __init__(self, n: int, kv_heads: int, d_h: int, network: PrefixNetwork | None = None, **where: Any):
        super().__init__()
        self.n, self.shape, width = n, (n, 2, kv_heads, d_h), 2 * kv_heads * d_h
        # Keys, then values. N(0, 1) as in peft.
        self.flat = None if network else nn.Parameter(torch.randn(n, width, **where))  # (n, 2 * d_kv)
        self.network = network  # the same one in all blocks
        self.out = nn.Linear(network.linear.out_features, width, **where) if network else None

    def forward(
        self,
        q: Float[Tensor, "batch heads seq d_h"],
        k: Float[Tensor, "batch kv_heads keys d_h"],
        v: Float[Tensor, "batch kv_heads keys d_h"],
        mask: Float[Tensor, "rows_or_1 heads_or_1 seq n_plus_keys"] | float = 0.0,  # -inf: do not look
    ) -> Float[Tensor, "batch heads seq d_h"]:
        r"""The equation above. (In a model the frozen attention computes it, see `PrefixAttention`.)"""
        P_k, P_v = (P.expand(len(q), -1, -1, -1) for P in self.keys_values())  # (batch, kv_heads, n, d_h)
        k, v = torch.cat((P_k, k), dim=2), torch.cat((P_v, v), dim=2)  # (batch, kv_heads, n + keys, d_h)
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))  # kv_heads -> heads
        scores = q @ k.mT / q.shape[-1] ** 0.5  # (batch, heads, seq, n + keys)
        return torch.softmax(scores + mask, dim=-1) @ v  # (batch, heads, seq, d_h)

    def keys_values(self) -> Float[Tensor, "2 kv_heads n d_h"]:
        r"""$P_k$ and $P_v$."""
        # (n, 2 * kv_heads * d_h) -> (n, 2, kv_heads, d_h) -> (2, kv_heads, n, d_h)
        return self.both().view(self.shape).permute(1, 2, 0, 3)

    def both(self) -> Float[Tensor, "n two_d_kv"]:
        r"""This block's columns of the whole prefix: its keys, then its values."""
        return self.flat if self.network is None else self.out(self.network())

    def become(self, both: Float[Tensor, "n two_d_kv"], **where: Any) -> nn.Parameter:
        r"""Take these keys and values; the network that made others is thrown away."""
        if self.network is None:
            self.flat.copy_(both)
        else:
            self.flat = nn.Parameter(both.detach().to(**where, copy=True))
            self.network = self.out = None
        return self.flat


class PrefixNetwork(nn.Module):
    r"""The first half of the reparameterisation, shared by all blocks: Emb(n, d_kv) -> Linear(d_kv, hidden) -> tanh."""

    def __init__(self, n: int, d_kv: int, hidden: int, **where: Any):
        super().__init__()
        self.embedding = nn.Embedding(n, d_kv, **where)
        self.linear = nn.Linear(d_kv, hidden, **where)

    def forward(self) -> Float[Tensor, "n hidden"]:
        return torch.tanh(self.linear(self.embedding.weight))


@dataclass(frozen=True)
class PrefixTuning(Method):
    r"""Prefix tuning with `n` virtual tokens, in every block of a frozen model.

    hidden: None trains the keys and values themselves. An integer trains them through a network of that width,
    Emb(n, d_kv) -> Linear(d_kv, hidden) -> tanh -> Linear(hidden, 2 L d_kv), which the paper found to train more
    steadily (section 4.3; its code has 512). The network is thrown away after training: `save` writes the prefix it
    makes, and a loaded prefix is a flat one.

    shifted: the text's positions start at n, after the prefix, as in the paper and in peft. False leaves them alone,
    as in `adapters` and in the methods that have a prefix as one of their parts (MAM, UniPELT).

    Raises CourseError for sizes that make no sense.
    """

    n: int = 20
    hidden: int | None = None
    shifted: bool = True
    kind: ClassVar[str] = "PREFIX_TUNING"
    wrapper: ClassVar[type[PrefixAttention]] = PrefixAttention
    entries = (Setting("n", "num_virtual_tokens"), Setting("shifted", absent=True))  # hidden: see `restored`

    def __post_init__(self) -> None:
        keep(self, n=whole("n", self.n, least=1, such_as=20))
        if self.hidden is not None:
            keep(self, hidden=whole("hidden", self.hidden, least=1, such_as=512))
        flag("shifted", self.shifted)

    def count(self, config: Any) -> int:
        r"""$2Lnd_{kv}$, or with `hidden` = h: $nd_{kv} + (d_{kv} + 1)h + (h + 1)2Ld_{kv}$ while training."""
        return counts.prefix(config, self.n, self.hidden)

    def network(self, model: nn.Module, name: str | None = None) -> dict[str, Tensor]:
        r"""The tensors of the network that makes the prefix, under the names they have in peft's `PrefixEncoder`.

        Raises CourseError for a flat prefix.
        """
        name = self._named(model, name)
        prefixes = [layer.prefixes[name] for layer in _layers(model)]
        if (first := prefixes[0].network) is None:
            raise CourseError(f"the prefix {name!r} is a flat one: there is no network behind it")
        return {
            "embedding.weight": first.embedding.weight,
            "transform.0.weight": first.linear.weight,
            "transform.0.bias": first.linear.bias,
            "transform.2.weight": torch.cat([prefix.out.weight for prefix in prefixes]),
            "transform.2.bias": torch.cat([prefix.out.bias for prefix in prefixes]),
        }

    def _check(self, model: nn.Module) -> None:
        arch = describe(model.config)
        if names_of(arch).cache is None:
            raise CourseError(
                f"a prefix enters an attention through its KV cache, and the attention of {arch.family} takes none: "
                "take PromptTuning, which puts vectors before the input, or a bottleneck adapter"
            )
        if self.shifted:
            check_room(self.n, model)

    def touched(self, model: nn.Module) -> set[str]:
        return {ATTENTION}

    def _insert(self, model: nn.Module, state: Attachment, name: str, found: Any) -> list[nn.Parameter]:
        arch = describe(model.config)
        if self.shifted:
            shifted_positions(model, state).lengths[name] = self.n
        network, trained = None, dict[int, nn.Parameter]()
        for path in attention_paths(model):
            layer = find_wrapper(model, path, PrefixAttention) or wrap(model, state, path, self.wrapper, arch)
            where = like(layer.base_layer)
            if self.hidden and network is None:
                network = PrefixNetwork(self.n, arch.d_kv, self.hidden, **where)
            layer.prefixes[name] = Prefix(self.n, arch.n_kv_heads, arch.head_dim, network, **where)
            trained |= {id(p): p for p in layer.prefixes[name].parameters()}  # the network's only once
        return list(trained.values())

    def _tensors(self, model: nn.Module, name: str) -> dict[str, Tensor]:
        return {KEY: torch.cat([layer.prefixes[name].both() for layer in _layers(model)], dim=1)}

    def _load(self, model: nn.Module, name: str, tensors: dict[str, Tensor], folder: Any) -> None:
        interop.same_tensors(self._learned(model, name), tensors, folder)  # all, before the first is written
        self._put(model, name, tensors[KEY])
        super()._load(model, name, tensors, folder)  # and the task head

    def _put(self, model: nn.Module, name: str, everything: Float[Tensor, "n width"]) -> None:
        r"""Write a whole flat prefix into the blocks."""
        layers, state = _layers(model), find_attachment(model)
        gone = {id(p) for layer in layers for p in layer.prefixes[name].parameters()}
        with torch.no_grad():
            kept = [
                layer.prefixes[name].become(both, **like(layer.base_layer))
                for layer, both in zip(layers, everything.tensor_split(len(layers), dim=1), strict=True)
            ]
        state.parameters[name] = [*kept, *(p for p in state.parameters[name] if id(p) not in gone)]
        activate(model, state.switch.active)

    def _config(self, model: nn.Module) -> dict[str, Any]:
        arch = describe(model.config)
        config = super()._config(model) | {
            "token_dim": arch.d_kv,
            "num_attention_heads": arch.n_kv_heads,
            "num_layers": arch.n_layers,
            "num_transformer_submodules": 1,
            "prefix_projection": self.hidden is not None,
            "encoder_hidden_size": self.hidden or arch.d_kv,
        }
        if self.shifted:  # as peft does it always, and it is told nothing that it does not know
            del config["shifted"]
        return config

    @classmethod
    def restored(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> PrefixTuning:
        interop.same_method(cls.kind, config)
        hidden = config["encoder_hidden_size"] if config.get("prefix_projection") else None
        method = cls(hidden=hidden, **fields(config, cls.entries))
        check_length(method.n, tensors)
        return method


def _layers(model: nn.Module) -> list[PrefixAttention]:
    return [find_wrapper(model, path, PrefixAttention) for path in attention_paths(model)]
