r"""A student's first hour in a real JupyterLab: run all, a wrong and a right answer, a hint, save, reopen, dark.

The notebook ends here with its first exercise: what a browser adds has been met by then, and all its cells are run
without one (`coursekit run --profile smoke`).
"""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml
from PIL import Image
from served import ROOT, Watched

pytestmark = pytest.mark.slow

NOTEBOOK, EXERCISE = "06_lora.ipynb", "lora-linear"
ANSWER = """\
from torch import nn
from coursekit.notebook import built

class LoRALinear(nn.Module):
    def __init__(self, base, r, alpha):
        super().__init__()
        self.base, self.scale = base.requires_grad_(False), {scale}
        self.A = nn.Parameter(torch.randn(r, base.in_features) / base.in_features**0.5)
        self.B = nn.Parameter(torch.zeros(base.out_features, r))

    def forward(self, x):
        return self.base(x) + self.scale * (x @ self.A.T @ self.B.T)

def lora_linear(W, b, A, B, x, alpha):
    return built.lora_layer(LoRALinear, W, b, A, B, x, alpha)
"""
WRONG, RIGHT = ANSWER.format(scale="alpha"), ANSWER.format(scale="alpha / r")
CELLS = "jupyterapp.shell.currentWidget.content"
#: The number of the first cell that shows a picture, -1 before there is one.
PICTURE = f"[...{CELLS}.model.cells].findIndex(c => JSON.stringify(c.toJSON().outputs ?? []).includes('image/png'))"


