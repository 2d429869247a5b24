"""Titles that are a part of their text: its beginning, its most central sentence, or the best that there is.

Words are jieba's, as the tokenizer has them, of two characters and more: single ones are mostly function words. Those
of English are runs of letters, its sentences sentencex's.
"""

import dataclasses
import functools
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..config import check_choices, option, require, require_at_least
from ..metrics import copying, english
from ..metrics.rouge import rouge
from ..text.segmentation import load_cut
from ..text.sentences import split_sentences
from .protocol import LocalSystem, Text, Written
from .spec import Spec, make_config

_DAMPING = 0.85  # of PageRank, in both papers
_CLAUSE_ENDS = re.compile("[，。；：！？,;:!?]+")
_ENGLISH_CLAUSE_ENDS = re.compile(r"[,;:]+(?=\s|$)")
_STOPS = " \t\r\n\u3000。．！？；.!?;，,：:"


def sentences_of(text: str) -> list[str]:
    """Return the sentences of a text, without the stop and the white space at their ends."""
    return _filled(split_sentences(text))


def clauses_of(text: str) -> list[str]:
    """Return what stands between commas, stops and colons."""
    return _filled(_CLAUSE_ENDS.split(text))


def _filled(parts: Sequence[str]) -> list[str]:
    return [stripped for part in parts if (stripped := part.strip(_STOPS))]


def english_clauses_of(text: str) -> list[str]:
    """Return what stands between the commas, semicolons and colons of English sentences, without their stops."""
    clauses = (part for sentence in english.sentences(text) for part in _ENGLISH_CLAUSE_ENDS.split(sentence))
    return [stripped for clause in clauses if (stripped := clause.strip(_STOPS))]


@dataclasses.dataclass(frozen=True)
class Parts:
    """A row of LANGUAGES: how texts are divided, and what parts are compared by.

    Attributes:
        units: functions that divide a text, by the names that options have for them.
        comma: what stands between clauses.
        words: of a text, for TextRank and LexRank.
        rouge: of a part and a reference.
    """

    units: dict[str, Callable[[str], list[str]]]
    comma: str
    words: Callable[[str], list[str]]
    rouge: Callable[[str, str], dict[str, float]]


UNITS = ("sentence", "clause")


@dataclasses.dataclass(frozen=True)
class LeadConfig:
    """The options of `lead`."""

    unit: str = option("clause", "what the title is the first of", choices=(*UNITS, "characters"))
    n: int = option(1, "how many of them")

    def __post_init__(self) -> None:
        """Raise OptionError for a unit that there is not, and for less than one."""
        check_choices(self)
        require_at_least(self, 1, "n")


@dataclasses.dataclass(frozen=True)
class ExtractConfig:
    """The options of systems that choose one part of a text."""

    unit: str = option("sentence", "what is chosen from", choices=UNITS)

    def __post_init__(self) -> None:
        """Raise OptionError for a unit that there is not."""
        check_choices(self)


@functools.cache
def _cut() -> Callable[[str], Any]:
    return load_cut()


def words_of(text: str) -> list[str]:
    """Return the words of two characters and more of a text, lower-cased."""
    return [word for word in _cut()(text.lower()) if len(word) > 1 and word.isalnum()]


LANGUAGES = {
    "zh": Parts({"sentence": sentences_of, "clause": clauses_of}, "，", words_of, rouge),
    "en": Parts({"sentence": english.sentences, "clause": english_clauses_of}, ", ", copying.words, english.rouge),
}


def central(weights: np.ndarray) -> np.ndarray:
    """Return each node's PageRank, float64 [nodes], from the weights of edges, float64 [nodes, nodes].

    A node without edges leads everywhere, as in Brin and Page 1998. Solved, not iterated.
    """
    nodes = len(weights)
    sums = weights.sum(axis=1, keepdims=True)
    shares = np.where(sums > 0, weights / np.where(sums > 0, sums, 1), 1 / nodes)
    ranks = np.linalg.solve(np.eye(nodes) - _DAMPING * shares.T, np.full(nodes, (1 - _DAMPING) / nodes))
    return np.asarray(ranks)


def textrank_weights(sentences: Sequence[Sequence[str]]) -> np.ndarray:
    """Return TextRank's similarities, float64 [sentences, sentences]: shared words over the logs of both lengths.

    Mihalcea and Tarau 2004. Two sentences of one word each, whose logs are 0, have none.
    """
    sets = [set(words) for words in sentences]
    logs = [math.log(max(1, len(words))) for words in sentences]
    weights = np.zeros((len(sets), len(sets)))
    for row in range(len(sets)):
        for column in range(row):
            norm = logs[row] + logs[column]
            shared = len(sets[row] & sets[column])
            weights[row, column] = weights[column, row] = shared / norm if norm > 0 else 0.0
    return weights


