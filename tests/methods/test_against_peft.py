r"""Every method that peft has, against peft: folders in both directions, gradients, training, folded weights.

What one method alone promises beside peft (starts, patterns, options that are refused) is in its own file.
"""

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import families
import peft
import pytest
import tiny
import torch
from attached import EVERYTHING, labelled, nonzero, train
from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as IA3_FEEDFORWARD
from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as IA3_TARGETS
from safetensors.torch import load_file
from torch import Tensor, nn

from coursekit import methods
from coursekit.architecture import describe
from coursekit.methods import (
    IA3,
    OFT,
    BitFit,
    Hybrid,
    LlamaAdapter,
    LoRA,
    NormTuning,
    PrefixTuning,
    PromptTuning,
    PTuning,
    SHiRA,
    VeRA,
)
from coursekit.methods.mechanism.method import Method
from coursekit.methods.mechanism.modules import head_names

pytestmark = pytest.mark.filterwarnings("ignore:Invalid `", "ignore:Specified to not", "ignore:fan_in_fan_out")
KINDS = (*tiny.FAMILIES, *tiny.RELATIVES)
DECODERS = (*tiny.DECODERS, *tiny.RELATIVES)
WITH_BIASES = ("bert", "roberta", "gpt2", "opt")
#: Matrices of two shapes.
TWO = {"bert": ("query", "output.dense"), "gpt2": ("c_attn", "mlp.c_proj"), "llama": ("k_proj", "down_proj")}
#: peft has no norms in its tables for these families.
NORMS = {
    "bert": ["LayerNorm"], "roberta": ["LayerNorm"], "opt": ["self_attn_layer_norm", "final_layer_norm"],
    "qwen2": ["input_layernorm", "post_attention_layernorm", "norm"],
}  # fmt: skip
KEYS_DOWN = ["k_proj", "v_proj", "down_proj"]
HERE = {"r": "r", "alpha": "lora_alpha", "rslora": "use_rslora", "dora": "use_dora"}


@dataclass(frozen=True)
class Twin:
    r"""One setting of a method, here and in peft."""

    name: str
    kinds: tuple[str, ...]
    ours: Callable[[str], Method] | None = None  # None: only peft's folder says what it is
    theirs: Callable[[str], peft.PeftConfig] | None = None  # None: ours is read, and peft's own is in another test
    ways: tuple[str, ...] = ("fp32",)
    off: float = 0.0  # of logits; 0: to the bit
    trains: float = 0.0  # how far losses may be apart in training, in float64; 0: not at all, in float32
    lr: float | None = 0.3  # of SGD; None: training is another test's
    folds: bool = False
    network: bool = False  # behind the vectors: what it made is saved, not the network

    def close(self, ours: Tensor, reference: Tensor) -> None:
        if self.off == 0:
            assert torch.equal(ours, reference)
        else:
            torch.testing.assert_close(ours, reference, atol=self.off, rtol=10 * self.off)


def lora(**settings: Any) -> dict[str, Any]:
    theirs = {HERE[key]: value for key, value in settings.items()}
    return dict(
        ours=lambda kind: LoRA(**settings, targets=EVERYTHING[kind]),
        theirs=lambda kind: peft.LoraConfig(target_modules=list(EVERYTHING[kind]), **theirs),
    )


def oft(**options: Any) -> Callable[[str], peft.PeftConfig]:
    return lambda kind: peft.OFTConfig(**({"oft_block_size": 8, "target_modules": list(TWO[kind])} | options))


def vera(save: bool) -> dict[str, Any]:
    options = dict(projection_prng_key=7, save_projection=save, vera_dropout=0.1)
    return dict(
        ours=lambda kind: VeRA(r=40, targets=tuple(sorted(TWO[kind])), dropout=0.1, seed=7, save_projection=save),
        theirs=lambda kind: peft.VeraConfig(r=40, target_modules=list(TWO[kind]), **options),
        kinds=tuple(TWO), ways=("fp32", "bf16"),
    )  # fmt: skip


def ia3(**options: Any) -> Callable[[str], peft.PeftConfig]:
    return lambda kind: peft.IA3Config(**options)


def papers(kind: str) -> peft.PeftConfig:
    targets, feedforward = IA3().names(describe(families.config(kind)))
    return peft.IA3Config(target_modules=list(targets), feedforward_modules=list(feedforward))


def norms(*names: str) -> Callable[[str], peft.PeftConfig]:
    return lambda kind: peft.LNTuningConfig(target_modules=list(names) or NORMS.get(kind))


