r"""AdamW with paged states (Dettmers et al. 2023, "QLoRA", arXiv:2305.14314, section 3, "Paged Optimizers").

The moments are at home in host memory. Only those of the weights that are being updated have to be on the device,
and an update is element by element: it can be done page by page, with the same bits.

The pager does in plain sight what CUDA's unified memory does there: there are more pages than fit on a device, of which
the last used ones are there. A page that is needed and not there is a fault; it is copied in, and the least recently
used pages make room.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.adamw import adamw

from coursekit.errors import CourseError, flag, whole
from coursekit.qlora.optimizer import CheckedAdamW, check_state, flat, saved_states


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


#: Pages begin where a vector register and a cache line begin, so that kernels round as they do on the whole tensor.
GRAIN = 1024


class PagedAdamW(CheckedAdamW):
    r"""`torch.optim.AdamW`, with the same bits, whose states take at most `budget` bytes on the parameters' device.

    A page holds both moments of as many consecutive weights as fit in `page` bytes. It is copied in when its weights
    are updated and nothing of it is there, and out again when room is needed: least recently used first.

    budget, page: bytes. fused: as in `torch.optim.AdamW` (on CUDA, compare with its foreach=False otherwise).

    Every step uses every page once, so the least recently used is always the one needed next: a budget one page too
    small makes *every* use a fault.

    `history` has one `Traffic` for each step, `pager` the pages. The budget is for states: an update without `fused`
    has temporaries of up to a page besides.

    The state dict is that of `torch.optim.AdamW`, tensors in host memory: either goes on from the other's.

    Raises CourseError for settings that make no sense, for parameters on several devices, for a budget below one page
    and, before anything has changed, for sparse gradients.
    """

    def __init__(
        self, params: Iterable[nn.Parameter] | Iterable[dict[str, Any]], lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 1e-2, *,
        budget: int = 256 * 2**20, page: int = 2 * 2**20, fused: bool = False,
    ):  # fmt: skip
        if whole("page", page) < GRAIN or page % GRAIN:
            raise CourseError(f"page must be a multiple of {GRAIN} bytes, such as 2 * 2**20; got {page}.")
        self.page, self.fused = whole("page", page), flag("fused", fused)
        self.pager = Pager(budget)
        self.history: list[Traffic] = []
        # The kernel is in the state dict, for a torch.optim.AdamW that goes on from it.
        super().__init__(params, lr, betas, eps, weight_decay, fused=fused, foreach=False)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        r"""As in `CheckedAdamW`; also CourseError for parameters on several devices, and below one page of budget."""
        super().add_param_group(param_group)
        if not self.pager.homes:
            self.pager.device = self._parameters()[0].device

    def check_group(self, group: dict[str, Any]) -> None:
        r"""CourseError for a group that cannot be trained within the budget."""
        super().check_group(group)
        devices = sorted({str(p.device) for p in self._parameters()})
        if len(devices) > 1:
            raise CourseError(
                f"parameters on {' and '.join(devices)}: one budget is for one device, so make one optimizer for each"
            )
        for p in group["params"]:
            self.pager.check(min(self.page, 2 * p.nbytes))

    def _parameters(self) -> list[nn.Parameter]:
        return [p for group in self.param_groups for p in group["params"]]

    def update(self, work: Sequence[tuple[dict[str, Any], nn.Parameter]]) -> None:
        r"""Each parameter page by page, and a `Traffic` more in `history`."""
        for group, p in work:
            self._update(p, group)
        self.history.append(self.pager.take_traffic())

    def _update(self, p: nn.Parameter, group: dict[str, Any]) -> None:
        state = self.state[p] or self._start(p)
        gradient = p.grad.reshape(-1)
        with flat(p) as weight:
            for span, number in zip(_spans(p, self.page), state["pages"], strict=True):
                self._update_page(weight[span], gradient[span], state["step"].clone(), number, group)
        state["step"] += 1

    def _update_page(self, weight: Tensor, gradient: Tensor, step: Tensor, number: int, group: dict[str, Any]) -> None:
        # A function of its own, so that nothing refers to the page any more when the next one needs its room.
        m, v = self.pager.fetch(number)
        adamw(
            [weight], [gradient], [m], [v], [], [step],
            foreach=False, fused=self.fused, amsgrad=False, maximize=False,
            beta1=group["betas"][0], beta2=group["betas"][1], lr=group["lr"], weight_decay=group["weight_decay"],
            eps=group["eps"],
        )  # fmt: skip

    def _start(self, p: nn.Parameter, step: float = 0.0) -> dict[str, Any]:
        r"""Moments of 0, at home."""
        state = self.state[p]
        state["step"] = torch.tensor(step, dtype=torch.float32, device=p.device if self.fused else "cpu")
        home = torch.zeros(2 * p.numel(), dtype=p.dtype, pin_memory=p.device.type == "cuda")
        # Page after page, each with m and v of its own weights: one page is one piece of memory, and one copy.
        state["pages"] = [
            self.pager.add(home[2 * span.start : 2 * span.stop].view(2, -1)) for span in _spans(p, self.page)
        ]
        return state

    def state_dict(self) -> dict[str, Any]:
        r"""As `torch.optim.AdamW` has it, copied to host memory."""
        self.pager.flush()
        packed = super().state_dict()
        for number, p in enumerate(self._parameters()):
            if number in packed["state"]:
                state = packed["state"][number]
                homes = [self.pager.homes[page] for page in state["pages"]]
                moments = torch.cat(homes, dim=1).view(2, *p.shape).unbind()
                # Tensors of their own: two views of one memory cannot be saved apart.
                m, v = (moment.clone() for moment in moments)
                packed["state"][number] = {"step": state["step"].clone(), "exp_avg": m, "exp_avg_sq": v}
        return packed

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        r"""Go on from a `state_dict()`. CourseError for one of other parameters; nothing has changed then."""
        if any(group.get("amsgrad") or group.get("maximize") for group in state_dict["param_groups"]):
            raise CourseError("this state is of AdamW with amsgrad or maximize, which PagedAdamW does not have")
        states = []
        for p, saved in saved_states(self, state_dict):
            check_state(p, saved, {name: (p.shape, "fractions") for name in ("exp_avg", "exp_avg_sq")})
            states.append((p, saved))
        # PyTorch would put whole states on the parameters' device, so it only gets the groups.
        super().load_state_dict({"state": {}, "param_groups": state_dict["param_groups"]})
        self.pager = Pager(self.pager.budget, self.pager.device)
        for p, saved in states:
            state = self._start(p, float(saved["step"]))
            for span, number in zip(_spans(p, self.page), state["pages"], strict=True):
                for moment, name in zip(self.pager.homes[number], ("exp_avg", "exp_avg_sq"), strict=True):
                    moment.copy_(saved[name].reshape(-1)[span])


def _spans(p: nn.Parameter, page: int) -> Iterator[slice]:
    r"""The elements of each page: as many as have both moments in `page` bytes."""
    size = page // (2 * p.element_size())
    return (slice(start, min(start + size, p.numel())) for start in range(0, p.numel(), size))


def paged_adamw(
    params: Iterable[nn.Parameter], lr: float = 1e-3, weight_decay: float = 1e-2, **settings: Any
) -> Optimizer:
    r"""AdamW with paged states: bitsandbytes' on CUDA, ours elsewhere, because its own runs unpaged on the CPU.

    On CUDA the driver moves the pages (unified memory), under pressure only: there is no budget, and tensors below
    100 000 elements are not paged. Ours has PyTorch's fused kernels, as AdamW in `coursekit.training.fit`.
    settings: betas, eps, and what the one in question knows besides.
    """
    params = list(params)
    if params and params[0].device.type == "cuda":
        from bitsandbytes.optim import PagedAdamW as Unified

        return Unified(params, lr=lr, weight_decay=weight_decay, **settings)
    return PagedAdamW(params, lr=lr, weight_decay=weight_decay, **{"fused": True, **settings})
