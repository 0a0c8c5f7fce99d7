r"""The same adapter twice, of the same weights: ours on one copy of a model, peft's on another."""

import copy
import tempfile

import peft
import torch
from torch import Tensor, nn

from coursekit.methods import IntrinsicSAID, PrefixTuning, PTuning
from coursekit.methods.mechanism.method import Method
from coursekit.methods.mechanism.modules import HEADS
from coursekit.models import load_decoder, load_encoder

SHAPES = {"smollm2": (8, 48), "minilm": (32, 40)}  # rows, tokens: a batch of film sentences


def load(name: str) -> nn.Module:
    r"""A bundled model; a language model is told not to keep keys and values, as `fit` does."""
    model = load_encoder(name)[0] if name == "minilm" else load_decoder(name)[0]
    model.config.use_cache = False
    return model


def make_batch(name: str, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    r"""Random tokens of the model's usual batch shape; the time of a step does not depend on which."""
    rows, tokens = SHAPES[name]
    random = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, 20000, (rows, tokens), generator=random).to(device)
    labels = torch.randint(0, 2, (rows,), generator=random).to(device) if name == "minilm" else ids
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def with_peft(base: nn.Module, method: Method) -> tuple[nn.Module, nn.Module]:
    r"""Ours and peft's, ready to train from the same weights, task heads included; `base` becomes peft's."""
    ours = method.attach(copy.deepcopy(base))
    with tempfile.TemporaryDirectory() as folder:
        method.save(ours, folder)
        config = peft.PeftConfig.from_pretrained(folder)
        if not config.is_prompt_learning:
            return ours.train(), peft.PeftModel.from_pretrained(base, folder, is_trainable=True).train()
        # peft loads a soft prompt for use only: to train it, it is made anew and given our start.
        config.inference_mode = False
        theirs = peft.get_peft_model(base, config)
    theirs.prompt_encoder["default"].load_state_dict(_encoder(ours, method))
    return ours.train(), theirs.train()


def with_torch(base: nn.Module, method: Method) -> tuple[nn.Module, nn.Module]:
    r"""Ours, and plain PyTorch without any method: every tensor that ours changes, wholly or in part, trains in place.

    The task heads train in both; `base` becomes PyTorch's.
    """
    ours = method.attach(copy.deepcopy(base))
    everything = isinstance(method, IntrinsicSAID)
    changed = set() if everything else method.touched(ours)
    for name, parameter in base.named_parameters():
        parameter.requires_grad_(everything or name in changed or name.split(".")[0] in HEADS)
    return ours.train(), base.train()


def _encoder(model: nn.Module, method: Method) -> dict[str, Tensor]:
    r"""What peft's prompt encoder has to hold: the prompt, or the network that makes it."""
    if isinstance(method, PrefixTuning) and method.hidden is not None:
        return method.network(model)
    tensors = method._tensors(model, "default")
    if isinstance(method, PTuning):
        return {k.removeprefix("prompt_encoder."): v for k, v in tensors.items() if k != "prompt_embeddings"}
    return {"embedding.weight": tensors["prompt_embeddings"]}
