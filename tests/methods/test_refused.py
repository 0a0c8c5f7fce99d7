r"""What makes no sense is an error of one line: settings when they are made, and what a model does not have.

Values of a wrong type or sign, and targets that name nothing, are tried for every method in `test_every_method.py`.
"""

from collections.abc import Callable
from typing import Any

import families
import pytest
import torch
from attached import refused
from torch import nn

from coursekit import methods
from coursekit.methods import (
    IA3,
    OFT,
    AdapterDrop,
    BitFit,
    ByType,
    Compacter,
    CompacterPlus,
    FishMask,
    FreezeAndReconfigure,
    HeadOnly,
    HoulsbyAdapter,
    Hybrid,
    IntrinsicSAID,
    LlamaAdapter,
    LoRA,
    MAMAdapter,
    NormTuning,
    ParallelAdapter,
    PfeifferAdapter,
    PrefixTuning,
    PromptTuning,
    PTuning,
    SelectColumns,
    SelectRows,
    SHiRA,
    SparseAdapter,
    TopLayers,
    UniPELT,
    VeRA,
)
from coursekit.methods.hybrid.beside_lora import LayerBiases, TokenRows
from coursekit.qlora import quantize_model

# settings -------------------------------------------------------------------------------------------------

NO_LINES = "^rows must be indices from 0 up.*such as 8, or .*got "


@pytest.mark.parametrize(("make", "said"), [
    (lambda: AdapterDrop(), "say n=3, or robust=True"),
    (lambda: AdapterDrop(LoRA(), n=1), "adapter must be one of HoulsbyAdapter, Pfeiffer"),
    (lambda: AdapterDrop(Compacter(n=2, r=4), n=1), "adapter must be one of HoulsbyAdapter"),
    (lambda: SparseAdapter(CompacterPlus(n=2, r=4)), "adapter must be one of HoulsbyAdapter"),
    (lambda: ByType("embedding"), "type of layer 'embedding'"),
    (lambda: ByType(()), "kinds is empty: name at least one of attention, feedforward, norm"),
    (lambda: IA3(targets=("k_proj",)), "belong together"),
    (lambda: IA3(feedforward=("down_proj",)), "belong together"),
    (lambda: IA3(targets="k_proj", feedforward="down_proj"), "'down_proj', which is not among the targets"),
    (lambda: LoRA(init="pisa"), r"init must be one of None, 'pissa', 'olora'.*; got 'pisa'\."),
    (lambda: LoRA(init="pissa", dora=True), "init='pissa' does not go with dora=True"),
    (lambda: LoRA(init="olora", lora_bias=True), "init='olora' does not go with lora_bias=True"),
    (lambda: LoRA(lora_bias=True, dora=True), "lora_bias=True does not go with dora=True"),
    (lambda: LoRA(rank_pattern={"q_proj": 2.5}), r"rank_pattern\['q_proj'\] must be a positive integer; got 2.5"),
    (lambda: LoRA(alpha_pattern={"q_proj": 0}), r"alpha_pattern\['q_proj'\] must be a number above 0; got 0"),
    (lambda: LoRA(rank_pattern=[2]), "rank_pattern must be settings by patterns, such as {'q_proj': 4}; got"),
    (lambda: LoRA(layers=()), "layers is empty"),
    (lambda: LoRA(layers=-1), "layers must be a non-negative integer; got -1"),
    (lambda: LoRA(layers="0"), r"layers must be numbers of blocks, such as \(0, 1\); got '0'"),
    (lambda: LoRA(layers=0, targets=".*q_proj"), "put the numbers into the pattern"),
    (lambda: LoRA(targets="*q_proj"), r"targets has '\*q_proj', which is no regular expression"),
    (lambda: OFT(block_size=1), "block_size must be an integer of at least 2, such as 32; got 1"),
    (lambda: OFT(block_size=8, blocks=4), "give block_size=8 or blocks=4"),
    (lambda: OFT(terms=1), "terms must be an integer of at least 2"),
    (lambda: PTuning(layers=17), "layers must be .* got 17."),
    (lambda: PTuning(placeholder=-1), "must be a non-negative integer; got -1"),
    (lambda: PTuning(encoder="mlp", layers=3), 'layers=3 is for encoder="lstm"'),
    (lambda: PromptTuning(init="text"), "go together"),
    (lambda: PromptTuning(init_ids=(1, 2)), "go together"),
    (lambda: PromptTuning(init="text", init_ids="Good?"), "must be the token ids of one text, .*; got a str."),
    (lambda: PromptTuning(init="text", init_ids=torch.ones(1, 3).long()), "got a Tensor."),
    (lambda: PromptTuning(init_ids=None), "got a NoneType."),
    *((lambda rows=rows: SelectRows(rows=rows), NO_LINES) for rows in ((), 0.0, (1, 1), (0, -2), (0, 0.5), ("a",))),
    (lambda: SelectColumns(columns=(1, 1)), NO_LINES.replace("rows", "columns")),
    (lambda: VeRA(dropout=1), "dropout must be a number of at least 0 and below 1"),
    (lambda: VeRA(seed=-1), "seed must be"),
    (lambda: VeRA(targets=()), "targets is empty: name at least one"),
    (lambda: VeRA(targets=("a", "b", "a")), "targets names 'a' twice"),
    (lambda: VeRA(targets=["a", ""]), "targets must be names of modules"),
    (lambda: TokenRows({}), "tokens must be ids by the name"),
    (lambda: TokenRows({"embed_tokens": [3, 3]}), "names one of the ids for 'embed_tokens' twice"),
    (lambda: TokenRows({"embed_tokens": [-1]}), "token must be a non-negative integer; got -1"),
    (lambda: Hybrid(LoRA(r=2), LoRA(r=3, targets=("key",))), "LoRA is there twice.*name all of their places"),
    (lambda: Hybrid(LoRA()), "needs two methods or more"),
    (lambda: Hybrid(LoRA, PrefixTuning()), r"no method that could be part of a hybrid: write LoRA\(\)"),
    (lambda: Hybrid(LoRA(), "bitfit"), "'bitfit' is no method"),
    (lambda: Hybrid(methods.FullFineTuning(), LoRA()), "trains every weight"),
])  # fmt: skip
def test_settings_that_make_no_sense(make, said):
    with refused(said):
        make()


