r"""How virtual tokens enter a model and leave it again, so that whoever calls the model never meets them.

Two rows of one batch, with 2 virtual tokens (V) and with 1, before texts of 3 tokens (t); dots are masked slots:

                      a decoder             an encoder
    the caller            t t t                 t t t
                          t t t                 t t t
    enter             V V t t t             V V t t t      vectors, attention mask, positions
                      . V t t t             V t t t .
    the body          h h h h h             h h h h h
                      h h h h h             h h h h h
    leave                 h h h                 h h h      hidden states of the text alone
                          h h h                 h h h

In a decoder all rows end together, as generation needs it; in an encoder position 0 is what its head expects. Logits
are (batch, seq, vocab) as before, every head works, and the output layer computes nothing for virtual tokens.

A language model with labels keeps one place more: the last V predicts the first t, and has a loss (`label`, `unlabel`).
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coursekit import interop
from coursekit.autocast import without_autocast
from coursekit.errors import CourseError
from coursekit.labels import IGNORED
from coursekit.methods.mechanism.anatomy import encoder_decoder, reads_both_ways
from coursekit.methods.mechanism.modules import AdapterState, AdapterWrapper
from coursekit.methods.soft_prompts import prompted_cache
from coursekit.methods.soft_prompts.inputs import Inputs, join
from coursekit.methods.soft_prompts.room import positions_from_ids, room

#: What callers give for each token beside the token itself.
PER_TOKEN = ("attention_mask", "position_ids", "token_type_ids")


class VirtualTokens(AdapterWrapper):
    r"""Beside the model: for each named adapter a module that gives its n vectors, and the hooks that place them."""

    def __init__(self, model: nn.Module, switch: AdapterState):
        super().__init__(None, switch)
        self.prompts = nn.ModuleDict()
        self.placeholders: dict[str, int] = {}  # adapter -> the token whose places its vectors take
        self.behind = set[str]()  # adapters whose vectors stand behind the embedding layer
        self.encoder = reads_both_ways(model)
        self.room, self.start = room(model)
        self.arguments = [list(inspect.signature(m.forward).parameters) for m in (body(model), model)]
        # OPT and the encoders make positions of the mask, or count all tokens; others (BLOOM) have none.
        counted = "position_ids" in self.arguments[0] and model.config.model_type != "opt"
        self.counts_itself = self.encoder or not counted
        # A sequence classifier reads position 0 itself: the first virtual token, as in peft.
        pooled = getattr(model.config, "classifier_pooling", "cls") != "cls"  # ModernBERT's mean is over the text
        self.head_reads_first = self.encoder and interop.task_type(model) == "SEQ_CLS" and not pooled
        # Between the hooks of one call:
        self.most = 0  # slots that every row has for virtual tokens
        self.counts: Tensor | None = None  # how many of them are taken: (batch,), or (1,) for all rows
        self.labelled = False  # whether the last virtual token has a label, the first token

    def hook(self, model: nn.Module) -> list[Any]:
        r"""Place the hooks; gives their handles."""
        inner = body(model)
        handles = [
            inner.register_forward_pre_hook(self.enter, with_kwargs=True),
            inner.register_forward_hook(self.leave, with_kwargs=True),
        ]
        if self.encoder and hasattr(inner, "embeddings"):
            handles += [
                inner.embeddings.register_forward_pre_hook(self.unplace, with_kwargs=True),
                inner.embeddings.register_forward_hook(self.put),
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
        # Few parameters, and everything rests on them: no autocast.
        with without_autocast(next(prompt.parameters())):
            return prompt.vectors()

    def in_front(self, name: str | None) -> int:
        r"""How many vectors adapter `name` puts before its rows: none for a template, or for the bare base (None)."""
        return self.prompts[name].n if name in self.prompts and name not in self.placeholders else 0

    def parts(self, x: Tensor) -> list[tuple[str | None, Tensor | None]]:
        r"""(adapter, its rows of `x`; None: all of them)."""
        return [(self.switch.active, None)] if self.switch.rows is None else list(self.switch.parts(x))

    def forget(self, name: str) -> None:
        super().forget(name)
        self.placeholders.pop(name, None)
        self.behind.discard(name)

    # On the way in --------------------------------------------------------------------------------------------------

    def enter(self, inner: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        r"""Before the body: begin with the virtual tokens, or go on from a cache that may hold them already.

        What a cache was begun with stays in it, whichever adapter is active by now.
        """
        call = _by_name(self.arguments[0], args, kwargs)
        self.most, self.counts = 0, None
        if going_on := prompted_cache.open_cache(call.get("cache")):
            prompted_cache.go_on(call, self.counts_itself)
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
        parts = self.parts(x)
        front = {name: 0 if going_on else self.in_front(name) for name, _ in parts}
        self.most = max(front.values())
        uneven = len(set(front.values())) > 1
        numbered = max(0 if name in self.behind else n for name, n in front.items())
        given = Inputs(x) if going_on else self._given(inner, call, ids, x, uneven, numbered)
        placed = []
        for name, index in parts:
            tokens = given if index is None else given.rows(index)
            if name in self.placeholders:
                own_ids = ids if index is None or ids is None else ids[index]
                tokens = self._replaced(name, tokens, own_ids, going_on)
            prompt = self.vectors(name).to(x.dtype) if front[name] else x.new_empty(0, x.shape[-1])
            placed.append(tokens.prepend(prompt, self.start, self.most - front[name], self.encoder))
        tokens = placed[0] if self.switch.rows is None else join(placed, [index for _, index in parts])
        if self.most:
            rows = 1 if self.switch.rows is None else len(x)
            self.counts = torch.zeros(rows, dtype=torch.long, device=x.device)
            for name, index in parts:
                self.counts[slice(None) if index is None else index] = front[name]
        call["inputs_embeds"] = tokens.x
        for key, value in zip(PER_TOKEN, (tokens.mask, tokens.positions, tokens.types), strict=True):
            if value is not None:
                call[key] = value

    def _given(
        self, inner: nn.Module, call: dict[str, Any], ids: Tensor | None, x: Tensor, uneven: bool, numbered: int
    ) -> Inputs:
        r"""The caller's inputs for each token, with the positions that the model would have read from the token ids.

        numbered: how many virtual tokens take positions of the model's.
        """
        (batch, seq), (mask, positions, types) = x.shape[:2], (call.get(key) for key in PER_TOKEN)
        static = getattr(call.get("cache"), "is_compileable", False) or (mask is not None and mask.dim() != 2)
        if static and self.most:
            raise CourseError(
                "virtual tokens need an attention mask of shape (batch, seq) and a cache that grows: leave "
                "cache_implementation and compilation alone"
            )
        if self.room is not None and numbered + seq > self.room:
            raise CourseError(
                f"{numbered} virtual tokens and a text of {seq} tokens are {numbered + seq}, and this model has "
                f"{self.room} positions: take a smaller n or shorter texts"
            )
        if mask is None and uneven:  # slots stay free, and only a mask can say which
            mask = torch.ones(batch, seq, dtype=torch.long, device=x.device)
        if positions is None and ids is not None and (from_ids := positions_from_ids(inner)):
            positions = from_ids(ids, inner.embeddings.padding_idx)
        if positions is None and not self.counts_itself and mask is not None and self.most:
            positions = prompted_cache.text_positions(mask)
        return Inputs(x, mask, None if positions is None else positions.expand(batch, seq), types)

    def _replaced(self, name: str, tokens: Inputs, ids: Tensor | None, going_on: bool) -> Inputs:
        if ids is None:
            raise CourseError("a template's placeholders can be found in token ids only: pass input_ids")
        if going_on and not bool((ids == self.placeholders[name]).any()):
            return tokens
        return tokens.replace(self.vectors(name).to(tokens.x.dtype), ids, self.placeholders[name])

    def unplace(self, embeddings: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        r"""Before the embedding layer: a text whose virtual tokens stand behind it keeps its own positions."""
        if not self.behind:  # each forward pass of every prompt comes by here
            return args, kwargs
        call = _by_name(list(inspect.signature(embeddings.forward).parameters), args, kwargs)
        x, positions = call.get("inputs_embeds"), call.get("position_ids")
        if x is None or self.room is None or not (behind := self._behind(x)):
            return args, kwargs
        slots = torch.arange(x.shape[1], device=x.device)
        positions = (slots[None] + self.start if positions is None else positions).expand(len(x), -1).clone()
        for name, index in behind:
            n = self.in_front(name)
            positions[index] = torch.where(slots < n, self.start, positions[index] - n)
        last = self.room - 1 + self.start  # slots that stay free come after it
        return (), call | {"position_ids": positions.clamp(max=last)}

    def put(self, embeddings: nn.Module, args: tuple, x: Tensor) -> Tensor:
        r"""Behind it: these virtual tokens, in the places that were kept for them."""
        if behind := self._behind(x):
            x = x.clone()  # an output that a gradient may need
        for name, index in behind:
            x[index, : self.in_front(name)] = self.vectors(name).to(x.dtype)
        return x

    def _behind(self, x: Tensor) -> list[tuple[str, Any]]:
        r"""(adapter, its rows of `x`) of those whose virtual tokens stand behind the embedding layer."""
        if self.counts is None or not self.behind:
            return []
        return [(name, slice(None) if rows is None else rows) for name, rows in self.parts(x) if name in self.behind]

    # On the way out -------------------------------------------------------------------------------------------------

    def leave(self, inner: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        r"""After the body: take the virtual tokens out of its output, and note in a new cache that it has them."""
        if self.counts is None:
            prompted_cache.close_cache(kwargs.get("cache"))
            return output
        if isinstance(output, tuple):
            raise CourseError("virtual tokens cannot be taken out of a tuple: call the model with return_dict=True")
        if not self.head_reads_first:
            hidden = self.without(output.last_hidden_state, int(self.labelled))
            # In one piece, an output layer multiplies all rows at once; a slice it would take row by row.
            output.last_hidden_state = hidden if self.encoder else hidden.contiguous()
        if output.get("hidden_states") is not None:
            output.hidden_states = tuple(h if h is None else self.without(h) for h in output.hidden_states)
        if output.get("attentions") is not None:
            # (batch, heads, seq, keys): the virtual tokens stay among the keys
            output.attentions = tuple(
                a if a is None else self.without(a.transpose(1, 2)).transpose(1, 2) for a in output.attentions
            )
        slots = torch.arange(self.most, device=self.counts.device)
        held = (slots >= self.most - self.counts[:, None]).long()  # (rows, most)
        for cache in (kwargs.get("cache"), output.get("cache")):
            prompted_cache.close_cache(cache, held)
        return output

    def without(self, hidden: Tensor, keep: int = 0) -> Tensor:
        r"""`hidden`, (batch, most + seq, ...), at the tokens alone, and at the last `keep` positions before them."""
        if not self.encoder:
            return hidden[:, self.most - keep :]
        if len(self.counts) == 1:
            return hidden[:, self.most :]
        places = self.counts[:, None] + torch.arange(hidden.shape[1] - self.most, device=hidden.device)
        return hidden[torch.arange(len(hidden), device=hidden.device)[:, None], places]

    # A language model's loss ----------------------------------------------------------------------------------------

    def label(self, model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        r"""Before a language model: with something before it, the first token has a prediction, and a loss.

        Not where the caller gives `shift_labels`, what each position is to predict, as well.
        """
        call = _by_name(self.arguments[1], args, kwargs)
        labels, self.labelled = call.get("labels"), False
        if labels is None or call.get("shift_labels") is not None or prompted_cache.filled(call.get("cache")):
            return args, kwargs
        parts = self.parts(labels)
        if not any(self.in_front(name) for name, _ in parts):
            return (), call
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
    if encoder_decoder(model):
        return inner.encoder
    return inner.decoder if model.config.model_type == "opt" else inner


def _by_name(names: list[str], args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    r"""All arguments of a call by name; the cache under its new one."""
    call = dict(zip(names, args, strict=False)) | kwargs
    if "past_key_values" in call:
        call["cache"] = call.pop("past_key_values")
    return call
