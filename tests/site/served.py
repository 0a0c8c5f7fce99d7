r"""How the pages are built, and how a browser looks at them: without a network, keeping all that goes wrong."""

from __future__ import annotations

import http.server
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
#: Without these Chromium looks up its maker's hosts at every start.
QUIET = ("--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync")


def build(root: Path, out: Path) -> subprocess.CompletedProcess[str]:
    r"""What `make site` runs."""
    sphinx = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-j", "2", "-c", "docs", ".", str(out)]
    return subprocess.run(sphinx, cwd=root, capture_output=True, text=True)


#: Milliseconds that anything in a browser may take: the cores may have other work.
PATIENCE = 600_000


class Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


class Watched:
    r"""A tab that reaches this machine only, and what went wrong in it."""

    def __init__(self, browser: Any, **settings: Any) -> None:
        self.context = browser.new_context(**settings)
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.wrong: list[str] = []
        self.page.route("**/*", self._cut)
        self.page.on("requestfailed", lambda r: self._say(f"failed: {r.url} ({r.failure})"))
        self.page.on("response", lambda r: r.status >= 400 and self._say(f"{r.status}: {r.url}"))
        self.page.on("pageerror", lambda error: self._say(f"error: {error}"))
        self.page.on("console", lambda m: m.type == "error" and self._say(f"console: {m.text} ({m.location})"))

    def _cut(self, route: Any) -> None:
        if route.request.url.startswith(("http://127.0.0.1:", "http://localhost:", "data:", "blob:")):
            route.continue_()
        else:
            self._say(f"asked another host: {route.request.url}")
            route.abort()

    def _say(self, what: str) -> None:
        self.wrong.append(f"{self.page.url}: {what}")

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_: Any) -> None:
        self.context.close()
