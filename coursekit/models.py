r"""One call for every model: the two that come with the course, a local folder, or any id on the hub."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as hf_logging

from coursekit import sources
from coursekit.device import pick_device, pick_dtype
from coursekit.errors import CourseError, unknown

_DECODERS = {"smollm2": sources.smollm2}
_ENCODERS = {"minilm": sources.minilm}
# These have a causal class in transformers too, but no checkpoint that was trained for it.
_ENCODER_TYPES = frozenset(
    {"albert", "bert", "camembert", "deberta-v2", "distilbert", "electra", "roberta", "xlm-roberta"}
)


def load_decoder(
    name: str | Path = "smollm2",
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    attention: str | None = None,
    quantize: str | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    r"""A causal language model, in eval mode, and its tokenizer (which always has a padding token).

    name: "smollm2", a folder in the layout of the hub, or a hub id such as "meta-llama/Llama-3.1-8B".
    device, dtype: by the device rule unless given. attention: "sdpa" or "eager", else transformers' choice.
    quantize: a code such as "nf4" for linear layers in 4 bits, quantized while the files are read; `load_quantized`
    in `coursekit.quantization` has more settings.

    Raises CourseError for an unknown name, a hub that cannot be reached, and a checkpoint that is no decoder.
    """
    if quantize is not None:
        from coursekit.quantization import load_quantized

        return load_quantized(name, code=quantize, device=device, dtype=dtype, attention=attention)
    return _load(AutoModelForCausalLM, name, device, dtype, attention, seed=0)


def load_encoder(
    name: str | Path = "minilm",
    num_labels: int = 2,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    attention: str | None = None,
    seed: int = 0,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    r"""A sequence classifier, in eval mode, and its tokenizer.

    name: "minilm", a folder in the layout of the hub, or a hub id such as "FacebookAI/roberta-base".
    num_labels: size of the output; 1 makes it a regression. A head that the checkpoint lacks, or has in
    another size, is drawn afresh from `seed`; the global random generator is neither used nor moved.

    Raises CourseError for an unknown name, a hub that cannot be reached, and a checkpoint of another kind.
    """
    if num_labels < 1:
        raise CourseError(f"num_labels={num_labels}: a classifier needs at least one output")
    return _load(
        AutoModelForSequenceClassification, name, device, dtype, attention, seed, num_labels=num_labels
    )


def _load(
    auto: Any,
    name: str | Path,
    device: str | torch.device | None,
    dtype: str | torch.dtype | None,
    attention: str | None,
    seed: int,
    **settings: Any,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    r"""`auto.from_pretrained`, with everything that can go wrong said in one line."""
    device = pick_device(device)
    source = _locate(name, classifier=auto is AutoModelForSequenceClassification)
    wanted: dict[str, Any] = {"dtype": dtype or pick_dtype(device)}
    if attention is not None:
        wanted["attn_implementation"] = attention
    with _one_line(name, source):
        config = AutoConfig.from_pretrained(source, **settings)
    if auto is AutoModelForCausalLM:
        check_decoder(name, config)
    with _one_line(name, source), _quiet(), _drawn_from(seed, device):
        tokenizer = AutoTokenizer.from_pretrained(source)
        model, report = auto.from_pretrained(
            source, config=config, ignore_mismatched_sizes=True, output_loading_info=True, **wanted
        )
    _check_complete(name, model, report, headless=auto is AutoModelForSequenceClassification)
    return finished(model.to(device), tokenizer)


def check_decoder(name: str | Path, config: Any) -> None:
    r"""CourseError where `config` is that of an encoder."""
    if _encodes(config):
        raise CourseError(f"{str(name)!r} is an encoder ({config.model_type}): load it with load_encoder")


def _encodes(config: Any) -> bool:
    return config.model_type in _ENCODER_TYPES and not config.is_decoder


def is_encoder(name: str | Path) -> bool:
    r"""Whether `load_encoder` is the one for this model, rather than `load_decoder`.

    Raises CourseError for a name that is neither of the course's models, nor a folder, nor a hub id.
    """
    if str(name) in _ENCODERS or str(name) in _DECODERS:
        return str(name) in _ENCODERS
    if "/" not in str(name) and not Path(name).is_dir():
        raise unknown("model", str(name), [*_DECODERS, *_ENCODERS])
    source = _locate(name, classifier=False)
    with _one_line(name, source):
        return _encodes(AutoConfig.from_pretrained(source))


def finished(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    r"""Both as the course hands them out: in eval mode, and with a padding token that they agree on."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if model.config.pad_token_id is None:  # a decoder as classifier reads the last token that is no padding
        model.config.pad_token_id = tokenizer.pad_token_id
    return model.eval(), tokenizer


def _locate(name: str | Path, classifier: bool) -> str:
    r"""What `from_pretrained` gets: a folder or a hub id. Refuses, without the network, what is neither."""
    text = str(name)
    here, other = (_ENCODERS, _DECODERS) if classifier else (_DECODERS, _ENCODERS)
    if text in here:
        return str(here[text]())
    folder = Path(text).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise CourseError(f"the folder {text} holds no model: it has no config.json")
        return str(folder)
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


@contextmanager
def _one_line(name: str | Path, source: str) -> Iterator[None]:
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
            cached = Path(source).is_relative_to(sources.home())
            advice = "; if it is damaged, delete it and run `coursekit fetch`" if cached else ""
            raise CourseError(f"cannot load a model from the folder {source}: {said}{advice}") from error
        if "GatedRepoError" in kinds:
            raise CourseError(
                f"{name!r} is gated: accept its licence on its page and log in with `hf auth login`"
            ) from error
        if "RepositoryNotFoundError" in kinds:
            raise CourseError(
                f"the hub has no model {name!r} that you may see: check the spelling"
            ) from error
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


def _check_complete(name: str | Path, model: PreTrainedModel, report: dict[str, Any], headless: bool) -> None:
    r"""Refuses a checkpoint that would leave part of the pretrained body at random values."""
    lost = {*report["missing_keys"], *(key[0] for key in report["mismatched_keys"])}
    body = f"{model.base_model_prefix}."
    if headless:  # BERT's pooler belongs to the body, yet checkpoints of masked models lack it
        lost = {key for key in lost if key.startswith(body) and ".pooler." not in key}
    if lost:
        raise CourseError(
            f"the checkpoint {str(name)!r} does not fit {type(model).__name__}: "
            f"{len(lost)} tensors would be random, for example {min(lost)}"
        )


@contextmanager
def _quiet() -> Iterator[None]:
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


@contextmanager
def _drawn_from(seed: int, device: torch.device) -> Iterator[None]:
    r"""Random numbers from `seed` inside, the caller's generators as they were afterwards."""
    gpus = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        torch.manual_seed(seed)
        yield
