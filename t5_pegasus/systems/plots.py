"""The plots of a report, as SVG that takes its colours from the page. The same findings give the same bytes."""

import io
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl

mpl.use("svg")

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .comparison import MAIN_SCORE, Entry, Findings
from .protocol import Text

# Stand-ins, replaced by what the page's theme says.
_INK, _LINE = "#010203", "#040506"
_THEMED = {_INK: "currentColor", _LINE: "var(--line)"}
_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: searchable, and in the reader's own fonts
    "svg.hashsalt": "t5-pegasus",  # else ids are drawn at random
    "font.size": 10,
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), _INK),
    **dict.fromkeys(("axes.edgecolor", "grid.color"), _LINE),
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
}
_COLORS = ("#3b7dd8", "#d2691e", "#2e9e6b", "#a64ac9", "#c8435a", "#8a7a2f", "#2f9fb3", "#7a6ad8", "#b0578d", "#6b7785")
_BINS = 6
_LONGEST_NAME = 28

Plot = Callable[[Axes, Findings, Sequence[Entry], Sequence[Text]], None]


def intervals(axes: Axes, findings: Findings, entries: Sequence[Entry], texts: Sequence[Text]) -> None:
    """The main score of every system with its interval."""
    scores = _main_row(findings)["systems"]
    for place, entry in enumerate(reversed(entries)):
        score, low, high = (100 * each for each in scores[entry.name])
        axes.errorbar(score, place, xerr=[[score - low], [high - score]], fmt="o", color=_INK, capsize=3)
    axes.set_yticks(range(len(entries)), [_short(entry.name) for entry in reversed(entries)])
    axes.margins(y=0.15)


def by_length(axes: Axes, findings: Findings, entries: Sequence[Entry], texts: Sequence[Text]) -> None:
    """The main score by the length of the text: means of as many texts each."""
    order = sorted(range(len(texts)), key=lambda text: (len(texts[text].content), text))
    bins = min(_BINS, len(order))
    parts = [order[len(order) * part // bins : len(order) * (part + 1) // bins] for part in range(bins)]
    places = [_mean([len(texts[text].content) for text in part]) for part in parts]
    for entry, scores, color in zip(entries, findings.scores, _colors(entries), strict=True):
        means = [100 * _mean([scores[text][MAIN_SCORE] for text in part]) for part in parts]
        axes.plot(places, means, "o-", color=color, label=_short(entry.name), markersize=4)
    axes.legend(frameon=False, fontsize=8)


def lengths(axes: Axes, findings: Findings, entries: Sequence[Entry], texts: Sequence[Text]) -> None:
    """How long titles are, in characters; the references are the filled ones."""
    references = [len(text.references[0]) for text in texts]
    most = min(max(references + [len(title) for entry in entries for title in entry.run.titles]), 2 * max(references))
    edges = [most * each / 20 for each in range(21)]
    axes.hist(references, edges, color=_LINE, label="reference")
    for entry, color in zip(entries, _colors(entries), strict=True):
        cut = [min(len(title), most) for title in entry.run.titles]
        axes.hist(cut, edges, histtype="step", color=color, label=_short(entry.name), linewidth=1.4)
    axes.legend(frameon=False, fontsize=8)


def wins(axes: Axes, findings: Findings, entries: Sequence[Entry], texts: Sequence[Text]) -> None:
    """For each pair, the texts where the first has the higher score, neither has, and the second has."""
    pairs = findings.summary["differences"]
    for place, pair in enumerate(reversed(pairs)):
        start = 0
        for kind, color in (("wins", _COLORS[0]), ("ties", _LINE), ("losses", _COLORS[1])):
            axes.barh(place, pair[kind], left=start, color=color, height=0.7)
            if pair[kind] >= len(texts) / 12:
                axes.text(start + pair[kind] / 2, place, str(pair[kind]), ha="center", va="center", fontsize=8)
            start += pair[kind]
    names = [f"{_short(pair['first'])} / {_short(pair['second'])}" for pair in reversed(pairs)]
    axes.set_yticks(range(len(pairs)), names, fontsize=8)
    axes.grid(False)


def speed(axes: Axes, findings: Findings, entries: Sequence[Entry], texts: Sequence[Text]) -> None:
    """The main score against the seconds that a text takes, of systems whose time is known."""
    scores = _main_row(findings)["systems"]
    for entry, system, color in zip(entries, findings.summary["systems"], _colors(entries), strict=True):
        if system["seconds_per_text"]:
            score = 100 * scores[entry.name][0]
            axes.plot(system["seconds_per_text"], score, "o", color=color)
            axes.annotate(
                *(_short(entry.name), (system["seconds_per_text"], score)),
                xytext=(6, 4),
                textcoords="offset points",
                fontsize=8,
            )
    axes.set_xscale("log")
    axes.margins(x=0.25, y=0.15)


# In the order of the report; the page has the words around them.
PLOTS: dict[str, Plot] = {
    "intervals": intervals,
    "speed": speed,
    "by-length": by_length,
    "lengths": lengths,
    "wins": wins,
}


def draw(name: str, findings: Findings, entries: Sequence[Entry], texts: Sequence[Text]) -> str:
    """Return a plot of PLOTS as an <svg> element."""
    rows = {"intervals": len(entries), "wins": len(findings.summary["differences"])}.get(name)
    height = 3.4 if rows is None else 0.8 + 0.32 * rows
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        # matplotlib looks for Chinese characters in its own font to measure them; the reader's browser has them.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure = Figure(figsize=(6.2, height), layout="constrained")
        PLOTS[name](figure.add_subplot(), findings, entries, texts)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _for_page(file.getvalue(), name)


def _for_page(svg: str, name: str) -> str:
    """Return the <svg> element alone, with the page's colours, and ids that no other plot has."""
    svg = svg[svg.index("<svg") :]
    for stand_in, themed in _THEMED.items():
        svg = svg.replace(stand_in, themed)
    svg = re.sub(r"(\bid=\"|url\(#|href=\"#)", rf"\g<1>{name}-", svg)
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    return re.sub(r'width="[\d.]+pt" height="[\d.]+pt" ', 'role="img" ', svg, count=1).strip()


def _main_row(findings: Findings) -> dict[str, Any]:
    row: dict[str, Any] = next(row for row in findings.summary["scores"] if row["name"] == MAIN_SCORE)
    return row


def _colors(entries: Sequence[Entry]) -> list[str]:
    return [_COLORS[number % len(_COLORS)] for number in range(len(entries))]


def _short(name: str) -> str:
    # "$" would begin a formula.
    name = name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
    return name.replace("$", r"\$")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
