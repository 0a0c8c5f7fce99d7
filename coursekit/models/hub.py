r"""Where a model's files are: with the course, in a folder, or on the hub; and one line for what goes wrong there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as hf_logging

from coursekit.errors import CourseError, one_of, unknown
from coursekit.models import sources
from coursekit.paths import home

_DECODERS = {"smollm2": sources.smollm2}
_ENCODERS = {"minilm": sources.minilm}
_DTYPES = ("auto", "float32", "float16", "bfloat16", "float64")
_ATTENTIONS = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")
# Some of these have a causal class in transformers too, but no checkpoint that was trained for it.
_ENCODER_TYPES = frozenset(
    {"albert", "bert", "camembert", "deberta", "deberta-v2", "distilbert", "electra", "modernbert", "mpnet", "roberta",
     "xlm-roberta"}
)  # fmt: skip


def check_decoder(name: str | Path, config: Any) -> None:
    r"""CourseError where `config` is that of an encoder, or of an encoder with a decoder."""
    if _encodes(config):
        raise CourseError(f"{str(name)!r} is an encoder ({config.model_type}): load it with load_encoder")
    if config.is_encoder_decoder:
        raise CourseError(
            f"{str(name)!r} is an encoder-decoder ({config.model_type}), which the course's tasks are not made for: "
            "load it with transformers' AutoModelForSeq2SeqLM and attach methods to it"
        )


def _encodes(config: Any) -> bool:
    return config.model_type in _ENCODER_TYPES and not getattr(config, "is_decoder", False)


def is_encoder(name: str | Path) -> bool:
    r"""Whether `load_encoder` is the one for this model, rather than `load_decoder`.

    Raises CourseError for a name that is neither of the course's models, nor a folder, nor a hub id.
    """
    if str(name) in _ENCODERS or str(name) in _DECODERS:
        return str(name) in _ENCODERS
    if "/" not in str(name) and not Path(name).is_dir():
        raise unknown("model", str(name), [*_DECODERS, *_ENCODERS])
    source = locate(name, classifier=False)
    with one_line(name, source):
        return _encodes(AutoConfig.from_pretrained(source))


def finished(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    r"""Both as the course hands them out: in eval mode, and with a padding token that they agree on."""
    if tokenizer.pad_token is None:  # the attention mask hides it, whatever it is
        known = (tokenizer.eos_token, tokenizer.unk_token, tokenizer.bos_token, tokenizer.sep_token)
        tokenizer.pad_token = next((token for token in known if token is not None), None)
    if tokenizer.pad_token is None:
        raise CourseError(
            "this tokenizer has no token to pad with, and none for the end of a text: set tokenizer.pad_token to one "
            "of its tokens and save it again"
        )
    if model.config.pad_token_id is None:  # a decoder as classifier reads the last token that is no padding
        model.config.pad_token_id = tokenizer.pad_token_id
    return model.eval(), tokenizer


def locate(name: str | Path, classifier: bool) -> str:
    r"""What `from_pretrained` gets: a folder or a hub id. Refuses, without the network, what is neither."""
    text = str(name)
    here, other = (_ENCODERS, _DECODERS) if classifier else (_DECODERS, _ENCODERS)
    if text in here:
        return str(here[text]())
    try:
        folder = Path(text).expanduser()
    except RuntimeError as error:
        raise CourseError(f"there is no folder {text}: no user has this name") from error
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            if gguf := sorted(folder.glob("*.gguf")):
                raise _gguf(gguf[0])
            raise CourseError(f"the folder {text} holds no model: it has no config.json")
        return str(folder)
    if folder.suffix == ".gguf" and folder.is_file():
        raise _gguf(folder)
    if text in other:
        raise CourseError(
            f"{text!r} is of the other kind: load it with {'load_decoder' if classifier else 'load_encoder'}"
        )
    if isinstance(name, Path) or text.startswith((".", "~", os.sep)) or text.count("/") > 1 or "\\" in text:
        raise CourseError(f"there is no folder {text}")
    if "/" not in text:
        error = unknown("model", text, here)
        raise CourseError(f"{error}; or give a folder, or a hub id with its owner such as 'owner/{text}'")
    return text


def _gguf(file: Path) -> CourseError:
    r"""The error for a model in a GGUF file, which has another layout than the hub's."""
    return CourseError(
        f"{file.name} is a GGUF file: convert it once, with transformers' AutoModelForCausalLM and AutoTokenizer"
        f".from_pretrained({str(file.parent)!r}, gguf_file={file.name!r}) and save_pretrained, and load that folder"
    )


def check_settings(dtype: str | torch.dtype | None, attention: str | None) -> None:
    r"""CourseError where `dtype` is no precision that a model can have, or `attention` none of transformers' kinds."""
    if isinstance(dtype, str):
        one_of("dtype", dtype, _DTYPES)
    elif dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise CourseError(f"dtype must be a precision, such as 'float32' or torch.bfloat16; got {dtype!r}.")
    if attention is not None and "/" not in str(attention):  # a kernel of the hub has an owner
        one_of("attention", attention, _ATTENTIONS)


@contextmanager
def one_line(name: str | Path, source: str) -> Iterator[None]:
    r"""Turns what transformers and the hub raise into one line."""
    try:
        yield
    except CourseError:
        raise
    except Exception as error:
        said = str(error).strip().splitlines()
        said = said[0] if said else type(error).__name__
        kinds = {type(e).__name__ for e in _chain(error)}
        if Path(source).is_dir():
            cached = Path(source).is_relative_to(home())
            advice = "; if it is damaged, run `coursekit fetch`, which makes it anew" if cached else ""
            raise CourseError(f"cannot load a model from the folder {source}: {said}{advice}") from error
        if "GatedRepoError" in kinds:
            raise CourseError(
                f"{name!r} is gated: accept its licence on its page and log in with `hf auth login`"
            ) from error
        if "RepositoryNotFoundError" in kinds:
            raise CourseError(f"the hub has no model {name!r} that you may see: check the spelling") from error
        if isinstance(error, OSError):
            raise CourseError(
                f"cannot get {name!r} from the Hugging Face hub: check the connection (and HF_HUB_OFFLINE), "
                f"or use a folder or a bundled name ({', '.join([*_DECODERS, *_ENCODERS])})"
            ) from error
        raise CourseError(f"cannot load {name!r}: {said}") from error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


@contextmanager
def quiet() -> Iterator[None]:
    r"""Without the report of freshly drawn heads (they are meant to be) and the bar of a one-second load."""
    verbosity, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)
        if bars:
            hf_logging.enable_progress_bar()
