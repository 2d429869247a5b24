"""What a comparison of systems says about each title: a row for each group of scores.

`METRICS` of this room score a title against a reference; these rows also see its text, and several references. The
scores of a text average to those of a system; of the whole corpus there are `CORPUS_MEASURES`, computed from sums.
"""

import dataclasses
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from . import bleu, chrf, copying, corpus, invention, rouge
from .statistics import Measure, mean_measure


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """A title to judge, its references (at least one) and the text that it was written for."""

    title: str
    references: tuple[str, ...]
    source: str


@dataclasses.dataclass(frozen=True)
class Score:
    """A score as a report shows it.

    Attributes:
        name: of the score.
        is_share: whether it is from 0 to 1 and shown in percent.
        better: 1 if more is better, -1 if less is, 0 if neither: a description.
    """

    name: str
    is_share: bool = True
    better: int = 0


@dataclasses.dataclass(frozen=True)
class Group:
    """A row of GROUPS: the scores of a case, computed together; `signature` names the settings they depend on."""

    scores: tuple[Score, ...]
    of_case: Callable[[Case], Mapping[str, float]]
    signature: str


def _rouge(case: Case) -> dict[str, float]:
    """Return the best of each score over the references."""
    found = [rouge.rouge(case.title, reference) for reference in case.references]
    return {name: max(each[name] for each in found) for name in rouge.NAMES}


def _chrf(case: Case) -> dict[str, float]:
    counts = chrf.chrf_counts(case.title, case.references)
    return {"chrf": float(chrf.chrf_of_counts(np.array(counts, np.float64)))}


def _length_ratio(case: Case) -> dict[str, float]:
    """Return the characters of the title over those of the reference that is nearest in length."""
    length = len(case.title)
    nearest = min(map(len, case.references), key=lambda each: (abs(each - length), each))
    return {"length-ratio": length / max(1, nearest)}


def _exact(case: Case) -> dict[str, float]:
    return {"exact": float(_comparable(case.title) in map(_comparable, case.references))}


def _comparable(text: str) -> str:
    return "".join(unicodedata.normalize("NFKC", text).lower().split())


_BETTER = 1
_WORSE = -1
GROUPS = (
    Group(tuple(Score(name, better=_BETTER) for name in rouge.NAMES), _rouge, f"{rouge.SIGNATURE}|refs:best"),
    Group(
        (Score("bleu", better=_BETTER),),
        lambda case: bleu.bleu_of_several(case.title, case.references),
        f"{bleu.SIGNATURE}|refs:all",
    ),
    Group((Score("chrf", better=_BETTER),), _chrf, chrf.SIGNATURE),
    Group((Score("exact", better=_BETTER),), _exact, "exact|nfkc|lower|space:no|refs:any"),
    Group((Score("length-ratio", is_share=False),), _length_ratio, "length-ratio|chars|refs:nearest"),
    Group(
        (
            *(Score(f"novel-{order}") for order in copying.NOVEL_ORDERS),
            Score("copied"),
            Score("longest-copy", is_share=False),
        ),
        lambda case: copying.copying(case.title, case.source),
        copying.SIGNATURE,
    ),
    Group((Score("repetition", better=_WORSE),), lambda case: copying.repetition(case.title), copying.SIGNATURE),
    Group(
        tuple(Score(name, is_share=False, better=_WORSE) for name in invention.NAMES),
        lambda case: invention.count_invented(case.title, case.source),
        invention.SIGNATURE,
    ),
)
# ROUGE and BLEU of a title without a visible character are 0, as in `metrics.score`.
_ZERO_IF_EMPTY = ("rouge-1", "rouge-2", "rouge-l", "bleu")


def score_case(case: Case) -> dict[str, float]:
    """Return every score of GROUPS for a title."""
    scores: dict[str, float] = {}
    for group in GROUPS:
        scores |= group.of_case(case)
    return scores if case.title.strip() else {**scores, **dict.fromkeys(_ZERO_IF_EMPTY, 0.0)}


def text_measures(scores: Sequence[Sequence[Mapping[str, float]]]) -> list[Measure]:
    """Return the measures that are means, from the scores [systems][texts] by their names."""
    return [
        mean_measure(name, np.array([[each[name] for each in of_system] for of_system in scores], np.float64))
        for name in scores[0][0]
    ]


def corpus_measures(
    titles: Sequence[Sequence[str]], references: Sequence[Sequence[str]]
) -> tuple[list[Measure], list[str]]:
    """Return the measures of whole corpora, and their signatures: sacrebleu's BLEU and chrF, 0 to 1.

    Args:
        titles: [systems][texts].
        references: [texts], one or more each.
    """
    counted = [corpus.bleu_counts(of_system, references) for of_system in titles]
    by_characters = [_chrf_counts(of_system, references) for of_system in titles]
    measures = [
        Measure("corpus-bleu", np.array([counts for counts, _ in counted], np.float64), corpus.bleu_of_counts),
        Measure("corpus-chrf", np.array(by_characters, np.float64), chrf.chrf_of_counts),
    ]
    return measures, [f"corpus-bleu|{counted[0][1]}", f"corpus-{chrf.SIGNATURE}"]


CORPUS_SCORES = (Score("corpus-bleu", better=_BETTER), Score("corpus-chrf", better=_BETTER))


def _chrf_counts(titles: Iterable[str], references: Iterable[Sequence[str]]) -> list[list[int]]:
    return [chrf.chrf_counts(title, of_text) for title, of_text in zip(titles, references, strict=True)]
