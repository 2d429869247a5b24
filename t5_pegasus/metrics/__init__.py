"""Scores of predicted titles against references: a row a metric, for a pair of texts and averaged over many.

A new metric is a module here and a row in METRICS. Texts come in as lists: files are read in `data`, and TensorFlow is
not imported.

The metrics see a text as the published T5-PEGASUS scores do, `" ".join(text).lower()` split again into words: by
characters, each lower-cased on its own. A space of the text's own is then three, which `rouge` and nltk split in their
own ways.
"""

import dataclasses
import statistics
from collections.abc import Callable, Sequence

from ..errors import DataError
from . import bleu, rouge


@dataclasses.dataclass(frozen=True)
class Metric:
    """A row of METRICS.

    `names` are its scores in the order they are shown; `of_pair(hypothesis, reference)` returns them all, 0 to 1;
    `signature` names the settings that they depend on.
    """

    names: tuple[str, ...]
    of_pair: Callable[[str, str], dict[str, float]]
    signature: str


METRICS = {
    "rouge": Metric(rouge.NAMES, rouge.rouge, rouge.SIGNATURE),
    "bleu": Metric(bleu.NAMES, bleu.bleu, bleu.SIGNATURE),
}
# The names of all scores, in the order they are shown.
SCORE_NAMES = tuple(name for metric in METRICS.values() for name in metric.names)


def score(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Return every metric's mean over all examples, 0 to 1: "rouge-1", "rouge-2", "rouge-l", "bleu".

    Raises what `score_each` raises.
    """
    return average(score_each(predictions, references))


def score_each(predictions: Sequence[str], references: Sequence[str]) -> list[dict[str, float]]:
    """Return the scores of each prediction against its reference; a prediction without a visible character has 0.

    Raises DataError if there is no example, or not one reference for each prediction.
    """
    _check(predictions, references)
    return [_score_pair(*pair) for pair in zip(predictions, references, strict=True)]


def average(examples: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the mean of each score over what `score_each` returned."""
    return {name: statistics.fmean(each[name] for each in examples) for name in examples[0]}


def corpus_bleu(predictions: Sequence[str], references: Sequence[str]) -> tuple[float, str]:
    """Return sacrebleu's BLEU of the whole corpus under its Chinese tokenizer, 0 to 100, and its signature.

    Raises what `score_each` raises.
    """
    _check(predictions, references)
    from sacrebleu.metrics.bleu import BLEU  # here, since it takes longer to load than hundreds of titles to score

    metric = BLEU(tokenize="zh")
    return metric.corpus_score(predictions, [references]).score, str(metric.get_signature())


def _score_pair(prediction: str, reference: str) -> dict[str, float]:
    scores: dict[str, float] = {}
    for metric in METRICS.values():
        scores |= metric.of_pair(prediction, reference) if prediction.strip() else dict.fromkeys(metric.names, 0.0)
    return scores


def _check(predictions: Sequence[str], references: Sequence[str]) -> None:
    if isinstance(predictions, str) or isinstance(references, str):
        raise DataError("predictions and references must be lists of texts, got a text")
    if len(predictions) != len(references):
        raise DataError(f"each prediction needs one reference, got {len(predictions)} and {len(references)}")
    if not predictions:
        raise DataError("there is nothing to score: no prediction and no reference")
