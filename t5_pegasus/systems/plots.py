"""The plots of a report, as SVG that takes its colours from the page. The same findings give the same bytes."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes

from ..metrics import LANGUAGES
from ..pages import svg
from ..pages.svg import COLORS, INK, LINE
from .comparison import MAIN_SCORE, Entry, Findings
from .protocol import Text

_BINS = 6
_MOST_PAIRS = 21

Plot = Callable[[Axes, Findings, Sequence[Entry], Sequence[Text]], None]


def intervals(axes: Axes, findings: Findings, entries: Sequence[Entry], texts: Sequence[Text]) -> None:
    """The main score of every system with its interval."""
    scores = _main_row(findings)["systems"]
    for place, entry in enumerate(reversed(entries)):
        score, low, high = (100 * each for each in scores[entry.name])
        axes.errorbar(score, place, xerr=[[score - low], [high - score]], fmt="o", color=INK, capsize=3)
    axes.set_yticks(range(len(entries)), [svg.short(entry.name) for entry in reversed(entries)])
    axes.margins(y=0.15)


def by_length(axes: Axes, findings: Findings, entries: Sequence[Entry], texts: Sequence[Text]) -> None:
    """The main score by the length of the text: means of as many texts each."""
    sizes = [_count(findings)(text.content) for text in texts]
    order = sorted(range(len(texts)), key=lambda text: (sizes[text], text))
    bins = min(_BINS, len(order))
    parts = [order[len(order) * part // bins : len(order) * (part + 1) // bins] for part in range(bins)]
    places = [_mean([sizes[text] for text in part]) for part in parts]
    for entry, scores, color in zip(entries, findings.scores, _colors(entries), strict=True):
        means = [100 * _mean([scores[text][MAIN_SCORE] for text in part]) for part in parts]
        axes.plot(places, means, "o-", color=color, label=svg.short(entry.name), markersize=4)
    axes.legend(frameon=False, fontsize=8)


def lengths(axes: Axes, findings: Findings, entries: Sequence[Entry], texts: Sequence[Text]) -> None:
    """How long titles are; the references are the filled ones."""
    count = _count(findings)
    references = [count(text.references[0]) for text in texts]
    written = [[count(title) for title in entry.run.titles] for entry in entries]
    most = min(max(itertools.chain(references, *written)), 2 * max(references))
    edges = [most * each / 20 for each in range(21)]
    axes.hist(references, edges, color=LINE, label="reference")
    for entry, sizes, color in zip(entries, written, _colors(entries), strict=True):
        cut = [min(size, most) for size in sizes]
        axes.hist(cut, edges, histtype="step", color=color, label=svg.short(entry.name), linewidth=1.4)
    axes.legend(frameon=False, fontsize=8)


def wins(axes: Axes, findings: Findings, entries: Sequence[Entry], texts: Sequence[Text]) -> None:
    """For each pair, the texts where the first has the higher score, neither has, and the second has."""
    pairs = _shown_pairs(findings)
    for place, pair in enumerate(reversed(pairs)):
        start = 0
        for kind, color in (("wins", COLORS[0]), ("ties", LINE), ("losses", COLORS[1])):
            axes.barh(place, pair[kind], left=start, color=color, height=0.7)
            if pair[kind] >= len(texts) / 12:
                axes.text(start + pair[kind] / 2, place, str(pair[kind]), ha="center", va="center", fontsize=8)
            start += pair[kind]
    names = [f"{svg.short(pair['first'])} / {svg.short(pair['second'])}" for pair in reversed(pairs)]
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
                *(svg.short(entry.name), (system["seconds_per_text"], score)),
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
    rows = {"intervals": len(entries), "wins": len(_shown_pairs(findings))}.get(name)
    height = 3.4 if rows is None else 0.8 + 0.32 * rows
    return svg.draw(name, lambda axes: PLOTS[name](axes, findings, entries, texts), height)


def _shown_pairs(findings: Findings) -> list[dict[str, Any]]:
    """Return the pairs; of more than a plot has room for, those of the system with the highest main score."""
    pairs: list[dict[str, Any]] = findings.summary["differences"]
    if len(pairs) <= _MOST_PAIRS:
        return pairs
    scores = _main_row(findings)["systems"]
    best = max(scores, key=lambda name: scores[name][0])
    return [pair for pair in pairs if best in (pair["first"], pair["second"])]


def _main_row(findings: Findings) -> dict[str, Any]:
    row: dict[str, Any] = next(row for row in findings.summary["scores"] if row["name"] == MAIN_SCORE)
    return row


def _count(findings: Findings) -> Callable[[str], int]:
    return LANGUAGES[findings.summary["language"]].count


def _colors(entries: Sequence[Entry]) -> list[str]:
    return [COLORS[number % len(COLORS)] for number in range(len(entries))]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
