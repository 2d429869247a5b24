"""What a comparison of systems says about each title: a row for each language, of groups of scores.

`METRICS` of this room score a title against a reference; these rows also see its text, and several references. The
scores of a text average to those of a system; of the whole corpus there are `CORPUS_MEASURES`, computed from sums.
"""

import dataclasses
import importlib.metadata
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from . import LANGUAGES, bleu, chrf, copying, corpus, english, invention, rouge, score_names
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
    """Scores of a case that are computed together.

    `signature` names the settings that they depend on, `packages` those whose versions they depend on.
    """

    scores: tuple[Score, ...]
    of_case: Callable[[Case], Mapping[str, float]]
    signature: str
    packages: tuple[str, ...] = ()

    def describe(self) -> str:
        """Return the signature with the versions of the packages."""
        return "|".join([self.signature, *(f"{name}:{importlib.metadata.version(name)}" for name in self.packages)])


@dataclasses.dataclass(frozen=True)
class Compared:
    """A row of COMPARED: what is scored in a language.

    Attributes:
        groups: of scores.
        copying: what a title takes from its source; "copied" is the share of it.
        invented: what a title has that its source has not, by the names of the scores that count it.
    """

    groups: tuple[Group, ...]
    copying: Callable[[str, str], Mapping[str, float]]
    invented: Callable[[str, str], Mapping[str, list[str]]]


def _best(of_pair: Callable[[str, str], Mapping[str, float]]) -> Callable[[Case], Mapping[str, float]]:
    """Return the function of a case that gives the best of each score over the references."""

    def of_case(case: Case) -> dict[str, float]:
        found = [of_pair(case.title, reference) for reference in case.references]
        return {name: max(each[name] for each in found) for name in found[0]}

    return of_case


def _chrf(case: Case) -> dict[str, float]:
    counts = chrf.chrf_counts(case.title, case.references)
    return {"chrf": float(chrf.chrf_of_counts(np.array(counts, np.float64)))}


def _length_ratio(language: str) -> Callable[[Case], Mapping[str, float]]:
    """Return the function of the title's length over that of the reference that is nearest in length."""
    count = LANGUAGES[language].count

    def of_case(case: Case) -> dict[str, float]:
        length = count(case.title)
        nearest = min(map(count, case.references), key=lambda each: (abs(each - length), each))
        return {"length-ratio": length / max(1, nearest)}

    return of_case


def _exact(case: Case) -> dict[str, float]:
    return {"exact": float(_comparable(case.title) in map(_comparable, case.references))}


def _comparable(text: str) -> str:
    return "".join(unicodedata.normalize("NFKC", text).lower().split())


_BETTER = 1
_WORSE = -1
_BLEU = (Score("bleu", better=_BETTER),)
_REPETITION = (Score("repetition", better=_WORSE),)
_LENGTH_RATIO = (Score("length-ratio", is_share=False),)
_COPYING = (
    *(Score(f"novel-{order}") for order in copying.NOVEL_ORDERS),
    Score("copied"),
    Score("longest-copy", is_share=False),
)
_CHRF_AND_EXACT = (
    Group((Score("chrf", better=_BETTER),), _chrf, chrf.SIGNATURE),
    Group((Score("exact", better=_BETTER),), _exact, "exact|nfkc|lower|space:no|refs:any"),
)


def _better(names: Iterable[str]) -> tuple[Score, ...]:
    return tuple(Score(name, better=_BETTER) for name in names)


def _invented(names: Iterable[str]) -> tuple[Score, ...]:
    return tuple(Score(name, is_share=False, better=_WORSE) for name in names)


def _counts(found: Mapping[str, list[str]]) -> dict[str, float]:
    return {name: float(len(each)) for name, each in found.items()}