TWINS = [
    Twin("LoRA", tiny.FAMILIES, **lora(r=4, alpha=32), trains=1e-12),
    Twin("LoRA rslora", tiny.FAMILIES, **lora(r=4, alpha=32, rslora=True), lr=None),
    Twin("LoRA odd scale", tiny.FAMILIES, **lora(r=3, alpha=7), lr=None),
    Twin("LoRA dora", tiny.FAMILIES, **lora(r=3, alpha=6, dora=True), off=1e-6, trains=1e-12),
    Twin("LoRA 16 bits", ("llama",), lambda _: LoRA(r=4, alpha=8), ways=("bf16",), lr=None),
    *(Twin(f"LoRA {init}", kinds, lambda kind, init=init: LoRA(r=4, alpha=6, targets=TWO[kind], init=init), off=1e-5,
           lr=None) for init, kinds in (("pissa", tuple(TWO)), ("olora", ("bert", "llama")))),
    *(Twin(f"LoRA and biases {dora}", WITH_BIASES, lambda _, dora=dora: Hybrid(LoRA(r=2, alpha=8, dora=dora), BitFit()),
           lambda _, dora=dora: peft.LoraConfig(r=2, lora_alpha=8, bias="all", use_dora=dora),
           off=1e-6 * dora, trains=1e-12, folds=not dora) for dora in (False, True)),
    Twin("IA3", KINDS, lambda _: IA3(), ways=("fp32", "bf16"), folds=True, lr=None),
    Twin("IA3 of the paper", tuple(k for k in KINDS if k != "gpt2"), lambda _: IA3(), papers),
    Twin("IA3 of peft", KINDS, lambda kind: IA3(tuple(IA3_TARGETS[kind]), tuple(IA3_FEEDFORWARD[kind])), ia3()),
    *(Twin(f"IA3 {name}", ("llama",), None, ia3(**options), lr=None) for name, options in {
        "by patterns": dict(target_modules=r".*\.(k_proj|down_proj)", feedforward_modules=r".*\.down_proj"),
        "but one": dict(target_modules=KEYS_DOWN, feedforward_modules=["down_proj"],
                        exclude_modules=["layers.0.self_attn.k_proj"]),
        "all-linear": dict(target_modules="all-linear", feedforward_modules=["down_proj"]),
        # peft then writes a feed-forward module that it does not scale
        "no feed-forward": dict(target_modules=["k_proj", "v_proj"]),
        "none named": dict(target_modules=["k_proj"], feedforward_modules=[]),
        "keys as feed-forward": dict(target_modules=["k_proj", "up_proj", "down_proj"],
                                     feedforward_modules=["down_proj", "k_proj"]),
    }.items()),
    Twin("norms", KINDS, lambda _: NormTuning(), norms(), ways=("fp32", "bf16"), folds=True),
    *(Twin(f"norms {names}", (kind,), None, norms(*names), lr=None) for kind, names in (
        ("llama", ("input_layernorm",)), ("llama", ("norm",)), ("gpt2", ("h.0.ln_1", "ln_f")),
        ("bert", ("attention.output.LayerNorm",)))),
    Twin("norms of peft's Qwen2", ("qwen2",), None, lambda _: peft.LNTuningConfig(), lr=None),
    Twin("prompts", tiny.FAMILIES, lambda _: PromptTuning(n=4, init="random"),
         lambda _: peft.PromptTuningConfig(num_virtual_tokens=4), ways=("fp32", "eager"), off=1e-6, trains=2e-6),
    *(Twin(f"P-tuning {encoder}", tiny.FAMILIES, lambda _, e=encoder: PTuning(n=4, encoder=e, hidden=6),
           lambda _, e=encoder: peft.PromptEncoderConfig(num_virtual_tokens=4, encoder_hidden_size=6,
                                                         encoder_reparameterization_type=e.upper()),
           ways=("fp32",), off=1e-6, trains=2e-6, network=True) for encoder in ("lstm", "mlp")),
    *(Twin(f"prefix {hidden}", DECODERS, lambda _, h=hidden: PrefixTuning(n=4, hidden=h),
           lambda _, h=hidden: peft.PrefixTuningConfig(num_virtual_tokens=4, prefix_projection=bool(h),
                                                       encoder_hidden_size=h or 8),
           ways=("fp32", "eager"), off=1e-6 * bool(hidden), trains=2e-6, network=bool(hidden)) for hidden in (None, 8)),
    Twin("LLaMA-Adapter", ("llama", "mistral", "gpt2"), lambda _: LlamaAdapter(n=4, layers=2),
         lambda _: peft.AdaptionPromptConfig(adapter_len=4, adapter_layers=2), ways=("fp32", "eager"), off=1e-6,
         trains=2e-6),
    *(Twin(f"OFT {name}", kinds, None, oft(**options), ("fp32", "bf16"), 1e-6, lr=None) for name, kinds, options in (
        ("series", ("bert", "llama"), {}), ("exact", ("bert", "llama"), dict(use_cayley_neumann=False)),
        ("two terms", ("llama",), dict(num_cayley_neumann_terms=2)),
        ("three terms", ("llama",), dict(num_cayley_neumann_terms=3)),
        ("four terms", ("llama",), dict(num_cayley_neumann_terms=4)),
        ("seven terms", ("llama",), dict(num_cayley_neumann_terms=7)),
        ("one block", ("llama",), dict(block_share=True)), ("constrained", ("llama",), dict(coft=True, eps=1.2)),
        ("numbered", ("llama",), dict(r=4, oft_block_size=0)),
        ("numbered, one block", ("llama",), dict(r=4, oft_block_size=0, block_share=True)),
        ("adjusted", ("llama",), dict(oft_block_size=15, module_dropout=0.5)))),
    *(Twin(f"{method!r}", ("llama",), lambda _, method=method: method, off=1e-6, trains=1e-6, lr=1.0)
      for method in (OFT(8), OFT(blocks=2), OFT(8, share=True), OFT(8, coft=True, eps=0.2))),
    *(Twin(f"{method!r} elsewhere", tuple(k for k in families.OTHERS if (method, k) != (IA3(), "gpt_neox")),
           lambda _, method=method: method, off=5e-6, lr=None) for method in (
        LoRA(r=4), LoRA(r=4, rslora=True, targets="all-linear"), LoRA(r=4, dora=True, dropout=0.1), IA3(),
        PromptTuning(n=3), PTuning(n=3, hidden=8), NormTuning())),
    Twin("prefix elsewhere", ("qwen3", "smollm3", "phi3", "gpt_neox"), lambda _: PrefixTuning(n=3), lr=None),
    # in peft a prefix is tokens of the cache, and falls out of a sliding window: this one is long enough
    Twin("prefix on Gemma", ("gemma2", "gemma3_text"), lambda _: PrefixTuning(n=3), ways=("long window",), lr=None),
    Twin("VeRA saved", **vera(True)),
    Twin("VeRA drawn again", **vera(False)),
    Twin("SHiRA", ("bert", "llama"), lambda _: SHiRA(r=2, seed=5), lambda kind: peft.ShiraConfig(
        r=2, random_seed=5, target_modules=list({"bert": ("query", "value"), "llama": ("q_proj", "v_proj")}[kind]))),
]  # fmt: skip


