"""The report of a comparison: one HTML file that needs no network, and scores.json, scores.csv and report.md beside it.

The page is a template, a style sheet and a script of this package, put together with the data and the plots. The same
titles and times give the same bytes.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..files import atomic_text, to_json
from ..pages.html import embedded, fill
from .comparison import MAIN_SCORE, Entry, Findings
from .plots import PLOTS, draw
from .protocol import Text
from .tables import as_markdown, write_csv

PAGE_DIR = Path(__file__).resolve().parent / "page"
HTML, JSON, CSV, MARKDOWN = "index.html", "scores.json", "scores.csv", "report.md"
# Of each title in the page.
_SCORES = (MAIN_SCORE, "rouge-1", "bleu", "chrf", "copied", "longest-copy", "repetition")
_DIGITS = 3


def about_data(test_file: str | Path, texts: Sequence[Text], more_references: Sequence[str] = ()) -> dict[str, Any]:
    """Return what the summary says of the data: the names of its files, and a hash of texts and references."""
    content = [[text.content, *text.references] for text in texts]
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    return {
        "data": {
            "name": Path(test_file).name,
            "references": [Path(each).name for each in more_references],
            "sha256": digest,
        }
    }


def write_report(
    folder: Path,
    findings: Findings,
    entries: Sequence[Entry],
    texts: Sequence[Text],
    groups: Sequence[str] | None = None,
) -> None:
    """Write the four files of a report into a folder; each is whole or not there."""
    with atomic_text(folder / JSON) as file:
        file.write(to_json(findings.summary, indent=1) + "\n")
    with atomic_text(folder / CSV) as file:
        write_csv(file, findings, entries)
    with atomic_text(folder / MARKDOWN) as file:
        file.write(as_markdown(findings.summary))
    with atomic_text(folder / HTML) as file:
        file.write(as_html(findings, entries, texts, groups))


def as_html(
    findings: Findings, entries: Sequence[Entry], texts: Sequence[Text], groups: Sequence[str] | None = None
) -> str:
    """Return the page. It allows itself no request, and no script but its own."""
    parts = {
        "plots": "\n".join(_figure(name, findings, entries, texts) for name in PLOTS),
        "data": embedded(_page_data(findings, entries, texts, groups)),
    }
    return fill(PAGE_DIR / "report.html", parts, (PAGE_DIR / "report.js").read_text(encoding="utf-8"))


def _figure(name: str, findings: Findings, entries: Sequence[Entry], texts: Sequence[Text]) -> str:
    if name == "wins" and len(entries) < 2:
        return ""
    svg = draw(name, findings, entries, texts)
    return f'<figure id="plot-{name}"><figcaption data-text="plot-{name}"></figcaption>{svg}</figure>'


def _page_data(
    findings: Findings, entries: Sequence[Entry], texts: Sequence[Text], groups: Sequence[str] | None
) -> dict[str, Any]:
    rows = []
    for number, text in enumerate(texts):
        rows.append(
            {
                "content": text.content,
                "references": text.references,
                "group": "" if groups is None else groups[number],
                "titles": [entry.run.titles[number] for entry in entries],
                "scores": [
                    [round(of_system[number][name], _DIGITS) for name in _SCORES] for of_system in findings.scores
                ],
                "invented": [of_system[number] for of_system in findings.inventions],
            }
        )
    return {"summary": findings.summary, "main": MAIN_SCORE, "scores": _SCORES, "texts": rows}
