r"""Time and memory of a training step: every method against the library that has it too, with the same weights.

What no library has is put beside plain PyTorch, which trains the same tensors in place.

    python benchmarks/step.py                                        # everything, on both bundled models
    python benchmarks/step.py --method ia3 --model minilm --rounds 60
    python benchmarks/step.py --adapters-python ENV/bin/python       # and the bottleneck adapters against `adapters`

Both sides start from one checkpoint, and their losses are compared, so that speed is never bought with another result.

- ratio: machines are shared and clocks drift, so only ratios of times are reported. Every round times one step of
  each, in an order that alternates; given are the median of the per-round ratios and its quartiles.
- cpu_ratio: the same for CPU time, which other processes do not add to, though they slow it down. Set
  OMP_NUM_THREADS=1: threads that wait for one another would count as work.
- peak_mb: the most that is alive in one step, tensor by tensor on a CPU, by CUDA's allocator on a GPU.
- traffic_mb: bytes that the operations of forward and backward read and write. Exact, whatever else the machine does.

`adapters` 1.3.0 wants another transformers and so another environment (tests/fixtures/make_adapters.py says how to
make one; it needs jaxtyping as well): there two processes take turns. How the two versions of transformers compare
without any adapter is a row of its own, "full".
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from stepping import Took, interleaved, stepper
from torch import nn
from traffic import traffic
from twins import load, make_batch, with_peft, with_torch

from coursekit import adapterhub, methods
from coursekit.errors import unknown
from coursekit.memory.measure import measure

MODELS = ("minilm", "smollm2")
#: peft's prefix tuning fails on encoders with this transformers, and its LLaMA-Adapter knows no encoder.
DECODER = ("smollm2",)
AGAINST_PEFT = {
    "lora": (methods.LoRA(r=8, alpha=16), MODELS),
    "lora-all-linear": (methods.LoRA(r=8, alpha=16, targets="all-linear"), MODELS),
    "dora": (methods.LoRA(r=8, alpha=16, dora=True), MODELS),
    "vera": (methods.VeRA(r=256), MODELS),
    "oft": (methods.OFT(block_size=32), MODELS),
    "ia3": (methods.IA3(), MODELS),
    "prompt": (methods.PromptTuning(n=20), MODELS),
    "prefix": (methods.PrefixTuning(n=20), DECODER),
    "prefix-network": (methods.PrefixTuning(n=20, hidden=512), DECODER),
    "p-tuning-lstm": (methods.PTuning(n=20), MODELS),
    "p-tuning-mlp": (methods.PTuning(n=20, encoder="mlp"), MODELS),
    "llama-adapter": (methods.LlamaAdapter(n=10), DECODER),
    "norms": (methods.NormTuning(), MODELS),
    "lora-bitfit": (methods.Hybrid(methods.LoRA(r=8, alpha=16), methods.BitFit()), ("minilm",)),
}
#: The same tensors trained in place: whole where ours trains a part of each, or moves all of them.
AGAINST_TORCH = {
    "bitfit": (methods.BitFit(), ("minilm",)),  # Llama has no biases
    "top-layers": (methods.TopLayers(k=2), MODELS),
    "rows": (methods.SelectRows(rows=0.1), MODELS),
    "mask": (methods.FishMask(keep=0.005, score="magnitude"), MODELS),
    "far": (methods.FreezeAndReconfigure(nodes=(tuple(range(150)),)), MODELS),
    "said": (methods.IntrinsicSAID(d=1000), MODELS),
}
AGAINST_ADAPTERS = {
    "full": (None, MODELS),
    "houlsby": (methods.HoulsbyAdapter(r=64), MODELS),
    "pfeiffer": (methods.PfeifferAdapter(r=64), MODELS),
    "parallel": (methods.ParallelAdapter(r=64), MODELS),
    "compacter": (methods.Compacter(n=4, r=16), MODELS),
}


def against_peft(name: str, method: Any, rounds: int) -> dict[str, Any]:
    r"""One row: this method and peft's, in this process."""
    models = with_peft(load(name), method)
    assert methods.trainable(models[0]) == methods.trainable(models[1]), (
        "not the same method: another number of parameters"
    )
    return _here(name, models, rounds)


def against_torch(name: str, method: Any, rounds: int) -> dict[str, Any]:
    r"""One row: this method, and the tensors that it changes trained in place."""
    return _here(name, with_torch(load(name), method), rounds)


