r"""The families that are described, by the `model_type` of their configs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from coursekit.architecture.bert import bert, deberta, distilbert, modernbert
from coursekit.architecture.gpt import gpt2, gpt_neox, opt
from coursekit.architecture.llama import llama
from coursekit.architecture.shapes import Architecture
from coursekit.architecture.t5 import t5
from coursekit.errors import CourseError

#: Family -> (the model types that belong to it, what describes them).
FAMILIES: dict[str, tuple[tuple[str, ...], Callable[[str, Any], Architecture]]] = {
    "bert": (("bert",), bert),
    "roberta": (("roberta", "xlm-roberta"), bert),
    "electra": (("electra",), bert),
    "distilbert": (("distilbert",), distilbert),
    "deberta-v2": (("deberta-v2",), deberta),
    "modernbert": (("modernbert",), modernbert),
    "gpt2": (("gpt2",), gpt2),
    "opt": (("opt",), opt),
    "gpt_neox": (("gpt_neox",), gpt_neox),
    "llama": (("llama", "mistral", "qwen2", "smollm3"), llama),
    "qwen3": (("qwen3",), llama),
    "gemma2": (("gemma2",), llama),
    "gemma3": (("gemma3_text",), llama),
    "phi3": (("phi3",), llama),
    "t5": (("t5",), t5),
}


def describe(config: Any) -> Architecture:
    r"""The shapes of the model that `config` (a transformers config) describes.

    Raises CourseError for a family the course does not know.
    """
    kind = getattr(config, "model_type", None)
    for family, (types, build) in FAMILIES.items():
        if kind in types:
            return build(family, config)
    known = ", ".join(t for types, _ in FAMILIES.values() for t in types)
    raise CourseError(f"model type {kind!r} is not described in coursekit.architecture; described: {known}")
