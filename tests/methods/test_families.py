r"""Adapters, prefixes and prompts on the families beyond the five that all tests run on: placement against the modules'
own forward, prefixes against peft, prompts against what the attention itself makes of them.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import families
import pytest
import tiny
import torch
from attached import labelled, nonzero
from torch import Tensor, nn

from coursekit.architecture import describe
from coursekit.methods import HoulsbyAdapter, LinAdapter, LlamaAdapter, ParallelAdapter, PfeifferAdapter, PrefixTuning
from coursekit.methods.adapters.placement import sites
from coursekit.methods.soft_prompts.attention import attention_paths, names_of

DECODERS = ("qwen3", "smollm3", "gemma2", "gemma3_text", "phi3", "gpt_neox")
PROMPTED = (*tiny.FAMILIES, *tiny.RELATIVES, "electra", "distilbert", "modernbert", *DECODERS)
BOTTLENECKS = {
    "Houlsby": HoulsbyAdapter(r=4),
    "Pfeiffer": PfeifferAdapter(r=4),
    "parallel": ParallelAdapter(r=4),
    "Lin": LinAdapter(r=4),
}


def logits(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return model(**batch).logits


# Placement ----------------------------------------------------------------------------------------------------------

LIKE_BERT = ("bert", "roberta", "electra", "deberta-v2")
LIKE_LLAMA = ("llama", "mistral", "qwen2", "qwen3", "smollm3", "phi3", "gpt_neox")
#: The feed-forward of a block, with the norms around it, and what it adds to the residual y: by hand.
FEED_FORWARD: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "gpt2": lambda b, y: b.mlp(b.ln_2(y)),
    "opt": lambda b, y: b.fc2(b.activation_fn(b.fc1(b.final_layer_norm(y)))),
    "opt-350m": lambda b, y: b.fc2(b.activation_fn(b.fc1(y))),
    "distilbert": lambda b, y: b.ffn.lin2(b.ffn.activation(b.ffn.lin1(y))),
    "modernbert": lambda b, y: b.mlp(b.mlp_norm(y)),
    "gemma2": lambda b, y: b.post_feedforward_layernorm(b.mlp(b.pre_feedforward_layernorm(y))),
    "gemma3_text": lambda b, y: b.post_feedforward_layernorm(b.mlp(b.pre_feedforward_layernorm(y))),
    "t5": lambda b, y: b.layer[1].DenseReluDense(b.layer[1].layer_norm(y)),
}
FEED_FORWARD |= dict.fromkeys(LIKE_BERT, lambda b, y: b.output.dense(b.intermediate(y)))
FEED_FORWARD |= dict.fromkeys(LIKE_LLAMA, lambda b, y: b.mlp(b.post_attention_layernorm(y)))
#: Where norms come after the addition: of attention and residual, of feed-forward and residual.
NORMS_AFTER = {
    "distilbert": ("sa_layer_norm", "output_layer_norm"),
    "opt-350m": ("self_attn_layer_norm", "final_layer_norm"),
} | dict.fromkeys(LIKE_BERT, ("attention.output.LayerNorm", "output.LayerNorm"))
#: The module whose output is what attention adds to the residual.
ATTENTION = {
    "gpt2": "attn",
    "distilbert": "attention",
    "modernbert": "attn",
    "gemma2": "post_attention_layernorm",
    "gemma3_text": "post_attention_layernorm",
    "gpt_neox": "attention",
    "t5": "layer.0.SelfAttention",
} | dict.fromkeys(LIKE_BERT, "attention.output.dense")


def first_block(model: nn.Module, family: str, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    r"""Input and output of the first block, and its attention's result."""
    arch, seen = describe(model.config), {}
    block = model.get_submodule(arch.in_model(arch.block_path(0)))
    attention = block.get_submodule(ATTENTION.get(family, "self_attn"))

    def keep(key: str, index: int | None = None) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
            seen["x"] = seen.get("x", args[0] if args else kwargs.get("hidden_states"))
            seen[key] = output[0] if isinstance(output, tuple) else output

        return hook

    handles = [
        block.register_forward_pre_hook(lambda m, args: seen.update(x=args[0])),
        attention.register_forward_hook(keep("attention"), with_kwargs=True),
        block.register_forward_hook(keep("y"), with_kwargs=True),
    ]
    with torch.no_grad():
        model(**batch)
    for handle in handles:
        handle.remove()
    return seen