def lexrank_weights(sentences: Sequence[Sequence[str]]) -> np.ndarray:
    """Return LexRank's similarities, float64 [sentences, sentences]: the cosines of their tf-idf vectors.

    Erkan and Radev 2004, the continuous kind. Each sentence is a document of the idf, log((1 + N) / (1 + n)) + 1, so
    that a word of all sentences still counts.
    """
    vocabulary = {word: index for index, word in enumerate(sorted({word for words in sentences for word in words}))}
    counts = np.zeros((len(sentences), len(vocabulary)))
    for row, words in enumerate(sentences):
        for word, count in Counter(words).items():
            counts[row, vocabulary[word]] = count
    idf = np.log((1 + len(sentences)) / (1 + (counts > 0).sum(axis=0))) + 1
    vectors = counts * idf
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = vectors / np.where(norms > 0, norms, 1)
    weights = vectors @ vectors.T
    np.fill_diagonal(weights, 0)
    return np.asarray(weights)


def most_central(
    parts: Sequence[str],
    weights_of: Callable[[Sequence[Sequence[str]]], np.ndarray],
    words: Callable[[str], list[str]] = words_of,
) -> str:
    """Return the part of the highest PageRank, the first of equals; "" if there is none."""
    if len(parts) < 2:
        return "".join(parts)
    ranks = central(weights_of([words(part) for part in parts]))
    return parts[int(np.argmax(np.round(ranks, 12)))]


def best_by_rouge(
    parts: Sequence[str],
    references: Sequence[str],
    rouge_of: Callable[[str, str], dict[str, float]] = rouge,
) -> str:
    """Return the part whose scores of ROUGE have the highest mean, by its best reference; the first of equals."""
    scores = [max(sum(rouge_of(part, each).values()) for each in references) for part in parts]
    return parts[scores.index(max(scores))] if parts else ""


class Extract(LocalSystem):
    """A system that is a function of a text; its titles depend on the function's options and this package's version."""

    def __init__(self, spec: Spec, options: object, choose: Callable[[Text], str]) -> None:
        self._spec, self._options, self._choose = spec, options, choose

    def identity(self) -> dict[str, Any]:
        """Return the kind, its options and the language."""
        options = dataclasses.asdict(self._options)  # type: ignore[call-overload]
        return {"kind": self._spec.kind, "options": options, "language": self._spec.language}

    def write(self, texts: Sequence[Text], start: int) -> list[Written]:
        """Return a title for each text."""
        return [Written(" ".join(self._choose(text).split())) for text in texts]


def make_lead(spec: Spec) -> Extract:
    """Return the system that takes the beginning of a text."""
    check_no_target(spec)
    config = make_config(LeadConfig, spec.options)
    if config.unit == "characters":
        return Extract(spec, config, lambda text: text.content.strip()[: config.n])
    parts = LANGUAGES[spec.language]
    between = parts.comma if config.unit == "clause" or spec.language == "zh" else " "
    return Extract(spec, config, lambda text: between.join(parts.units[config.unit](text.content)[: config.n]))


def make_textrank(spec: Spec) -> Extract:
    """Return TextRank."""
    return _make_central(spec, textrank_weights)


def make_lexrank(spec: Spec) -> Extract:
    """Return LexRank."""
    return _make_central(spec, lexrank_weights)


def _make_central(spec: Spec, weights_of: Callable[[Sequence[Sequence[str]]], np.ndarray]) -> Extract:
    check_no_target(spec)
    config, parts = make_config(ExtractConfig, spec.options), LANGUAGES[spec.language]
    divide = parts.units[config.unit]
    return Extract(spec, config, lambda text: most_central(divide(text.content), weights_of, parts.words))


def make_oracle(spec: Spec) -> Extract:
    """Return the oracle, which knows the references: no choice of one part scores higher."""
    check_no_target(spec)
    config, parts = make_config(ExtractConfig, spec.options), LANGUAGES[spec.language]
    divide = parts.units[config.unit]
    return Extract(spec, config, lambda text: best_by_rouge(divide(text.content), text.references, parts.rouge))


def check_no_target(spec: Spec) -> None:
    """Raise OptionError if a system that is not about a file, folder or address is given one."""
    require(not spec.target, f"{spec.kind} has no target: {spec.kind}?option=value", f"{spec.kind}:{spec.target}")
