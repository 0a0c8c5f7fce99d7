r"""What peft's LoRA has and the one here has not: read as a plain LoRA, such a checkpoint would answer otherwise."""

from __future__ import annotations

from typing import Any

from coursekit.errors import CourseError

#: What only peft has.
BEYOND = (
    "alpha_pattern", "rank_pattern", "alora_invocation_tokens", "layer_replication", "use_qalora", "use_bdlora",
    "arrow_config", "kasa_config", "monteclora_config",
)  # fmt: skip
#: Starts of peft's that take their share out of the base weights.
MOVING = ("pissa", "olora", "corda", "loftq", "lora_ga")


def refuse_others(config: dict[str, Any]) -> None:
    r"""Raise CourseError for a `config` whose tensors do not all mean $W_0 x + sBAx$ with one s."""
    for key in BEYOND:
        if config.get(key):
            raise CourseError(
                f"this checkpoint was trained with {key}={config[key]!r}, which the LoRA here does not have: use peft"
            )
    start = config.get("init_lora_weights", True)
    if isinstance(start, str) and start.startswith(MOVING):
        raise CourseError(
            f"this checkpoint was trained on weights that init_lora_weights={start!r} had changed first: let peft "
            "save it with path_initial_model_for_weight_conversion, as a plain LoRA"
        )
    if (biases := config.get("bias", "none")) != "none":
        raise CourseError(
            f"this checkpoint was trained with bias={biases!r}, LoRA and biases at once: load it with "
            "methods.from_checkpoint(folder)"
        )
