r"""What all soft prompts promise: models as they come from the hub, the plain modules, damaged checkpoints."""

import pytest
import tiny
import torch
from attached import labelled, nonzero
from cases import lively, step_by_step

from coursekit import methods
from coursekit.methods import IntrinsicSAID, LlamaAdapter, PrefixTuning, PromptTuning, PTuning
from coursekit.methods.mechanism.modules import find_wrapper
from coursekit.methods.soft_prompts.attention import attention_paths
from coursekit.methods.soft_prompts.llama_adapter import GatedPrompt, PromptedAttention
from coursekit.methods.soft_prompts.pooling import pool_text
from coursekit.methods.soft_prompts.prefix import Prefix
from coursekit.methods.soft_prompts.prefix_attention import BehindPrefix, PrefixAttention

METHODS = {
    "prompt": PromptTuning(n=5),
    "lstm": PTuning(n=5, hidden=7),
    "mlp": PTuning(n=5, encoder="mlp", hidden=7),
    "prefix": PrefixTuning(n=5),
    "network": PrefixTuning(n=5, hidden=7),
    "unshifted": PrefixTuning(n=5, shifted=False),
    "llama-adapter": LlamaAdapter(n=5, layers=2, gate="tanh", per_head=True),
    "said": IntrinsicSAID(d=41),
}
every = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
#: No size a multiple of another: 3 heads of 6 in a width of 18, one of them for keys and values, 3 blocks.
ODD = {
    "gpt2": dict(n_embd=18, n_head=3, n_layer=3, n_inner=29, n_positions=61),
    "opt": dict(hidden_size=18, word_embed_proj_dim=18, num_attention_heads=3, num_hidden_layers=3, ffn_dim=29,
                max_position_embeddings=61),
    "llama": dict(hidden_size=18, num_attention_heads=3, num_key_value_heads=1, num_hidden_layers=3,
                  intermediate_size=29),
}  # fmt: skip


# models as they come from the hub -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind", "tied"), [
    (name, kind, (i + j) % 2 == 0)
    for i, name in enumerate(METHODS) for j, kind in enumerate((*tiny.DECODERS, *tiny.RELATIVES))
])  # fmt: skip
def test_a_decoder_without_a_padding_token(name, kind, tied):
    r"""Plain Llama and GPT-2 have none. Odd sizes, tied heads or not, batches with a mask and without."""
    method = METHODS[name]
    changes = ODD.get(kind, ODD["llama"]) | dict(pad_token_id=None, tie_word_embeddings=tied)
    spread = {key: 0.3 for key in lively(kind) if "range" in key or "std" in key}
    base = tiny.model(kind, **changes, **spread)
    assert base.config.pad_token_id is None
    one = {key: value[:, :7] for key, value in labelled("llama").items()}
    bare = base(**one).logits
    model = nonzero(method.attach(base), scale=0.5)
    assert methods.trainable(model) == method.count(model.config)
    done = model(**one)
    done.loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)
    with torch.no_grad():
        assert torch.isfinite(done.logits).all() and (done.logits - bare).abs().max() > 1e-3
        unmasked = model(input_ids=one["input_ids"]).logits
        torch.testing.assert_close(unmasked, done.logits, atol=1e-5, rtol=1e-4)
        model.generation_config.eos_token_id = None
        written = model.generate(one["input_ids"][:1], max_new_tokens=4, do_sample=False)[0, 7:]
        assert written.tolist() == step_by_step(model, one["input_ids"][0].tolist(), 4)
        method.detach(model)
        assert torch.equal(model(**one).logits, bare)


@every
def test_a_classifier_on_a_decoder_without_a_padding_token_reads_one_row(method):
    r"""transformers classifies longer batches only where it knows the padding."""
    model = nonzero(method.attach(tiny.encoder("gpt2", pad_token_id=None)))
    logits = model(input_ids=tiny.batch(1, 7)["input_ids"]).logits
    assert logits.shape == (1, 2) and torch.isfinite(logits).all()


# the plain modules are what a model computes ------------------------------------------------------------------------


def test_a_prompt_puts_its_vectors_before_the_text():
    model = nonzero(PromptTuning(n=3).attach(tiny.decoder("opt")))
    prompt, ids = model.soft_prompt.prompts["default"], tiny.batch(2, 6)["input_ids"]
    with torch.no_grad():
        x = prompt(model.get_input_embeddings()(ids))
        assert x.shape == (2, 9, tiny.D_MODEL) and torch.equal(x[1, :3], prompt.weight)
        with methods.disabled(model):
            plain = model(inputs_embeds=x).logits[:, 3:]
        torch.testing.assert_close(model(input_ids=ids).logits, plain)


