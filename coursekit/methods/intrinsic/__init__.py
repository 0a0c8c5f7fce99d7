r"""Training in a random subspace of all weights: how many directions a task needs."""

from coursekit.methods.intrinsic.said import IntrinsicSAID

__all__ = ["IntrinsicSAID"]