def by_hand(family: str, block: nn.Module, kind: str, x: Tensor, a: Tensor, A: list[nn.Module]) -> Tensor:
    r"""The block's output with the bottlenecks `A` of a method, from its input x and its attention's result a."""
    after = [block.get_submodule(name) for name in NORMS_AFTER.get(family, ())] or [nn.Identity()] * 2
    if kind == "Houlsby":
        a = a + A[0](a)
    y = after[0](x + a)
    residual = x if family == "gpt_neox" else y  # attention and feed-forward stand side by side
    h = FEED_FORWARD[family](block, residual)
    if kind == "Houlsby":
        h = h + A[1](h)
    if kind == "Pfeiffer":
        h = h + A[0](after[1](h + residual))
    if kind == "parallel":
        h = h + A[0](residual)  # which has the scale in it
    out = after[1](y + h)
    return out + A[0](out) if kind == "Lin" else out


def placed(family: str) -> nn.Module:
    r"""A model of the family; OPT-350M is the one of its family that has its norms after the additions."""
    post_norm = dict(do_layer_norm_before=False, word_embed_proj_dim=16)
    return families.model("opt", **post_norm) if family == "opt-350m" else families.model(family)


@pytest.mark.parametrize("family", FEED_FORWARD)
def test_bottlenecks_join_the_block_where_the_papers_have_them(family):
    base, batch = placed(family), labelled(family, padded=True)
    arch = describe(base.config)
    block = base.get_submodule(arch.in_model(arch.block_path(0)))
    before = first_block(base, family, batch)
    with torch.no_grad():
        torch.testing.assert_close(by_hand(family, block, "nothing", before["x"], before["attention"], []), before["y"])
    for kind, method in BOTTLENECKS.items():
        model = nonzero(method.attach(placed(family)))
        after = first_block(model, family, batch)
        A = [site.adapters["default"] for site in list(sites(model).values())[: len(method.sites)]]
        with torch.no_grad():
            expected = by_hand(family, block, kind, before["x"], before["attention"], A)
        torch.testing.assert_close(after["y"], expected, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(after["y"], before["y"], atol=1e-3)


def test_adapters_stand_in_both_halves_of_t5_and_not_at_the_attention_between_them():
    model = HoulsbyAdapter(r=4).attach(families.model("t5", num_decoder_layers=3))
    found = {path: type(site).__name__ for path, site in sites(model).items()}
    assert len(found) == 2 * (2 + 3)
    batch, cross = labelled("t5"), model.decoder.block[0].layer[1].EncDecAttention
    nonzero(model)
    seen = []
    handle = cross.register_forward_hook(lambda m, args, output: seen.append(output[0]))
    logits(model, batch)
    handle.remove()
    outer = model.decoder.block[0].layer[1]
    states = seen[0]
    assert torch.equal(outer.dropout(states), states)  # nothing is added behind it


# Prefixes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["mistral", "gemma2", "gemma3_text"])
def test_a_sliding_window_hides_words_and_no_prefix(family, attention):
    if (family, attention) == ("gemma2", "sdpa"):
        pytest.skip("transformers has no sdpa for Gemma 2, which caps its scores")
    changes = dict(num_hidden_layers=1, sliding_window=4, attn_implementation=attention)
    changes |= {} if family == "mistral" else dict(layer_types=["sliding_attention"])
    method = PrefixTuning(n=3)
    model, batch = nonzero(method.attach(families.model(family, **changes))), tiny.batch(seq=12)
    last = logits(model, batch)[:, -1]
    batch["input_ids"][:, 7] = 3  # the window is of four tokens: 8 to 11
    assert torch.equal(logits(model, batch)[:, -1], last)
    batch["input_ids"][:, 8] = 3
    seen = logits(model, batch)[:, -1]
    assert not torch.allclose(seen, last, atol=1e-5)
    with torch.no_grad():
        for prefix in (p for p in model.parameters() if p.requires_grad):
            prefix[0] += 1.0  # the first virtual token, 14 before the last word
    assert not torch.allclose(logits(model, batch)[:, -1], seen, atol=1e-5)


# Prompts ------------------------------------------------------------------------------------------------------------


@contextmanager
def overheard(attention: nn.Module, monkeypatch: Any) -> Iterator[list[tuple[Tensor, Tensor, Tensor, dict]]]:
    r"""Queries, keys and values that an attention hands to its kernel, as it has made them."""
    module = sys.modules[type(attention).__module__]
    real, said = module.eager_attention_forward, []

    def listening(own: nn.Module, q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> Any:
        if own is attention:
            said.append((q, k, v, kwargs))
        return real(own, q, k, v, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(module, "eager_attention_forward", listening)
        yield said


GATED = [
    LlamaAdapter(n=3, layers=2, gate="tanh", per_head=True),
    LlamaAdapter(n=3, layers=2, gate="none"),
    LlamaAdapter(n=3, layers=2, per_head=True),
]


@pytest.mark.parametrize(("family", "method"), [
    *((family, LlamaAdapter(n=3, layers=2)) for family in (*PROMPTED, "smollm3 without rotation")),
    *((family, method) for family in ("bert", "gpt2", "llama") for method in GATED),
], ids=str)  # fmt: skip
def test_prompts_are_heard_as_the_attention_itself_would_hear_them(family, method, monkeypatch):
    r"""Their keys and values are those that the attention makes of the prompts, at no position, and queries its own."""
    family, _, rest = family.partition(" ")
    changes = {"attn_implementation": "eager"} | ({"no_rope_layers": [0, 1]} if rest else {})
    batch = tiny.batch()
    base, model = families.model(family, **changes), nonzero(method.attach(families.model(family, **changes)))
    arch, path = describe(base.config), attention_paths(base)[0]
    attention, prompted = base.get_submodule(path), model.get_submodule(path)
    prompt = prompted.prompts["default"]
    with torch.no_grad():
        prompt.prompt.mul_(10)
        gate = torch.ones(1) if method.gate == "none" else prompt.gate.mul_(30)
    assert (prompt.gate is None) == (method.gate == "none") and len(gate) == (arch.n_heads if method.per_head else 1)

    def result(of: nn.Module) -> Tensor:
        output, seen = names_of(arch).output, []
        if output is None or family == "gpt2":  # where they are added behind the projection, as in peft
            handle = of.register_forward_hook(lambda m, args, out: seen.append(out[0]))
        else:
            inner = getattr(getattr(of, "base_layer", of), output)
            handle = inner.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
        logits(model if of is prompted else base, batch)
        handle.remove()
        return seen[0]

    with overheard(attention, monkeypatch) as said, torch.no_grad():
        logits(base, batch)
        ones = torch.ones(
            1, 3, arch.head_dim if family != "gpt_neox" else base.gpt_neox.rotary_emb.inv_freq.numel() * 2
        )
        attention(prompt.prompt, position_embeddings=(ones, 0 * ones), attention_mask=None)
        (q, _, _, how), (_, k, v, _) = said
    k, v = (part.repeat_interleave(arch.n_heads // arch.n_kv_heads, dim=1) for part in (k, v))
    scores = q @ k.mT * how["scaling"]
    if (cap := how.get("softcap")) is not None:
        scores = cap * torch.tanh(scores / cap)
    gate = (torch.tanh(gate) if method.gate == "tanh" else gate).view(-1, 1, 1)  # one for all heads, or one each
    added = (gate * (scores.softmax(-1) @ v)).transpose(1, 2).flatten(2)
    assert added.abs().max() > 1e-2
    torch.testing.assert_close(result(prompted), result(attention) + added, atol=1e-5, rtol=1e-4)
