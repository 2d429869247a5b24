"""Plots as SVG that takes its colours from the page. The same numbers give the same bytes."""

import io
import re
import warnings
from collections.abc import Callable
from typing import Any

import matplotlib as mpl

mpl.use("svg")

from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Stand-ins, replaced by what the page's theme says.
INK, LINE = "#010203", "#040506"
COLORS = (
    "#3b7dd8",
    "#d2691e",
    "#2e9e6b",
    "#a64ac9",
    "#c8435a",
    "#8a7a2f",
    "#2f9fb3",
    "#7a6ad8",
    "#b0578d",
    "#6b7785",
    "#5f9e4a",
    "#d9a400",
)

_THEMED = {INK: "currentColor", LINE: "var(--line)"}
_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: searchable, and in the reader's own fonts
    "svg.hashsalt": "t5-pegasus",  # else ids are drawn at random
    "font.size": 10,
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    **dict.fromkeys(("axes.edgecolor", "grid.color"), LINE),
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
}
_WIDTH = 6.2  # inches
_LONGEST_NAME = 28


def draw(name: str, plot: Callable[[Axes], None], height: float = 3.4) -> str:
    """Return a plot as an <svg> element.

    Args:
        name: what its ids begin with: another for each plot of a page.
        plot: draws on axes.
        height: in inches.
    """
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        # matplotlib looks for Chinese characters in its own font to measure them; the reader's browser has them.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        plot(figure.add_subplot())
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _for_page(file.getvalue(), name)


def short(name: str) -> str:
    """Return a name as a plot has room for it."""
    name = name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
    return name.replace("$", r"\$")  # which would begin a formula


def _for_page(svg: str, name: str) -> str:
    """Return the <svg> element alone, with the page's colours, and ids that no other plot has."""
    svg = svg[svg.index("<svg") :]
    for stand_in, themed in _THEMED.items():
        svg = svg.replace(stand_in, themed)
    svg = re.sub(r"(\bid=\"|url\(#|href=\"#)", rf"\g<1>{name}-", svg)
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    return re.sub(r'width="[\d.]+pt" height="[\d.]+pt" ', 'role="img" ', svg, count=1).strip()