class Listening(BehindPrefix):
    r"""Remembers the text's keys and values that came to it."""

    def update(self, k, v, *args, **kwargs):
        self.heard = k, v
        return super().update(k, v, *args, **kwargs)


@pytest.mark.parametrize("hidden", [None, 6], ids=["flat", "network"])
@pytest.mark.parametrize("family", ["opt", "llama"])
def test_an_attention_behind_a_prefix_is_the_plain_module(family, hidden, monkeypatch):
    model = nonzero(PrefixTuning(n=3, hidden=hidden).attach(tiny.model(family)), scale=1.0)
    attention = find_wrapper(model, attention_paths(model)[1], PrefixAttention)
    inside, seen, heard = attention.base_layer, {}, []
    monkeypatch.setattr(
        "coursekit.methods.soft_prompts.prefix_attention.BehindPrefix",
        lambda *args: heard.append(Listening(*args)) or heard[-1],
    )
    output = inside.o_proj if family == "llama" else inside.out_proj
    output.register_forward_pre_hook(lambda m, args: seen.update(made=args[0]))
    inside.q_proj.register_forward_hook(lambda m, args, q: seen.update(q=q))
    inside.register_forward_pre_hook(lambda m, args, kwargs: seen.update(kwargs), with_kwargs=True)
    with torch.no_grad():
        model(**tiny.batch(2, 5, padded=True))
        q = seen["q"].unflatten(-1, (tiny.HEADS, -1)).transpose(1, 2)  # (2, heads, 5, d_h)
        if family == "llama":
            from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

            q, _ = apply_rotary_pos_emb(q, q, *seen["position_embeddings"])
        prefix = attention.prefixes["default"]
        assert isinstance(prefix, Prefix) and (prefix.flat is None) == (hidden is not None)
        plain = prefix(q, *heard[1].heard, mask=seen["attention_mask"]).transpose(1, 2).flatten(2)
    real = tiny.batch(2, 5, padded=True)["attention_mask"].bool()
    torch.testing.assert_close(seen["made"].view(2, 5, -1)[real], plain[real], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("options", [{}, {"gate": "tanh", "per_head": True}, {"gate": "none"}])
def test_gated_attention_over_prompts_is_the_plain_module(options):
    model = nonzero(LlamaAdapter(n=3, layers=1, **options).attach(tiny.model("opt").double()), scale=2.0)
    (layer,) = (m for m in model.modules() if isinstance(m, PromptedAttention))
    inside, prompt = layer.base_layer, layer.prompts["default"]
    x = torch.randn(2, 5, tiny.D_MODEL, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    seen = {}
    inside.out_proj.register_forward_pre_hook(lambda m, args: seen.update(made=args[0]))
    with torch.no_grad():
        with methods.disabled(model):
            layer(x)
        words = seen["made"]
        layer(x)
        q = inside.q_proj(x).unflatten(-1, (tiny.HEADS, -1))
        k_p, v_p = (m(prompt.prompt[0]).unflatten(-1, (tiny.HEADS, -1)).transpose(0, 1)
                    for m in (inside.k_proj, inside.v_proj))  # fmt: skip
        plain = prompt(words.view(2, 5, -1), q, k_p, v_p)
    assert isinstance(prompt, GatedPrompt) and not torch.allclose(seen["made"], words, atol=1e-3)
    torch.testing.assert_close(seen["made"].view(2, 5, -1), plain, atol=1e-12, rtol=1e-10)


# masks --------------------------------------------------------------------------------------------------------------


# damaged checkpoints ------------------------------------------------------------------------------------------------


# where a classifier reads -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", tiny.ENCODERS)
@pytest.mark.parametrize("key", ["prompt", "lstm", "prefix"])
def test_a_classifier_can_be_made_to_read_the_text_s_first_token(family, key):
    r"""Against the body's states worked by hand; and it is undone by detaching."""
    model, inputs = tiny.model(family).eval(), labelled(family, batch_size=3, seq=6)
    inputs["attention_mask"][1, 4:] = 0
    bare = model(**inputs).logits
    METHODS[key].attach(model)
    nonzero(model)
    at_the_prompt = model(**inputs).logits
    assert pool_text(model) is model
    found = model(**inputs, output_hidden_states=True)
    cls = found.hidden_states[-1]  # of the text alone
    if hasattr(model.base_model, "pooler") and model.base_model.pooler is not None:
        pooler = model.base_model.pooler
        by_hand = model.classifier(pooler.activation(pooler.dense(cls[:, 0])))
    else:
        by_hand = model.classifier(cls)
    torch.testing.assert_close(found.logits, by_hand)
    assert torch.allclose(at_the_prompt, found.logits) == (key == "prefix")
    assert torch.equal(methods.detach(model)(**inputs).logits, bare)
