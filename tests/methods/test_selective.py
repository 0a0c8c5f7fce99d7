r"""Methods that train a part of what is there: what was chosen moves, and nothing else, to the entry and to the bit."""

import families
import pytest
import tiny
import torch
from attached import labelled, train
from torch import Tensor, nn
from torch.nn import LayerNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from coursekit import methods
from coursekit.architecture import describe
from coursekit.methods import BitFit, ByType, FishMask, FreezeAndReconfigure, HeadOnly, SelectColumns, SelectRows
from coursekit.methods.mechanism.method import Method
from coursekit.methods.mechanism.modules import body_prefix
from coursekit.methods.selective.part_layer import parts_of
from coursekit.methods.selective.parts import transposed
from coursekit.methods.selective.where import trained_by_kind

ATTENTION = {"bert": "attention", "roberta": "attention", "gpt2": "attn", "opt": "self_attn", "llama": "self_attn"}
FIRST_AND_SECOND = {  # the query, and what comes before the feed-forward's activation
    "bert": ("attention.self.query", "intermediate.dense"), "roberta": ("attention.self.query", "intermediate.dense"),
    "opt": ("self_attn.q_proj", "fc1"), "gpt2": ("attn.c_attn", "mlp.c_fc"),
    "electra": ("attention.self.query", "intermediate.dense"), "distilbert": ("attention.q_lin", "ffn.lin1"),
    "deberta-v2": ("attention.self.query_proj", "intermediate.dense"),
}  # fmt: skip
METHODS: dict[str, tuple[Method, tuple[str, ...]]] = {
    "rows": (SelectRows(rows=(3, 8)), tiny.FAMILIES),
    "rows and biases": (SelectRows(rows=(1, 2), biases=True), tiny.FAMILIES),
    "columns": (SelectColumns(columns=(3, 8)), tiny.FAMILIES),
    "nodes": (FreezeAndReconfigure(nodes=((0, 3, 5, 20, 29),)), tiny.FAMILIES),
    "entries": (FishMask(keep=200, score="random"), tiny.FAMILIES),
    "biases": (BitFit(), ("bert", "roberta", "gpt2", "opt")),
    "two biases": (BitFit("query-and-second-mlp"), tuple(FIRST_AND_SECOND)),
    "norms": (ByType("norm"), tiny.FAMILIES),
    "layers": (ByType(["attention", "feedforward"]), tiny.FAMILIES),
    "all layers": (ByType(("attention", "feedforward", "norm")), tiny.FAMILIES),
}


def kinds(model: nn.Module, family: str) -> dict[str, str]:
    r"""The type of layer that each parameter belongs to, by transformers' own classes and by where it stands."""
    blocks = f"{body_prefix(model)}{describe(model.config).block}."
    norms = {name for name, m in model.named_modules() if isinstance(m, (LayerNorm, LlamaRMSNorm))}
    found = {}
    for name, _ in model.named_parameters():
        if name.rpartition(".")[0] in norms:
            found[name] = "norm"
        elif name.startswith(blocks):
            found[name] = "attention" if ATTENTION[family] in name.split(".") else "feedforward"
    return found


def chosen(method: Method, model: nn.Module, family: str) -> dict[str, Tensor]:
    r"""By the name of each parameter of the bare model which of its entries are to move, said without the method."""
    plain, found = families.model(family), {}
    for name, parameter in plain.named_parameters():
        path, _, key = name.rpartition(".")
        found[name] = mask = torch.zeros_like(parameter, dtype=torch.bool)
        lines = mask.t() if mask.dim() == 2 and transposed(plain.get_submodule(path)) else mask  # (out, in)
        part = parts_of(model, "default").get(path, {}).get("weight")
        if isinstance(method, (SelectRows, FreezeAndReconfigure)) and part is not None:
            rows = list(method.rows) if isinstance(method, SelectRows) else [0, 3, 5, 20, 29]
            if key == "weight" or not isinstance(method, SelectRows) or method.biases:
                lines[rows] = True
        elif isinstance(method, SelectColumns) and part is not None and key == "weight":
            lines[:, list(method.columns)] = True
        elif isinstance(method, BitFit) and method.biases == "all":
            mask[...] = key == "bias" and not path.startswith("classifier")
        elif isinstance(method, BitFit) and path.endswith(FIRST_AND_SECOND[family]) and key == "bias":
            mask[: tiny.D_MODEL if path.endswith("c_attn") else None] = True  # query, key and value have one bias
        elif isinstance(method, ByType):
            mask[...] = kinds(plain, family).get(name) in method.kinds
    return found | (method.masks(model) if isinstance(method, FishMask) else {})


