"""Titles of systems to findings: scores with intervals, tests of every pair, slices, examples; as JSON.

Numbers are rounded, so that the same titles give the same bytes whatever order a processor adds in.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..files import finite
from ..metrics import LANGUAGES
from ..metrics.comparison import COMPARED, CORPUS_SCORES, Case, Score, corpus_measures, score_case, text_measures
from ..metrics.statistics import LEVEL, POWER, Interval, Measure, Tested, compare
from ..version import __version__
from .protocol import Text
from .running import Run
from .slices import Slice

FORMAT = 1  # of scores.json
MAIN_SCORE = "rouge-l"  # what plots, filters and slices are by
_DIGITS = 6
_SLICED = ("rouge-l", "bleu", "chrf", "length-ratio", "copied")
_SHOWN_DIFFERENCES = 5
# Why a system has no such number.
_REASONS = {
    "seconds_per_text": "its titles were written elsewhere",
    "peak_bytes": "it has no process here",
    "cost": "no price is known",
    "asked_length": "no length was asked for",
}

Row = Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Entry:
    """A system of a comparison: its name, how it was asked for, and what it wrote."""

    name: str
    spec: str
    run: Run


@dataclasses.dataclass(frozen=True)
class TextScore:
    """A score of texts that is not in the table, since it needs a model: its row, its signature, and its function.

    The function returns the score of each title: titles [texts], references [texts] of one or more each.
    """

    score: Score
    signature: str
    of_titles: Callable[[Sequence[str], Sequence[Sequence[str]]], list[float]]


@dataclasses.dataclass(frozen=True)
class Findings:
    """What a comparison has found: the JSON of scores.json, and what is too long for it.

    Attributes:
        summary: for scores.json; a number that is none is null, and why is beside it.
        scores: of each text, [systems][texts], by name.
        inventions: what each title has that its text has not, [systems][texts].
    """

    summary: dict[str, Any]
    scores: list[list[dict[str, float]]]
    inventions: list[list[list[str]]]


def find(
    entries: Sequence[Entry],
    texts: Sequence[Text],
    slices: Sequence[Slice],
    about: Mapping[str, Any],
    resamples: int = 10_000,
    seed: int = 12345,
    more: Sequence[TextScore] = (),
    language: str = "zh",
) -> Findings:
    """Compare systems.

    Args:
        entries: the systems, with a title for each text.
        texts: with their references.
        slices: parts of the texts.
        about: what is said of the data in the summary.
        resamples: of each test.
        seed: of the tests.
        more: further scores.
        language: of the texts, a row of COMPARED.
    """
    references = [text.references for text in texts]
    scores = [_score(entry.run.titles, texts, more, language) for entry in entries]
    of_corpus, signatures = corpus_measures([entry.run.titles for entry in entries], references, language)
    measures = [*text_measures(scores), *of_corpus]
    groups = COMPARED[language].groups
    by_text = [group.describe() for group in groups] + [each.signature for each in more]
    rows = [*(score for group in groups for score in group.scores), *(each.score for each in more), *CORPUS_SCORES]
    tested = compare(measures, resamples, seed)
    summary: dict[str, Any] = {
        "format": FORMAT,
        **about,
        "texts": len(texts),
        "language": language,
        "settings": {"resamples": resamples, "seed": seed, "level": LEVEL, "power": POWER, "correction": "holm"},
        "signatures": [f"{each}|version:{__version__}" for each in dict.fromkeys(by_text + signatures)],
        "systems": [_about_system(entry, language) for entry in entries],
        "scores": [_about_score(row, tested[row.name], entries) for row in rows],
        "slices": [_about_slice(each, measures, entries) for each in slices],
        "differences": _differences(entries, scores, slices),
    }
    inventions = [
        [
            list(itertools.chain(*COMPARED[language].invented(title, text.content).values()))
            for title, text in zip(entry.run.titles, texts, strict=True)
        ]
        for entry in entries
    ]
    return Findings(finite(summary), scores, inventions)


def _score(
    titles: Sequence[str], texts: Sequence[Text], more: Sequence[TextScore], language: str
) -> list[dict[str, float]]:
    found = [
        score_case(Case(title, text.references, text.content), language)
        for title, text in zip(titles, texts, strict=True)
    ]
    for each in more:
        values = each.of_titles(titles, [text.references for text in texts])
        for row, value in zip(found, values, strict=True):
            row[each.score.name] = value
    return [{name: _rounded(value) for name, value in row.items()} for row in found]


def _about_system(entry: Entry, language: str) -> dict[str, Any]:
    run = entry.run
    written = run.written
    lengths = [LANGUAGES[language].count(each.title) for each in written]
    about = {
        "name": entry.name,
        "spec": entry.spec,
        "seconds_per_text": None if run.seconds is None else float(f"{run.seconds:.4g}"),
        "peak_bytes": run.peak_bytes,
        "mean_length": round(sum(lengths) / len(lengths), 2),
        "asked_length": run.asked_length,
        "empty": sum(not each.title.strip() and not each.refused for each in written),
        "refused": sum(each.refused for each in written),
        "input_tokens": sum(each.input_tokens for each in written),
        "output_tokens": sum(each.output_tokens for each in written),
        "cost": None if run.cost is None else _rounded(run.cost),
    }
    return {**about, "reasons": {name: why for name, why in _REASONS.items() if about[name] is None}}


def _about_score(row: Score, tested: Tested, entries: Sequence[Entry]) -> dict[str, Any]:
    names = [entry.name for entry in entries]
    return {
        **dataclasses.asdict(row),
        "systems": {name: _interval(each) for name, each in zip(names, tested.intervals, strict=True)},
        "pairs": [
            {
                "first": names[pair.first],
                "second": names[pair.second],
                "difference": _interval(pair.difference),
                **{
                    name: _rounded(getattr(pair, name))
                    for name in ("bootstrap", "randomization", "bootstrap_holm", "randomization_holm", "detectable")
                },
                "significant": pair.is_significant,
            }
            for pair in tested.pairs
        ],
    }


def _interval(interval: Interval) -> list[float]:
    """Return [score, low, high]."""
    return [_rounded(each) for each in interval]


def _about_slice(each: Slice, measures: Sequence[Measure], entries: Sequence[Entry]) -> dict[str, Any]:
    found: dict[str, Any] = {"by": each.by, "value": each.value, "count": len(each.texts), "scores": {}}
    for measure in measures:
        if measure.name in _SLICED:
            values = measure.of_sums(measure.totals[:, each.texts].sum(axis=1)).tolist()
            found["scores"][measure.name] = {
                entry.name: _rounded(value) for entry, value in zip(entries, values, strict=True)
            }
    return found


def _differences(
    entries: Sequence[Entry], scores: Sequence[Sequence[Row]], slices: Sequence[Slice]
) -> list[dict[str, Any]]:
    """Return for each pair of systems where its main scores differ most: texts on either side, and a slice."""
    found = []
    for first, second in itertools.combinations(range(len(entries)), 2):
        gaps = [
            ours[MAIN_SCORE] - theirs[MAIN_SCORE] for ours, theirs in zip(scores[first], scores[second], strict=True)
        ]
        order = sorted(range(len(gaps)), key=lambda text: (-gaps[text], text))
        widest = max(slices, key=lambda each: abs(_mean(gaps, each.texts)), default=None)
        found.append(
            {
                "first": entries[first].name,
                "second": entries[second].name,
                "wins": sum(gap > 0 for gap in gaps),
                "ties": sum(gap == 0 for gap in gaps),
                "losses": sum(gap < 0 for gap in gaps),
                "best_texts": [text for text in order[:_SHOWN_DIFFERENCES] if gaps[text] > 0],
                "worst_texts": [text for text in order[::-1][:_SHOWN_DIFFERENCES] if gaps[text] < 0],
                "widest_slice": None
                if widest is None
                else {
                    "by": widest.by,
                    "value": widest.value,
                    "difference": _rounded(_mean(gaps, widest.texts)),
                },
            }
        )
    return found


def _rounded(number: float) -> float:
    """Return a number with few digits, and 0 for -0."""
    return round(number, _DIGITS) + 0.0


def _mean(values: Sequence[float], texts: Sequence[int]) -> float:
    return sum(values[text] for text in texts) / len(texts)
