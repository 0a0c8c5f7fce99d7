r"""How virtual tokens enter a model and leave it again, so that whoever calls the model never meets them.

A hook before the body puts the trained vectors among the input vectors, and makes room for them in the attention mask
and the positions. A hook after it takes their positions out of the hidden states. So logits are (batch, seq, vocab)
as before, every head works, and the output layer computes nothing for virtual tokens.

Rows of one batch may have different numbers of them. The slots that stay free are masked: in front for a decoder, so
that all rows end together, behind for an encoder, so that position 0 is what its head expects.
"""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coursekit import interop
from coursekit.architecture import describe
from coursekit.autocast import without_autocast
from coursekit.errors import CourseError
from coursekit.labels import IGNORED
from coursekit.methods.mechanism.switch import Switch, Switched
from coursekit.methods.soft_prompts.attention import room
from coursekit.methods.soft_prompts.inputs import Inputs, join

#: Under this name a KV cache remembers which virtual tokens it holds, (rows, most) of 0 and 1.
HELD = "virtual_tokens"
#: What callers give for each token beside the token itself.
PER_TOKEN = ("attention_mask", "position_ids", "token_type_ids")


class VirtualTokens(Switched):
    r"""Beside the model: for each named adapter a module that gives its n vectors, and the hooks that place them."""

    def __init__(self, model: nn.Module, switch: Switch):
        super().__init__(None, switch)
        self.prompts = nn.ModuleDict()
        self.placeholders: dict[str, int] = {}  # adapter -> the token whose places its vectors take
        self.family, self.encoder = describe(model.config).family, describe(model.config).encoder
        self.room = room(model.config)
        self.start = model.config.pad_token_id + 1 if self.family == "roberta" else 0  # of the positions
        # A sequence classifier reads position 0 itself: the first virtual token, as in peft.
        self.head_reads_first = self.encoder and interop.task_type(model) == "SEQ_CLS"
        self.arguments = [list(inspect.signature(m.forward).parameters) for m in (body(model), model)]
        # Between the hooks of one call:
        self.most = 0  # slots before the tokens of every row
        self.counts: Tensor | None = (
            None  # how many of them are virtual tokens: (batch,), or (1,) for all rows
        )
        self.labelled = False  # whether the last virtual token has a label, the first token

    def hook(self, model: nn.Module) -> list[Any]:
        r"""Place the hooks; gives their handles."""
        inner = body(model)
        handles = [
            inner.register_forward_pre_hook(self.enter, with_kwargs=True),
            inner.register_forward_hook(self.leave, with_kwargs=True),
        ]
        if interop.task_type(model) == "CAUSAL_LM" and not self.encoder:
            handles += [
                model.register_forward_pre_hook(self.label, with_kwargs=True),
                model.register_forward_hook(self.unlabel, always_call=True),
            ]
        return handles

    def vectors(self, name: str) -> Float[Tensor, "n d"]:
        r"""The virtual tokens of adapter `name`, in the precision they are trained in."""
        prompt = self.prompts[name]
        # Few numbers, and everything rests on them: no autocast.
        with without_autocast(next(prompt.parameters())):
            return prompt()

    def in_front(self, name: str | None) -> int:
        r"""How many vectors adapter `name` puts before its rows: none for a template, or for the bare base (None)."""
        return self.prompts[name].n if name in self.prompts and name not in self.placeholders else 0

    def forget(self, name: str) -> None:
        super().forget(name)
        self.placeholders.pop(name, None)

    # On the way in ------------------------------------------------------------------------------------------

    def enter(self, inner: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        r"""Before the body: begin with the virtual tokens, or go on from a cache that may hold them already.

        What a cache was begun with stays in it, whoever speaks by now.
        """
        call = _bound(self.arguments[0], args, kwargs)
        self.most, self.counts = 0, None
        cache, going_on = call.get("cache"), _filled(call.get("cache"))
        if cache is not None:
            vars(cache).pop("get_seq_length", None)  # the model itself counts all that it holds
        if going_on:
            self._go_on(call)
        elif hasattr(cache, HELD):  # it was emptied
            delattr(cache, HELD)
        speaks = self.switch.rows is not None or self.switch.active in self.prompts
        one_of_them = (call.get("input_ids") is None) != (call.get("inputs_embeds") is None)
        # Neither or both: the model has a message for that.
        if speaks and one_of_them and (self.placeholders or not going_on):
            self._begin(inner, call, going_on)
        return (), call

    def _begin(self, inner: nn.Module, call: dict[str, Any], going_on: bool) -> None:
        r"""Embed the tokens and place the virtual ones; of a text that goes on, only those of a template."""
        ids, x = call.pop("input_ids", None), call.get("inputs_embeds")
        x = inner.get_input_embeddings()(ids) if x is None else x
        parts = [(self.switch.active, None)] if self.switch.rows is None else list(self.switch.parts(x))
        front = {name: 0 if going_on else self.in_front(name) for name, _ in parts}
        self.most = max(front.values())
        given = Inputs(x) if going_on else self._given(inner, call, ids, x, len(set(front.values())) > 1)

        placed = []
        for name, index in parts:
            tokens = given if index is None else given.rows(index)
            if name in self.placeholders:
                tokens = self._replaced(
                    name, tokens, ids if index is None or ids is None else ids[index], going_on
                )
            prompt = self.vectors(name).to(x.dtype) if front[name] else x.new_empty(0, x.shape[-1])
            placed.append(tokens.prepend(prompt, self.start, self.most - front[name], self.encoder))
        tokens = placed[0] if self.switch.rows is None else join(placed, [index for _, index in parts])
        if self.most:
            self.counts = torch.zeros(
                1 if self.switch.rows is None else len(x), dtype=torch.long, device=x.device
            )
            for name, index in parts:
                self.counts[slice(None) if index is None else index] = front[name]
        call |= {"inputs_embeds": tokens.x}
        for key, value in zip(PER_TOKEN, (tokens.mask, tokens.positions, tokens.types), strict=True):
            if value is not None:
                call[key] = value

    def _given(
        self, inner: nn.Module, call: dict[str, Any], ids: Tensor | None, x: Tensor, uneven: bool
    ) -> Inputs:
        r"""What the caller gave for each token, with what the model would have read from the token ids."""
        (batch, seq), (mask, positions, types) = x.shape[:2], (call.get(key) for key in PER_TOKEN)
        static = getattr(call.get("cache"), "is_compileable", False) or (mask is not None and mask.dim() != 2)
        if static and self.most:
            raise CourseError(
                "virtual tokens need an attention mask of shape (batch, seq) and a cache that grows: leave "
                "cache_implementation and compilation alone"
            )
        if self.room is not None and self.most + seq > self.room:
            raise CourseError(
                f"{self.most} virtual tokens and a text of {seq} tokens are {self.most + seq}, and this model has "
                f"{self.room} positions: take a smaller n or shorter texts"
            )
        if mask is None and uneven:  # slots stay free, and only a mask can say which
            mask = torch.ones(batch, seq, dtype=torch.long, device=x.device)
        if positions is None and self.family == "roberta" and ids is not None:
            positions = inner.embeddings.create_position_ids_from_input_ids(ids, inner.embeddings.padding_idx)
        if positions is None and self.family in ("gpt2", "llama") and mask is not None and self.most:
            positions = _positions(mask)
        return Inputs(x, mask, None if positions is None else positions.expand(batch, seq), types)

    def _replaced(self, name: str, tokens: Inputs, ids: Tensor | None, going_on: bool) -> Inputs:
        if ids is None:
            raise CourseError("a template's placeholders can be found in token ids only: pass input_ids")
        if going_on and not bool((ids == self.placeholders[name]).any()):
            return tokens
        return tokens.replace(self.vectors(name).to(tokens.x.dtype), ids, self.placeholders[name])

    def _go_on(self, call: dict[str, Any]) -> None:
        r"""Mask and positions for tokens that follow a cache: whoever calls does not count its virtual tokens."""
        held = getattr(call["cache"], HELD, None)
        mask, positions, _ = (call.get(key) for key in PER_TOKEN)
        if held is None:  # it was begun without any
            return
        if mask is None and len(held) > 1:
            ids, past = call.get("input_ids"), call["cache"].get_seq_length()
            seq = (call["inputs_embeds"] if ids is None else ids).shape[1]
            mask = held.new_ones(len(held), past - held.shape[1] + seq)
        if mask is not None:
            call["attention_mask"] = torch.cat([held.to(mask).expand(len(mask), -1), mask], dim=1)
            if positions is None and self.family in ("gpt2", "llama"):
                past = call["cache"].get_seq_length() - held.shape[1]
                positions = _positions(mask)[:, past:]
        if positions is not None:
            call["position_ids"] = positions + held.sum(1, keepdim=True)

    # On the way out -----------------------------------------------------------------------------------------

    def leave(self, inner: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        r"""After the body: take the virtual tokens out of what it answers, and note in a new cache that it has them."""
        if self.counts is None:
            _count_text_only(kwargs.get("cache"))
            return output
        if isinstance(output, tuple):
            raise CourseError(
                "virtual tokens cannot be taken out of a tuple: call the model with return_dict=True"
            )
        if not self.head_reads_first:
            hidden = self._without(output.last_hidden_state, int(self.labelled))
            # In one piece, an output layer multiplies all rows at once; a slice it would take row by row.
            output.last_hidden_state = hidden if self.encoder else hidden.contiguous()
        if output.get("hidden_states") is not None:
            output.hidden_states = tuple(h if h is None else self._without(h) for h in output.hidden_states)
        if output.get("attentions") is not None:
            # (batch, heads, seq, keys): the virtual tokens stay among the keys
            output.attentions = tuple(
                a if a is None else self._without(a.transpose(1, 2)).transpose(1, 2)
                for a in output.attentions
            )
        slots = torch.arange(self.most, device=self.counts.device)
        for cache in (kwargs.get("cache"), output.get("cache")):
            if cache is not None:
                setattr(cache, HELD, (slots >= self.most - self.counts[:, None]).long())  # (rows, most)
                _count_text_only(cache)
        return output

    def _without(self, hidden: Tensor, keep: int = 0) -> Tensor:
        r"""`hidden`, (batch, most + seq, ...), at the tokens alone, and at the last `keep` positions before them."""
        if not self.encoder:
            return hidden[:, self.most - keep :]
        if len(self.counts) == 1:
            return hidden[:, self.most :]
        places = self.counts[:, None] + torch.arange(hidden.shape[1] - self.most, device=hidden.device)
        return hidden[torch.arange(len(hidden), device=hidden.device)[:, None], places]

    # A language model's loss -----------------------------------------------------------------------------------

    def label(self, model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        r"""Before a language model: with something before it, the first token has a prediction, and a loss.

        Not where the caller gives `shift_labels`, what each position is to predict, as well.
        """
        call = _bound(self.arguments[1], args, kwargs)
        labels, self.labelled = call.get("labels"), False
        if labels is None or call.get("shift_labels") is not None or _filled(call.get("cache")):
            return args, kwargs
        rows = self.switch.rows
        parts = [(self.switch.active, slice(None))] if rows is None else list(self.switch.parts(labels))
        if any(self.in_front(name) for name, _ in parts):
            self.labelled = True
            labels = torch.cat([torch.full_like(labels[:, :1], IGNORED), labels], dim=1)
            for name, index in parts:
                if not self.in_front(name):
                    labels[index, 1] = IGNORED
        return (), call | {"labels": labels}

    def unlabel(self, model: nn.Module, args: tuple, output: Any) -> Any:
        r"""After it, even after an error: one logit for each token, as before."""
        labelled, self.labelled = self.labelled, False
        if not labelled or output is None:
            return output
        if isinstance(output, tuple):  # return_dict=False: loss, logits, and the rest
            return output[0], output[1][:, 1:], *output[2:]
        output.logits = output.logits[:, 1:]
        return output


def body(model: nn.Module) -> nn.Module:
    r"""The module of `model` that turns token ids into hidden states."""
    inner = model.base_model
    return inner.decoder if describe(model.config).family == "opt" else inner


def _bound(names: list[str], args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    r"""All arguments by name; the cache under its new one."""
    call = dict(zip(names, args, strict=False)) | kwargs
    if "past_key_values" in call:
        call["cache"] = call.pop("past_key_values")
    return call


def _filled(cache: Any) -> bool:
    return cache is not None and bool(cache.get_seq_length())


def _count_text_only(cache: Any) -> None:
    r"""Let `cache` tell whoever calls how many tokens of the text it holds: `generate` goes on behind them."""
    if hasattr(cache, HELD):
        cache.get_seq_length = partial(_text_length, cache)


def _text_length(cache: Any, layer_idx: int = 0) -> int:
    return max(0, type(cache).get_seq_length(cache, layer_idx) - getattr(cache, HELD).shape[1])


def _positions(mask: Tensor) -> Tensor:
    r"""Positions from the first token that counts: padding on the left must not stand between prompt and text."""
    padding = (mask.cumsum(1) == 0).sum(1, keepdim=True)
    return (torch.arange(mask.shape[1], device=mask.device) - padding).clamp(min=0)
