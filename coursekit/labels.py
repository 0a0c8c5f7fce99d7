r"""The label that a loss leaves out."""

from __future__ import annotations

#: The default `ignore_index` of PyTorch's cross-entropy, and transformers' word for "do not learn this token".
IGNORED = -100
