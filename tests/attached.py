r"""What the tests of every method need: labelled batches, parameters that are not at their start, a few steps."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import families
import pytest
import tiny
import torch
from torch import Tensor, nn

from coursekit import methods
from coursekit.errors import CourseError

#: Matrices and embeddings on which a LoRA can be, by family.
EVERYTHING = {
    "bert": ("query", "value", "dense", "word_embeddings"),
    "roberta": ("query", "value", "dense", "word_embeddings"),
    "gpt2": ("c_attn", "c_proj", "c_fc", "wpe"),
    "opt": ("q_proj", "v_proj", "fc1", "fc2", "embed_tokens"),
    "llama": ("q_proj", "k_proj", "down_proj", "embed_tokens"),
}


def labelled(family: str, **kwargs) -> dict[str, Tensor]:
    r"""A tiny batch with the labels that the family's model has a loss for."""
    made = tiny.batch(**kwargs)
    rows = len(made["input_ids"])
    labels = torch.arange(rows).clamp(max=1) if family in families.ENCODERS else made["input_ids"]
    return made | {"labels": labels}


def nonzero(model: nn.Module, seed: int = 3, scale: float = 0.2) -> nn.Module:
    r"""Give every trained parameter a value, so that a wrong scale shows: with B = 0 none would."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=random) * scale + 0.05)
    return model


def alive(method: Any, model: nn.Module, name: str = "default", seed: int = 3, scale: float = 0.2) -> nn.Module:
    r"""`model` with the method on it, its parameters away from their start."""
    return nonzero(method.attach(model, name), seed, scale)


def answers(model: nn.Module, one: dict[str, Tensor]) -> Tensor:
    r"""The logits of a batch, without gradients."""
    with torch.no_grad():
        return model(**one).logits


def body(model: nn.Module) -> int:
    r"""How many parameters of `model` train, task head aside: what a method's closed form counts."""
    return sum(p.numel() for n, p in model.named_parameters() if p.requires_grad and ".copies." not in n)


def train(model: nn.Module, batches: list[dict], lr: float = 1e-3, make: Any = torch.optim.AdamW) -> list[float]:
    r"""One step of AdamW, or of what `make` makes, for each batch; the losses."""
    optimizer = make([p for p in model.parameters() if p.requires_grad], lr=lr)
    losses = []
    for one in batches:
        loss = model(**one).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def rows_answer_as_alone(
    model: nn.Module, names: Sequence[str | None], one: dict[str, Tensor], atol: float = 1e-5, rtol: float = 1e-4
) -> Tensor:
    r"""The logits of a batch whose rows have an adapter each, at the tokens that count: as with each of them alone."""
    with torch.no_grad():
        alone = torch.stack([methods.activate(model, name)(**one).logits[row] for row, name in enumerate(names)])
        with methods.mixed_batch(model, names):
            mixed = model(**one).logits
    seen = one["attention_mask"].bool() if mixed.dim() == 3 and "attention_mask" in one else slice(None)
    torch.testing.assert_close(mixed[seen], alone[seen], atol=atol, rtol=rtol)
    return mixed


def hooks(model: nn.Module) -> int:
    r"""How many hooks there are in `model`."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


def state(model: nn.Module) -> tuple:
    r"""What of a model an attempt could have changed: modules, methods, hooks, flags, and every number in bytes."""
    kinds = [(name, type(module)) for name, module in model.named_modules()]
    flags = [(name, parameter.requires_grad) for name, parameter in model.named_parameters()]
    tensors = {name: value.detach().contiguous() for name, value in model.state_dict().items() if not value.is_meta}
    numbers = {name: value.view(-1).view(torch.uint8).numpy().tobytes() for name, value in tensors.items()}
    return kinds, flags, numbers, hooks(model), dict(methods.attached(model)), hasattr(model, "_coursekit")


@contextmanager
def refused(said: str, *models: nn.Module) -> Iterator[None]:
    r"""What stands inside is an error of one line that says `said`, and the models are what they were before."""
    before = [state(model) for model in models]
    with pytest.raises(CourseError, match=said) as error:
        yield
    assert "\n" not in str(error.value)
    assert [state(model) for model in models] == before
