r"""MAM against the `adapters` library, by closed forms and by its parts."""

import tiny
import torch
from attached import body, labelled, nonzero
from stored import Stored
from transformers import BartConfig, BertConfig

from coursekit import adapterhub, methods
from coursekit.methods import MAMAdapter, ParallelAdapter, PrefixTuning
from coursekit.methods.adapters.adapter import bottlenecks
from coursekit.methods.adapters.placement import sites
from coursekit.methods.soft_prompts.prefix import KEY
from coursekit.methods.soft_prompts.prefix_attention import PrefixAttention


def test_the_network_behind_the_prefix_is_the_library_s():
    stored = Stored("bert/mam")
    model, tensors = MAMAdapter(n=3, hidden=5, r=3).attach(stored.model()), stored.adapter()
    found = {key.split("self_prefix.")[1]: value for key, value in tensors.items() if "self_prefix." in key}
    prefixes = [m.prefixes["default"] for m in model.modules() if isinstance(m, PrefixAttention)]
    network = prefixes[0].network
    with torch.no_grad():
        network.embedding.weight.copy_(found["wte.weight"])
        network.linear.weight.copy_(found["control_trans.0.weight"])
        network.linear.bias.copy_(found["control_trans.0.bias"])
        for i, prefix in enumerate(prefixes):
            rows = slice(24 * i, 24 * (i + 1))  # keys and values of one block
            prefix.out.weight.copy_(found["control_trans.2.weight"][rows])
            prefix.out.bias.copy_(found["control_trans.2.bias"][rows])
    loaded = adapterhub.load(stored.model(), stored.folder)
    for path, bottleneck in bottlenecks(loaded, "default").items():
        model.get_submodule(path).adapters["default"].load_state_dict(bottleneck.state_dict())
    stored.assert_same(model, "mam", exactly=False)


def test_counts_of_the_library_and_of_the_paper():
    assert MAMAdapter().count(BertConfig()) == 22_493_984  # as `adapters` counts its default in BERT base
    large = BertConfig(hidden_size=1024, num_hidden_layers=12, num_attention_heads=16, intermediate_size=4096)
    assert MAMAdapter().parts_for(large)[1].r == 512 == BartConfig().d_model // 2  # the paper's model and width
    config = tiny.config("bert")
    for settings in (dict(), dict(hidden=None), dict(n=7, r=5), dict(hidden=None, scaling="learned")):
        method = MAMAdapter(**settings)
        prefix, adapter = method.parts_for(config)
        assert method.count(config) == prefix.count(config) + adapter.count(config)
        model = method.attach(tiny.model("bert"))
        assert body(model) == method.count(config)


def test_the_answers_are_those_of_prefix_and_adapter_put_together_by_hand():
    r"""A hybrid of the two methods with the same numbers: no setting of MAM's is lost on the way."""
    one, family = labelled("bert", padded=True), "bert"
    mam = nonzero(MAMAdapter(n=3, hidden=None, r=4, scaling=2.0).attach(tiny.model(family)))
    hybrid = methods.Hybrid(PrefixTuning(3, shifted=False), ParallelAdapter(r=4, scaling=2.0))
    by_hand = hybrid.attach(tiny.model(family))
    own = {k.partition(".")[2] if k[0].isupper() else k: v for k, v in hybrid._learned(by_hand, "default").items()}
    with torch.no_grad():
        for key, value in mam._coursekit.methods["default"]._learned(mam, "default").items():
            own[key.partition(".")[2] if key[0].isupper() else key].copy_(value)
        put = mam._coursekit.methods["default"]._tensors(mam, "default")[f"PREFIX_TUNING.{KEY}"]
        PrefixTuning(3)._put(by_hand, "default", put)
    assert torch.equal(by_hand(**one).logits, mam(**one).logits)


def test_the_text_keeps_its_positions():
    r"""The table is asked for the positions of the bare model: there is room for the whole text beside the prefix."""
    model = MAMAdapter(n=3, hidden=None, r=4).attach(tiny.model("bert"))
    asked = []
    model.bert.embeddings.position_embeddings.register_forward_hook(lambda m, args, out: asked.append(args[0]))
    model(**tiny.batch(2, tiny.POSITIONS))
    assert torch.equal(asked[0].flatten(), torch.arange(tiny.POSITIONS))


def test_the_adapters_start_at_nothing():
    model = MAMAdapter(n=3, hidden=8, r=4).attach(tiny.model("bert"))
    for site in sites(model).values():
        assert not site.adapters["default"].up.weight.any()
