r"""A pager: more pages than fit on a device, of which the last used ones are there.

What CUDA's unified memory does for a paged optimizer (Dettmers et al. 2023, arXiv:2305.14314, section 3) in plain
sight: a page that is needed and not there is a fault; it is copied in, and the least recently used pages make room.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor

from coursekit.errors import CourseError, whole


@dataclass
class Traffic:
    r"""What a pager has done. `peak`: the most bytes of pages that were on the device at one time."""

    hits: int = 0  # uses of a page that was there
    faults: int = 0  # uses of one that had to be brought in
    evictions: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    peak: int = 0


class Pager:
    r"""Pages at home in host memory, of which at most `budget` bytes are on `device` at one time.

    A page is any tensor. `fetch` gives its copy on the device, which stays valid until the next `fetch`: do not hold on
    to it longer, because a page that is evicted has only its home left. On CUDA the homes should be pinned, so that
    copies run at the speed of the bus.

    The budget counts the bytes of the pages; CUDA's allocator rounds each up to a multiple of 512.
    """

    def __init__(self, budget: int, device: torch.device | str = "cpu"):
        budget = whole("budget (bytes)", budget, least=1)
        self.budget, self.device = budget, torch.device(device)
        self.homes: list[Tensor] = []
        #: Copies on the device by page number, least recently used first.
        self.resident: OrderedDict[int, Tensor] = OrderedDict()
        self.dirty: set[int] = set()
        self.traffic = Traffic()

    def add(self, home: Tensor) -> int:
        r"""The number of a new page. `home` stays the caller's; it is up to date after `flush`."""
        self.check(home.nbytes)
        self.homes.append(home)
        return len(self.homes) - 1

    def check(self, nbytes: int) -> None:
        r"""CourseError if a page of `nbytes` could never be on the device."""
        if nbytes > self.budget:
            raise CourseError(
                f"budget={self.budget} bytes is below the {nbytes} of one page, which has to be there whole: "
                "raise the budget, or take smaller pages"
            )

    @property
    def nbytes(self) -> int:
        r"""Bytes of pages on the device now."""
        return sum(page.nbytes for page in self.resident.values())

    def fetch(self, number: int, write: bool = True) -> Tensor:
        r"""Page `number` on the device. `write`: it will be changed, so it goes home before it is dropped."""
        if number in self.resident:
            self.resident.move_to_end(number)
            self.traffic.hits += 1
        else:
            self._bring_in(number)
        if write:
            self.dirty.add(number)
        return self.resident[number]

    def _bring_in(self, number: int) -> None:
        home = self.homes[number]
        while self.nbytes + home.nbytes > self.budget:  # room first, so that the budget holds at every moment
            self._evict(next(iter(self.resident)))
        self.resident[number] = home.to(self.device, copy=True, non_blocking=True)
        self.traffic.faults += 1
        self.traffic.bytes_in += home.nbytes
        self.traffic.peak = max(self.traffic.peak, self.nbytes)

    def _evict(self, number: int) -> None:
        self._write_back(number)
        del self.resident[number]
        self.traffic.evictions += 1

    def _write_back(self, number: int) -> None:
        if number in self.dirty:
            # Copies in and out are in one queue of the device, so a page is never read while it is being written.
            self.homes[number].copy_(self.resident[number], non_blocking=True)
            self.traffic.bytes_out += self.homes[number].nbytes
            self.dirty.remove(number)

    def flush(self) -> None:
        r"""Bring all homes up to date, and wait until they are. The pages stay where they are."""
        for number in self.resident:
            self._write_back(number)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def take_traffic(self) -> Traffic:
        r"""What happened since this was last asked."""
        taken, self.traffic = self.traffic, Traffic(peak=self.nbytes)
        return taken
