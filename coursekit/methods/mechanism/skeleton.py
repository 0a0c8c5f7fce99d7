r"""A model without weights, built from its config: what can be counted where no description of the family exists."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from coursekit.architecture import Architecture, describe
from coursekit.errors import CourseError


def described(config: Any) -> Architecture | None:
    r"""The shapes of the model that `config` describes, or None for a family without a description."""
    try:
        return describe(config)
    except CourseError:
        return None


def skeleton(config: Any) -> nn.Module:
    r"""The model of `config` on the meta device, where it takes no memory: to be read, never attached to.

    An encoder comes as a classifier of whole sequences, a decoder with its output layer. Raises CourseError for a
    config that transformers has no model for.
    """
    return _built(type(config), config.to_json_string(use_diff=False))


def has_masked_model(config: Any) -> bool:
    r"""Whether transformers has a masked language model of this type, which only encoders have."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    return config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES


@lru_cache(maxsize=8)
def _built(kind: type, text: str) -> nn.Module:
    import transformers as t

    config = kind.from_dict(json.loads(text))
    if config.is_encoder_decoder:
        order: tuple[Any, ...] = (t.AutoModelForSeq2SeqLM,)
    elif has_masked_model(config):
        order = (t.AutoModelForSequenceClassification,)
    else:
        order = (t.AutoModelForCausalLM,)
    for builder in (*order, t.AutoModel):
        if type(config) in builder._model_mapping:
            with torch.device("meta"):
                return builder.from_config(config)
    raise CourseError(
        f"transformers has no model for the config of a {config.model_type!r}: give the config of one that it can load"
    )
