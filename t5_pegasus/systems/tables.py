"""The findings of a comparison as text: Markdown for a pull request, and CSV with a row for each title."""

import csv
from collections.abc import Iterable, Sequence
from typing import IO, Any

from .comparison import MAIN_SCORE, Entry, Findings

_SHOWN = (
    *("rouge-1", "rouge-2", "rouge-l", "rouge-lsum", "bleu", "chrf", "exact", "length-ratio", "novel-2", "repetition"),
    "bertscore",
)


def write_csv(file: IO[str], findings: Findings, entries: Sequence[Entry]) -> None:
    """Write a row for each text and system: the text's number from 1, the system, its title and its scores."""
    file.write("\ufeff")  # without a byte order mark Excel takes the file for the system's old code page
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["text", "system", "title", *findings.scores[0][0], "invented"])
    for number in range(len(findings.scores[0])):
        for entry, scores, inventions in zip(entries, findings.scores, findings.inventions, strict=True):
            title = entry.run.titles[number].encode(errors="replace").decode()  # half a surrogate pair
            writer.writerow([number + 1, entry.name, title, *scores[number].values(), " ".join(inventions[number])])


def as_markdown(summary: dict[str, Any]) -> str:
    """Return the findings as Markdown: scores, pairs, slices and signatures."""
    scores = {row["name"]: row for row in summary["scores"]}
    names = [system["name"] for system in summary["systems"]]
    shown = {name: scores[name] for name in _SHOWN if name in scores}
    counts = [row for name, row in scores.items() if name.startswith("invented-")]
    head = ["system", *shown, "invented", "s a text", "MiB"]
    body = []
    for system in summary["systems"]:
        name = system["name"]
        cells = {key: number(row["systems"][name][0], row["is_share"]) for key, row in shown.items()}
        low, high = scores[MAIN_SCORE]["systems"][name][1:]
        cells[MAIN_SCORE] += f" ({number(low, True)}–{number(high, True)})"
        invented = sum(row["systems"][name][0] for row in counts)
        seconds, peak = system["seconds_per_text"], system["peak_bytes"]
        body.append(
            [
                f"`{name}`",
                *cells.values(),
                f"{invented:.2f}",
                "–" if seconds is None else f"{seconds:.3g}",
                "–" if peak is None else f"{peak / 2**20:.0f}",
            ]
        )
    parts = [
        f"# Comparison of {len(names)} systems",
        f"{summary['texts']} texts of `{summary['data']['name']}` (SHA-256 {summary['data']['sha256'][:16]}…). "
        f"Means over texts, shares in percent; in brackets the 95 % bootstrap interval of {MAIN_SCORE}. "
        "`invented` counts numbers, names and the like of a title that are not in its text.",
        _table(head, body),
    ]
    faults = [system for system in summary["systems"] if system["empty"] or system["refused"]]
    if faults:
        told = (f"`{each['name']}`: {each['empty']} empty, {each['refused']} refused" for each in faults)
        parts.append("Titles that are missing: " + "; ".join(told) + ".")
    paid = [system for system in summary["systems"] if system["input_tokens"]]
    if paid:
        rows = [
            [
                f"`{each['name']}`",
                f"{each['input_tokens']:,}",
                f"{each['output_tokens']:,}",
                "–" if each["cost"] is None else f"{each['cost']:.4g}",
                f"{each['mean_length']:.1f}",
                "–" if each["asked_length"] is None else str(each["asked_length"]),
            ]
            for each in paid
        ]
        parts.append(_table(["system", "tokens read", "tokens written", "cost", "mean length", "asked for"], rows))
    if len(names) > 1:
        parts += ["## Pairs", _pairs(scores[MAIN_SCORE], summary)]
    parts += ["## Slices", f"Mean {MAIN_SCORE} of each part of the texts.", _slices(summary, names)]
    signatures = "\n".join(f"- `{signature}`" for signature in summary["signatures"])
    return "\n\n".join([*parts, "## Signatures", signatures]) + "\n"


def _pairs(row: dict[str, Any], summary: dict[str, Any]) -> str:
    settings = summary["settings"]
    body = []
    for pair, texts in zip(row["pairs"], summary["differences"], strict=True):
        difference, low, high = pair["difference"]
        body.append(
            [
                f"`{pair['first']}` − `{pair['second']}`",
                f"{100 * difference:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})",
                f"{texts['wins']}/{texts['ties']}/{texts['losses']}",
                p_value(pair["bootstrap_holm"]),
                p_value(pair["randomization_holm"]),
                "yes" if pair["significant"] else "no",
                f"{100 * pair['detectable']:.2f}",
            ]
        )
    head = [
        *(
            "pair",
            f"difference in {row['name']}",
            "wins/ties/losses",
            "p, bootstrap",
            "p, randomization",
            "significant",
        ),
        "smallest that shows",
    ]
    told = (
        f"Paired tests with {settings['resamples']:,} resamples (seed {settings['seed']}), p-values after Holm's "
        f"correction for all pairs. The last column is the true difference that this test set finds four times in five."
    )
    return f"{told}\n\n{_table(head, body)}"


def _slices(summary: dict[str, Any], names: Sequence[str]) -> str:
    body = [
        [each["by"], each["value"], str(each["count"])]
        + [number(each["scores"][MAIN_SCORE][name], True) for name in names]
        for each in summary["slices"]
    ]
    return _table(["by", "value", "texts", *(f"`{name}`" for name in names)], body)


def number(value: float | None, is_share: bool) -> str:
    """Return a score as it is shown: a share in percent, and "–" where there is none."""
    if value is None:
        return "–"
    return f"{100 * value:.2f}" if is_share else f"{value:.2f}"


def p_value(value: float) -> str:
    """Return a p-value as it is shown."""
    return f"{value:.4f}" if value >= 0.0001 else "< 0.0001"


def _table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *body]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows
    )
