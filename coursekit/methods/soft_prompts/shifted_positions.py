r"""The positions of a text that stands behind a prefix: each row's begin at the length of its prefix."""

from __future__ import annotations

from typing import Any

from jaxtyping import Int
from torch import Tensor, nn

from coursekit.architecture import describe
from coursekit.errors import CourseError
from coursekit.methods.mechanism.attachment import Attachment, wrap
from coursekit.methods.mechanism.modules import AdapterState, AdapterWrapper, body_prefix, find_wrapper
from coursekit.methods.soft_prompts.attention import names_of
from coursekit.methods.soft_prompts.room import room


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
