r"""A process that holds one model and makes a step when it is asked to: for libraries that cannot live in one process.

`step.py` starts two of these, one with its own Python and one with that of another environment. The first line in is
an object with the arguments of `serve`; each further one, `"step"`, `"peak"` or `"traffic"`, gets one line back.
"""

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the checkout, where the course is not installed

import torch
import transformers
from stepping import stepper
from torch import nn
from traffic import traffic

from coursekit.memory.measure import measure  # needs PyTorch, transformers and jaxtyping only


def build(library: str, name: str, base: str, adapter: str | None) -> nn.Module:
    r"""The model of `base`, trained whole with `adapter` None, else with that adapter and its head."""
    kind = "AutoModelForSequenceClassification" if name == "minilm" else "AutoModelForCausalLM"
    model = getattr(transformers, kind).from_pretrained(base)
    model.config.use_cache = False
    if library == "adapters":
        import adapters

        adapters.init(model)
        model.train_adapter(model.load_adapter(adapter, set_active=True))
    elif library == "coursekit":
        from coursekit import adapterhub

        adapterhub.load(model, adapter)
    return model.train()


def serve(library: str, name: str, base: str, adapter: str | None, batch: dict[str, Any]) -> None:
    r"""Answer until there is nothing more to read."""
    answers, sys.stdout = sys.stdout, sys.stderr  # what a library prints is no answer
    model = build(library, name, base, adapter)
    tensors = {key: torch.tensor(value) for key, value in batch.items()}
    step = stepper(model, tensors)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    print(json.dumps({"transformers": transformers.__version__, "trained": trained}), file=answers, flush=True)
    can = {
        "step": step,
        "peak": lambda: measure(model, tensors).peak,
        "traffic": lambda: traffic(model, tensors).bytes.total(),
    }
    for line in sys.stdin:
        print(json.dumps(can[json.loads(line)]()), file=answers, flush=True)


if __name__ == "__main__":
    serve(**json.loads(sys.stdin.readline()))
