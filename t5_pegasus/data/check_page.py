"""The report of a check as a page with plots: one HTML file that needs no network. The same files give the same bytes.

It is made of the counts of `FileReport`, whose size does not depend on the rows.
"""

import functools
import html
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from ..pages import svg
from ..pages.html import fill
from .check_report import LIMITS, bins, shown
from .checking import CHECKS, FIXES, FileReport, quoted
from .profile import Profile, quantile, suggested_limit

_TEMPLATE = Path(__file__).resolve().parent / "page" / "check.html"
_BARS = 40  # of a plot
_SHOWN = 20  # sentences and characters that are listed
_QUANTILES = {"in the middle": 0.5, "95 %": 0.95, "longest": 1.0}
_LENGTHS = {
    "content": "characters of a content",
    "content_tokens": "tokens of a content",
    "title": "characters of a title",
    "title_tokens": "tokens of a title",
}

Limits = dict[str, int]


def to_page(reports: Sequence[FileReport], limits: Limits) -> str:
    """Return the page.

    Args:
        reports: of the files, the one to train on first.
        limits: tokens that are kept, by the names of their flags.
    """
    serious = [f"{name} in {report.path}" for report in reports for name in report.serious]
    read = [report for report in reports if report.profile.lengths["content"]]
    plots = [_findings_plot(reports)]
    if read:
        plots += [*(_lengths_plot(read, limits, name) for name in _LENGTHS), _copied_plot(read), _scripts_plot(read)]
    return fill(
        _TEMPLATE,
        {
            "verdict": html.escape(f"Serious: {', '.join(serious)}" if serious else "Nothing serious"),
            "findings": _findings(reports),
            "figures": _figures(reports, limits),
            "plots": "\n".join(plots),
            "examples": "\n".join(_examples(reports)),
        },
    )


# --- tables -----------------------------------------------------------------------------------------------------------


def _table(head: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]]) -> str:
    """Return a table; cells are HTML, headers are text."""
    cells = "".join(f'<th scope="col">{html.escape(each)}</th>' for each in head)
    body = "".join(
        f'<tr><th scope="row">{html.escape(name)}</th>{"".join(f"<td>{cell}</td>" for cell in row)}</tr>'
        for name, row in rows
    )
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>"


def _findings(reports: Sequence[FileReport]) -> str:
    rows = [("rows", [f"{report.rows:,}" for report in reports])]
    for name, check in CHECKS.items():
        if any(report.found[name] for report in reports):
            rows.append((f"{name}: {check.summary}", [_count(report, name) for report in reports]))
    for name, (_, summary) in FIXES.items():
        if any(report.fixed[name] for report in reports):
            rows.append((f"{name}: {summary}", [f"{report.fixed[name]:,}" for report in reports]))
    return _table(["", *(report.path for report in reports)], rows)


def _count(report: FileReport, name: str) -> str:
    count = f"{report.found[name]:,}"
    return f'<span class="best">{count}</span>' if name in report.serious else count


def _figures(reports: Sequence[FileReport], limits: Limits) -> str:
    figures: dict[str, Callable[[Profile], str]] = {}
    for name, (label, share) in itertools.product(_LENGTHS, _QUANTILES.items()):
        figures[f"{_LENGTHS[name]}, {label}"] = functools.partial(_quantile, name, share)
    for name, flag, share, multiple in LIMITS:
        figures[f"cut by --{flag} {limits[flag]}"] = functools.partial(_cut, name, limits[flag])
        figures[f"--{flag} suggested"] = functools.partial(_suggested, name, share, multiple)
    figures["copy rate"] = lambda profile: f"{profile.copy_rate():.1%}"
    figures["unknown tokens"] = lambda profile: f"{profile.unknown_tokens / max(1, profile.tokens):.3%}"
    rows = [
        (label, [figure(report.profile) if report.profile.lengths["content"] else "–" for report in reports])
        for label, figure in figures.items()
    ]
    return _table(["", *(report.path for report in reports)], rows)


def _quantile(name: str, share: float, profile: Profile) -> str:
    return f"{quantile(profile.lengths[name], share):,}"


def _cut(name: str, limit: int, profile: Profile) -> str:
    return f"{profile.cut(name, limit):.1%}"


def _suggested(name: str, share: float, multiple: int, profile: Profile) -> str:
    return f"{suggested_limit(profile.lengths[f'{name}_tokens'], share, multiple):,}"


# --- plots ------------------------------------------------------------------------------------------------------------


def _findings_plot(reports: Sequence[FileReport]) -> str:
    names = [name for name in CHECKS if any(report.found[name] for report in reports)]
    shares = [[100 * report.found[name] / report.rows for name in names] for report in reports]
    return _bars("findings", "What was found: share of the rows", reports, names, shares) if names else ""