def _here(name: str, models: tuple[nn.Module, nn.Module], rounds: int) -> dict[str, Any]:
    r"""One row of two models in this process."""
    batch = make_batch(name, next(models[0].parameters()).device)
    row = interleaved(*(stepper(model, batch) for model in models), rounds)
    row |= _both("peak", *(measure(model, batch).peak for model in models))
    return row | _both("traffic", *(traffic(model, batch).bytes.total() for model in models))


@dataclass
class Worker:
    r"""A process with one model; see worker.py."""

    python: str
    arguments: dict[str, Any]
    said: dict[str, Any] = field(default_factory=dict)

    def __enter__(self) -> Worker:
        # Threads that wait for work must not keep a core busy while the other process is timed.
        environment = os.environ | {"OMP_WAIT_POLICY": "passive", "PYTHONWARNINGS": "ignore"}
        self.process = subprocess.Popen(
            [self.python, str(Path(__file__).with_name("worker.py"))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        self.said = self.ask(self.arguments)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()
        self.process.wait()

    def ask(self, what: Any) -> Any:
        r"""What the process answers to `what`."""
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        if not (answer := self.process.stdout.readline()):
            raise SystemExit(f"{self.python} ended before it answered; its last words are above")
        return json.loads(answer)

    def step(self) -> Took:
        r"""One training step."""
        return Took(*self.ask("step"))


def against_adapters(name: str, method: Any, rounds: int, python: str) -> dict[str, Any]:
    r"""One row: this method and that of the `adapters` library, each in its own process."""
    with tempfile.TemporaryDirectory() as folder:
        base, adapter = Path(folder, "base"), None
        load(name).save_pretrained(base)
        if method is not None:
            adapter = str(Path(folder, "adapter"))
            adapterhub.save(method.attach(load(name)), adapter)
        batch = {key: value.tolist() for key, value in make_batch(name).items()}
        common = {"name": name, "base": str(base), "adapter": adapter, "batch": batch}
        libraries = ("transformers",) * 2 if method is None else ("coursekit", "adapters")
        with (
            Worker(sys.executable, common | {"library": libraries[0]}) as ours,
            Worker(python, common | {"library": libraries[1]}) as theirs,
        ):
            row = interleaved(ours.step, theirs.step, rounds)
            assert ours.said["trained"] == theirs.said["trained"], f"not the same: {ours.said} {theirs.said}"
            versions = [ours.said["transformers"], theirs.said["transformers"]]
            for what in ("peak", "traffic"):
                row |= _both(what, ours.ask(what), theirs.ask(what))
            return row | {"transformers": versions}


def _both(what: str, ours: int, theirs: int) -> dict[str, Any]:
    megabytes = [round(ours / 1e6, 1), round(theirs / 1e6, 1)]
    return {f"{what}_mb": megabytes, f"{what}_ratio": round(ours / theirs, 3)}


def main(
    model: Annotated[list[str], typer.Option(help="smollm2 or minilm; both unless named")] = MODELS,
    method: Annotated[list[str] | None, typer.Option(help="names from the tables above; all unless named")] = None,
    rounds: int = 30,
    adapters_python: Annotated[
        Path | None, typer.Option(help="interpreter of an environment with the `adapters` library")
    ] = None,
) -> None:
    tables = AGAINST_PEFT | AGAINST_TORCH | (AGAINST_ADAPTERS if adapters_python else {})
    for wanted in method or ():
        if wanted not in (known := AGAINST_PEFT | AGAINST_TORCH | AGAINST_ADAPTERS):
            raise SystemExit(str(unknown("method", wanted, known)))
        if wanted not in tables:
            raise SystemExit(f"{wanted} is compared with `adapters`: give --adapters-python")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    for key in method or tables:
        settings, fits = tables[key]
        for name in (name for name in model if name in fits):
            if key in AGAINST_PEFT:
                row = {"against": "peft"} | against_peft(name, settings, rounds)
            elif key in AGAINST_TORCH:
                row = {"against": "torch"} | against_torch(name, settings, rounds)
            else:
                row = {"against": "adapters"} | against_adapters(name, settings, rounds, str(adapters_python))
            head = {"method": key, "model": name, "device": device, "threads": torch.get_num_threads()}
            print(json.dumps(head | row), flush=True)


if __name__ == "__main__":
    typer.run(main)
