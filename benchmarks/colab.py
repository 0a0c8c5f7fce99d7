r"""The set-up cell and two lessons as Colab would run them: `python benchmarks/colab.py PYTHON`, PYTHON 3.12 or 3.13.

Makes an environment of that Python with the versions that Colab publishes (googlecolab/backend-info on GitHub,
pip-freeze.gpu.txt) of what the course touches. In its kernel, in an empty folder, runs the notebooks with the smoke
profile; their set-up cell installs the last commit from a local git address. Says what pip moved, and fails if that is
more than NEWER. Where PyTorch comes as its CUDA build, about 3 GB are downloaded and 8 GB of disk used meanwhile.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import nbformat
import typer

from coursekit.notebook.cells import setup_cell

ROOT = Path(__file__).resolve().parents[1]
#: Its runtimes 2026.07 (Python 3.12) and of 19 August 2026 (3.13); torch's +cu128 is not on PyPI.
COLAB = """accelerate==1.14.0 datasets==4.0.0 diffusers==0.39.0 dill==0.3.8 fsspec==2025.3.0 httpx==0.28.1
ipykernel==6.17.1 ipython==7.34.0 ipywidgets==7.7.1 Jinja2==3.1.6 jupyter_client==7.4.9 jupyter_core==5.9.1
matplotlib==3.10.0 multiprocess==0.70.16 notebook==6.5.7 pillow==11.3.0 pip==24.1.2 psutil==5.9.5 pyarrow==18.1.0
pydantic==2.13.4 PyYAML==6.0.3 pyzmq==26.2.1 regex==2025.11.3 requests==2.32.4 rich==13.9.4 safetensors==0.8.0
scipy==1.16.3 sentencepiece==0.2.2 setuptools==75.2.0 timm==1.0.28 tokenizers==0.22.2 torch==2.11.0 torchao==0.10.0
torchaudio==2.11.0 torchvision==0.26.0 tornado==6.5.7 tqdm==4.67.3 traitlets==5.7.1"""
RUNTIMES = {
    "3.12": """filelock==3.29.7 gradio==6.20.0 huggingface_hub==1.23.0 nbformat==5.10.4 numpy==2.0.2 packaging==26.2
        pandas==2.2.2 peft==0.19.1 platformdirs==4.10.0 prompt_toolkit==3.0.52 sentence-transformers==5.6.0
        transformers==5.13.1 typer==0.26.8""",
    "3.13": """filelock==3.32.3 gradio==6.24.0 huggingface_hub==1.27.0 nbformat==5.11.1 numpy==2.1.3 packaging==26.3
        pandas==2.2.3 peft==0.20.0 platformdirs==4.11.3 prompt_toolkit==3.0.53 sentence-transformers==5.7.0
        transformers==5.15.0 typer==0.27.1""",
}
#: What the course needs newer than Colab has it; all else stays.
NEWER = {"huggingface_hub", "peft", "tokenizers", "torchao", "transformers"}


def main(
    python: Annotated[str, typer.Argument(help="Of version 3.12 or 3.13.")],
    notebooks: Annotated[list[str], typer.Argument()] = ("06_lora", "08_qlora"),
):
    with tempfile.TemporaryDirectory(prefix="colab-") as name:
        folder, theirs = Path(name), Path(name) / "env" / "bin" / "python"
        (folder / "content").mkdir()
        start = time.perf_counter()
        subprocess.run([python, "-m", "venv", folder / "env"], check=True)
        version = said(theirs, "-c", "import sys; print('%d.%d' % sys.version_info[:2])").strip()
        pins = [*COLAB.split(), *RUNTIMES[version].split()]
        subprocess.run([theirs, "-m", "pip", "install", "-q", "--no-compile", *pins], check=True)
        before = frozen(theirs)
        print(f"Python {version}: {len(before)} packages as on Colab in {minutes(start)}", flush=True)

        subprocess.run(["git", "clone", "-q", "--bare", ROOT, folder / "course"], check=True)
        subprocess.run(["git", "-C", folder / "course", "tag", "here", "HEAD"], check=True)
        kernel = folder / "jupyter" / "kernels" / "colab" / "kernel.json"
        kernel.parent.mkdir(parents=True)
        argv = [str(theirs), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        kernel.write_text(json.dumps({"argv": argv, "display_name": "Colab", "language": "python"}))
        here = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
        here |= {"JUPYTER_PATH": str(folder / "jupyter"), "COURSEKIT_HOME": str(folder / "home")}
        for stem in notebooks:
            book = nbformat.read(ROOT / "notebooks" / f"{stem}.ipynb", as_version=4)
            (setup,) = (c for c in book.cells if "setup" in c.metadata.get("tags", []))
            setup.source = setup_cell(f"file://{folder}/course", "here")
            nbformat.write(book, folder / "in.ipynb")
            command = [sys.executable, "-m", "papermill", folder / "in.ipynb", folder / "out.ipynb", "-k", "colab"]
            command += ["-f", ROOT / "notebooks/profiles/smoke.yaml", "--cwd", folder / "content"]
            command += ["--no-progress-bar", "--log-level", "ERROR"]
            start = time.perf_counter()
            subprocess.run(command, check=True, env=here)
            book = nbformat.read(folder / "out.ipynb", as_version=4)
            (setup,) = (c for c in book.cells if "setup" in c.metadata.get("tags", []))
            took = setup.metadata.papermill.duration / 60
            print(f"{stem}: {minutes(start)}, {took:.1f} of them the set-up cell, which said:")
            print("".join(output.get("text", "") for output in setup.outputs), flush=True)

        after = frozen(theirs)
        moved = {name for name in before if after.get(name) != before[name]}
        for name in sorted(moved):
            print(f"{name}: {before[name]} -> {after.get(name)}")
        print(f"{len(after) - len(before)} new: {', '.join(sorted(set(after) - set(before)))}")
        assert moved <= NEWER, f"moved, although Colab keeps it: {', '.join(sorted(moved - NEWER))}"


def said(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def frozen(python: Path) -> dict[str, str]:
    r"""Every package and its version."""
    found = json.loads(said(python, "-m", "pip", "list", "--format", "json"))
    return {package["name"].replace("-", "_").lower(): package["version"] for package in found}


def minutes(start: float) -> str:
    return f"{(time.perf_counter() - start) / 60:.1f} min"


if __name__ == "__main__":
    typer.run(main)
