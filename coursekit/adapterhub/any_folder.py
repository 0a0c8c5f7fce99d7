r"""One door for every adapter folder: peft's, this course's, and those of the `adapters` library."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from coursekit import interop, methods
from coursekit.adapterhub import folder as adapterhub
from coursekit.adapterhub.format import READ, load
from coursekit.errors import CourseError
from coursekit.methods.mechanism.attachment import attached
from coursekit.methods.mechanism.method import Method

#: Files of an adapter, in whichever format; of a repository on the hub nothing else is fetched.
FILES = (
    interop.CONFIG, interop.TENSORS, interop.OLD_TENSORS, *adapterhub.WEIGHTS, adapterhub.HEAD_CONFIG,
    *adapterhub.HEAD_WEIGHTS,
)  # fmt: skip
_FORMATS = f"folders of peft and of method.save(), and of the adapters library with {READ}"


def load_adapter(model: nn.Module, folder: str | Path, name: str = "default") -> Method:
    r"""Attach the adapter in `folder`, whoever wrote it, to `model` under `name`; gives the method that it is.

    folder: a folder, or the name of a repository on the Hugging Face hub, such as "owner/adapter".
    Raises CourseError, with what was found and what can be read, and leaves `model` as it was, for a folder without an
    adapter, for a damaged one, for one of another model, and for a method that the course does not have.
    """
    folder = _on_this_disk(folder)
    config = _config(folder)
    if "peft_type" in config:
        methods.from_checkpoint(folder).load(model, folder, name)
    elif "config" in config:
        load(model, folder, name)
    else:
        entries = ", ".join(sorted(map(str, config))[:6]) or "no entries"
        raise CourseError(
            f"{folder / interop.CONFIG} has neither peft's 'peft_type' nor the adapters library's 'config', but "
            f"{entries}; read are {_FORMATS}"
        )
    return attached(model)[name]


def _on_this_disk(folder: str | Path) -> Path:
    path, text = Path(folder).expanduser(), str(folder)
    if path.is_dir():
        return path
    if path.exists():
        raise CourseError(f"{text} is a file: give the folder that it lies in")
    if isinstance(folder, Path) or text.count("/") != 1 or text.startswith((".", "/", "~")):
        raise CourseError(f"there is no folder {text}; a repository on the hub is called 'owner/name'")
    from huggingface_hub import snapshot_download

    from coursekit.models.hub import one_line

    with one_line(text, text):
        return Path(snapshot_download(text, allow_patterns=list(FILES)))


def _config(folder: Path) -> dict:
    there = sorted(p.name for p in folder.iterdir())
    if interop.CONFIG not in there:
        found = f"{', '.join(there[:6])}{', …' if len(there) > 6 else ''}" or "nothing"
        whole = " (a whole model: load it with from_pretrained)" if "config.json" in there else ""
        raise CourseError(
            f"{folder} holds no adapter: it has {found}{whole} and no {interop.CONFIG}; read are {_FORMATS}"
        )
    return adapterhub.read_settings(folder / interop.CONFIG)
