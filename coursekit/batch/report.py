r"""What a batch leaves for people and programs: `summary.json`, `index.html`, a page for each notebook."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from urllib.parse import quote

import coursekit

#: What a batch writes besides the notebooks and their pages.
REPORTS = ("summary.json", "index.html")


@dataclass(frozen=True)
class Result:
    r"""How one notebook went.

    status: "ok"; "failed" (a cell raised); "incomplete" (papermill was content, yet a cell did not run);
    "timeout"; "invalid" (the file is no notebook). minutes: wall time. cpu_minutes, peak_memory: CPU time and bytes
    of the process tree. executed, page: file names beside the summary, or empty. key: fingerprint of the inputs;
    beside: those of the files in the notebook's folder.
    """

    notebook: str
    status: str
    message: str = ""
    minutes: float = 0.0
    cpu_minutes: float = 0.0
    peak_memory: int = 0
    cells: int = 0
    cells_run: int = 0
    executed: str = ""
    page: str = ""
    key: str = ""
    beside: dict[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return self.status == "ok"


def read_summary(out: Path) -> dict[str, Result]:
    r"""Results of earlier runs by notebook; empty where the file is missing or not ours."""
    names = {f.name for f in fields(Result)}
    try:
        entries = json.loads((out / "summary.json").read_text(encoding="utf-8"))["notebooks"]
        return {e["notebook"]: Result(**{k: v for k, v in e.items() if k in names}) for e in entries}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def summary_files(results: Iterable[Result], profile: str | None, done: bool = True) -> dict[str, str]:
    r"""Name -> text of `summary.json` and `index.html`. done: whether all notebooks of the batch have a result."""
    results = sorted(results, key=lambda r: r.notebook)
    summary = {"coursekit": coursekit.__version__, "profile": profile, "ok": done and all(r.ok for r in results)}
    summary["notebooks"] = [asdict(r) for r in results]
    return {"summary.json": json.dumps(summary, indent=2) + "\n", "index.html": _index(results, profile)}


def page_of(executed: Path) -> str:
    r"""An executed notebook as an HTML page."""
    from jinja2 import DictLoader
    from nbconvert import HTMLExporter
    from nbconvert.preprocessors import CoalesceStreamsPreprocessor

    # A progress bar is hundreds of lines that overwrite each other: the page shows the last one, as a terminal does.
    one_line = CoalesceStreamsPreprocessor(enabled=True)
    exporter = HTMLExporter(
        template_name="lab", template_file="page.html.j2", extra_loaders=[DictLoader({"page.html.j2": _TEMPLATE})],
        preprocessors=[one_line],
    )  # fmt: skip
    body, _ = exporter.from_filename(str(executed))
    # Source code shown by a cell is Markdown, which the template would set in the font of prose.
    code = (
        "<style>.jp-RenderedMarkdown pre, .jp-RenderedMarkdown pre * {font-family: monospace}\n"
        ".jp-RenderedMarkdown details {margin-bottom: 1em}</style></head>"
    )
    return body.replace("</head>", code, 1)


#: The lab template leaves out the alt text that an output's metadata has, and shows what JupyterLab folds.
_TEMPLATE = """{% extends "index.html.j2" %}
{% block input %}
{%- if cell.metadata.get("jupyter", {}).get("source_hidden") -%}
{%- set title = cell.source.splitlines()[0] | replace("#@title ", "") -%}
<details><summary>{{ title | escape_html }}</summary>{{ super() }}</details>
{%- else %}{{ super() }}{% endif -%}
{% endblock %}
{% block data_png scoped %}
{%- set alt = output.metadata.get("image/png", {}).get("alt") -%}
{%- if alt %}{{ super() | replace("<img ", '<img alt="' ~ (alt | escape_html) ~ '" ', 1) }}
{%- else %}{{ super() }}{% endif -%}
{% endblock %}
"""

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Notebooks</title>
<style>
:root {{ color-scheme: light dark; --good: light-dark(#136c2e, #6fd08c); --bad: light-dark(#b3261e, #ff8a80);
  --line: light-dark(#d0d7de, #444c56); }}
body {{ font: 1rem/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; }}
table {{ border-collapse: collapse; width: 100%; }}
th, td {{ border-bottom: 1px solid var(--line); padding: .5rem .75rem; }}
th, td {{ text-align: left; vertical-align: top; }}
td.number, th.number {{ text-align: right; font-variant-numeric: tabular-nums; }}
td.number, td:last-child {{ white-space: nowrap; }}
.ok {{ color: var(--good); }}
.bad {{ color: var(--bad); }}
small {{ display: block; overflow-wrap: anywhere; }}
</style>
<h1>Notebooks</h1>
<p>{headline}</p>
<table>
<thead>
<tr><th>Notebook<th>Status<th class="number">Minutes<th class="number">Peak memory<th>Read</tr>
</thead>
<tbody>
{rows}
</tbody>
</table>
</html>
"""


def _index(results: list[Result], profile: str | None) -> str:
    good = sum(r.ok for r in results)
    headline = f"{good} of {len(results)} ran to the end, with the {profile or 'default'} profile."
    return _PAGE.format(headline=html.escape(headline), rows="\n".join(_row(r) for r in results))


def _row(result: Result) -> str:
    message = f"<small>{html.escape(result.message)}</small>" if result.message else ""
    links = [(result.page, "page"), (result.executed, "notebook")]
    read = " · ".join(f'<a href="{html.escape(quote(f))}">{text}</a>' for f, text in links if f)
    colour = "ok" if result.ok else "bad"
    return (
        f'<tr><td>{html.escape(result.notebook)}<td class="{colour}">{result.status}{message}'
        f'<td class="number">{result.minutes:.1f}<td class="number">{result.peak_memory / 1e9:.2f} GB'
        f"<td>{read}</tr>"
    )