def beginning(notebook: Any) -> Any:
    r"""The notebook up to the exercise's check and the first picture, with the values of the smoke profile."""
    checks = [n for n, c in enumerate(notebook.cells) if grade_id(c) == f"{EXERCISE}-check"]
    pictures = [n for n, c in enumerate(notebook.cells) if "image/png" in json.dumps(c.get("outputs", []))]
    notebook.cells = notebook.cells[: max(checks[0], pictures[0]) + 1]
    values = yaml.safe_load((ROOT / "notebooks/profiles/smoke.yaml").read_text(encoding="utf-8"))
    (given,) = (c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
    names = set(re.findall(r"^(\w+) *=", given.source, re.MULTILINE))
    given.source += "".join(f"\n{name} = {value!r}" for name, value in values.items() if name in names)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return notebook


def grade_id(cell: Any) -> str | None:
    return cell["metadata"].get("nbgrader", {}).get("grade_id")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("lab")
    made = beginning(nbformat.read(ROOT / "notebooks" / NOTEBOOK, as_version=4))
    nbformat.write(made, place / NOTEBOOK)
    return place


@pytest.fixture(scope="module")
def lab(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    r"""The address of a JupyterLab with settings of its own, on `folder`."""
    if shutil.which("jupyter-lab", path=str(Path(sys.executable).parent)) is None:
        pytest.skip("jupyterlab is not installed: pip install -e '.[notebooks]'")
    own = tmp_path_factory.mktemp("jupyter")
    names = ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR")
    environment = os.environ | {f"JUPYTER_{name}": str(own / name) for name in names}
    environment.pop("MPLBACKEND", None)  # which the tests set, and with which no notebook shows a picture
    environment |= {f"JUPYTERLAB_{name}_DIR": str(own / name) for name in ("SETTINGS", "WORKSPACES")}
    environment |= {"IPYTHONDIR": str(own / "ipython"), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    # It neither asks nor tells another host, and the test may ask the page which cell is which.
    settings = own / "SETTINGS" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps({"fetchNews": "false", "checkForUpdates": False}))
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--port=0",
               "--IdentityProvider.token=", "--LabApp.expose_app_in_browser=True",
               f"--ServerApp.root_dir={folder}"]  # fmt: skip
    with open(own / "log", "w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        for _ in range(240):
            found = "".join(file.read_text() for file in (own / "RUNTIME_DIR").glob("jpserver-*.json"))
            if found.endswith("}"):  # a server that has begun to write its file has not yet written it
                break
            assert server.poll() is None, (own / "log").read_text()
            time.sleep(0.5)
        yield json.loads(found)["url"]
    finally:
        server.terminate()
        server.wait(60)


class Lab:
    r"""What a student does, by mouse and keyboard."""

    def __init__(self, tab: Watched, address: str) -> None:
        self.page = tab.page
        self.page.goto(f"{address}lab/tree/{NOTEBOOK}")
        self.page.locator(".jp-Notebook .jp-Cell").first.wait_for()
        kernel = "jupyterapp.shell.currentWidget.sessionContext.session?.kernel"
        self.page.wait_for_function(f"() => {kernel}?.status === 'idle'")

    def menu(self, *path: str) -> None:
        self.page.locator(".lm-MenuBar-item", has_text=re.compile(f"^{path[0]}$")).click()
        for name in path[1:]:
            self.page.locator(".lm-Menu-item", has_text=re.compile(f"^{name}")).last.click()

    def cell(self, number: int) -> Any:
        r"""The cell with this number, scrolled to."""
        there = f"async n => {{ {CELLS}.activeCellIndex = n; await {CELLS}.scrollToItem(n, 'center') }}"
        self.page.evaluate(there, number)
        return self.page.locator(f".jp-Notebook .jp-Cell[data-windowed-list-index='{number}']")

    def type(self, number: int, source: str) -> None:
        r"""Put `source` in the place of the cell's text and run it."""
        editor = self.cell(number).locator(".cm-content")
        editor.click()
        self.page.keyboard.press("Control+A")
        self.page.keyboard.insert_text(source)
        self.run()

    def run(self) -> None:
        self.page.keyboard.press("Shift+Enter")

    def check(self, number: int, answer: str) -> None:
        r"""Run the check in this cell and wait for the words of its answer."""
        cell = self.cell(number)
        cell.locator(".jp-InputArea-prompt").click()
        self.run()
        cell.locator(".jp-OutputArea-output", has_text=answer).wait_for()


def test_a_students_first_hour(lab, folder, browser):
    cells = json.loads((folder / NOTEBOOK).read_text(encoding="utf-8"))["cells"]
    ids = {grade_id(c): n for n, c in enumerate(cells)}
    mine, check = ids[EXERCISE], ids[f"{EXERCISE}-check"]
    hint = max(n for n in range(mine) if "<summary>Hint 1" in "".join(cells[n]["source"]))
    with Watched(browser, viewport={"width": 1400, "height": 1000}) as tab:
        student = Lab(tab, lab)

        student.menu("Run", "Run All Cells")
        tab.page.wait_for_function(f"() => {PICTURE} >= 0", polling=1000)
        picture = student.cell(tab.page.evaluate(PICTURE)).locator(".jp-OutputArea img").first
        picture.wait_for()
        assert picture.evaluate("image => image.naturalWidth") > 100
        tab.page.wait_for_function(
            f"() => {CELLS}.model.cells.get({len(cells) - 1}) && [...{CELLS}.model.cells].every("
            "c => c.type !== 'code' || c.executionCount || !c.sharedModel.source.trim())",
            polling=1000,
        )
        outputs = tab.page.evaluate(f"() => [...{CELLS}.model.cells].flatMap(c => c.toJSON().outputs ?? [])")
        assert not [o for o in outputs if o["output_type"] == "error"]

        student.type(mine, WRONG)
        student.check(check, "the scale is alpha / r, not alpha")
        student.type(mine, RIGHT)
        student.check(check, "(4/4 points)")

        fold = student.cell(hint).locator("details", has_text="Hint 1")
        assert not fold.locator("p").first.is_visible()
        fold.locator("summary").click()
        assert fold.locator("p").first.is_visible()

        tab.page.keyboard.press("Control+S")
        tab.page.wait_for_function("() => !jupyterapp.shell.currentWidget.context.model.dirty")
        saved = json.loads((folder / NOTEBOOK).read_text(encoding="utf-8"))["cells"]
        assert "".join(saved[mine]["source"]) == RIGHT
        assert "4/4 points" in json.dumps(saved[check]["outputs"])
        assert not tab.wrong

    with Watched(browser, viewport={"width": 1400, "height": 1000}) as tab:
        student = Lab(tab, lab)
        # A cell is drawn when it is scrolled to, a moment later.
        student.cell(mine).locator(".cm-content", has_text="alpha / r").wait_for()
        student.cell(check).locator(".jp-OutputArea", has_text="4/4 points").wait_for()

        student.menu("Settings", "Theme", "JupyterLab Dark")
        tab.page.wait_for_function("() => document.body.dataset.jpThemeLight === 'false'")
        # Pictures are drawn on white paper: in the dark they stay so.
        picture = student.cell(tab.page.evaluate(PICTURE)).locator(".jp-OutputArea img").first
        picture.wait_for()
        dark, paper = (
            Image.open(io.BytesIO(shown.screenshot())).convert("L").getpixel((3, 3))
            for shown in (student.cell(mine).locator(".jp-InputArea-editor"), picture)
        )
        assert dark < 100 and paper > 240
        assert not tab.wrong