@pytest.mark.parametrize(("method", "family"), [
    pytest.param(method, family, id=f"{name}-{family}") for name, (method, some) in METHODS.items() for family in some
])  # fmt: skip
def test_what_was_chosen_moves_and_nothing_else_and_folding_changes_no_bit(method, family):
    r"""With a decay of the weights that reaches all that an optimizer sees."""
    model, plain = method.attach(families.model(family)), families.model(family).state_dict()
    frozen = {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
    masks, heads = chosen(method, model, family), ("classifier", "pre_classifier", "pooler")
    trained = [p for n, p in model.named_parameters() if p.requires_grad and ".copies." not in n]
    optimizer = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.5)
    for seed in range(3):
        model(**labelled(family, seed=seed, padded=True)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert all(torch.equal(p, frozen[n]) for n, p in model.named_parameters() if n in frozen)
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)
    numbers = sum(int(mask.sum()) for mask in masks.values())
    assert sum(s["exp_avg"].numel() for s in optimizer.state.values()) == numbers == method.count(model.config) > 0
    beside = model(**tiny.batch()).logits
    method.merge(model)
    assert torch.equal(model(**tiny.batch()).logits, beside)
    for name, value in model.state_dict().items():
        if not name.startswith(heads):
            assert torch.equal(value != plain[name], masks.get(name, torch.zeros_like(value, dtype=torch.bool))), name
    methods.unmerge(model)
    assert torch.equal(model(**tiny.batch()).logits, beside)


@pytest.mark.parametrize("family", tiny.ENCODERS)
def test_with_nothing_but_the_head_the_body_is_no_part_of_the_backward_pass(family, tmp_path):
    model, theirs = HeadOnly().attach(tiny.model(family)), tiny.model(family)
    for name, parameter in theirs.named_parameters():
        parameter.requires_grad_(name.startswith("classifier"))
    assert HeadOnly().count(model.config) == 0 and methods.trainable(model) == methods.trainable(theirs) > 0
    outputs = []
    model.base_model.register_forward_hook(lambda _, __, y: outputs.append(y[0]))
    batches = [labelled(family, seed=i, padded=True) for i in range(5)]
    assert train(model, batches, lr=1e-2) == train(theirs, batches, lr=1e-2)
    assert not any(y.requires_grad for y in outputs)
    HeadOnly().save(model, tmp_path)
    again = methods.from_checkpoint(tmp_path).load(tiny.model(family), tmp_path)
    assert torch.equal(again(**tiny.batch()).logits, theirs(**tiny.batch()).logits)


# where they lie -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_kinds_hold_all_parameters_of_the_blocks_and_all_that_train(family):
    method = FishMask(keep=0.3, score="random")
    model = method.attach(tiny.model(family))
    kinds = trained_by_kind(model)
    assert sum(size for _, size in kinds.values()) == method.among(model.config)
    assert sum(trained for trained, _ in kinds.values()) == method.count(model.config)
    assert all(0 < trained < size or trained == size == 0 for trained, size in kinds.values())


def test_each_kind_is_its_own():
    biases = trained_by_kind(BitFit().attach(tiny.model("bert")))
    assert {kind for kind, (trained, _) in biases.items() if trained} == {"biases"}
    assert biases["biases"][0] == biases["biases"][1]
    rows = trained_by_kind(SelectRows(targets=("query",), rows=4).attach(tiny.model("bert")))
    assert {kind: trained for kind, (trained, _) in rows.items() if trained} == {
        "attention.self.query": tiny.LAYERS * 4 * tiny.D_MODEL
    }
    norms = trained_by_kind(methods.NormTuning().attach(tiny.model("bert")))
    assert norms["norms"][0] == norms["norms"][1] == tiny.LAYERS * 2 * tiny.D_MODEL
