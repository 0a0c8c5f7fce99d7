r"""What a step costs: seconds, tokens per second, and the peak of memory so far."""

from __future__ import annotations

import time
from collections.abc import Sequence

import psutil
import torch
from torch import Tensor


class Meter:
    r"""A stop watch for steps on `device`. peak: bytes that the run had reached before, in a process that is gone."""

    def __init__(self, device: torch.device, peak: int = 0) -> None:
        self.device, self.peak, self.since = device, peak, 0.0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def start(self) -> None:
        r"""A step begins."""
        self.since = time.perf_counter()

    def stop(self, batches: Sequence[dict[str, Tensor]], processes: int) -> dict[str, float]:
        r"""The cost of the step that saw `batches` in each of `processes`. Padding does not count as tokens."""
        seconds = time.perf_counter() - self.since
        tokens = sum(int(batch["attention_mask"].sum()) for batch in batches) * processes
        if self.device.type == "cuda":
            self.peak = torch.cuda.max_memory_allocated(self.device)
        else:
            self.peak = max(self.peak, psutil.Process().memory_info().rss)
        return {"seconds": seconds, "tokens_per_second": tokens / seconds, "peak_memory": self.peak}
