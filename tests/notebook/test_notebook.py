r"""The generated set-up cell and badge.

The set-up cell runs in bare interpreters (`python -S`: no site-packages), so that nothing but what a test
lays out can be found.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from coursekit.notebook.cells import badge, setup_cell

ROOT = Path(__file__).resolve().parents[2]
ADDRESS = "https://github.com/owner/name"


def execute(cell: str, cwd: Path, *, path: list[Path] = (), before: str = "") -> subprocess.CompletedProcess:
    r"""Runs the cell in a bare interpreter, then says where coursekit is found."""
    after = "\nprint('FOUND', coursekit.__file__)"
    add = f"import sys; sys.path += {[str(p) for p in path]}\n"
    command = [sys.executable, "-S", "-E", "-c", add + before + "\n" + cell + after]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60)


def package(folder: Path, *, ours: bool = True) -> Path:
    r"""A folder with a package coursekit: like ours, or the unrelated one that refuses to be imported."""
    (folder / "coursekit").mkdir(parents=True)
    (folder / "coursekit" / "__init__.py").write_text("" if ours else "raise RuntimeError('a stranger')")
    if ours:
        (folder / "coursekit" / "methods").mkdir()
        (folder / "coursekit" / "methods" / "__init__.py").write_text("")
    return folder


#: Stands in for Python when the cell calls pip: lists some packages, and for an installation notes its arguments and
#: constraints and lays down what pip would install.
FAKE_PIP = """#!/bin/sh
if [ "$3" = list ]; then
    printf '%s\\n' torch==2.6.0+cu124 numpy==2.0.2 torchvision==0.21.0+cu124 torchaudio==2.6.0+cu124 torchao==0.10.0 \\
        pandas==2.2.2 pyzmq==26.2.1 prompt_toolkit==3.0.50 huggingface-hub==1.0.0 ipykernel==6.17.1 mytorch==1
else
    printf '%s\\n' "$@" > {log}/command
    cat > {log}/kept
    mkdir -p {site}/coursekit/methods && : > {site}/coursekit/__init__.py
    exit {status}