def _lengths_plot(reports: Sequence[FileReport], limits: Limits, name: str) -> str:
    lines = {}
    for text, flag, share, multiple in LIMITS:
        if name == f"{text}_tokens":
            lines[f"--{flag} {limits[flag]}"] = limits[flag]
            suggested = suggested_limit(reports[0].profile.lengths[name], share, multiple)
            lines[f"{suggested:,} suggested"] = suggested

    def plot(axes: Axes) -> None:
        _histograms(axes, reports, [report.profile.lengths[name] for report in reports])
        for style, (label, limit) in zip(("--", ":"), lines.items(), strict=False):
            axes.axvline(limit, color=svg.INK, linestyle=style, linewidth=1.2, label=label)
        axes.legend(frameon=False, fontsize=8)

    return _figure(name, _LENGTHS[name].capitalize(), plot)


def _copied_plot(reports: Sequence[FileReport]) -> str:
    def plot(axes: Axes) -> None:
        _histograms(axes, reports, [report.profile.copied for report in reports])
        axes.legend(frameon=False, fontsize=8)

    return _figure("copied", "Copy rate: % of a title's pairs of characters that its content has", plot)


def _scripts_plot(reports: Sequence[FileReport]) -> str:
    found = [report.profile.scripts() for report in reports]
    names = list(dict.fromkeys(name for of_file in found for name in of_file))
    shares = [[100 * of_file.get(name, 0) for name in names] for of_file in found]
    return _bars("scripts", "Kinds of characters: share of all", reports, names, shares)


def _bars(
    name: str, caption: str, reports: Sequence[FileReport], labels: Sequence[str], shares: Sequence[Sequence[float]]
) -> str:
    """Return a plot with a bar for each file beside each label; shares are percent, [files][labels]."""
    height = 0.8 / len(reports)

    def plot(axes: Axes) -> None:
        for number, (report, of_file) in enumerate(zip(reports, shares, strict=True)):
            places = [place - 0.4 + (number + 0.5) * height for place in range(len(labels))]
            color = svg.COLORS[number % len(svg.COLORS)]
            axes.barh(places, of_file, height, color=color, label=svg.short(Path(report.path).name))
        axes.set_yticks(range(len(labels)), labels)
        axes.invert_yaxis()
        axes.legend(frameon=False, fontsize=8)

    return _figure(name, caption, plot, 1.0 + 0.32 * len(labels))


def _histograms(axes: Axes, reports: Sequence[FileReport], counts: Sequence[Counter[int]]) -> None:
    """Draw shares of each file's texts in bars of one width: filled for the first file, outlines for the others."""
    edges = [first for first, _, _ in bins(sum(counts, Counter()), _BARS)]
    width = edges[1] - edges[0] if len(edges) > 1 else 1
    edges.append(edges[-1] + width)
    for number, (report, of_file) in enumerate(zip(reports, counts, strict=True)):
        numbers = [min(each, edges[-1] - 1) for each in of_file]
        weights = [100 * count / of_file.total() for count in of_file.values()]
        outline: dict[str, Any] = {"histtype": "step", "linewidth": 1.4} if number else {"alpha": 0.6}
        color = svg.COLORS[number % len(svg.COLORS)]
        axes.hist(numbers, edges, weights=weights, color=color, label=svg.short(Path(report.path).name), **outline)


def _figure(name: str, caption: str, plot: Callable[[Axes], None], height: float = 3.4) -> str:
    drawn = svg.draw(name, plot, height)
    return f'<figure id="plot-{name}"><figcaption>{html.escape(caption)}</figcaption>{drawn}</figure>'


# --- examples ---------------------------------------------------------------------------------------------------------


def _examples(reports: Sequence[FileReport]) -> Iterator[str]:
    found = [
        f"{report.path}:{line}: {name}: {why}"
        for report in reports
        for name in CHECKS
        for line, why in report.examples.get(name, ())
    ]
    yield from _list("Examples", found)
    sentences = [
        f"{report.path}, {count:,} rows: {quoted(sentence)}"
        for report in reports
        for sentence, count in report.boilerplate[:_SHOWN]
    ]
    yield from _list("Sentences that many rows have", sentences)
    characters = [
        f"{report.path}: "
        + " ".join(f"{shown(character)}×{count:,}" for character, count in report.profile.unknown.most_common(_SHOWN))
        for report in reports
        if report.profile.unknown
    ]
    yield from _list("Characters that the vocabulary cannot spell", characters)


def _list(heading: str, lines: Sequence[str]) -> Iterator[str]:
    if lines:
        yield f"<h2>{heading}</h2>"
        yield f'<ul class="signatures">{"".join(f"<li>{html.escape(line)}</li>" for line in lines)}</ul>'
