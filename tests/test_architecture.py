r"""Each family, built by transformers, is what `describe` says: the tiny models in test_counts.py, others here."""

import families
import pytest
import tiny
import torch
from transformers import AutoConfig, AutoModel

from coursekit import counts
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
CASES = [(family, {}) for family in tiny.RELATIVES] + UNUSUAL
NAMES = [f"{family} {','.join(changes) or 'usual'}" for family, changes in CASES]


@pytest.mark.parametrize(("family", "changes"), CASES, ids=NAMES)
def test_every_matrix_and_norm_is_described(family, changes):
    config = families.config(family, **changes)
    with torch.device("meta"):
        real = AutoModel.from_config(config).named_parameters()
    assert dict(counts.tensors(config)) == {name: tuple(p.shape) for name, p in real}


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
    arch, model = (describe(families.config("t5", num_decoder_layers=3)), families.model("t5", num_decoder_layers=3))
    blocks = [*model.encoder.block, *model.decoder.block]
    assert [model.get_submodule(arch.in_model(arch.block_path(i))) for i in range(arch.n_layers)] == blocks
    assert [arch.block_of(f"{arch.block_path(i)}.layer.0") for i in range(arch.n_layers)] == [0, 1, 2, 3, 4]
    assert arch.block_of("shared") is None


def test_unknown_family_names_the_known_ones():
    with pytest.raises(CourseError, match=r"'bloom' is not described.*llama"):
        describe(AutoConfig.for_model("bloom"))
