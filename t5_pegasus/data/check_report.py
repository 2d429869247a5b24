"""The report of a check as text, with plots of bars, and as an object for JSON."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from ..files import encoding_hint
from .checking import CHECKS, FIXES, FileReport, quoted
from .profile import Profile, quantile, suggested_limit

_BARS = 12  # of a plot
_WIDTH = 40  # characters of the longest bar
_SHOWN = 5  # sentences and characters that are listed

# What is cut, how it is called in flags, and the limit that is suggested: the share that it keeps, rounded up to a
# multiple. A cut title is learned without its end; of a content, mostly the beginning counts.
LIMITS = (("content", "max_source_length", 0.95, 32), ("title", "max_target_length", 0.99, 8))


def to_text(reports: Sequence[FileReport], limits: dict[str, int]) -> str:
    """Return the report: a table of all files, examples, then what the texts of the first are like.

    Args:
        reports: of the files.
        limits: tokens that are kept, by the names of their flags.
    """
    return "\n".join(
        [
            *_files(reports),
            "",
            *_findings(reports),
            *_examples(reports),
            *_profile(reports[0], limits),
            *_verdict(reports),
        ]
    )


def _files(reports: Sequence[FileReport]) -> Iterator[str]:
    for report in reports:
        columns = "/".join(report.columns) or "none found"
        yield f"{report.path}: {report.rows:,} rows, columns {columns}"


def _findings(reports: Sequence[FileReport]) -> Iterator[str]:
    width = max(map(len, CHECKS))
    names = [report.path.rpartition("/")[2][-14:] for report in reports]
    yield f"{'':{width}}  " + "".join(f"{name:>16}" for name in names)
    for name, check in CHECKS.items():
        if any(report.found[name] for report in reports):
            cells = "".join(f"{_count(report, name):>16}" for report in reports)
            yield f"{name:{width}}  {cells}  {check.summary}"
    for name, (_, summary) in FIXES.items():
        if any(report.fixed[name] for report in reports):
            cells = "".join(f"{report.fixed[name]:>16,}" for report in reports)
            yield f"{name:{width}}  {cells}  {summary}"
    if not any(report.found or report.fixed for report in reports):
        yield "nothing found"


def _count(report: FileReport, name: str) -> str:
    mark = " !" if name in report.serious else "  "
    return f"{report.found[name]:,}{mark}" if report.found[name] else "-  "


def _examples(reports: Sequence[FileReport]) -> Iterator[str]:
    for report in reports:
        if report.found["encoding"]:
            yield f"{report.path}: {encoding_hint(report.path)}"
        for name in CHECKS:
            for line, why in report.examples.get(name, ()):
                yield f"{report.path}:{line}: {name}: {why}"
        for sentence, count in report.boilerplate[:_SHOWN]:
            yield f"{report.path}: in {count:,} rows: {quoted(sentence)}"


def _profile(report: FileReport, limits: dict[str, int]) -> Iterator[str]:
    profile = report.profile
    if not profile.lengths["content"]:
        return
    yield ""
    for name, flag, share, multiple in LIMITS:
        lengths = profile.lengths[f"{name}_tokens"]
        middle, most = (quantile(lengths, each) for each in (0.5, 1))
        suggested = suggested_limit(lengths, share, multiple)
        yield (
            f"{name}: {quantile(profile.lengths[name], 0.5):,} characters and {middle:,} tokens in the middle, at most "
            f"{most:,} tokens; --{flag} {limits[flag]} cuts {profile.cut(name, limits[flag]):.1%}, "
            f"{suggested} would cut {profile.cut(name, suggested):.1%}"
        )
        yield from histogram(lengths)
    yield f"copy rate: {profile.copy_rate():.0%} of the titles' pairs of characters stand in their contents"
    yield from histogram(profile.copied, unit="%")
    yield "characters: " + ", ".join(f"{name} {share:.1%}" for name, share in profile.scripts().items())
    share = profile.unknown_tokens / max(1, profile.tokens)
    listed = " ".join(f"{shown(character)}×{count:,}" for character, count in profile.unknown.most_common(4 * _SHOWN))
    yield f"unknown tokens: {share:.3%} of {profile.tokens:,}" + (f", for {listed}" if listed else "")


def shown(character: str) -> str:
    """Return a character, or its code point where it has no shape."""
    return character if character.isprintable() else f"U+{ord(character):04X}"


def histogram(counts: Counter[int], unit: str = "") -> Iterator[str]:
    """Yield a line a range of numbers with a bar for how often they occur; what is far out is in the last."""
    ranges = bins(counts, _BARS)
    most = max(count for _, _, count in ranges)
    for first, end, count in ranges:
        label = f"{first:,}+" if end is None else f"{first:,}" + f"–{end:,}" * (end > first)
        bar = "█" * round(_WIDTH * count / most) or "▏" * bool(count)
        yield f"  {label + unit:>14} {bar} {count:,}"


def bins(counts: Counter[int], most: int) -> list[tuple[int, int | None, int]]:
    """Return ranges of numbers of one width, (first, last, how often they occur), about `most` of them.

    What is far out is in the last one, whose own last number is then None.
    """
    low, high = min(counts), max(quantile(counts, 0.99), min(counts))
    step = max(1, -(-(high - low + 1) // most))
    found: Counter[int] = Counter()
    for number, count in counts.items():
        found[min((number - low) // step, (high - low) // step)] += count
    last = max(found)
    ends = [low + (place + 1) * step - 1 for place in range(last + 1)]
    is_open = max(counts) > ends[last]
    return [
        (low + place * step, None if is_open and place == last else ends[place], found[place])
        for place in range(last + 1)
    ]


def _verdict(reports: Sequence[FileReport]) -> Iterator[str]:
    serious = [f"{name} in {report.path}" for report in reports for name in report.serious]
    yield ""
    yield "serious (!): " + ", ".join(serious) if serious else "nothing serious"


def to_dict(reports: Sequence[FileReport], limits: dict[str, int]) -> list[dict[str, Any]]:
    """Return the report for JSON, an object a file."""
    return [
        {
            "path": report.path,
            "rows": report.rows,
            "columns": list(report.columns),
            "found": {name: report.found[name] for name in CHECKS},
            "serious": report.serious,
            "fixed": {name: report.fixed[name] for name in FIXES},
            "examples": {
                name: [{"line": line, "why": why} for line, why in found] for name, found in report.examples.items()
            },
            "boilerplate": [{"sentence": sentence, "rows": count} for sentence, count in report.boilerplate],
            **_figures(report.profile, limits),
        }
        for report in reports
    ]


def _figures(profile: Profile, limits: dict[str, int]) -> dict[str, Any]:
    """Return the figures of a profile; where no row was read there are none, and why."""
    if not profile.lengths["content"]:
        names = ("lengths", "cut", "suggested", "copy_rate", "characters", "tokens", "unknown_tokens")
        return {**dict.fromkeys((*names, "unknown_characters")), "reason": "no row could be read"}
    quantiles = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1)
    return {
        "lengths": {
            name: {f"{share:g}": quantile(counts, share) for share in quantiles}
            for name, counts in profile.lengths.items()
        },
        "cut": {flag: profile.cut(name, limits[flag]) for name, flag, _, _ in LIMITS},
        "suggested": {
            flag: suggested_limit(profile.lengths[f"{name}_tokens"], share, multiple)
            for name, flag, share, multiple in LIMITS
        },
        "copy_rate": profile.copy_rate(),
        "characters": profile.scripts(),
        "tokens": profile.tokens,
        "unknown_tokens": profile.unknown_tokens,
        "unknown_characters": dict(profile.unknown.most_common(100)),
    }
