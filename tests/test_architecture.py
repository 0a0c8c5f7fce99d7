r"""Each family, built on the meta device by transformers, has exactly the modules that `describe` says."""

from __future__ import annotations

import families
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
    ("deberta-v2", dict(share_att_key=True, conv_kernel_size=3)),  # DeBERTa v2 XXL
    ("deberta-v2", dict(relative_attention=False, position_biased_input=True, type_vocab_size=2)),
    ("modernbert", dict(norm_bias=True, mlp_bias=True, attention_bias=True)),
    ("qwen3", dict(attention_bias=True, tie_word_embeddings=False)),
    ("gpt_neox", dict(attention_bias=False)),
    ("electra", dict(embedding_size=32)),  # ELECTRA-base
    ("t5", dict(feed_forward_proj="gated-gelu")),  # FLAN-T5
]
CASES = [(family, {}) for family in (*tiny.FAMILIES, *families.OTHERS)] + UNUSUAL
NAMES = [f"{family} {','.join(changes) or 'usual'}" for family, changes in CASES]


def on_meta(config):
    with torch.device("meta"):
        return AutoModel.from_config(config)


def shape(module: nn.Module) -> tuple[int, int, bool]:
    if isinstance(module, Conv1D):
        return module.nx, module.nf, True
    if isinstance(module, nn.Embedding):
        return module.num_embeddings, module.embedding_dim, False
    if isinstance(module, nn.Conv1d):
        return module.in_channels, module.out_channels, module.bias is not None
    return module.in_features, module.out_features, module.bias is not None


def found(body: nn.Module) -> dict[str, tuple[int, int, bool]]:
    kinds = (nn.Linear, Conv1D, nn.Embedding, nn.Conv1d)
    return {path: shape(m) for path, m in body.named_modules() if isinstance(m, kinds)}


def described(config) -> dict[str, tuple[int, int, bool]]:
    arch = describe(config)
    return {
        arch.path(m, i): (m.d_in, m.d_out, m.bias) for m in arch.matrices for i in range(arch.copies(m))
    }  # fmt: skip


@pytest.mark.parametrize(("family", "changes"), CASES, ids=NAMES)
def test_every_matrix_is_described(family, changes):
    config = families.config(family, **changes)
    real = found(on_meta(config))
    if family == "roberta":  # the body alone has a pooler; the classifier that the course trains has none
        assert real.pop("pooler.dense") == (tiny.D_MODEL, tiny.D_MODEL, True)
    if family == "t5":  # the shared table, once more by each list of blocks
        assert {real.pop(f"{part}.embed_tokens") for part in ("encoder", "decoder")} == {real["shared"]}
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
    config = families.config(family, **changes)
    arch = describe(config)
    real = {
        path: [p.numel() for p in m.parameters()]
        for path, m in on_meta(config).named_modules()
        if "Norm" in type(m).__name__
    }
    assert {path: norm.sizes for norm in arch.all_norms for path in arch.paths(norm)} == real


@pytest.mark.parametrize("family", [*tiny.FAMILIES, *(kind for kind in families.OTHERS if kind != "t5")])
def test_block_and_prefix_name_real_modules(family):
    arch = describe(families.config(family))
    model = families.model(family)
    assert model.base_model_prefix == arch.prefix
    blocks = model.get_submodule(arch.in_model(arch.block))
    assert len(blocks) == arch.n_layers
    assert model.get_submodule(arch.in_model(arch.block_path(1))) is blocks[1]
    assert arch.d_q == arch.n_heads * arch.head_dim
    assert arch.d_kv == arch.n_kv_heads * arch.head_dim


def test_blocks_of_a_decoder_are_counted_after_those_of_the_encoder():
    arch, model = (
        describe(families.config("t5", num_decoder_layers=3)),
        families.model("t5", num_decoder_layers=3),
    )
    blocks = [*model.encoder.block, *model.decoder.block]
    assert [model.get_submodule(arch.in_model(arch.block_path(i))) for i in range(arch.n_layers)] == blocks
    assert [arch.block_of(f"{arch.block_path(i)}.layer.0") for i in range(arch.n_layers)] == [0, 1, 2, 3, 4]
    assert arch.block_of("shared") is None


def test_unknown_family_names_the_known_ones():
    with pytest.raises(CourseError, match=r"'bloom' is not described.*llama"):
        describe(AutoConfig.for_model("bloom"))
