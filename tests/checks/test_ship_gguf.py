r"""The course's A, B and alpha for llama.cpp against who knows its files, and right answers of other kinds.

The judges: this package's writer, whose file llama.cpp itself has run (tests/fixtures/llama_cpp.json,
tests/methods/test_llama_cpp.py), and transformers' reader of GGUF, which puts the rows back.
"""

import numpy as np
import pytest
import tiny
import torch
from attached import nonzero
from transformers.modeling_gguf_pytorch_utils import LlamaTensorProcessor

from coursekit.checks import check, judge
from coursekit.checks.ship_gguf import GGUF
from coursekit.methods import LoRA, save_gguf
from coursekit.methods.gguf_lora import names_of, read_gguf


@pytest.mark.parametrize("rslora", [False, True])
def test_the_course_s_own_answer_is_what_the_file_holds_bit_for_bit(rslora, tmp_path):
    model = tiny.decoder("llama")
    method = LoRA(r=4, alpha=6, targets="all-linear", rslora=rslora)
    nonzero(method.attach(model))
    stored, tensors = read_gguf(save_gguf(model, tmp_path / "a.gguf"))
    config = model.config
    assert config.num_key_value_heads < config.num_attention_heads
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    theirs = LlamaTensorProcessor({"num_attention_heads": heads["q_proj"], "num_key_value_heads": heads["k_proj"]})
    for path, layer in method.branches(model, "default"):
        branch, name = layer.branches["default"], names_of(config)[1][path]
        A, B = branch.A.detach(), branch.B.detach()
        a, b, alpha = GGUF.reference(A, B, branch.s, heads.get(path.rpartition(".")[2], 0))
        assert torch.equal(a, tensors[f"{name}.weight.lora_a"]) and torch.equal(b, tensors[f"{name}.weight.lora_b"])
        assert np.float32(alpha) == np.float32(stored)
        assert np.array_equal(theirs.process(b.numpy(), f"{name}.weight").weights, B.numpy())


def test_whatever_llama_cpp_makes_the_same_of_is_right():
    def scale_in_b(A, B, s, heads):
        a, b, _ = GGUF.reference(A, B, s, heads)
        return a, s * b, len(a)

    def smaller(A, B, s, heads):
        a, b, alpha = GGUF.reference(A, B, s, heads)
        return a.float() / 4, torch.nn.Parameter(b), torch.tensor(4 * alpha)

    for answer in (scale_in_b, smaller, lambda *case: list(GGUF.reference(*case))):
        assert check("ship-gguf", answer).status == "passed"


def made(of):
    return lambda *case: of(*GGUF.reference(*case))


UNKNOWN = {
    "another size": (made(lambda a, b, alpha: (a, b, 7 * alpha)), "adds too much or too little: 7 times"),
    "other rows": (made(lambda a, b, alpha: (a, b.flip(0), alpha)), "adds as much as the LoRA, but another matrix"),
    "a sign": (made(lambda a, b, alpha: (a, b, -alpha)), "the columns of a, and the sign of alpha"),
    "both": (lambda A, B, s, heads: (A, B.flip(0), s), "of another size: look at the order of rows and at alpha"),
    "nothing": (made(lambda a, b, alpha: (a, 0 * b, alpha)), "llama.cpp adds nothing: a, b or alpha is 0"),
    "alpha 0": (made(lambda a, b, alpha: (a, b, 0)), "llama.cpp adds nothing: a, b or alpha is 0"),
    "no number": (made(lambda a, b, alpha: (a, b, float("nan"))), "it holds NaN or infinity"),
    "two": (made(lambda a, b, alpha: (a, b)), "it must return a, b and alpha"),
    "names": (made(lambda a, b, alpha: ("a", "b", alpha)), "a and b must be tensors of real numbers"),
    "alphas": (made(lambda a, b, alpha: (a, b, [alpha])), "alpha must be one number"),
    "turned": (made(lambda a, b, alpha: (a.T, b.T, alpha)), "a must have A's shape and b B's; got ("),
}


@pytest.mark.parametrize("answer, said", UNKNOWN.values(), ids=UNKNOWN)
def test_other_mistakes_are_told_by_what_llama_cpp_makes_of_them(answer, said):
    result = check("ship-gguf", answer)
    assert result.status == "failed" and said in result.message


def test_grading_says_no_number():
    case = GGUF.public[0]
    a, b, alpha = GGUF.reference(*case)
    said = judge(GGUF, case, (a, b, 7 * alpha))
    assert said == "the rows are in order, but llama.cpp adds too much or too little"


def test_a_head_has_six_rows_or_more_and_the_second_case_has_no_heads():
    for case in range(20):
        for kind, (_, B, _, heads) in enumerate(GGUF.cases(f"secret {case}".encode(), 2)):
            assert heads == 0 if kind else len(B) / heads in (6, 8)
