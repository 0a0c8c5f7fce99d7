r"""Which method works on which family, tried on the meta device: `python tests/any_model.py` prints the docs' table.

Without weights nothing is computed, but every shape, precision and device is: a tensor left on the CPU is an error, and
so is one in 32 bits beside a base in 16. With weights, in 32 bits, `tests/methods/test_every_method.py` tries them.
"""

from functools import cache

import families
import torch
from attached import labelled
from cases import CASES, Case

from coursekit import methods
from coursekit.errors import CourseError
from coursekit.qlora import quantize_model

WORKS, UNDEFINED, REFUSED = "✓", "–", "✗"
BEGIN, END = "<!-- any model: from tests/any_model.py -->", "<!-- /any model -->"

_CASES = {case.name: case for case in CASES}
#: Name in the table -> the method as it is tried.
ROWS: dict[str, Case] = {
    "full fine-tuning": Case("FullFineTuning", lambda: methods.FullFineTuning()),
    "LoRA": _CASES["LoRA"],
    "rsLoRA": Case("LoRA-rslora", lambda: methods.LoRA(r=4, rslora=True, targets="all-linear")),
    "DoRA": _CASES["LoRA-dora"],
    "PiSSA": _CASES["LoRA-pissa"],
    "OLoRA": _CASES["LoRA-olora"],
    "EVA": _CASES["LoRA-eva"],
    "QLoRA": _CASES["QLoRA"],
    "LoftQ": _CASES["QLoRA-loftq"],
    "VeRA": _CASES["VeRA"],
    "OFT": _CASES["OFT"],
    "(IA)³": _CASES["IA3"],
    "prompt tuning": _CASES["PromptTuning"],
    "P-tuning": _CASES["PTuning"],
    "P-tuning, MLP": _CASES["PTuning-mlp"],
    "BitFit": _CASES["BitFit"],
    "BitFit, biases added": Case("BitFit-added", lambda: methods.BitFit(add_biases=True)),
    "norms": _CASES["NormTuning"],
    "top layers": _CASES["TopLayers"],
    "by type": Case("ByType", lambda: methods.ByType(("attention", "feedforward"))),
    "rows": _CASES["SelectRows"],
    "columns": Case("SelectColumns", lambda: methods.SelectColumns(columns=0.3)),
    "FISH mask": _CASES["FishMask"],
    "SHiRA": _CASES["SHiRA"],
    "SAID": _CASES["IntrinsicSAID"],
    "DID": Case("IntrinsicDID", lambda: methods.IntrinsicSAID(d=50, structure=False, parts="blocks")),
    "Houlsby's adapters": _CASES["HoulsbyAdapter"],
    "Pfeiffer's adapters": _CASES["PfeifferAdapter"],
    "parallel adapters": _CASES["ParallelAdapter"],
    "Lin's adapters": _CASES["LinAdapter"],
    "Compacter": _CASES["Compacter"],
    "AdapterDrop": _CASES["AdapterDrop"],
    "SparseAdapter": _CASES["SparseAdapter"],
    "prefix tuning": _CASES["PrefixTuning"],
    "LLaMA-Adapter": _CASES["LlamaAdapter"],
    "FAR": _CASES["FreezeAndReconfigure"],
    "MAM": _CASES["MAMAdapter"],
    "UniPELT": _CASES["UniPELT"],
}
#: Tried on two blocks: the first, or all but the last, are left alone.
MORE_THAN_A_BLOCK = ("AdapterDrop",)
#: Those that look for nothing but linear layers, embeddings, norms and blocks: they need no description of a family.
ANYWHERE = tuple(ROWS)[: tuple(ROWS).index("Houlsby's adapters")]


@cache
def tried(row: str, kind: str) -> tuple[str, str]:
    r"""What becomes of a method on a family, a sign of the table, and the error in words."""
    case = ROWS[row]
    try:
        if case.quantized:  # there is nothing to put into 4 bits without weights
            model = case.make().attach(quantize_model(families.model(kind).bfloat16()))
        else:
            layers = 2 if case.name in MORE_THAN_A_BLOCK else 1
            model = case.make().attach(families.on_meta(kind, torch.bfloat16, layers))
    except CourseError as error:
        refused = "is not described" in str(error) or str(error).startswith("no default")
        return (REFUSED if refused else UNDEFINED), str(error)
    one = {key: value.to(model.device) for key, value in labelled(kind).items()}
    del one["attention_mask"]  # BERT's relatives ask a mask for its values, and DeBERTa the labels of a classifier
    if kind in families.ENCODERS:
        del one["labels"]
    answered = model.train()(**one)
    (answered.logits.sum() if kind in families.ENCODERS else answered.loss).backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert any(p.grad is not None for p in trained)
    assert all(p.grad.device == p.device == model.device for p in trained if p.grad is not None)
    return WORKS, ""


def table() -> str:
    r"""The table of docs/any_model.md, in Markdown."""
    names = families.NAMES
    lines = [f"| | {' | '.join(names.values())} |", f"|---{'|:-:' * len(names)}|"]
    lines += [f"| {row} | {' | '.join(tried(row, kind)[0] for kind in names)} |" for row in ROWS]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
