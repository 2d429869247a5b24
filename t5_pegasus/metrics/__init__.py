"""Scores of predicted titles against references: a row a metric, for a pair of texts and averaged over many.

A new metric is a module here and a row in METRICS; a new language a table of metrics and a row in LANGUAGES. Texts come
in as lists: files are read in `data`, and TensorFlow is not imported.

The metrics of Chinese see a text as the published T5-PEGASUS scores do, `" ".join(text).lower()` split again into
words: by characters, each lower-cased on its own. A space of the text's own is then three, which `rouge` and nltk split
in their own ways. Those of English compare words (see `english`).
"""

import dataclasses
import importlib.metadata
from collections.abc import Callable, Sequence
from statistics import fmean

from ..config import require
from ..errors import DataError
from ..version import __version__
from . import bleu, english, rouge


@dataclasses.dataclass(frozen=True)
class Metric:
    """A row of METRICS.

    `names` are its scores in the order they are shown; `of_pair(hypothesis, reference)` returns them all, 0 to 1;
    `signature` names the settings that they depend on, `packages` those whose versions they depend on.
    """

    names: tuple[str, ...]
    of_pair: Callable[[str, str], dict[str, float]]
    signature: str
    packages: tuple[str, ...] = ()

    def describe(self) -> str:
        """Return the signature with the versions, our own last: what is printed beside scores, as sacrebleu does."""
        versions = [f"{package}:{importlib.metadata.version(package)}" for package in self.packages]
        return "|".join([self.signature, *versions, f"version:{__version__}"])


@dataclasses.dataclass(frozen=True)
class Language:
    """A row of LANGUAGES.

    `metrics` are those of its texts, by name; `tokenizer` is sacrebleu's name of the one for corpus BLEU; `unit` names
    what `count(text)` counts of a text's length.
    """

    metrics: dict[str, Metric]
    tokenizer: str
    unit: str
    count: Callable[[str], int]


METRICS = {
    "rouge": Metric(rouge.NAMES, rouge.rouge, rouge.SIGNATURE),
    "bleu": Metric(bleu.NAMES, bleu.bleu, bleu.SIGNATURE),
}
ENGLISH_METRICS = {
    "rouge": Metric(english.ROUGE_NAMES, english.rouge, english.ROUGE_SIGNATURE, english.ROUGE_PACKAGES),
    "bleu": Metric(english.BLEU_NAMES, english.bleu, english.BLEU_SIGNATURE, english.BLEU_PACKAGES),
}
LANGUAGES = {
    "zh": Language(METRICS, "zh", "characters", len),
    "en": Language(ENGLISH_METRICS, "13a", "words", lambda text: len(text.split())),
}


def check_packages(language: str) -> None:
    """Raise OptionError if a package that the scores of a language take is missing: before the work, not after it."""
    for metric in LANGUAGES[language].metrics.values():
        metric.of_pair("a", "a")


def describe(language: str) -> str:
    """Return the signatures of a language's metrics with the versions, in one line."""
    return ", ".join(metric.describe() for metric in LANGUAGES[language].metrics.values())


def score_names(language: str = "zh") -> tuple[str, ...]:
    """Return the names of a language's scores, in the order they are shown."""
    return tuple(name for metric in LANGUAGES[language].metrics.values() for name in metric.names)


# The names of the scores of all languages.
SCORE_NAMES = tuple(dict.fromkeys(name for language in LANGUAGES for name in score_names(language)))


def score(predictions: Sequence[str], references: Sequence[str], language: str = "zh") -> dict[str, float]:
    """Return every metric's mean over all examples, 0 to 1: "rouge-1", "rouge-2", "rouge-l", "bleu".

    English has "rouge-lsum" too. Raises what `score_each` raises.
    """
    return average(score_each(predictions, references, language))


def score_each(predictions: Sequence[str], references: Sequence[str], language: str = "zh") -> list[dict[str, float]]:
    """Return the scores of each prediction against its reference; a prediction without a visible character has 0.

    Raises DataError if there is no example, or not one reference for each prediction; OptionError for a language that
    is not a row of LANGUAGES, or whose packages are not installed.
    """
    metrics = _check(predictions, references, language).metrics
    return [_score_pair(metrics, *pair) for pair in zip(predictions, references, strict=True)]


def average(examples: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the mean of each score over what `score_each` returned."""
    return {name: fmean(each[name] for each in examples) for name in examples[0]}


def corpus_bleu(predictions: Sequence[str], references: Sequence[str], language: str = "zh") -> tuple[float, str]:
    """Return sacrebleu's BLEU of the whole corpus under the language's tokenizer, 0 to 100, and its signature.

    Raises what `score_each` raises.
    """
    tokenizer = _check(predictions, references, language).tokenizer
    from sacrebleu.metrics.bleu import BLEU  # here, since it takes longer to load than hundreds of titles to score

    metric = BLEU(tokenize=tokenizer)
    return metric.corpus_score(predictions, [references]).score, str(metric.get_signature())


def _score_pair(metrics: dict[str, Metric], prediction: str, reference: str) -> dict[str, float]:
    scores: dict[str, float] = {}
    for metric in metrics.values():
        scores |= metric.of_pair(prediction, reference) if prediction.strip() else dict.fromkeys(metric.names, 0.0)
    return scores


def _check(predictions: Sequence[str], references: Sequence[str], language: str) -> Language:
    require(language in LANGUAGES, f"language must be one of {', '.join(LANGUAGES)}", language)
    if isinstance(predictions, str) or isinstance(references, str):
        raise DataError("predictions and references must be lists of texts, got a text")
    if len(predictions) != len(references):
        raise DataError(f"each prediction needs one reference, got {len(predictions)} and {len(references)}")
    if not predictions:
        raise DataError("there is nothing to score: no prediction and no reference")
    return LANGUAGES[language]
