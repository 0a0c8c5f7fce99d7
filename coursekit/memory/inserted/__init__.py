r"""What a method puts into a frozen model: trained tensors, and the steps that it adds to the blocks.

One function for each kind of method, which reads nothing but the method's hyperparameters and the model's shapes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from coursekit.architecture import Architecture
from coursekit.memory.inserted import adapters, selected, soft_prompts
from coursekit.memory.inserted.directions import said
from coursekit.memory.inserted.gates import unipelt
from coursekit.memory.inserted.ia3 import ia3
from coursekit.memory.inserted.low_rank import low_rank, oft, vera
from coursekit.memory.inserted.parts import AFTER, BEFORE, Added, Inserted, together

#: By `kind`, as in checkpoints.
INSERTED: dict[str, Callable[[Any, Architecture, Any], Inserted]] = {
    "HOULSBY": adapters.adapter,
    "PFEIFFER": adapters.adapter,
    "PARALLEL_ADAPTER": adapters.adapter,
    "LIN_ADAPTER": adapters.adapter,
    "ADAPTER_DROP": adapters.adapter_drop,
    "SPARSE_ADAPTER": adapters.sparse_adapter,
    "COMPACTER": adapters.adapter,
    "COMPACTER_PLUS": adapters.adapter,
    "IA3": ia3,
    "LORA": low_rank,
    "VERA": vera,
    "OFT": oft,
    "PROMPT_TUNING": soft_prompts.prompt_tuning,
    "P_TUNING": soft_prompts.p_tuning,
    "PREFIX_TUNING": soft_prompts.prefix_tuning,
    "ADAPTION_PROMPT": soft_prompts.llama_adapter,
    "BITFIT": selected.whole,
    "TOP_LAYERS": selected.whole,
    "LN_TUNING": selected.whole,
    "BY_TYPE": selected.whole,
    "HEAD_ONLY": selected.whole,
    "SELECT_ROWS": selected.lines,
    "SELECT_COLUMNS": selected.lines,
    "FREEZE_AND_RECONFIGURE": selected.nodes,
    "FISH_MASK": selected.mask,
    "SHIRA": selected.shira,
    "UNIPELT": unipelt,
    "INTRINSIC_SAID": said,
}


#: Those whose steps are those of the matrices themselves.
BRANCHES = ("LORA", "VERA", "OFT", "UNIPELT")


def has_entry(method: Any, config: Any) -> bool:
    r"""Whether `method`, or each part of a combination, is among `INSERTED`; of branches beside matrices one kind."""
    if hasattr(method, "parts_for") and method.kind not in INSERTED:
        parts = method.parts_for(config)
        return all(has_entry(part, config) for part in parts) and sum(part.kind in BRANCHES for part in parts) < 2
    return getattr(method, "kind", None) in INSERTED


def inserted(method: Any, arch: Architecture, config: Any) -> Inserted:
    r"""What `method` puts into the model that `arch` and `config` describe.

    A combination puts into it what its parts do. For methods that `has_entry`.
    """
    if hasattr(method, "parts_for") and method.kind not in INSERTED:
        return together(inserted(part, arch, config) for part in method.parts_for(config))
    return INSERTED[method.kind](method, arch, config)


__all__ = ["AFTER", "Added", "BEFORE", "INSERTED", "Inserted", "has_entry", "inserted"]