_CHINESE = Compared(
    (
        Group(_better(rouge.NAMES), _best(rouge.rouge), f"{rouge.SIGNATURE}|refs:best"),
        Group(_BLEU, lambda case: bleu.bleu_of_several(case.title, case.references), f"{bleu.SIGNATURE}|refs:all"),
        *_CHRF_AND_EXACT,
        Group(_LENGTH_RATIO, _length_ratio("zh"), "length-ratio|chars|refs:nearest"),
        Group(_COPYING, lambda case: copying.copying(case.title, case.source), copying.SIGNATURE),
        Group(_REPETITION, lambda case: copying.repetition(case.title), copying.SIGNATURE),
        Group(
            _invented(invention.NAMES),
            lambda case: _counts(invention.invented(case.title, case.source)),
            invention.SIGNATURE,
        ),
    ),
    copying.copying,
    invention.invented,
)
_ENGLISH = Compared(
    (
        Group(
            _better(english.ROUGE_NAMES),
            _best(english.rouge),
            f"{english.ROUGE_SIGNATURE}|refs:best",
            english.ROUGE_PACKAGES,
        ),
        Group(
            _BLEU,
            lambda case: english.bleu_of_several(case.title, case.references),
            f"{english.BLEU_SIGNATURE}|refs:all",
            english.BLEU_PACKAGES,
        ),
        *_CHRF_AND_EXACT,
        Group(_LENGTH_RATIO, _length_ratio("en"), "length-ratio|words|refs:nearest"),
        Group(_COPYING, lambda case: copying.copying_of_words(case.title, case.source), copying.WORD_SIGNATURE),
        Group(_REPETITION, lambda case: copying.repetition_of_words(case.title), copying.WORD_SIGNATURE),
        Group(
            _invented(invention.ENGLISH_NAMES),
            lambda case: _counts(invention.invented_in_english(case.title, case.source)),
            invention.ENGLISH_SIGNATURE,
        ),
    ),
    copying.copying_of_words,
    invention.invented_in_english,
)
COMPARED = {"zh": _CHINESE, "en": _ENGLISH}


def score_case(case: Case, language: str = "zh") -> dict[str, float]:
    """Return every score of a language's groups for a title.

    ROUGE and BLEU of a title without a visible character are 0, as in `metrics.score`.
    """
    scores: dict[str, float] = {}
    for group in COMPARED[language].groups:
        scores |= group.of_case(case)
    return scores if case.title.strip() else {**scores, **dict.fromkeys(score_names(language), 0.0)}


def text_measures(scores: Sequence[Sequence[Mapping[str, float]]]) -> list[Measure]:
    """Return the measures that are means, from the scores [systems][texts] by their names."""
    return [
        mean_measure(name, np.array([[each[name] for each in of_system] for of_system in scores], np.float64))
        for name in scores[0][0]
    ]


def corpus_measures(
    titles: Sequence[Sequence[str]], references: Sequence[Sequence[str]], language: str = "zh"
) -> tuple[list[Measure], list[str]]:
    """Return the measures of whole corpora, and their signatures: sacrebleu's BLEU and chrF, 0 to 1.

    Args:
        titles: [systems][texts].
        references: [texts], one or more each.
        language: a row of LANGUAGES, which has the tokenizer of BLEU.
    """
    counted = [corpus.bleu_counts(of_system, references, LANGUAGES[language].tokenizer) for of_system in titles]
    by_characters = [_chrf_counts(of_system, references) for of_system in titles]
    measures = [
        Measure("corpus-bleu", np.array([counts for counts, _ in counted], np.float64), corpus.bleu_of_counts),
        Measure("corpus-chrf", np.array(by_characters, np.float64), chrf.chrf_of_counts),
    ]
    return measures, [f"corpus-bleu|{counted[0][1]}", f"corpus-{chrf.SIGNATURE}"]


CORPUS_SCORES = (Score("corpus-bleu", better=_BETTER), Score("corpus-chrf", better=_BETTER))


def _chrf_counts(titles: Iterable[str], references: Iterable[Sequence[str]]) -> list[list[int]]:
    return [chrf.chrf_counts(title, of_text) for title, of_text in zip(titles, references, strict=True)]
