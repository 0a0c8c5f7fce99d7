r"""L2-SP: weight decay towards the pre-trained weights instead of towards zero."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from coursekit.errors import CourseError
from coursekit.fingerprint import fingerprint
from coursekit.forgetting.anchor import Anchor, factor
from coursekit.methods.mechanism.modules import head_names


class L2SP(Anchor):
    r"""$\frac{\alpha}{2} \lVert w_S - w_S^0 \rVert^2 + \frac{\beta}{2} \lVert w_{\bar S} \rVert^2$ beside the loss.

    Li, Grandvalet & Davoine 2018, "Explicit Inductive Bias for Transfer Learning with Convolutional Networks"
    (arXiv:1802.01483), section 3. $w^0$ are the weights when this was made (SP: the starting point). $\bar S$ is the
    task head, which is new and has nothing to go back to: it decays towards 0. $S$ is everything else that trains.

    Raises CourseError for a weight below 0, and for a beta where no head trains.
    """

    def __init__(self, model: nn.Module, alpha: float, beta: float = 0.0) -> None:
        self.alpha, self.beta = factor("alpha", alpha), factor("beta", beta)
        super().__init__(model)
        heads = head_names(model)
        self.head = [name for name in self.parameters if name.partition(".")[0] in heads]
        self.body = [name for name in self.parameters if name not in self.head]
        if beta and not self.head:
            raise CourseError(f"beta={beta} is for a task head, and none of this model trains: leave beta at 0")
        # The head is not among them: drawn anew each time, it would tell a run that is resumed from itself.
        self._checksum = fingerprint({name: self.start[name] for name in self.body})

    def penalty(self) -> Float[Tensor, ""]:
        body = sum(self.moved(name).square().sum() for name in self.body)
        head = sum(self.parameters[name].to(self.start[name].dtype).square().sum() for name in self.head)
        return self.alpha / 2 * body + self.beta / 2 * head

    def __repr__(self) -> str:
        return f"L2SP(alpha={self.alpha}, beta={self.beta}, start={self._checksum})"
