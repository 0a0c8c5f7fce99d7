r"""Methods for the extras of peft's LoRA: the biases of its layers, and rows of an embedding.

bias="all"                   Hybrid(LoRA(...), BitFit())
bias="lora_only"             Hybrid(LoRA(...), LayerBiases(names of the layers))
trainable_token_indices=...  Hybrid(LoRA(...), TokenRows({"embed_tokens": (5, 7)}))
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from coursekit.errors import CourseError, short, whole
from coursekit.methods.mechanism.attachment import Attachment
from coursekit.methods.mechanism.checkpoint import Setting
from coursekit.methods.mechanism.modules import LINEAR, AdapterWrapper, find, named_base_modules
from coursekit.methods.mechanism.names import checked_names, matches
from coursekit.methods.mechanism.targets import Targets
from coursekit.methods.selective.part_layer import PartMethod, Parts
from coursekit.methods.selective.rows import Rows
from coursekit.methods.selective.whole import Whole

#: What peft calls the rows of one embedding, and where it keeps them when a LoRA is there as well.
ROWS, ADAPTER = "trainable_tokens_delta", "token_adapter."


@dataclass(frozen=True)
class LayerBiases(PartMethod):
    r"""The biases of the linear layers that `targets` name train.

    Raises CourseError, on attaching, where none of them has one.
    """

    targets: tuple[str, ...] | str
    kind: ClassVar[str] = "LAYER_BIASES"
    entries = (Setting("targets", write=list, read=tuple),)

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", checked_names(self.targets, ("query", "value"), words=()))

    def layers(self, model: nn.Module) -> dict[str, nn.Module]:
        r"""The layers of `model` whose biases train, by path."""
        return {path: layer for path, layer in find(model, self.targets, LINEAR).items() if layer.bias is not None}

    def count(self, config: Any) -> int:
        r"""$\sum d_{out}$."""
        return sum(m.d_out for m in Targets(self.targets, {}).layers(config).values() if m.bias)

    def touched(self, model: nn.Module) -> set[str]:
        return {f"{path}.bias" for path in self.layers(model)}

    def _check(self, model: nn.Module) -> None:
        if not self.layers(model):
            raise CourseError("none of the layers whose biases are to train has one: take the LoRA alone")

    def _parts(self, model: nn.Module) -> Parts:
        return {path: {"bias": Whole(layer.bias)} for path, layer in self.layers(model).items()}


@dataclass(frozen=True)
class TokenRows(PartMethod):
    r"""Rows of an embedding train, (k, d): the vectors of k tokens, such as those that were added to the vocabulary.

    tokens: ids of tokens, by the name of the embedding; in whatever order, which the checkpoint keeps. An output layer
    that is tied to the input embedding follows it, unless it is named itself.

    Raises CourseError for ids that make no sense and, on attaching, for an embedding or a token that is not there.
    """

    tokens: Mapping[str, Iterable[int]] | tuple[tuple[str, tuple[int, ...]], ...]
    kind: ClassVar[str] = "TOKEN_ROWS"
    entries = (Setting("tokens", read=lambda found: TokenRows(found).tokens, write=dict),)

    def __post_init__(self) -> None:
        if not self.tokens or not isinstance(self.tokens, Mapping | tuple) or not all(self.rows.values()):
            raise CourseError(
                "tokens must be ids by the name of an embedding, such as {'embed_tokens': [5, 7]}; got "
                f"{short(self.tokens)}."
            )
        own = ((name, tuple(whole("token", i, least=0) for i in ids)) for name, ids in self.rows.items())
        object.__setattr__(self, "tokens", tuple(own))
        for name, ids in self.rows.items():
            if len(set(ids)) < len(ids):
                raise CourseError(f"tokens names one of the ids for {name!r} twice; once is enough.")

    @property
    def rows(self) -> dict[str, tuple[int, ...]]:
        r"""Ids of tokens by the name of their embedding."""
        return dict(self.tokens)  # type: ignore[arg-type]  # a mapping, or its items

    def embeddings(self, model: nn.Module) -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
        r"""Path of an embedding that is named -> the module and the ids of its tokens."""
        found = {}
        for name, ids in self.rows.items():
            for path, module in find(model, (name,), (nn.Embedding, nn.Linear)).items():
                if max(ids) >= len(module.weight):
                    raise CourseError(f"{path} has no token {max(ids)}: its tokens are 0 to {len(module.weight) - 1}")
                found[path] = (module, ids)
        return found

    def tied(self, model: nn.Module) -> dict[str, str]:
        r"""Path of an output layer that follows -> path of the input embedding that it is tied to."""
        named = self.embeddings(model)
        source = {id(module.weight): path for path, (module, _) in named.items() if isinstance(module, nn.Embedding)}
        return {
            path: source[id(module.weight)]
            for path, module in named_base_modules(model)
            if path not in named
            and not isinstance(module, AdapterWrapper)
            and isinstance(module, nn.Linear)
            and id(module.weight) in source
        }

    def count(self, config: Any) -> int:
        r"""$kd$ for each embedding."""
        named = ((ids, Targets((name,), {}).layers(config)) for name, ids in self.rows.items())
        return sum(len(ids) * _width(matrix) for ids, found in named for matrix in found.values())

    def touched(self, model: nn.Module) -> set[str]:
        return {f"{path}.weight" for path in (*self.embeddings(model), *self.tied(model))}

    def _check(self, model: nn.Module) -> None:
        self.embeddings(model)

    def _parts(self, model: nn.Module) -> Parts:
        parts: Parts = {}
        for path, (module, ids) in self.embeddings(model).items():
            index = torch.tensor(ids, device=module.weight.device)
            parts[path] = {"weight": Rows(module.weight, index)}
        return parts | {path: parts[source] for path, source in self.tied(model).items()}  # one part for both

    def _insert(self, model: nn.Module, state: Attachment, name: str, found: Any) -> list[nn.Parameter]:
        return list(dict.fromkeys(super()._insert(model, state, name, found)))

    def _tensors(self, model: nn.Module, name: str) -> dict[str, Tensor]:
        parts = self._parts_of(model, name)
        return {f"{path}.{ROWS}": parts[path]["weight"].values for path in self.embeddings(model)}

    def _merged_weights(self, model: nn.Module, name: str) -> dict[str, dict[str, Tensor]]:
        merged = super()._merged_weights(model, name)
        return merged | {path: merged[source] for path, source in self.tied(model).items()}


def _width(matrix: Any) -> int:
    return matrix.d_out if matrix.kind == "embedding" else matrix.d_in


def rows_in(config: Mapping[str, Any], tensors: Iterable[str]) -> TokenRows | None:
    r"""The rows that peft's LoRA of this `config` trains, or None; each embedding by the path that the tensors have."""
    said, end = config.get("trainable_token_indices"), f".{ADAPTER}{ROWS}"
    paths = [key.removesuffix(end) for key in tensors if key.endswith(end)]
    if not said or not paths:
        return None
    ids = said if isinstance(said, dict) else dict.fromkeys(paths, said)
    return TokenRows({path: own for path in sorted(paths) for name, own in ids.items() if matches(path, name)})


def same_rows(name: str, ids: tuple[int, ...], said: Any) -> bool:
    r"""Whether a config that has `said` trains the rows `ids`, in this order, of the embedding that `name` names."""
    if not isinstance(said, dict):
        return list(said) == list(ids)
    return any(list(own) == list(ids) for key, own in said.items() if matches(name, key) or matches(key, name))
