r"""The methods that are compared: settings, family and learning rate of each, in one place."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from coursekit import methods
from coursekit.experiments.bench import Bench
from coursekit.experiments.recipe import Candidate, alone, on_codes
from coursekit.methods.mechanism.method import Method

__all__ = ["CANDIDATES", "EVERY", "NAMES", "TWINS", "Candidate", "alone", "drawn", "on_batches", "primed"]

#: Steps and rate of the full fine-tuning that shows FAR which nodes move. They come on top of the run's own.
PRIMING, PRIMING_RATE = 10, 3e-4


def on_batches(method: Method, model: nn.Module, bench: Bench, seed: int) -> nn.Module:
    r"""Attach what chooses its parameters by batches of the task."""
    return method.attach(model, batches=bench.looked_at(seed))


def drawn(method: Method, model: nn.Module, bench: Bench, seed: int) -> nn.Module:
    r"""Attach what chooses its parameters by chance: each run draws its own, so that seeds differ in them as well."""
    return replace(method, seed=seed).attach(model)


def primed(method: Method, model: nn.Module, bench: Bench, seed: int) -> nn.Module:
    r"""Attach what chooses its parameters by a short training of the whole model."""
    priming = method.prime(model, lambda twin: bench.fit(twin, seed, PRIMING_RATE, PRIMING))
    return method.attach(model, priming=priming)


#: By name. The settings are the papers' or, where those are for large models, sizes near to each other. The rates are
#: for MiniLM and a few dozen steps, which need higher ones than the papers' thousands: `--rates around` chose them for
#: the table in data/evidence/comparison.csv. (LLaMA-Adapter, for decoders only, has a relative's; VeRA and OFT have the
#: best of three for one seed.)
CANDIDATES: dict[str, Candidate] = {
    "head": Candidate("baseline", methods.HeadOnly(), 3e-1),
    "full": Candidate("baseline", methods.FullFineTuning(), 1e-4),
    "houlsby": Candidate("additive", methods.HoulsbyAdapter(r=16), 3e-3),
    "pfeiffer": Candidate("additive", methods.PfeifferAdapter(r=16), 1e-2),
    "parallel": Candidate("additive", methods.ParallelAdapter(r=16), 1e-2),
    "lin": Candidate("additive", methods.LinAdapter(r=16), 3e-3),
    "adapter-drop": Candidate("additive", methods.AdapterDrop(methods.PfeifferAdapter(r=16), n=2), 3e-2),
    # A wide adapter of which a fifth is left: the paper's Large-Sparse.
    "sparse-adapter": Candidate(
        "additive", methods.SparseAdapter(methods.HoulsbyAdapter(r=64, init="bert"), pruned=0.8, score="snip"), 1e-2,
        on_batches,
    ),
    "ia3": Candidate("additive", methods.IA3(), 1e-1),
    "prompt": Candidate("additive", methods.PromptTuning(n=20), 1.0),
    "prefix": Candidate("additive", methods.PrefixTuning(n=20), 3e-2),
    # Its network is needed to train; a trained task keeps the vectors that it made.
    "p-tuning": Candidate("additive", methods.PTuning(n=20), 3e-4, keep={"encoder": False}),
    "llama-adapter": Candidate("additive", methods.LlamaAdapter(n=10), 1e-2),
    "bitfit": Candidate("selective", methods.BitFit(), 1e-2),
    "bitfit-query": Candidate("selective", methods.BitFit(biases="query-and-second-mlp"), 3e-2),
    "norms": Candidate("selective", methods.NormTuning(), 1e-2),
    "top-layers": Candidate("selective", methods.TopLayers(k=2), 1e-3),
    "attention": Candidate("selective", methods.ByType(("attention",)), 3e-4),
    "fish-mask": Candidate("selective", methods.FishMask(keep=0.005), 1e-2, on_batches),
    "shira": Candidate("selective", methods.SHiRA(r=8), 1e-2, drawn),
    "far": Candidate("selective", methods.FreezeAndReconfigure(learners=0.1), 3e-3, primed),
    "rows": Candidate("selective", methods.SelectRows(rows=0.1), 3e-3),
    "said": Candidate("reparameterised", methods.IntrinsicSAID(d=1000), 1e-1),
    "lora": Candidate("reparameterised", methods.LoRA(r=8, alpha=16), 1e-2),
    "dora": Candidate("reparameterised", methods.LoRA(r=8, alpha=16, dora=True), 1e-2),
    # Its seed is kept, and not the A and B that are drawn from it.
    "vera": Candidate("reparameterised", methods.VeRA(r=256, save_projection=False), 1e-1),
    "oft": Candidate("reparameterised", methods.OFT(block_size=32), 1e-2),
    "qlora": Candidate("reparameterised", methods.LoRA(r=8, alpha=16, targets="all-linear"), 1e-3, on_codes),
    "lora-bitfit": Candidate("hybrid", methods.Hybrid(methods.LoRA(r=8, alpha=16), methods.BitFit()), 3e-3),
    "compacter": Candidate("hybrid", methods.Compacter(), 1e-2),
    "compacter-plus": Candidate("hybrid", methods.CompacterPlus(), 3e-2),
    "mam": Candidate("hybrid", methods.MAMAdapter(n=30, hidden=None), 1e-3),
    "unipelt": Candidate("hybrid", methods.UniPELT(n=10, hidden=None), 1e-2),
}  # fmt: skip

#: Beside them what a fair comparison of two of them needs, by name: `coursekit compare` runs these where it is told to.
TWINS: dict[str, Candidate] = {
    # QLoRA's targets without its 4-bit base.
    "lora-all-linear": Candidate("reparameterised", methods.LoRA(r=8, alpha=16, targets="all-linear"), 1e-3),
    # The same with other starts, at the rates that data/evidence/lora.csv found.
    "pissa": Candidate("reparameterised", methods.LoRA(r=8, alpha=16, targets="all-linear", init="pissa"), 3e-4),
    "olora": Candidate("reparameterised", methods.LoRA(r=8, alpha=16, targets="all-linear", init="olora"), 3e-4),
    "eva": Candidate(
        "reparameterised", methods.LoRA(r=8, alpha=16, targets="all-linear", init="eva"), 3e-4, on_batches
    ),
    # As many entries as the Fisher mask chooses, by chance.
    "random-mask": Candidate("selective", methods.FishMask(keep=0.005, score="random"), 1e-2, drawn),
}

#: All of them.
EVERY = CANDIDATES | TWINS

#: What each is called in tables and pictures.
NAMES: dict[str, str] = {
    "head": "head alone", "full": "full fine-tuning", "houlsby": "Houlsby adapters", "pfeiffer": "Pfeiffer adapters",
    "parallel": "parallel adapters", "lin": "Lin adapters", "adapter-drop": "AdapterDrop",
    "sparse-adapter": "SparseAdapter", "ia3": "(IA)³", "prompt": "prompt tuning", "prefix": "prefix tuning",
    "p-tuning": "P-tuning", "llama-adapter": "LLaMA-Adapter", "bitfit": "BitFit",
    "bitfit-query": "BitFit, query and MLP", "norms": "layer norms", "top-layers": "top two blocks",
    "attention": "attention layers", "fish-mask": "Fisher mask", "random-mask": "random mask", "shira": "SHiRA",
    "far": "Freeze and Reconfigure", "rows": "chosen rows", "said": "SAID", "lora": "LoRA, query and value",
    "lora-all-linear": "LoRA, all linear", "pissa": "PiSSA", "olora": "OLoRA", "eva": "EVA",
    "dora": "DoRA", "vera": "VeRA", "oft": "OFT", "qlora": "QLoRA, all linear",
    "lora-bitfit": "LoRA + BitFit", "compacter": "Compacter", "compacter-plus": "Compacter++", "mam": "MAM",
    "unipelt": "UniPELT",
}  # fmt: skip
