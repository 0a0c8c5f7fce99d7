r"""A model without weights, built from its config: what can be counted where no description of the family exists."""

from __future__ import annotations

import copy
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
    key = (type(config), config.to_json_string(use_diff=False))
    if key not in _BUILT:
        if len(_BUILT) >= KEPT:
            del _BUILT[next(iter(_BUILT))]
        _BUILT[key] = _build(copy.deepcopy(config))
    return _BUILT[key]


#: The last skeletons by their configs: what is counted once is often counted again.
_BUILT: dict[tuple[type, str], nn.Module] = {}
KEPT = 8


def has_masked_model(config: Any) -> bool:
    r"""Whether transformers has a masked language model of this type, which only encoders have."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    return config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES


def _build(config: Any) -> nn.Module:
    import transformers as t

    if config.is_encoder_decoder:
        first: Any = t.AutoModelForSeq2SeqLM
    else:
        first = t.AutoModelForSequenceClassification if has_masked_model(config) else t.AutoModelForCausalLM
    for builder in (first, t.AutoModel):
        if type(config) in builder._model_mapping:
            with torch.device("meta"):
                return builder.from_config(config)
    raise CourseError(
        f"transformers has no model for the config of a {config.model_type!r}: give the config of one that it can load"
    )
