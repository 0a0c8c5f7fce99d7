r"""The finished pages looked over: every link leads somewhere, every anchor is there, nothing comes from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from sphinx.application import Sphinx
from sphinx.util import logging

log = logging.getLogger(__name__)


class Page(HTMLParser):
    r"""The ids of a page, and its links as (line, address, whether the page loads it by itself)."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[tuple[int, str, bool]] = []
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        has = dict(attributes)
        self.ids |= {has[name] for name in ("id", "name") if has.get(name)}
        for name in ("href", "src"):
            if has.get(name):
                self.links.append((self.getpos()[0], has[name], tag not in {"a", "area"}))


def faults(site: Path) -> Iterator[tuple[str, str]]:
    r"""(page and line, what is wrong) of every page under `site`."""
    pages = {file.resolve(): Page(file) for file in sorted(site.rglob("*.html")) if "_static" not in file.parts}
    for file, page in pages.items():
        for line, address, loaded in page.links:
            place, url = f"{file.relative_to(site.resolve())}:{line}", urlsplit(address)
            if url.scheme or url.netloc:
                if loaded and url.scheme != "data":
                    yield place, f"loads {address} from another host"
                continue
            target = (file.parent / unquote(url.path)).resolve() if url.path else file
            if target.is_dir():
                target /= "index.html"
            if not target.is_file():
                yield place, f"broken link to {address}"
            elif url.fragment and target in pages and unquote(url.fragment) not in pages[target].ids:
                yield place, f"broken anchor {address}"


def finish(app: Sphinx, error: Exception | None) -> None:
    if error or app.builder.name != "html":
        return
    site = Path(app.outdir)
    front = site / f"{app.config.root_doc}.html"
    (site / "index.html").write_bytes(front.read_bytes())
    for place, fault in faults(site):
        log.warning(fault, location=place)


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
