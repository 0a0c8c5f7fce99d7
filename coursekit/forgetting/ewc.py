r"""Elastic weight consolidation: each weight is held as firmly as it matters to the old task."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from coursekit.errors import CourseError
from coursekit.fingerprint import fingerprint
from coursekit.forgetting.anchor import Anchor, factor, on_its_device
from coursekit.methods import FullFineTuning, attached
from coursekit.methods.selective import importance


class EWC(Anchor):
    r"""$\sum_i \frac{\lambda}{2} F_i (\theta_i - \theta^*_i)^2$ beside the loss; `strength` is $\lambda$.

    Kirkpatrick et al. 2017, "Overcoming catastrophic forgetting in neural networks" (PNAS 114, arXiv:1612.00796),
    equation 3. $\theta^*$ are the weights when this was made, those that the old task left. $F$ is the diagonal of the
    Fisher information there, the one that `FishMask` scores by (`importance.fisher`), over `batches` of the old task.
    Their own labels stand in for labels drawn from the model, the "empirical" Fisher. A few hundred examples do; each
    goes through the model alone.

    The loss of a decoder is a mean over the tokens of an example: of longer examples $F$ is smaller, so $\lambda$ goes
    with their length.

    fisher: $F$ by name of the parameter and in its shape. A number whose $F$ is 0 is free.

    For full fine-tuning, or a model without any method: the Fisher is that of the bare model.

    Raises CourseError where another method is attached, for a strength below 0, and for batches that are none, have no
    labels, or do not tell anything (every $F$ is 0, or one is not finite).
    """

    def __init__(self, model: nn.Module, batches: importance.Batches, strength: float) -> None:
        self.strength = factor("strength", strength)
        other = next((m for m in attached(model).values() if not isinstance(m, FullFineTuning)), None)
        if other is not None:
            raise CourseError(
                f"EWC holds the weights of the model itself, and {type(other).__name__} trains others beside them: "
                "call detach(model), or merge it for good with method.merge(model, undo=False)"
            )
        batches = list(batches)
        if not batches:
            raise CourseError("batches: EWC looks at the old task: give some batches of it with labels")
        super().__init__(model)
        found = importance.fisher(model, list(self.parameters.values()), batches, seed=0)
        importance.telling("fisher", found)
        self.fisher = dict(zip(self.parameters, found, strict=True))
        self.examples = sum(len(next(iter(batch.values()))) for batch in batches)
        # Of what the Fisher is made from, not of its values: on a GPU their last bits differ from run to run.
        seen = {f"{i}.{key}": value for i, batch in enumerate(batches) for key, value in batch.items()}
        self._checksum = fingerprint(self.start | seen)

    def penalty(self) -> Float[Tensor, ""]:
        held = self.parameters.items()
        apart = (on_its_device(self.fisher, name, p) * self.moved(name).square() for name, p in held)
        return self.strength / 2 * sum(part.sum() for part in apart)

    def __repr__(self) -> str:
        return f"EWC(strength={self.strength}, examples={self.examples}, fisher={self._checksum})"
