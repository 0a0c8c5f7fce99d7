r"""FISH mask: train the few numbers that matter most (Sung et al. 2021, arXiv:2111.09839), anywhere in the model.

The mask is chosen once, before training, by one threshold over all tensors: the k numbers with the largest Fisher
information, $\frac{1}{N} \sum_i (\nabla_\theta L_i)^2$ over a few examples.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from coursekit import counts, interop
from coursekit.architecture import describe
from coursekit.errors import CourseError, unknown
from coursekit.methods.adapters import masks
from coursekit.methods.lora import LoRA
from coursekit.methods.mechanism.attachment import activate, attached, attachment_of, unmerged
from coursekit.methods.mechanism.modules import at, body_prefix, in_codes, standing
from coursekit.methods.mechanism.switch import Switched, bare
from coursekit.methods.mechanism.undo import undone_after_an_error
from coursekit.methods.selective.part_layer import PartMethod, Parts
from coursekit.methods.selective.parts import Entries, positions, transposed
from coursekit.methods.selective.scores import NEED_DATA, SCORES, telling
from coursekit.methods.selective.whole import described


@dataclass(frozen=True)
class FishMask(PartMethod):
    r"""Train the `keep` numbers with the largest score among all weights and biases of the blocks, norms included.

    keep: how many, or up to 1.0 their share, as in the paper's 0.005. score: "fisher" looks at batches of the task,
    `attach(model, batches=...)`; "magnitude" and "random" are there to compare it with, at equal size. seed: of
    "random". targets: choose only among the weights of these matrices, named as for `LoRA`.

    Embeddings are not among them (the paper's mask can have some); the task head trains whole, as with every method.
    Raises CourseError for settings that make no sense and, on attaching, for a score without the batches it needs.
    """

    keep: int | float = 0.005
    score: str = "fisher"
    seed: int = 0
    targets: tuple[str, ...] | str | None = None
    kind: ClassVar[str] = "FISH_MASK"

    def __post_init__(self) -> None:
        whole = isinstance(self.keep, int) and not isinstance(self.keep, bool)
        if not (whole and self.keep > 0 or isinstance(self.keep, float) and 0 < self.keep <= 1):
            raise CourseError(
                f"keep={self.keep!r}: give how many numbers train, such as 10_000, or their share, such as 0.005"
            )
        if self.score not in tuple(SCORES):
            raise unknown("score", self.score, SCORES)
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise CourseError(f"seed={self.seed!r}: take a whole number")
        if self.targets is not None:
            object.__setattr__(self, "targets", LoRA(targets=self.targets).targets)

    # Numbers --------------------------------------------------------------------------------------------------------

    def among(self, config: Any) -> int:
        r"""How many numbers there are to choose from."""
        arch = describe(config)
        if self.targets is None:
            return arch.n_layers * counts.block(described(config))
        matrices = LoRA(r=1, targets=self.targets).matrices(config)
        return sum(arch.copies(m) * m.d_in * m.d_out for m in matrices)

    def count(self, config: Any) -> int:
        r"""k, exactly: `keep` itself, or its share of all that there is to choose from."""
        among = self.among(config)
        k = self.keep if isinstance(self.keep, int) else max(1, round(self.keep * among))
        if k > among:
            raise CourseError(f"keep={k:,} is more than the {among:,} numbers to choose from: keep fewer")
        return k

    # The mask -------------------------------------------------------------------------------------------------------

    def attach(
        self, model: nn.Module, name: str = "default", batches: Iterable[dict[str, Tensor]] | None = None
    ) -> nn.Module:
        r"""Choose the mask, then attach.

        batches: batches of the task, with labels, for a score that looks at it. The paper takes a few hundred
        examples; each goes through the model alone.
        """
        if isinstance(batches, Mapping):
            raise CourseError("batches: give a list of batches, such as [batch], and this is one batch")
        batches = list(batches or ())
        if self.score not in NEED_DATA:
            return super().attach(model, name)
        if not batches:
            raise CourseError(
                f"score={self.score!r} looks at the task: give some batches of it with labels, batches=[...], or take "
                "score='magnitude'"
            )
        with undone_after_an_error(model, name):
            super().attach(model, name)
            state = attachment_of(model)
            state.parameters[name] += self._put(model, state, name, self._scored(model, batches))
            return activate(model, name)

    def masks(self, model: nn.Module, name: str | None = None) -> dict[str, Tensor]:
        r"""What trains under adapter `name`: true at its places, for each parameter of the model that has some."""
        unmerged(model)
        name, places, found = self._named(model, name), self._places(model), {}
        for path, parts in self._parts_of(model, name).items():
            for key, part in parts.items():
                tensor = places[path, key]
                flat = torch.zeros(tensor.numel(), dtype=torch.bool, device=tensor.device)
                flat[part.index] = True
                found[f"{path}.{key}"] = flat.view(tensor.shape)
        return found

    def _scored(self, model: nn.Module, batches: list[dict[str, Tensor]]) -> Parts:
        places = self._places(model)
        scores = SCORES[self.score](model, list(places.values()), batches, self.seed)
        if self.score in NEED_DATA:
            telling(self.score, scores)
        chosen = masks.largest(scores, self.count(model.config))
        return _made(model, {place: positions(mask) for place, mask in zip(places, chosen, strict=True)})

    def _places(self, model: nn.Module) -> dict[tuple[str, str], nn.Parameter]:
        r"""What there is to choose from: (path of a module, "weight" or "bias") -> the tensor."""
        if self.targets is not None:
            modules = LoRA(r=1, targets=self.targets).places(model)
            return {(path, "weight"): bare(module).weight for path, module in modules.items()}
        blocks = f"{body_prefix(model)}{describe(model.config).block}."
        return {
            (path, key): parameter
            for path, module in standing(model)
            if path.startswith(blocks) and not isinstance(module, Switched)
            for key, parameter in module.named_parameters(recurse=False)
        }

    def _check(self, model: nn.Module) -> None:
        self.count(model.config)
        if any(in_codes(module) for module in model.modules()):
            raise CourseError(
                "a mask chooses among dense weights, and some of this model's are in 4 bits: load it without quantizing"
            )
        for path, _ in self._places(model):
            if isinstance(bare(at(model, path)), nn.Embedding):
                raise CourseError(
                    f"{path} is an embedding, and a mask chooses in linear layers: leave it out"
                )

    def touched(self, model: nn.Module) -> set[str]:
        if self.score in NEED_DATA:
            raise CourseError(
                f"FishMask(score={self.score!r}) looks at the task when it is attached, which a hybrid has no batches "
                "for: attach it alone, or take another score"
            )
        return {f"{path}.{key}" for path, key in self._places(model)}

    def _parts(self, model: nn.Module) -> Parts:
        return {} if self.score in NEED_DATA else self._scored(model, [])

    # Files ----------------------------------------------------------------------------------------------------------

    def load(self, model: nn.Module, folder: str | Path, name: str = "default") -> nn.Module:
        r"""Read a checkpoint into `model`, attaching first where `name` is not attached yet.

        The mask is the checkpoint's. Where the adapter has another one, what trained so far is replaced, and an
        optimizer that knows it has to be made anew.
        Raises CourseError, and changes nothing, if the checkpoint is of another method or another model.
        """
        if name in attached(model):
            return super().load(model, folder, name)
        config, _ = interop.read(folder)
        interop.same_method(self.kind, config)
        self._check_config(config)
        with undone_after_an_error(model, name):
            super().attach(model, name)  # which numbers train is in the file, so no example is looked at
            return super().load(model, folder, name)

    def _tensors(self, model: nn.Module, name: str) -> dict[str, Tensor]:
        tensors, places = super()._tensors(model, name), self._places(model)
        for path, parts in self._parts_of(model, name).items():
            for key, part in parts.items():
                form, stored = masks.encode(part.index, places[path, key].numel())
                tensors[f"{path}.{key}.{form}"] = stored
        return tensors | {"among": torch.tensor([self.among(model.config)])}

    def _load(self, model: nn.Module, name: str, tensors: dict[str, Tensor], folder: str | Path) -> None:
        rest, index, values = dict(tensors), {}, {}
        places, among = self._places(model), rest.pop("among", torch.zeros(1))
        for place, tensor in places.items():
            start = ".".join(place)
            found = rest.pop(f"{start}.values", None)
            stored = {
                form: rest.pop(f"{start}.{form}") for form in ("mask", "index") if f"{start}.{form}" in rest
            }
            if found is None and not stored:
                continue
            own = masks.decode(*next(iter(stored.items())), tensor.numel()) if stored else None
            if found is None or own is None or found.shape != own.shape:
                raise self._other(model, folder)
            index[place], values[place] = own, found
        own = self._tensors(model, name)
        head = {key: value for key, value in self._learned(model, name).items() if key not in own}
        interop.same_tensors(head, rest, folder)
        numbers = (among.tolist(), sum(map(len, index.values())))
        if numbers != ([self.among(model.config)], self.count(model.config)):
            raise self._other(model, folder)
        parts = _made(model, index)
        with torch.no_grad():
            for (path, key), found in values.items():
                parts[path][key].values.copy_(found)
            for key, value in head.items():
                value.copy_(rest[key])
        self._replace(model, name, parts)

    def _replace(self, model: nn.Module, name: str, new: Parts) -> None:
        r"""Let adapter `name` have the parts `new`; where its mask is the same it keeps its parameters."""
        old, state = self._parts_of(model, name), attachment_of(model)
        if _index(old).keys() == _index(new).keys() and all(
            torch.equal(index, _index(new)[place]) for place, index in _index(old).items()
        ):
            with torch.no_grad():
                for path, parts in new.items():
                    for key, part in parts.items():
                        old[path][key].values.copy_(part.values)
            return
        gone = {id(value) for value in self._take(model, name)}
        kept = [p for p in state.parameters[name] if id(p) not in gone]
        state.parameters[name] = kept + self._put(model, state, name, new)
        activate(model, state.switch.active)

    def _other(self, model: nn.Module, folder: str | Path) -> CourseError:
        return CourseError(
            f"the checkpoint in {folder} is of another model: its mask does not choose {self.count(model.config):,} of "
            f"the {self.among(model.config):,} numbers here"
        )

    def _config(self, model: nn.Module) -> dict[str, Any]:
        return interop.common_config(model, self.kind) | {
            "keep": self.keep,
            "score": self.score,
            "seed": self.seed,
            "target_modules": list(self.targets) if isinstance(self.targets, tuple) else self.targets,
        }

    def _check_config(self, config: dict[str, Any]) -> None:
        if config["keep"] != self.keep:  # which score chose them does not matter any more
            raise CourseError(
                f"this checkpoint was made with keep={config['keep']}, the method here has {self.keep}; "
                "FishMask.from_checkpoint(folder) makes the method that fits"
            )

    @classmethod
    def from_checkpoint(cls, folder: Any) -> FishMask:
        r"""The method with the settings of the checkpoint in `folder`."""
        config, _ = interop.read(folder)
        interop.same_method(cls.kind, config)
        return cls(
            keep=config["keep"], score=config["score"], seed=config["seed"], targets=config["target_modules"]
        )


def _made(model: nn.Module, index: dict[tuple[str, str], Tensor]) -> Parts:
    r"""Parts of single numbers at `index`, for the tensors that have some."""
    parts: Parts = {}
    modules = {path: module for path, module in standing(model) if not isinstance(module, Switched)}
    for (path, key), own in index.items():
        if len(own):
            module = modules[path]
            parts.setdefault(path, {})[key] = Entries(getattr(module, key), own, transposed(module))
    return parts


def _index(parts: Parts) -> dict[tuple[str, str], Tensor]:
    return {(path, key): part.index for path, own in parts.items() for key, part in own.items()}
