r"""The built site, a server for it, and a browser."""

import functools
import http.server
import importlib.util
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from served import BROWSER, QUIET, ROOT, Silent, build


@pytest.fixture(scope="session")
def can_build() -> None:
    for name in ("sphinx", "myst_nb", "pydata_sphinx_theme"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed: make site brings it")
    if not (ROOT / "docs" / "node_modules").is_dir():
        pytest.skip("docs/node_modules is not there: make site brings it")


@pytest.fixture(scope="session")
def site(can_build: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    r"""The folder of the pages, built from the checkout."""
    out = tmp_path_factory.mktemp("built") / "site"
    done = build(ROOT, out)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="session")
def address(site: Path) -> Iterator[str]:
    r"""Where the pages are served on this machine."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Silent, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture(scope="module")  # no longer: as long as it lives, nothing else in the process can use asyncio
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make site brings it")
    if BROWSER is None:
        pytest.skip("no Chromium on the PATH: on Debian and Ubuntu, apt-get install chromium")
    with api.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=BROWSER, args=list(QUIET))
        yield chromium
        chromium.close()