# models ---------------------------------------------------------------------------------------------------


def model_of(kind: str) -> nn.Module:
    r"""The tiny model of a family, or one with something that a method does not take."""
    name, _, what = kind.partition(", ")
    without_norms = {"layer_norm_elementwise_affine": False} if what == "norms without weights" else {}
    model = families.model(name, **without_norms)
    if what == "no pad token":
        model.config.pad_token_id = None
    elif what == "as a decoder":
        model.config.is_decoder = True
    elif what == "NaN":
        model.model.layers[1].self_attn.q_proj.weight.data[3, 4] = torch.nan
    return quantize_model(model) if what == "4 bits" else model


def moved(init: str, **options: Any) -> LoRA:
    return LoRA(**({"r": 4, "targets": ("q_proj", "k_proj"), "init": init} | options))


NORMS = "norms of this model have no weights"
NO_CACHE = "through its KV cache, and the attention of {} takes none"
DISENTANGLED = "disentangled attention scores each key by its distance"
DISTANCES = "adds a bias to each score by the distance"
BIASES = r"this llama model has none .* BitFit\(add_biases=True\)"
NOT_DENSE, EMBEDDING, ENCODER = "dense weights.*in 4 bits", "is an embedding", "attach it to an encoder"

#: What a closed form sees as well as a model: method, model, message.
IN_THE_CONFIG: list[tuple[methods.mechanism.method.Method, str, str]] = [
    (AdapterDrop(n=3), "bert", "n must be at most 2, the number of blocks of this model; got 3"),
    (AdapterDrop(n=3, robust=True), "bert", "n must be at most 2"),
    (TopLayers(k=3), "bert", "k must be at most 2, the number of blocks of this model; got 3"),
    *((method, "opt, norms without weights", NORMS) for method in (
        TopLayers(k=1), BitFit(), ByType(("attention", "norm")), NormTuning(), FishMask(keep=1.0, score="magnitude"))),
    *((kind(**options), "bert", said) for kind in (Compacter, CompacterPlus) for options, said in (
        ({}, "n=4 does not divide the width of the bottleneck, r=1 of d=32: .* say the width, such as r=4$"),
        ({"reduction": 64}, "does not divide the width of the bottleneck, r=0 of d=32"),
        ({"n": 5, "r": 5}, "n=5 does not divide the width of this model, d=32: take another n"),
        ({"r": 6}, "r=6 of d=32: .* such as r=4$"))),
    (IntrinsicSAID(d=3), "bert", "d=3 leaves no direction: 3 of them are the factors"),
    (IntrinsicSAID(d=10**6), "bert", "d=1000000 directions are more than the .* weights"),
    (LlamaAdapter(layers=3), "llama", "layers=3 is more than the 2 blocks of this model: take at most 2"),
    (OFT(7), "llama", "block_size=7 leaves no whole blocks of the 32 inputs of model.layers.0.*q_proj: take 4 or 8"),
    (OFT(64), "llama", "block_size=64 leaves .*: take 16 or 32"),
    (OFT(blocks=5), "llama", "blocks=5 leaves no whole blocks of the 32 inputs .*: take 4 or 8"),
    (OFT(blocks=32), "llama", "blocks=32 leaves .*: take 8 or 16"),
    (SelectRows(rows=(0, 32)), "opt", "is 32 x 32, so take indices from 0 to 31"),
    (SelectColumns(targets="fc2", columns=49), "opt", "is 32 x 48, so take up to 48"),
    (SelectRows(targets=("q_proj", "embed_tokens")), "opt", "SelectRows takes linear layers.*embeddings: leave them"),
]  # fmt: skip
IN_THE_MODEL: list[tuple[methods.mechanism.method.Method, str, str]] = [
    (HoulsbyAdapter(train_norms=True), "opt, norms without weights", "could train: take train_norms=False"),
    (HoulsbyAdapter(), "olmo2", "model type 'olmo2' is not described"),
    (BitFit(), "llama", BIASES),
    (BitFit("query-and-second-mlp"), "llama", BIASES),
    (HeadOnly(), "llama", "no task head that could train"),
    (PrefixTuning(), "distilbert", NO_CACHE.format("distilbert")),
    (UniPELT(), "distilbert", NO_CACHE.format("distilbert")),
    (MAMAdapter(), "modernbert", NO_CACHE.format("modernbert")),
    *((method(), "deberta-v2", DISENTANGLED) for method in (PrefixTuning, LlamaAdapter, UniPELT)),
    *((method(), "t5", DISTANCES) for method in (PrefixTuning, LlamaAdapter)),
    (UniPELT(), "qwen3", "each token of a decoder would know of later"),
    (UniPELT(n=3, hidden=None, r=4, rank=2), "bert, as a decoder", ENCODER),
    (Hybrid(UniPELT(n=3, hidden=None, r=4, rank=2), ByType("feedforward")), "llama", ENCODER),
    (UniPELT(n=3, rank=40), "bert", "r=40 is above the rank"),
    *((method(), "roberta, no pad token", "RoBERTa counts positions from its pad_token_id, and this config has")
      for method in (PromptTuning, PTuning, PrefixTuning)),
    (PTuning(placeholder=97), "llama", "placeholder has 97, and this model's vocabulary has 97 tokens"),
    (PromptTuning(n=2, init="text", init_ids=(3, 97)), "llama", "init_ids has 97, and .* has 97 tokens"),
    *((PromptTuning(n=2, embedded=False), kind, "embedded=False is for encoders such as BERT")
      for kind in ("gpt2", "t5", "bert, as a decoder")),
    (PromptTuning(n=64), "gpt2", "n=64 leaves no room for a text: this model has 64 positions"),
    *((PrefixTuning(n=64), family, "n=64 leaves no room for a text: this model has 64 positions")
      for family in ("gpt2", "opt", "bert", "roberta")),
    (FreezeAndReconfigure(), "bert", r"has not been said: run priming = far.prime\(model, train\)"),
    (FreezeAndReconfigure(nodes=((0,), (1,))), "bert", "given for 2 layers, and this model has 4 feed-forward layers"),
    (FreezeAndReconfigure(nodes=((0, 32),)), "bert", "output.dense has no node 32: its nodes are 0 to 31"),
    (FishMask(), "bert", "looks at the task: give some batches"),
    (FishMask(score="random"), "llama, 4 bits", NOT_DENSE),
    (FishMask(score="random", targets="word_embeddings"), "bert", EMBEDDING),
    (SHiRA(), "llama, 4 bits", NOT_DENSE),
    (SHiRA(targets="word_embeddings"), "bert", EMBEDDING),
    (SHiRA(r=17), "bert", "r=17 is more than there is: .* is 32 x 32, so take r up to 16"),
    (IntrinsicSAID(d=20), "llama, 4 bits", "weights in 4 bits cannot move.*attach LoRA"),
    (VeRA(targets="embed_tokens"), "llama", "'embed_tokens' matches no module of this model; candidates: .*q_proj"),
    # LoRA: keys and values of the tiny Llama are 16 wide
    (LoRA(r=17), "llama", "r=17 is above the rank of .*v_proj: it is 16 x 32, so take r up to 16"),
    (LoRA(targets="embed_positions"), "opt", "embed_positions is no plain embedding"),
    (LoRA(layers=7), "llama", "layers and exclude leave none of the 4 modules that the targets name, such as model."),
    (LoRA(exclude=("q_proj", "v_proj")), "llama", "layers and exclude leave none of the 4"),
    (LoRA(targets=r".*\.z_proj"), "llama", "matches no module of this model; candidates: .*q_proj"),
    (LoRA(rank_pattern={"v_proj": 17}), "llama", "r=17 is above the rank of model.layers.0.self_attn.v_proj"),
    (LoRA(modules_to_save=("lm_heat",)), "llama", "modules_to_save names 'lm_heat', and this model has no module of"),
    (LoRA(targets="embed_tokens", lora_bias=True), "llama", "lora_bias=True is for linear layers"),
    *((method, kind, said) for init in ("pissa", "olora") for method, kind, said in (
        (moved(init, targets=("q_proj", "embed_tokens")), "llama", "is for linear layers, and model.embed_tokens is"),
        (moved(init, r=17), "llama", "r=17 is above the rank of .*k_proj: it is 16 x 32, so take r up to 16"),
        (moved(init), "llama, 4 bits", "looks at the exact weight, and of .*q_proj only codes are there"),
        (moved(init, targets=("q_proj", "lm_head")), "llama", "does not go with lm_head, whose weight is the input e"),
        (moved(init), "llama, NaN", "looks at the weight of model.layers.1.self_attn.q_proj, which holds NaN"))),
    # hybrids
    (Hybrid(LoRA(r=4, init="loftq"), NormTuning()), "llama, 4 bits", "dense model, .* which a hybrid has no place for"),
    (Hybrid(FishMask(), LoRA(r=2)), "bert", "looks at the task when it is attached.*attach it alone"),
    (Hybrid(FishMask(score="random"), BitFit()), "bert", "both change bert.encoder.layer.0"),
    (Hybrid(LoRA(r=2), IA3()), "bert", "IA3 and LoRA cannot be combined: both change bert.encoder.layer.0.attention.s"),
    (Hybrid(HoulsbyAdapter(r=2), PfeifferAdapter(r=2)), "bert", "change what the bottlenecks of the blocks add"),
    (Hybrid(PromptTuning(n=2), PTuning(n=2, hidden=4)), "bert", "both change the vectors before the input"),
    (Hybrid(LlamaAdapter(n=2, layers=1), PrefixTuning(n=2)), "bert", "both change keys and values of the attention"),
    (Hybrid(MAMAdapter(n=2, r=2), ParallelAdapter(r=2)), "bert", "ParallelAdapter is there twice: an adapter has one"),
    (Hybrid(MAMAdapter(n=2, r=2), HoulsbyAdapter(r=2)), "bert", "both change what the bottlenecks"),
    (Hybrid(UniPELT(n=2, r=2, rank=2), LoRA(r=2, targets=("key",))), "bert", "LoRA beside GatedLoRA: an adapter has"),
    (Hybrid(SparseAdapter(HoulsbyAdapter(r=2)), LoRA(r=2)), "bert", "SparseAdapter cannot be part of a hybrid"),
    (Hybrid(BitFit(), TopLayers(k=1)), "bert", "BitFit and TopLayers cannot be combined: both change .*bias"),
    (Hybrid(LoRA(r=2), SelectRows(rows=0.2)), "bert", "both change bert.encoder.layer.0.attention.self.query.weight"),
    (Hybrid(BitFit(), HoulsbyAdapter(r=2, train_norms=True)), "bert", "both change bert.*LayerNorm.bias"),
    (Hybrid(IntrinsicSAID(d=50), LoRA(r=2)), "bert", "cannot be part of a hybrid|both change bert"),
    (Hybrid(IA3(), BitFit(add_biases=True)), "llama", "both change .*bias"),
    (Hybrid(LoRA(r=2, modules_to_save=("norm",)), NormTuning()), "llama", "both change model.norm.weight"),
    (Hybrid(LoRA(r=2, targets="query"), LayerBiases(("value",))), "bert", "biases of the very layers that it adapts"),
    (Hybrid(LoRA(r=2), TokenRows({"embed_tokens": [97]})), "llama", "has no token 97: its tokens are 0 to 96"),
]  # fmt: skip


def named(case: tuple) -> list:
    return [pytest.param(*row, id=f"{type(row[0]).__name__} {row[1]} {i}") for i, row in enumerate(case)]


@pytest.mark.parametrize(("method", "kind", "said"), named([*IN_THE_CONFIG, *IN_THE_MODEL]))
def test_what_a_model_does_not_have_is_said_and_leaves_it_as_it_was(method, kind, said):
    model = model_of(kind)
    attempts: list[Callable[[], object]] = [lambda: method.attach(model)]
    attempts += [lambda: method.count(model.config)] * ((method, kind, said) in IN_THE_CONFIG)
    for attempt in attempts:
        with refused(said, model):
            attempt()
