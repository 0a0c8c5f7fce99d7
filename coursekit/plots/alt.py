r"""Alt texts: what a figure shows, in words and numbers taken from what was drawn.

`import coursekit.plots` in a notebook switches them on: every Matplotlib figure is stored with its alt text in the
output's metadata, `{"image/png": {"alt": ...}}`, for screen readers, search, and pages made by nbconvert and
`coursekit run`. What everybody reads under a figure is a sentence that somebody wrote: `show(figure, sentence)`.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure

#: Values that are read out one by one; of more, only the lowest and the highest.
_MOST = 6
#: Letters of a text at most: more than this nobody listens to.
_LONGEST = 700


def describe(figure: Figure) -> str:
    r"""One text for the figure: what a function has said of it, else of each panel its title, what is drawn, with names
    and values, and its axes.
    """
    text = _SAID.get(figure) or _by_panels(figure) or "An empty figure."
    return text if len(text) <= _LONGEST else text[: text.rfind(" ", 0, _LONGEST)].rstrip(",;: ") + " …"


def _by_panels(figure: Figure) -> str:
    panels = [text for ax in figure.axes if (text := _panel(ax))]
    if len(panels) > 1:
        panels = [f"Panel {number}: {text}" for number, text in enumerate(panels, start=1)]
    title = _plain(figure.get_suptitle())
    return " ".join([f"{title}."] * bool(title) + panels)


def says(part: Axes | Figure, text: str) -> None:
    r"""Have `text` said of a panel whose drawing says nothing by itself, such as coloured tiles.

    Of a diagram it is said in place of its labels; of a whole figure, such as one with more panels than can be told one
    by one, in place of all that is in it.
    """
    _SAID[part] = text


#: What the functions that draw have to say of their panels and figures, as long as these live.
_SAID: WeakKeyDictionary[Axes | Figure, str] = WeakKeyDictionary()


def enable() -> None:
    r"""In a notebook, give every figure from now on its alt text. Elsewhere, and a second time, nothing."""
    get_ipython = getattr(sys.modules.get("IPython"), "get_ipython", None)
    shell = get_ipython() if get_ipython else None
    if shell is None:
        return

    def metadata(figure: Figure, include: Any = None, exclude: Any = None) -> tuple[dict, dict]:
        # No data: the picture itself comes from whatever format Matplotlib is set to.
        return {}, {"image/png": {"alt": describe(figure)}}

    shell.display_formatter.mimebundle_formatter.for_type(Figure, metadata)


def show(drawn: Axes | Figure, caption: str) -> None:
    r"""Show a figure here and now, and under it one written sentence that says what to see."""
    import matplotlib.pyplot as plt
    from IPython.display import Markdown, display

    figure = drawn.figure if isinstance(drawn, Axes) else drawn
    display(figure, Markdown(f"*{caption}*"))
    plt.close(figure)  # or the notebook would show it once more at the cell's end


def _panel(ax: Axes) -> str:
    if not ax.get_visible() or ax.get_label() == "<colorbar>":
        return ""
    title = next((_plain(t) for place in ("left", "center", "right") if (t := ax.get_title(loc=place))), "")
    drawn = [*_bars(ax), *_lines(ax), *_points(ax), *_pictures(ax)]
    named = {_plain(str(line.get_label())) for line in ax.lines}  # beside a line stands its name, which is told anyway
    words = [word for text in ax.texts if (word := _plain(text.get_text())) and word not in named]
    told = _SAID.get(ax)
    if words and (not ax.axison or not drawn):
        drawn = [] if told else [f"diagram with the labels {', '.join(dict.fromkeys(words))}"]
    elif 0 < len(marks := [word for word in dict.fromkeys(words) if not _is_number(word)]) <= _MOST:
        drawn.append(f"marked: {', '.join(marks)}")
    drawn += [told] if told else []
    if not drawn and not title:
        return ""
    axes = []
    if ax.axison:
        for axis, label, scale in (("x", ax.get_xlabel(), ax.get_xscale()), ("y", ax.get_ylabel(), ax.get_yscale())):
            axes += [f"{axis}: {_plain(label)}{', log scale' if scale == 'log' else ''}"] if label else []
    return ". ".join(part for part in (title, "; ".join(drawn), "; ".join(axes)) if part) + "."


def _lines(ax: Axes) -> list[str]:
    names = {c.lines[0]: c.get_label() for c in ax.containers if isinstance(c, ErrorbarContainer) and c.lines[0]}
    parts = {line for c in ax.containers if isinstance(c, ErrorbarContainer) for line in c.lines[1] if line}
    labels = {line: _name(names.get(line, line.get_label())) for line in ax.lines if line not in parts}
    named = {line.get_color() for line, label in labels.items() if label}
    said = []
    for line, label in labels.items():
        x, y = (_numbers(values).ravel() for values in (line.get_xdata(orig=False), line.get_ydata(orig=False)))
        if not line.get_visible() or not np.isfinite(y).any():
            continue
        across = line.get_transform() != ax.transData and len(y) == 2  # axhline and axvline
        if across and (y[0] == y[1] or x[0] == x[1]):
            said.append(f"{label or 'a line'} at {_number((y if y[0] == y[1] else x)[0])}")
        elif label or line.get_color() not in named or line in names:  # the faint raw values of a smoothed curve
            said.append(_series(ax, label or "a line", x, y))
    return _brief(said)


def _series(ax: Axes, name: str, x: np.ndarray, y: np.ndarray) -> str:
    for flat, at, values in ((True, y, x), (False, x, y)):
        pairs = _pairs(_ticks(ax, flat), at, values)
        if pairs and len(pairs) <= _MOST:
            return f"{name}: {', '.join(pairs)}"
        if pairs:
            return f"{name} from {' to '.join(_range(values))}"
    known = y[np.isfinite(y)]
    if len(known) <= _MOST:
        return f"{name} {', '.join(map(_number, known))}"
    return f"{name} from {_number(known[0])} to {_number(known[-1])} ({' to '.join(_range(known))})"


def _pairs(ticks: dict[float, str], at: Iterable[float], values: Iterable[float]) -> list[str]:
    r"""Each value with the category that it stands at; [] where one stands at none."""
    nearest = [(min(ticks, key=lambda tick: abs(tick - place), default=math.inf), place) for place in at]
    if not ticks or any(abs(tick - place) > 0.5 for tick, place in nearest):
        return []
    return [f"{ticks[tick]} {_number(value)}" for (tick, _), value in zip(nearest, values, strict=True)]


def _bars(ax: Axes) -> list[str]:
    said = []
    for bars in ax.containers:
        if not isinstance(bars, BarContainer) or not bars.patches:
            continue
        flat = bars.orientation == "horizontal"
        values = [bar.get_width() if flat else bar.get_height() for bar in bars]
        middles = [bar.get_y() + bar.get_height() / 2 if flat else bar.get_x() + bar.get_width() / 2 for bar in bars]
        pairs = _pairs(_ticks(ax, flat), middles, values) or [_number(value) for value in values]
        what = f"bars, {_name(bars.get_label())}".rstrip(", ")
        many = f"from {_number(min(values))} to {_number(max(values))}"
        said.append(f"{what}: {', '.join(pairs) if len(pairs) <= _MOST else many}")
    return _brief(said)


def _ticks(ax: Axes, flat: bool) -> dict[float, str]:
    r"""Names of the categories by their place; {} where the axis has numbers."""
    axis = ax.yaxis if flat else ax.xaxis
    found = {float(at): _plain(t.get_text()) for at, t in zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=False)}
    return {at: word for at, word in found.items() if word and not _is_number(word)}


def _points(ax: Axes) -> list[str]:
    said = []
    for group in ax.collections:
        if isinstance(group, PathCollection) and len(_numbers(group.get_offsets())):
            at = _numbers(group.get_offsets())
            (left, right), (low, high) = _range(at[:, 0]), _range(at[:, 1])
            many = f"{len(at)} points" if len(at) > 1 else "1 point"
            what = ", ".join(filter(None, (_name(group.get_label()), many)))
            said.append(f"{what} at x {left} to {right}, y {low} to {high}")
    return _brief(said)


def _pictures(ax: Axes) -> list[str]:
    said = []
    for image in ax.images:
        values = _numbers(image.get_array())
        low, high = _range(values)
        rows, columns = values.shape[:2]
        said.append(f"a grid of {rows} rows and {columns} columns, values from {low} to {high}")
        named = [(side, list(_ticks(ax, flat).values())) for side, flat in (("rows", True), ("columns", False))]
        said += [f"{side}: {', '.join(words)}" for side, words in named if 0 < len(words) <= 12]
    return said


def _numbers(values: Any) -> np.ndarray:
    r"""As floats, what is masked as NaN."""
    return np.ma.filled(np.ma.asarray(values, dtype=float), math.nan)


def _range(values: np.ndarray) -> tuple[str, str]:
    known = values[np.isfinite(values)]
    return (_number(known.min()), _number(known.max())) if known.size else ("–", "–")


def _brief(said: list[str]) -> list[str]:
    r"""A list of more than ten cut to its first nine, and how many more there are."""
    return said if len(said) <= 10 else [*said[:9], f"and {len(said) - 9} more"]


def _name(label: object) -> str:
    text = _plain(str(label))
    return "" if text.startswith("_") else text


def _plain(text: str) -> str:
    r"""Without Matplotlib's mathematics: $W_{down}$ is read as W_down, the tick of a log axis as 10^2."""
    text = re.sub(r"\\mathdefault\b|[${}]|\\[,;!]", "", text).replace(r"\times", "×")
    return " ".join(text.replace("\\", "").split())


def _number(value: Any) -> str:
    # In between, the digits of a count are worth reading; beyond, they are those of a power of ten.
    return f"{float(value):,.0f}" if 1e4 <= abs(float(value)) < 1e9 else f"{float(value):,.3g}"


def _is_number(word: str) -> bool:
    try:
        plain = word.replace("−", "-").replace(",", "").rstrip(" %")
        float(re.sub(r"^(?:([\d.]+)×)?10\^(-?\d+)$", lambda m: f"{m[1] or 1}e{m[2]}", plain))
    except ValueError:
        return False
    return True
