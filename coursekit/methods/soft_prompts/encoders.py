r"""The prompt encoders of P-tuning: they make the virtual tokens from one another, so that neighbours learn together.

The modules have peft's names and peft's order, so that one seed gives both the same start.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn


class PromptEncoder(nn.Module, ABC):
    r"""n trained vectors, and a network that turns them into n virtual tokens."""

    def __init__(self, n: int, d: int):
        super().__init__()
        self.embedding = nn.Embedding(n, d)

    @property
    def n(self) -> int:
        r"""Number of virtual tokens."""
        return self.embedding.num_embeddings

    def forward(self) -> Float[Tensor, "n d"]:
        return self.encode(self.embedding.weight)

    @abstractmethod
    def encode(self, e: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        r"""The virtual tokens from the trained vectors `e`."""


class LSTMEncoder(PromptEncoder):
    r"""$\mathrm{MLP}([\overrightarrow{h_i} : \overleftarrow{h_i}])$: an LSTM in both directions, then two layers.

    Equation 5 of the paper; `hidden` is the width of one direction, d / 2 in the authors' code.
    """

    def __init__(self, n: int, d: int, hidden: int, layers: int = 2):
        super().__init__(n, d)
        self.lstm_head = nn.LSTM(d, hidden, num_layers=layers, bidirectional=True, batch_first=True)
        self.mlp_head = nn.Sequential(nn.Linear(2 * hidden, 2 * hidden), nn.ReLU(), nn.Linear(2 * hidden, d))

    def encode(self, e: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        # cuDNN has no backward pass for an LSTM in eval mode.
        with torch.backends.cudnn.flags(enabled=self.training):
            h, _ = self.lstm_head(e[None])  # (1, n, d) -> (1, n, 2 * hidden)
        return self.mlp_head(h)[0]  # (1, n, 2 * hidden) -> (n, d)


class MLPEncoder(PromptEncoder):
    r"""Three layers for each vector alone: the variant that peft has beside the paper's."""

    def __init__(self, n: int, d: int, hidden: int):
        super().__init__(n, d)
        self.mlp_head = nn.Sequential(
            nn.Linear(d, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, d)
        )

    def encode(self, e: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        return self.mlp_head(e[None])[0]  # (n, d) -> (n, d), through a batch of one as in peft