def each(select: Callable[[Twin], Any], ways: int | None = None) -> pytest.MarkDecorator:
    r"""The twins that `select` takes, on each of their kinds and in the first `ways` of theirs."""
    return pytest.mark.parametrize(("twin", "kind", "way"), [
        pytest.param(twin, kind, way, id=f"{twin.name}-{kind}-{way}")
        for twin in TWINS if select(twin) for kind in twin.kinds for way in twin.ways[:ways]
    ])  # fmt: skip


def build(kind: str, way: str) -> nn.Module:
    if way == "bf16":
        return families.model(kind).to(torch.bfloat16)
    changes = {"eager": {"attn_implementation": "eager"}, "long window": {"sliding_window": tiny.POSITIONS}}
    return families.model(kind, **changes.get(way, {}))


def in_peft(config: peft.PeftConfig, model: nn.Module, kind: str) -> nn.Module:
    config.task_type = "SEQ_CLS" if kind in families.ENCODERS else "CAUSAL_LM"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nonzero(peft.get_peft_model(model, config)).eval()


def read(folder: Path, model: nn.Module, trainable: bool = False) -> nn.Module:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model = peft.PeftModel.from_pretrained(model, folder, is_trainable=trainable).eval()
    assert not [one for one in said if "Unexpected keyword" in str(one.message)]
    return model


def prompted(config: peft.PeftConfig, method: Method, ours: nn.Module) -> nn.Module:
    r"""peft's model with the vectors of ours, or the network behind them: it reads no folder of its own to train on."""
    config.inference_mode, kind = False, ours.config.model_type
    theirs = in_peft(config, families.model(kind), kind)
    vectors = {"embedding.weight": method._tensors(ours, "default").get("prompt_embeddings")}
    if isinstance(method, PTuning):
        vectors = ours.soft_prompt.prompts["default"].state_dict()
    elif isinstance(method, PrefixTuning) and method.hidden:
        vectors = method.network(ours)
    theirs.prompt_encoder["default"].load_state_dict(vectors)
    for head in head_names(ours):
        copy = theirs.base_model.get_submodule(head).modules_to_save["default"]
        copy.load_state_dict(ours.get_submodule(head).copies["default"].state_dict())
    return theirs.eval()


@torch.no_grad()
def logits(model: nn.Module, one: dict[str, Tensor]) -> Tensor:
    r"""Of the text: peft leaves its virtual tokens among the logits."""
    found = model(**one).logits
    return found[:, -one["input_ids"].shape[1] :] if found.dim() == 3 else found


def real(kind: str, one: dict[str, Tensor]) -> Any:
    return slice(None) if kind in families.ENCODERS else one["attention_mask"].bool()


