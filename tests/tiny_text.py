r"""Text for the tiny models: a tokenizer of whole words that fits their vocabulary, and a task they can
learn.
"""

import random
from pathlib import Path
from typing import Any, Literal

import tiny
from datasets import Dataset, DatasetDict
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import PreTrainedTokenizerFast

from coursekit.labels import IGNORED
from coursekit.tasks.prepared import Prepared

_TEXT = """
    [PAD] [UNK] [EOS] terrible bad mixed good great negative positive Grade each film review as or , . : Review
    the a is it of and not to plot actor scene end story dull fine bright dark slow quick long short
    ### Instruction Input Response Name one two colour red blue capital France Paris
"""
WORDS = _TEXT.split()


def tokenizer() -> Any:
    r"""One token for each of `WORDS`, [UNK] for any other word; the words of the sentiment prompt are among
    them.
    """
    built = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    built.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=built, pad_token="[PAD]", unk_token="[UNK]", eos_token="[EOS]", padding_side="right"
    )


def words(**special: str) -> PreTrainedTokenizerFast:
    r"""A tokenizer of whole words with these special tokens, without one for padding unless it is named."""
    vocabulary = {f"w{i}": i for i in range(tiny.VOCAB - len(special))}
    vocabulary |= {token: len(vocabulary) + i for i, token in enumerate(special.values())}
    built = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    built.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=built, **special)


def saved(model: nn.Module, folder: Path, tokenizer: Any = None, **settings: Any) -> Path:
    r"""`folder` with the model and a tokenizer, as on the hub."""
    model.save_pretrained(folder, **settings)
    (tokenizer or words(eos_token="<end>")).save_pretrained(folder)
    return folder


def prepared(kind: Literal["encoder", "decoder"], rows: int = 48, *, seed: int = 0) -> Prepared:
    r"""Sentences of 3 to 9 words that hold "good" or "bad"; the class says which. All splits are alike."""
    draw = random.Random(seed)
    words = tokenizer()
    filler = words.convert_tokens_to_ids(WORDS[WORDS.index("plot") : WORDS.index("story") + 1] + ["the", "a"])
    signal = words.convert_tokens_to_ids(["bad", "good"])
    answer = words.convert_tokens_to_ids(["negative", "positive"])
    columns: dict[str, list] = {"input_ids": [], "attention_mask": [], "labels": []}
    for _ in range(rows):
        label = draw.randrange(2)
        ids = [draw.choice(filler) for _ in range(draw.randint(2, 8))]
        ids.insert(draw.randrange(len(ids) + 1), signal[label])
        if kind == "decoder":
            columns["labels"].append([IGNORED] * len(ids) + [answer[label]])
            ids = [*ids, answer[label]]
        else:
            columns["labels"].append(label)
        columns["input_ids"].append(ids)
        columns["attention_mask"].append([1] * len(ids))
    data = Dataset.from_dict(columns)
    return Prepared("good or bad", kind, words, DatasetDict(train=data, validation=data, test=data), 16)
