r"""A language model from scratch: its tokenizer, its text in blocks, and a decoder with random weights.

Small enough to train in a minute on two cores. The parts are those of large models: byte-pair encoding (Sennrich et
al. 2016, arXiv:1508.07909) over bytes, and Llama's architecture (Touvron et al. 2023, arXiv:2302.13971).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from datasets import Dataset, DatasetDict
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from torch.optim import AdamW
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from coursekit.device import pick_device
from coursekit.errors import CourseError, whole
from coursekit.tasks.prepared import Prepared

#: What stands between two texts.
END = "<|end|>"


def train_tokenizer(texts: Iterable[str], vocab: int = 512) -> PreTrainedTokenizerFast:
    r"""Byte-pair encoding learned from `texts`: the 256 bytes, `END`, and the most frequent pairs until there are
    `vocab` tokens. Every text can be written with it, and read back unchanged.

    Raises CourseError where `vocab` has no room for the bytes, or the texts have too few pairs to fill it.
    """
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocab <= len(alphabet):
        raise CourseError(f"vocab={vocab}: the {len(alphabet)} bytes and {END} come first, take at least 257")
    built = Tokenizer(models.BPE())
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    built.train_from_iterator(texts, trainer)
    if built.get_vocab_size() < vocab:
        raise CourseError(
            f"the texts give {built.get_vocab_size()} tokens and not {vocab}: take a smaller vocabulary, or more text"
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=built, bos_token=END, eos_token=END, pad_token=END, clean_up_tokenization_spaces=False
    )


def small_decoder(
    vocab: int, *, d_model: int = 192, layers: int = 2, heads: int = 4, context: int = 64, seed: int = 0,
    device: str | torch.device | None = None,
) -> LlamaForCausalLM:  # fmt: skip
    r"""A Llama with random weights, in eval mode, in fp32, with feed-forward layers about 8/3 as wide as the model.

    Matrices are drawn from N(0, 1/d_model), so that an answer is about as large as its input. (The usual standard
    deviation of 0.02 is for wide models: here it makes the first hundreds of steps a wait.) Input and output layer
    are two tables. Everything is drawn from `seed`; the global random generator is neither used nor moved.
    """
    if d_model % heads:
        raise CourseError(f"d_model={d_model} cannot be shared by {heads} heads: take a multiple")
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=d_model,
        intermediate_size=-(-8 * d_model // 3 // 32) * 32,  # up to a multiple of 32
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=context,
        initializer_range=d_model**-0.5,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # the CPU's alone: a GPU's would not be put back
        model = LlamaForCausalLM(config)
    return model.to(pick_device(device)).eval()


def prepare_text(texts: Mapping[str, Iterable[str]], tokenizer: Any, block: int = 64) -> Prepared:
    r"""Texts of each split in blocks of `block` tokens, all of them learned: next-token prediction.

    Each text is followed by the tokenizer's end-of-text token; what fills no block at the very end is dropped. Raises
    CourseError where a split has too little text for one block, and for blocks of one token: they predict nothing.
    """
    block, data = whole("block", block, least=2), {}
    for split, rows in texts.items():
        ids = tokenizer(list(rows), add_special_tokens=False, return_attention_mask=False)["input_ids"]
        stream = [token for row in ids for token in (*row, tokenizer.eos_token_id)]
        found = [stream[start : start + block] for start in range(0, len(stream) - block + 1, block)]
        if not found:
            raise CourseError(
                f"the {split} texts have {sum(map(len, ids))} tokens, less than one block of {block}: take shorter "
                "blocks, or more text"
            )
        data[split] = Dataset.from_dict(
            {"input_ids": found, "attention_mask": [[1] * block] * len(found), "labels": found}
        )
    return Prepared("text", "decoder", tokenizer, DatasetDict(data), block)


def adamw(lr: float = 5e-3) -> Callable[[Iterable[nn.Parameter]], AdamW]:
    r"""An optimizer for `fit(optimizer=...)` with the settings that language models are pre-trained with: β₂ = 0.95
    and a weight decay of 0.1 (Brown et al. 2020, arXiv:2005.14165, appendix B; Touvron et al. 2023, section 2.3).
    """
    return partial(AdamW, lr=lr, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
