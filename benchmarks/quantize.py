r"""Time of quantizing a matrix to 4 bits and back, against bitsandbytes on the same device.

    python benchmarks/quantize.py                                   # 4096 x 4096, fp32 and bf16, NF4
    python benchmarks/quantize.py --size 1024 --code fp4 --rounds 50

First both sides' codes, scales and values are compared: to the bit on a CPU; on a GPU all but ties, of which the
fraction is given. Then every round times one call of each, in an order that alternates.

- ratio: ours / theirs, median of the rounds and quartiles; cpu_ratio: the same for this process's CPU time.
- ms: what each took, for orientation. Machines are shared: compare ratios.
- bandwidth: bytes that must be read and written, over time, over what a plain copy moves on this device in that time.
- kernel_ratio, kernel_us, on a GPU: the time its kernels run, without what Python and the launches take. There the
  bandwidth is that of the kernels.

Both sides make their result anew in every call, which on a CPU is most of the work for large matrices: the system has
to find and clear the memory. `dequantize into a buffer` is ours without that, against bitsandbytes with it, for its
CPU code has no such call.
"""

import json
import statistics
import time
from collections.abc import Callable
from typing import Annotated, Any

import bitsandbytes.functional as bnb
import torch
import typer
from stepping import Took, interleaved

from coursekit.errors import unknown
from coursekit.quantization import dequantize, quantize_blockwise

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Timed:
    r"""A call as a step to interleave. On a GPU several calls: one takes less than the clock and the launch."""

    def __init__(self, call: Callable[[], Any], device: torch.device):
        self.call, self.repeats = call, 50 if device.type == "cuda" else 1
        self.seconds: list[float] = []

    def __call__(self) -> Took:
        _wait()
        start, cpu = time.perf_counter(), time.process_time()
        for _ in range(self.repeats):
            result = self.call()  # the last one before is freed meanwhile, as in a loop over layers
        _wait()
        took = Took(0.0, *((end - begin) / self.repeats for begin, end in (
            (start, time.perf_counter()), (cpu, time.process_time()),
        )))  # fmt: skip
        del result
        self.seconds.append(took.seconds)
        return took


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def copy_speed(device: torch.device, nbytes: int = 2**28) -> float:
    r"""Bytes per second that a copy reads and writes, memory already at hand."""
    source = torch.zeros(nbytes // 4, device=device)
    target = torch.zeros_like(source)
    copy = Timed(lambda: target.copy_(source), device)
    return 2 * nbytes / min(copy().seconds for _ in range(7))


def kernel_seconds(call: Callable[[], Any], repeats: int = 20) -> float:
    r"""How long the GPU itself works on one call."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
        for _ in range(repeats):
            call()
        _wait()
    return sum(event.self_device_time_total for event in seen.key_averages()) / repeats / 1e6


def row(what: str, ours: Callable, theirs: Callable, moved: int, speed: float, rounds: int, device: torch.device):
    r"""One comparison; `moved`: bytes that have to be read and written at least."""
    pair = Timed(ours, device), Timed(theirs, device)
    ratios = interleaved(*pair, rounds)
    found = {"what": what} | {key: value for key, value in ratios.items() if "loss" not in key}
    seconds = [statistics.median(timed.seconds[2:]) for timed in pair]
    found["ms"] = [round(1e3 * s, 3) for s in seconds]
    if device.type == "cuda":
        seconds = [kernel_seconds(timed.call) for timed in pair]
        found["kernel_us"] = [round(1e6 * s, 1) for s in seconds]
        found["kernel_ratio"] = round(seconds[0] / seconds[1], 3)
    return found | {"bandwidth": [round(moved / s / speed, 3) for s in seconds]}


def compare(x: torch.Tensor, code: str, block: int, rounds: int) -> list[dict[str, Any]]:
    r"""Quantizing x and back."""
    q = quantize_blockwise(x, code, block)
    packed, state = bnb.quantize_4bit(x, quant_type=code, blocksize=block)
    values = dequantize(q)
    differ = (values != bnb.dequantize_4bit(packed, state)).float().mean().item()
    if x.device.type == "cpu":
        same = torch.equal(q.packed, packed.view(-1)) and torch.equal(q.absmax, state.absmax)
        assert same and differ == 0, "not the same result"
    assert differ < 1e-4, f"not the same result: {differ:.2%} of the values differ"
    speed = copy_speed(x.device)
    there, buffer = x.nbytes + q.nbytes, torch.empty_like(x)

    def quantize() -> Any:
        return quantize_blockwise(x, code, block)

    def bnb_dequantize() -> Any:
        return bnb.dequantize_4bit(packed, state)

    def bnb_into() -> Any:
        return bnb.dequantize_4bit(packed, state, out=buffer) if x.is_cuda else bnb_dequantize()

    pairs = {
        "quantize": (quantize, lambda: bnb.quantize_4bit(x, quant_type=code, blocksize=block)),
        "dequantize": (lambda: dequantize(q), bnb_dequantize),
        "dequantize into a buffer": (lambda: dequantize(q, out=buffer), bnb_into),
    }
    return [
        {"values_that_differ": differ} | row(what, *pair, there, speed, rounds, x.device)
        for what, pair in pairs.items()
    ]


def main(
    size: Annotated[int, typer.Option(help="rows and columns of the matrix")] = 4096,
    dtype: Annotated[list[str], typer.Option(help="fp32, bf16, fp16")] = ("fp32", "bf16"),
    code: Annotated[str, typer.Option(help="nf4 or fp4")] = "nf4",
    block: int = 64,
    rounds: int = 21,
) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    random = torch.Generator().manual_seed(0)
    for each in dtype:
        if each not in DTYPES:
            raise SystemExit(str(unknown("dtype", each, DTYPES)))
    if code not in ("nf4", "fp4"):
        raise SystemExit(str(unknown("code", code, ("nf4", "fp4"))))
    for each in dtype:
        x = torch.randn(size, size, generator=random).to(device, DTYPES[each])
        head = {"code": code, "size": size, "dtype": each, "device": name, "threads": torch.get_num_threads()}
        for found in compare(x, code, block, rounds):
            print(json.dumps(head | found), flush=True)


if __name__ == "__main__":
    typer.run(main)
