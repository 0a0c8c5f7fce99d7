r"""The course as pages: `make site`, then open build/site/index.html.

The sources are the repository's own files: README.md is the front page, every notebook, evidence card and Markdown
page another one, at the same path. So a link that holds in the repository holds on the pages. Nothing is run.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

smartquotes = False  # what a cell printed is shown as it was
highlight_language = "text"  # of a block that names no language
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"  # beside a page is room for the last part of a name
project = "Fine-tuning language models"
author = "the course's authors"
copyright = ""

root_doc = "README"
include_patterns = [
    "*.md", "benchmarks/*.md", "data/**.md", "docs/**.md", "examples/**.md", "notebooks/*.ipynb",
]  # fmt: skip
exclude_patterns = [
    ".*", "**/.*", "**/__pycache__", "build", "dist", "docs/node_modules", "marks*", "runs", "tests", "coursekit",
    "examples/submissions",
]  # fmt: skip
extensions = ["myst_nb", "library", "pages", "proof"]

# The notebooks are committed with their outputs.
nb_execution_mode = "off"
nb_merge_streams = True
nb_render_markdown_format = "myst"
nb_code_prompt_show = "Show the code"
nb_code_prompt_hide = "Hide the code"
myst_enable_extensions = ["amsmath", "deflist", "dollarmath"]
myst_dmath_double_inline = True
myst_heading_anchors = 4

# MathJax comes along (pages.py): no page asks another host for anything.
mathjax_path = "mathjax/tex-chtml-full.js"
mathjax3_config = {
    "chtml": {"scale": 0.94},
    "loader": {"load": ["a11y/assistive-mml"]},
    "options": {"enableMenu": False},
}

html_theme = "pydata_sphinx_theme"
html_title = project
html_context = {"default_mode": "auto"}
templates_path = ["templates"]
html_static_path = ["course.css", "course.js"]
html_css_files, html_js_files = ["course.css"], ["course.js"]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_show_copyright = False
html_theme_options = {
    "logo": {"text": project},
    "navbar_align": "left",
    "navbar_persistent": ["search-field"],
    "header_links_before_dropdown": 3,
    "show_nav_level": 2,
    "show_toc_level": 1,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "show_prev_next": True,
    "footer_start": [],
    "footer_end": [],
    "back_to_top_button": False,
}
html_sidebars = {"README": []}
