r"""Each family, built on the meta device by transformers, has exactly the modules that `describe` says."""

from __future__ import annotations

import pytest
import tiny
import torch
from torch import nn
from transformers import AutoConfig, AutoModel
from transformers.pytorch_utils import Conv1D

from coursekit.architecture import describe
from coursekit.errors import CourseError

# Beyond the tiny models: shapes in which one of the usual equalities does not hold.
UNUSUAL = [
    ("opt", dict(word_embed_proj_dim=16, do_layer_norm_before=False)),  # OPT-350M
    ("opt", dict(enable_bias=False)),
    ("gpt2", dict(n_inner=None)),
    ("llama", dict(head_dim=12)),
    ("llama", dict(attention_bias=True, mlp_bias=True, tie_word_embeddings=False)),
]
CASES = [(family, {}) for family in tiny.FAMILIES] + UNUSUAL
NAMES = [f"{family} {','.join(changes) or 'usual'}" for family, changes in CASES]


def on_meta(config):
    with torch.device("meta"):
        return AutoModel.from_config(config)


def shape(module: nn.Module) -> tuple[int, int, bool]:
    if isinstance(module, Conv1D):
        return module.nx, module.nf, True
    if isinstance(module, nn.Embedding):
        return module.num_embeddings, module.embedding_dim, False
    return module.in_features, module.out_features, module.bias is not None


def found(body: nn.Module) -> dict[str, tuple[int, int, bool]]:
    kinds = (nn.Linear, Conv1D, nn.Embedding)
    return {path: shape(m) for path, m in body.named_modules() if isinstance(m, kinds)}


def described(config) -> dict[str, tuple[int, int, bool]]:
    arch = describe(config)
    return {
        arch.path(m, i): (m.d_in, m.d_out, m.bias) for m in arch.matrices for i in range(arch.copies(m))
    }  # fmt: skip


@pytest.mark.parametrize(("family", "changes"), CASES, ids=NAMES)
def test_every_matrix_is_described(family, changes):
    config = tiny.config(family, **changes)
    real = found(on_meta(config))
    if family == "roberta":  # the body alone has a pooler; the classifier that the course trains has none
        assert real.pop("pooler.dense") == (tiny.D_MODEL, tiny.D_MODEL, True)
    assert described(config) == real


@pytest.mark.parametrize("kind", ["mistral", "qwen2"])
def test_llama_relatives(kind):
    config = AutoConfig.for_model(
        kind, vocab_size=50, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=16,
    )  # fmt: skip
    assert described(config) == found(on_meta(config))


@pytest.mark.parametrize(("family", "changes"), CASES, ids=NAMES)
def test_norms_are_described(family, changes):
    config = tiny.config(family, **changes)
    arch = describe(config)
    real = {path for path, m in on_meta(config).named_modules() if "Norm" in type(m).__name__}
    inside = {f"{arch.block}.{i}.{n}" for i in range(arch.n_layers) for n in arch.norms}
    assert inside | set(arch.outer_norms) == real


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_block_and_prefix_name_real_modules(family):
    arch = describe(tiny.config(family))
    model = tiny.model(family)
    assert model.base_model_prefix == arch.prefix
    blocks = model.get_submodule(f"{arch.prefix}.{arch.block}")
    assert len(blocks) == arch.n_layers
    assert arch.d_q == arch.n_heads * arch.head_dim
    assert arch.d_kv == arch.n_kv_heads * arch.head_dim


def test_unknown_family_names_the_known_ones():
    with pytest.raises(CourseError, match=r"'t5' is not described.*llama"):
        describe(AutoConfig.for_model("t5"))
