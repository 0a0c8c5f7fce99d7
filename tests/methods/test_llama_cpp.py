r"""llama.cpp itself reads the GGUF files: the merged model, and the base with the adapter beside it.

Needs the extra `llama`, which compiles llama.cpp for some ten minutes. What stands without it: `test_gguf_lora`,
`test_gguf_model`.
"""

from contextlib import closing

import pytest
import tiny
import torch
from attached import nonzero
from test_gguf_lora import OWN_S, PLAIN
from test_gguf_model import TEXTS, bytes_tokenizer, decoder
from torch import Tensor

from coursekit import methods
from coursekit.methods import LoRA, gguf_lora, gguf_model, save_gguf, save_gguf_model

llama_cpp = pytest.importorskip("llama_cpp", reason="the extra `llama` (llama-cpp-python) is not installed")


def opened(path, lora=None):
    r"""The file in llama.cpp, keys and values in fp32."""
    beside = str(lora) if lora else None
    own = dict(n_ctx=256, logits_all=True, verbose=False, n_threads=1, type_k=0, type_v=0)
    return closing(llama_cpp.Llama(str(path), lora_path=beside, **own))


def log_p(path, texts: list[list[int]], lora=None) -> Tensor:
    r"""llama.cpp's log-probabilities of the next token, all tokens of all texts one below the other."""
    found = []
    with opened(path, lora) as llama:
        for ids in texts:
            llama.reset()
            llama.eval(ids)
            found.append(torch.tensor(llama.scores[: len(ids)]).double().log_softmax(1))
    return torch.cat(found)


@torch.no_grad()
def ours(model, texts: list[list[int]]) -> Tensor:
    return torch.cat([model(torch.tensor([ids])).logits[0].double().log_softmax(1) for ids in texts])


def apart(one: Tensor, other: Tensor) -> tuple[float, float]:
    r"""Mean divergence of a token and largest difference, in nats."""
    return (one.exp() * (one - other)).sum(1).mean().item(), (one - other).abs().max().item()


def tokens(path, texts) -> list[list[int]]:
    with opened(path) as llama:
        return [llama.tokenize(text.encode(), add_bos=True, special=True) for text in texts]


SMALL = [tiny.batch(1, seed=i)["input_ids"][0].tolist() for i in range(3)]


@pytest.mark.parametrize("method", [*PLAIN.values(), OWN_S], ids=[*PLAIN, "own s"])
def test_beside_its_base_and_merged(method, tmp_path):
    model = decoder()
    words = bytes_tokenizer()
    base = save_gguf_model(model, words, tmp_path / "base.gguf")
    bare = ours(model, SMALL)
    nonzero(method.attach(model))
    lora, wanted = save_gguf(model, tmp_path / "lora.gguf"), ours(model, SMALL)
    method.merge(model)
    merged = save_gguf_model(model, words, tmp_path / "merged.gguf")
    assert apart(bare, wanted)[1] > 0.1
    for found, right in (
        (log_p(base, SMALL), bare),
        (log_p(base, SMALL, lora), wanted),
        (log_p(merged, SMALL), wanted),
    ):
        assert apart(right, found)[1] < 1e-4


def test_mistakes_are_seen(tmp_path, monkeypatch):
    r"""Rows as in transformers, in the adapter and in the model; and rsLoRA's own alpha."""
    model, words = decoder(), bytes_tokenizer()
    base = save_gguf_model(model, words, tmp_path / "base.gguf")
    with monkeypatch.context() as m:
        m.setattr(gguf_model, "heads_of", lambda *_: 0)
        wrong = save_gguf_model(model, words, tmp_path / "wrong.gguf")
        assert apart(ours(model, SMALL), log_p(wrong, SMALL))[1] > 0.001
    nonzero(LoRA(r=4, alpha=6, targets="all-linear", rslora=True).attach(model))
    wanted = ours(model, SMALL)
    with monkeypatch.context() as m:
        m.setattr(gguf_lora, "heads_of", lambda *_: 0)
        assert apart(wanted, log_p(base, SMALL, save_gguf(model, tmp_path / "rows.gguf")))[1] > 0.02
    for layer in (layer for _, layer in methods.attached(model)["default"].branches(model, "default")):
        layer.branches["default"].s = 6 / 4
    assert apart(wanted, log_p(base, SMALL, save_gguf(model, tmp_path / "alpha.gguf")))[1] > 0.02


@pytest.mark.parametrize("digits", [False, True])
def test_a_text_is_cut_as_here(digits, tmp_path):
    own = bytes_tokenizer(digits)
    path = save_gguf_model(decoder(), own, tmp_path / "a.gguf")
    assert tokens(path, TEXTS) == [own(text)["input_ids"] for text in TEXTS]


@pytest.mark.slow
def test_smollm2_with_an_adapter_beside_and_merged(tmp_path):
    from coursekit.models import load_decoder

    model, tokenizer = load_decoder("smollm2", device="cpu", dtype="float32")
    base = save_gguf_model(model, tokenizer, tmp_path / "base.gguf")
    texts = [tokenizer(text)["input_ids"] for text in TEXTS]
    assert tokens(base, TEXTS) == texts
    bare = ours(model, texts)
    method = LoRA(r=8, alpha=8, rslora=True, targets=("q_proj", "v_proj"))
    nonzero(method.attach(model), scale=0.02)
    lora, wanted = save_gguf(model, tmp_path / "lora.gguf"), ours(model, texts)
    own = apart(bare, log_p(base, texts))
    assert own[0] < 1e-6 and own[1] < 1e-2 < apart(wanted, bare)[0]
    found = apart(wanted, log_p(base, texts, lora))
    assert found[0] < 1e-6 and found[1] < 1e-2
    method.merge(model)
    found = apart(wanted, log_p(save_gguf_model(model, tokenizer, base), texts))
    assert found[0] < 1e-6 and found[1] < 1e-2
