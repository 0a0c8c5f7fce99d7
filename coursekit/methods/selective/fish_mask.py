r"""FISH mask (Sung et al. 2021, arXiv:2111.09839): train the few parameters that matter most, anywhere in the model.

$$\tilde\theta = \theta + M \odot \delta, \qquad M_j = 1 \text{ for the } k \text{ largest }
F_j = \frac{1}{N} \sum_{i=1}^{N} \bigl(\nabla_{\theta_j} L_i\bigr)^2$$

The mask M is chosen once, before training, by one threshold over all tensors; $F$ is the Fisher information of a few
examples (`importance.fisher`). One tensor with its entries in place is `parts.Entries`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, ClassVar

from torch import Tensor, nn

from coursekit.errors import CourseError, keep, one_of, whole
from coursekit.methods.mechanism.anatomy import anatomy, anatomy_of, layers_of, sizes_of
from coursekit.methods.mechanism.attachment import activate, attachment_of
from coursekit.methods.mechanism.checkpoint import Setting
from coursekit.methods.mechanism.merge import undone_after_an_error
from coursekit.methods.mechanism.modules import AdapterWrapper, body_prefix, named_base_modules
from coursekit.methods.mechanism.names import QUERY_VALUE, checked_names, matches
from coursekit.methods.mechanism.targets import Targets
from coursekit.methods.ranking import checked_batches, largest
from coursekit.methods.selective.importance import NEED_DATA, SCORES, telling
from coursekit.methods.selective.mask_method import MaskMethod, Place, weights_of
from coursekit.methods.selective.part_layer import Parts
from coursekit.methods.selective.whole import with_norm_weights

#: A smaller number of parameters is a mistyped share: 1 is not 1.0, and 2 is not 2 %.
FEWEST = 10


@dataclass(frozen=True)
class FishMask(MaskMethod):
    r"""Train the `keep` parameters with the largest score among all weights and biases of the blocks, norms included.

    keep: how many, an integer, or their share, a float up to 1.0, as in the paper's 0.005. score: "fisher" looks at
    batches of the task, `attach(model, batches=...)`; "magnitude" and "random" are there to compare it with, at equal
    size. seed: of "random". targets: choose only among the weights of these matrices, named as for `LoRA`.

    Embeddings are not among them (the paper's mask can have some); the task head trains whole, as with every method.
    `load` takes the checkpoint's mask: where the adapter has another one, an optimizer has to be made anew.
    Raises CourseError for settings that make no sense and, on attaching, for a score without the batches it needs.
    """

    keep: int | float = 0.005
    score: str = "fisher"
    seed: int = 0
    targets: tuple[str, ...] | str | None = None
    kind: ClassVar[str] = "FISH_MASK"
    #: Which score chose the mask does not matter any more once it is chosen.
    entries = (
        Setting("keep"), Setting("score", binding=False), Setting("seed", binding=False),
        Setting("targets", "target_modules", binding=False),
    )  # fmt: skip

    def __post_init__(self) -> None:
        count = isinstance(self.keep, Integral) and not isinstance(self.keep, bool) and self.keep >= FEWEST
        if not count and not (
            isinstance(self.keep, Real) and not isinstance(self.keep, Integral) and 0 < self.keep <= 1
        ):
            raise CourseError(
                f"keep must be how many parameters train, an integer from {FEWEST} up, such as 10_000, or their share, "
                f"a float up to 1.0, such as 0.005; got {self.keep!r}."
            )
        keep(self, keep=int(self.keep) if count else float(self.keep))
        one_of("score", self.score, SCORES)
        keep(self, seed=whole("seed", self.seed))
        object.__setattr__(self, "targets", checked_names(self.targets, ("q_proj", "v_proj")))

    def among(self, config: Any) -> int:
        r"""How many parameters there are to choose from."""
        if self.targets is not None:
            layers = Targets(self.targets, QUERY_VALUE).layers(config).values()
            return sum(m.d_in * m.d_out for m in layers)
        with_norm_weights(config)
        shapes, tables = anatomy_of(config), layers_of(config, ("embedding",))
        sizes = ((path, size) for path, size in sizes_of(config).items() if shapes.inside(path) is not None)
        return sum(size for path, size in sizes if not any(matches(t, path.rpartition(".")[0]) for t in tables))

    def count(self, config: Any) -> int:
        r"""k, exactly: `keep` itself, or its share of all that there is to choose from."""
        among = self.among(config)
        k = self.keep if isinstance(self.keep, int) else max(1, round(self.keep * among))
        if k > among:
            raise CourseError(f"keep={k:,} is more than the {among:,} parameters to choose from: keep fewer")
        return k

    def attach(
        self, model: nn.Module, name: str = "default", batches: Iterable[dict[str, Tensor]] | None = None
    ) -> nn.Module:
        r"""Choose the mask, then attach.

        batches: batches of the task, with labels, for a score that looks at it. The paper takes a few hundred
        examples; each goes through the model alone.
        """
        batches = checked_batches(self.score, NEED_DATA, batches)
        if self.score not in NEED_DATA:
            return super().attach(model, name)
        with undone_after_an_error(model, name):
            super().attach(model, name)
            state = attachment_of(model)
            state.parameters[name] += self._put(model, state, name, self._scored(model, batches))
            return activate(model, name)

    def _scored(self, model: nn.Module, batches: list[dict[str, Tensor]]) -> Parts:
        places = self._places(model)
        scores = SCORES[self.score](model, list(places.values()), batches, self.seed)
        if self.score in NEED_DATA:
            telling(self.score, scores)
        chosen = zip(places, largest(scores, self.count(model.config)), strict=True)
        return self._entries_at(model, {place: mask.reshape(-1).nonzero().flatten() for place, mask in chosen})

    def _places(self, model: nn.Module) -> dict[Place, nn.Parameter]:
        r"""The tensors to choose from."""
        if self.targets is not None:
            return weights_of(model, Targets(self.targets, QUERY_VALUE))
        blocks = tuple(f"{body_prefix(model)}{block}." for block in anatomy(model).blocks)
        return {
            (path, key): parameter
            for path, module in named_base_modules(model)
            if path.startswith(blocks) and not isinstance(module, (AdapterWrapper, nn.Embedding))
            for key, parameter in module.named_parameters(recurse=False)
        }

    def _check(self, model: nn.Module) -> None:
        self.count(model.config)
        super()._check(model)

    def touched(self, model: nn.Module) -> set[str]:
        if self.score in NEED_DATA:
            raise CourseError(
                f"FishMask(score={self.score!r}) looks at the task when it is attached, which a hybrid has no batches "
                "for: attach it alone, or take another score"
            )
        return super().touched(model)

    def _parts(self, model: nn.Module) -> Parts:
        return {} if self.score in NEED_DATA else self._scored(model, [])