fi
"""


def fake_pip(folder: Path, site: Path, status: int = 0) -> str:
    r"""Code that puts the stand-in in the place of this Python."""
    (folder / "log").mkdir()
    tool = folder / "python"
    tool.write_text(FAKE_PIP.format(log=folder / "log", site=site, status=status))
    tool.chmod(0o755)
    return f"import sys; sys.executable = {str(tool)!r}"


@pytest.mark.parametrize("address", ["", ADDRESS])
def test_an_installed_package_is_used_as_it_is(tmp_path, address):
    site = package(tmp_path / "site")
    done = execute(setup_cell(address), tmp_path, path=[site])
    assert done.stdout == f"FOUND {site / 'coursekit' / '__init__.py'}\n", done.stderr


@pytest.mark.parametrize("below", [".", "notebooks", "notebooks/deeper"])
@pytest.mark.parametrize("stranger", [False, True])
def test_a_checkout_above_is_found_also_past_the_unrelated_package(tmp_path, below, stranger):
    checkout = package(tmp_path / "checkout")
    (checkout / below).mkdir(parents=True, exist_ok=True)
    site = [package(tmp_path / "site", ours=False)] if stranger else []
    done = execute(setup_cell(ADDRESS), checkout / below, path=site)
    assert done.stdout == f"FOUND {checkout / 'coursekit' / '__init__.py'}\n", done.stderr


@pytest.mark.parametrize("stranger", [False, True])
def test_a_fresh_colab_installs_from_the_address_and_keeps_its_own_builds(tmp_path, stranger):
    site = tmp_path / "site"
    site.mkdir()
    if stranger:
        package(site, ours=False)
    (tmp_path / "content").mkdir()
    pip = fake_pip(tmp_path, site)
    done = execute(setup_cell(ADDRESS, "v9"), tmp_path / "content", path=[site], before=pip)
    assert done.stdout.endswith(f"FOUND {site / 'coursekit' / '__init__.py'}\n"), done.stderr
    command = (tmp_path / "log" / "command").read_text().splitlines()
    assert command[:3] == ["-m", "pip", "install"]
    assert command[-1] == f"coursekit-finetuning[colab] @ git+{ADDRESS}@v9"
    assert sorted((tmp_path / "log" / "kept").read_text().split()) == [
        "ipykernel==6.17.1", "numpy==2.0.2", "prompt_toolkit==3.0.50", "pyzmq==26.2.1", "torch==2.6.0+cu124",
        "torchaudio==2.6.0+cu124", "torchvision==0.21.0+cu124",
    ]  # fmt: skip
    assert list((tmp_path / "content").iterdir()) == [], "no files left where the student works"


@pytest.mark.parametrize("version, says", [("4.57.1", True), (None, False)])
def test_a_transformers_that_was_replaced_wants_a_restart(version, says):
    from importlib import metadata

    before = "import sys, types; sys.modules['transformers'] = types.ModuleType('transformers')\n"
    before += f"sys.modules['transformers'].__version__ = {version or metadata.version('transformers')!r}\n"
    done = subprocess.run([sys.executable, "-c", before + "import coursekit"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == says, done.stderr
    assert ("transformers 4.57.1 was imported before" in done.stdout) == says


def test_without_a_network_it_says_so(tmp_path):
    (tmp_path / "site").mkdir()
    pip = fake_pip(tmp_path, tmp_path / "nowhere", status=1)
    done = execute(setup_cell(ADDRESS), tmp_path, path=[tmp_path / "site"], before=pip)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and last.startswith("RuntimeError: no network? pip")
    assert last.endswith("run this cell again"), "there is no coursekit yet, whose doctor could be asked"


@pytest.mark.parametrize("stranger", [False, True])
def test_without_an_address_it_says_what_to_do(tmp_path, stranger):
    site = [package(tmp_path / "site", ours=False)] if stranger else []
    done = execute(setup_cell(""), tmp_path, path=site)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and last.startswith("RuntimeError: coursekit is not installed here")
    assert "pip install -e ." in last


def test_notices_of_other_libraries_are_silenced_before_they_come(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", f"{setup_cell('')}\nimport tqdm.auto"], cwd=Path(__file__).parent, capture_output=True
    )
    assert done.returncode == 0 and b"IProgress" not in done.stderr


def test_threads_wait_asleep_wherever_a_notebook_is_opened():
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "KMP_"))}
    done = subprocess.run(
        [sys.executable, "-c", f"{setup_cell('')}\nimport torch"],
        cwd=Path(__file__).parent,
        env=environment | {"OMP_DISPLAY_ENV": "VERBOSE"},
        capture_output=True,
        text=True,
    )
    said = done.stdout + done.stderr  # libgomp's turns, 300,000 where nobody asks; libomp's milliseconds
    assert re.search("GOMP_SPINCOUNT ?= ?'0'|KMP_BLOCKTIME ?= ?'?0", said), said


@pytest.mark.parametrize("address", ["", ADDRESS])
def test_the_cell_has_ten_lines_and_passes_the_house_style(address):
    cell = setup_cell(address)
    assert len(cell.splitlines()) <= 10
    command = [sys.executable, "-m", "ruff", "check", "--stdin-filename", "notebooks/cell.py", "--ignore", "E402", "-"]
    done = subprocess.run(command, input=cell + "\n", capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout


def test_badges_lead_to_the_notebook():
    found = badge(ADDRESS, "trunk", "notebooks/06_lora.ipynb")
    assert "(https://colab.research.google.com/github/owner/name/blob/trunk/notebooks/06_lora.ipynb)" in found
    assert badge("", "main", "x").startswith("<!--") and badge("https://example.org/x", "main", "x").startswith("<!--")


@pytest.mark.slow
def test_loading_a_library_prints_nothing_into_a_notebook(tmp_path):
    r"""tqdm warns once, with a path, where Jupyter has no widgets: that must not be in a committed notebook."""
    from coursekit.batch.runner import run_notebooks

    source = "import coursekit.notebook.tables\nimport transformers, datasets, peft, accelerate"
    cells = [nbformat.v4.new_code_cell(source)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "n.ipynb")
    (result,) = run_notebooks([tmp_path / "n.ipynb"], tmp_path / "runs")
    assert result.ok
    assert nbformat.read(tmp_path / "runs" / "n.ipynb", 4).cells[0].outputs == []