@each(lambda twin: twin.ours)
def test_peft_reads_our_folder_and_answers_the_same(twin, kind, way, tmp_path):
    method = twin.ours(kind)
    model = nonzero(method.attach(build(kind, way)))
    method.save(model, tmp_path)
    theirs, plain = read(tmp_path, build(kind, way)), build(kind, way)
    for padded in (True, False):
        one = labelled(kind, padded=padded)
        ours, text = logits(model, one), real(kind, one)
        twin.close(ours[text], logits(theirs, one)[text])
        with torch.no_grad():
            torch.testing.assert_close(model(**one).loss, theirs(**one).loss, atol=max(twin.off, 1e-7), rtol=1e-5)
        assert ours.dtype == plain.dtype and not torch.allclose(ours, logits(plain, one), atol=1e-4)


@each(lambda twin: twin.theirs)
def test_a_folder_of_peft_s_answers_the_same_here_and_comes_back(twin, kind, way, tmp_path):
    theirs = in_peft(twin.theirs(kind), build(kind, way), kind)
    theirs.save_pretrained(tmp_path / "theirs")
    method, one = methods.from_checkpoint(tmp_path / "theirs"), labelled(kind, padded=True)
    model, text = method.load(build(kind, way), tmp_path / "theirs"), real(kind, one)
    reference = logits(theirs, one)[text]
    twin.close(logits(model, one)[text], reference)
    assert not torch.allclose(reference, logits(build(kind, way), one)[text], atol=1e-4)
    if twin.ours:
        again = twin.ours(kind).load(build(kind, way), tmp_path / "theirs")
        twin.close(logits(again, one)[text], reference)
    head = methods.trainable(model.classifier) if kind in families.ENCODERS else 0
    if isinstance(method, PTuning):  # peft writes what the network made, not the network
        assert method == twin.ours(kind) and methods.trainable(model) == head
        torch.testing.assert_close(logits(model, one), logits(theirs, one), atol=1e-6, rtol=0)
    if not twin.network:
        assert methods.trainable(model) == sum(p.numel() for p in theirs.parameters() if p.requires_grad)
        assert methods.trainable(model) - head == method.count(model.config)

    method.save(model, tmp_path / "ours")
    files = [load_file(tmp_path / side / "adapter_model.safetensors") for side in ("ours", "theirs")]
    same = files[0].keys() & files[1].keys()  # peft's may have a frozen embedding, or two names for a task head
    assert len(same) > len(files[0]) / 2 and all(files[0][key].shape == files[1][key].shape for key in same)
    assert twin.off or all(torch.equal(files[0][key], files[1][key]) for key in same)
    twin.close(logits(read(tmp_path / "ours", build(kind, way)), one)[text], reference)


@each(lambda twin: twin.ours and twin.lr, ways=1)
def test_ten_steps_of_sgd_and_ten_of_adamw_follow_peft(twin, kind, way, tmp_path):
    r"""With dropout, from one seed. A step of SGD is as long as its gradient, which AdamW's does not show.

    Where sums are taken in another order, float32's rounding grows in twenty steps to what the processor makes of it.
    A decoder's loss is taken in float32.
    """
    method = twin.ours(kind)
    model = nonzero(method.attach(build(kind, way)))
    method.save(model, tmp_path)
    config = peft.PeftConfig.from_pretrained(tmp_path)
    theirs = prompted(config, method, model) if config.is_prompt_learning else read(tmp_path, build(kind, way), True)
    batches, losses = [labelled(kind, seed=i, padded=i % 2 == 1) for i in range(10)], []
    for one in (model, theirs):
        torch.manual_seed(1)
        one.to(torch.float64 if twin.trains else torch.float32)
        losses.append(train(one.train(), batches, twin.lr, torch.optim.SGD) + train(one, batches, 3e-3))
    if twin.trains == 0:
        assert losses[0] == losses[1]
    torch.testing.assert_close(*(torch.tensor(one, dtype=torch.float64) for one in losses), atol=twin.trains, rtol=0)
    assert len(set(losses[0])) == 20 and losses[0][9] != losses[0][0]


@each(lambda twin: twin.folds)
def test_folded_weights_are_peft_s(twin, kind, way, tmp_path):
    method = twin.ours(kind)
    model = nonzero(method.attach(build(kind, way)))
    method.save(model, tmp_path)
    theirs, plain = read(tmp_path, build(kind, way)), build(kind, way).state_dict()
    theirs.merge_adapter()
    method.merge(model, undo=False)
    wrappers = r"\.base_layer|\.modules_to_save\.default|base_model\.model\."
    reference = {re.sub(wrappers, "", name): parameter for name, parameter in theirs.named_parameters()}
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, reference[name]), name
    assert any(not torch.equal(value, plain[name]) for name, value in model.state_dict().items())
