r"""A LoRA as a GGUF file, as llama.cpp reads adapters (`--lora FILE`) beside a base in any of its formats.

llama.cpp computes, beside the matrix of each layer,

$$h = Wx + \frac{\alpha}{\mathrm{rows}(A)}\,B(Ax)$$

with one $\alpha$ for the whole file and A, B (fp32) under the layer's name in llama.cpp:

    model.layers.3.self_attn.q_proj    A (r, in)     blk.3.attn_q.weight.lora_a
                                       B (out, r)    blk.3.attn_q.weight.lora_b

Three things are lost by whoever copies peft's numbers. rsLoRA's $s = \alpha/\sqrt r$: the file has no word for it, so
its $\alpha$ must be $s\,r$. Layers with an s of their own: B takes what differs. And in Llama's family llama.cpp turns
pairs of neighbours where transformers turns halves of a head, so the rows of its query and key matrices stand in
another order, and with them those of B.

Layout: `convert_lora_to_gguf.py` and `src/llama-adapter.cpp` in github.com/ggml-org/llama.cpp (of 2026).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from coursekit.errors import CourseError
from coursekit.files import replaced_files
from coursekit.methods.combine import adapter
from coursekit.methods.lora import LoRA
from coursekit.methods.lora_starts import MOVED
from coursekit.methods.mechanism.merge import undone_after_an_error

#: Model type in transformers -> (its architecture in llama.cpp, whether rows of query and key change places).
FAMILIES = {"llama": ("llama", True), "mistral": ("llama", True), "qwen2": ("qwen2", False), "qwen3": ("qwen3", False)}


def save_gguf(model: nn.Module, path: str | Path, name: str | None = None) -> Path:
    r"""Write the LoRA `name` (the active one, if None) of `model` to the file `path`, which is replaced if it is there.

    Raises CourseError for another method, a LoRA with more than A and B, layers outside the blocks, and a family whose
    layout is not known here.
    """
    import gguf

    name, method = adapter(model, name)
    check_plain(model, method, name)
    arch, names = names_of(model.config)
    layers = dict(method.branches(model, name))
    if others := [p for p in layers if p not in names]:
        raise CourseError(f"GGUF holds updates of layers in blocks, and {others[0]} is none: exclude it")
    alpha = next(b.s * len(b.A) for b in (layer.branches[name] for layer in layers.values()))
    with gguf_file(path, arch) as writer:
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
        for place, layer in layers.items():
            branch = layer.branches[name]
            ratio = branch.s * len(branch.A) / alpha  # 1, and every bit stays, where all layers have one s r
            B = reordered(branch.B.detach(), heads_of(model.config, place)) * ratio
            for key, value in {"lora_a": branch.A.detach(), "lora_b": B}.items():
                writer.add_tensor(f"{names[place]}.weight.{key}", value.float().cpu().contiguous().numpy())
    return Path(path)


@contextmanager
def gguf_file(path: str | Path, arch: str) -> Iterator[Any]:
    r"""A writer of a GGUF file for the architecture `arch`, which replaces `path` whole or not at all."""
    import gguf

    path = Path(path)
    with replaced_files(path.parent, path.name) as part:
        writer = gguf.GGUFWriter(part / path.name, arch)
        yield writer
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def check_plain(model: nn.Module, method: Any, name: str) -> None:
    r"""Raise CourseError unless `method` is a LoRA of A and B alone."""
    if not isinstance(method, LoRA):
        kind = type(method).__name__
        raise CourseError(f"GGUF holds LoRA alone, and adapter {name!r} is a {kind}: to_lora makes one of what folds")
    more = {"dora=True": method.dora, "lora_bias=True": method.lora_bias, f"init={method.init!r}": method.init in MOVED}
    for what in (what for what, there in more.items() if there):
        raise CourseError(f"GGUF holds A and B alone, and adapter {name!r} has {what}: to_lora makes it a plain LoRA")
    if heads := method.heads(model):
        raise CourseError(f"GGUF holds A and B alone, and adapter {name!r} trains {heads[0]} whole")


def load_gguf(model: nn.Module, path: str | Path, name: str = "default") -> nn.Module:
    r"""Attach the adapter in the GGUF file `path` to `model` under `name`, as a LoRA.

    Raises CourseError, and leaves the model as it was, for a file that holds none or is for another model.
    """
    alpha, tensors = read_gguf(path)
    places = {f"{own}.weight": place for place, own in names_of(model.config)[1].items()}
    found = {key.rpartition(".")[0] for key in tensors}
    if strange := sorted(found - places.keys()):
        raise CourseError(f"{path} is for another model: there is no {strange[0]} here")
    r = {key: len(tensors[f"{key}.lora_a"]) for key in found}
    first = next(iter(r.values()))
    pattern = {places[key]: n for key, n in r.items() if n != first}
    with undone_after_an_error(model, name):
        method = LoRA(r=first, alpha=alpha, targets=tuple(map(places.__getitem__, r)), rank_pattern=pattern)
        method.attach(model, name)
        own = {place: layer.branches[name] for place, layer in method.branches(model, name)}
        with torch.no_grad():
            for key in found:
                branch, A, B = own[places[key]], tensors[f"{key}.lora_a"], tensors[f"{key}.lora_b"]
                if branch.A.shape != A.shape or branch.B.shape != B.shape:
                    raise CourseError(f"{path} is for another model: {key} has other sizes here")
                branch.A.copy_(A)
                branch.B.copy_(reordered(B, heads_of(model.config, places[key]), back=True))
    return model


def read_gguf(path: str | Path) -> tuple[float, dict[str, Tensor]]:
    r"""Alpha, and A and B by their names in the file, rows as there. Raises CourseError where it is no adapter."""
    import gguf

    if not Path(path).is_file():
        raise CourseError(f"there is no file {path}")
    try:
        reader = gguf.GGUFReader(path)
        kind = reader.fields[gguf.Keys.Adapter.TYPE].contents()
        alpha = float(reader.fields[gguf.Keys.Adapter.LORA_ALPHA].contents())
        tensors = {t.name: torch.tensor(t.data) for t in reader.tensors}
    except Exception as error:  # the library fails in many ways on what is no GGUF
        raise CourseError(f"{path} is no GGUF adapter: {' '.join(str(error).split())}") from error
    names = {key.rpartition(".")[0] for key in tensors}
    if kind != "lora" or set(tensors) != {f"{key}.{part}" for key in names for part in ("lora_a", "lora_b")}:
        raise CourseError(f"{path} is no GGUF adapter of A and B")
    return alpha, tensors


def names_of(config: Any) -> tuple[str, dict[str, str]]:
    r"""llama.cpp's architecture, and its names of the linear layers in the blocks by their paths here."""
    import gguf

    kind = config.model_type
    if kind not in FAMILIES:
        raise CourseError(f"GGUF adapters are written for {', '.join(FAMILIES)}; this model is a {kind}")
    arch = FAMILIES[kind][0]
    number = next(n for n, word in gguf.MODEL_ARCH_NAMES.items() if word == arch)
    table = gguf.get_tensor_name_map(number, config.num_hidden_layers)
    parts = [f"self_attn.{p}_proj" for p in "qkvo"] + [f"mlp.{p}_proj" for p in ("gate", "up", "down")]
    paths = [f"model.layers.{i}.{part}" for i in range(config.num_hidden_layers) for part in parts]
    return arch, {path: table.get_name(path) for path in paths}


def heads_of(config: Any, path: str) -> int:
    r"""How many heads the rows of the layer at `path` are of, where llama.cpp has them in another order; else 0."""
    if not FAMILIES[config.model_type][1]:
        return 0
    counts = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    return counts.get(path.rpartition(".")[2], 0)


def reordered(B: Tensor, heads: int, back: bool = False) -> Tensor:
    r"""The rows of `B` (out, r) in llama.cpp's order, or `back` in transformers': in each head halves <-> pairs."""
    if not heads:
        return B
    half = len(B) // heads // 2
    inner = (half, 2) if back else (2, half)
    return B.reshape(heads, *inner, -1).transpose(1, 2).reshape(B.shape)
