r"""The methods of the course. Each is a frozen dataclass of hyperparameters with one interface (`base.Method`)."""

from coursekit.methods.base import activate, attached, detach, disabled, remove, rows, trainable, unmerge
from coursekit.methods.full import FullFineTuning
from coursekit.methods.lora import LoRA

__all__ = [
    "FullFineTuning",
    "LoRA",
    "activate",
    "attached",
    "detach",
    "disabled",
    "remove",
    "rows",
    "trainable",
    "unmerge",
]
