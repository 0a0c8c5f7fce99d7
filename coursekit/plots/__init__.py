r"""Pictures: `common.py` for what several notebooks draw, and one file a topic; `alt.py` says what they show."""

from coursekit.plots import alt
from coursekit.plots.adapters import adapter_places, bottleneck, kept_where
from coursekit.plots.alt import show
from coursekit.plots.common import COLOURS, axes, scores, style
from coursekit.plots.lora import data_flow, kept_by_rank, rank_for_half
from coursekit.plots.memory import MEMORY_COLOURS, memory_bars, step_over_time
from coursekit.plots.soft_prompts import soft_prompt_places

__all__ = [
    "COLOURS", "MEMORY_COLOURS", "adapter_places", "axes", "bottleneck", "data_flow",
    "kept_by_rank", "kept_where", "memory_bars", "rank_for_half", "scores", "show", "soft_prompt_places",
    "step_over_time", "style",
]  # fmt: skip

alt.enable()
