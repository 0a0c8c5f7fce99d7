r"""Our adapters against the `adapters` library, from what it stored: it needs an older transformers than the course.

data/adapterhub/ holds a small BERT with random weights, adapters as the library's `save_adapter` wrote them, and the
hidden states that it computed with each.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from coursekit import adapterhub
from coursekit.paths import DATA


@dataclass(frozen=True)
class Gap:
    r"""method: by its config. moved: how far it moves a hidden state at most. largest: how far ours is then
    is from the library's at most.
    """

    method: str
    moved: float
    largest: float


def gaps(names: Sequence[str] = ("houlsby", "pfeiffer", "parallel")) -> list[Gap]:
    r"""One for each adapter in data/adapterhub/ that `names` name; hidden states of the last layer are compared."""
    from safetensors import safe_open
    from transformers import BertConfig, BertForSequenceClassification

    with safe_open(DATA / "adapterhub" / "bert.safetensors", "pt") as file:
        kept = {key: file.get_tensor(key) for key in set(file.keys())}
    config = BertConfig(
        hidden_size=12, intermediate_size=20, num_hidden_layers=2, num_attention_heads=3, max_position_embeddings=12,
        vocab_size=97, attn_implementation="eager",
    )  # fmt: skip
    bert = BertForSequenceClassification(config).eval()
    bert.load_state_dict({key.removeprefix("base."): v for key, v in kept.items() if key.startswith("base.")})
    inputs, found = {key: kept[key] for key in ("input_ids", "attention_mask")}, []
    for name in names:
        method = adapterhub.read_method(DATA / "adapterhub" / name)
        ours = adapterhub.load(copy.deepcopy(bert), DATA / "adapterhub" / name)
        with torch.no_grad():
            last = ours(**inputs, output_hidden_states=True).hidden_states[-1]
        gap, moved = ((last - kept[key]).abs().max().item() for key in (f"{name}.hidden", "plain.hidden"))
        said = f"{type(method).__name__}(r={method.r}, activation={method.activation!r})"
        found.append(Gap(said, moved, gap))
    return found
