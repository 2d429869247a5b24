"""chrF by characters, equal to sacrebleu's, as counts that can be summed over texts (Popović 2015).

White space is left out, case counts, up to six characters, recall counts four times as much as precision. An order
that a text is too short for is left out of the mean (sacrebleu's effective order).
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

SIGNATURE = "chrf|chars|mixed|nc:6|nw:0|space:no|eff:yes|beta:2|refs:best|as:sacrebleu-2.6"
ORDERS = 6
_BETA_SQUARED = 4.0


def chrf_counts(hypothesis: str, references: Sequence[str]) -> list[int]:
    """Return the counts of n-grams in the hypothesis, the reference and both, for each order: 3 * ORDERS numbers.

    Of several references those of the best score are returned, the first of equals.
    """
    ngrams = _ngrams(hypothesis)
    counts = [_matches(ngrams, _ngrams(reference)) for reference in references]
    scores = chrf_of_counts(np.array(counts, np.float64)).tolist()
    return counts[max(range(len(scores)), key=scores.__getitem__)]


def chrf_of_counts(sums: np.ndarray) -> np.ndarray:
    """Return chrF, 0 to 1, float64 [...], from counts or their sums, float64 [..., 3 * ORDERS]."""
    triples = sums.reshape(*sums.shape[:-1], ORDERS, 3)
    ours, theirs, common = triples[..., 0], triples[..., 1], triples[..., 2]
    counted = (ours > 0) & (theirs > 0)  # [..., orders]
    orders = np.maximum(counted.sum(axis=-1), 1)
    precision = (np.where(counted, common, 0) / np.maximum(ours, 1)).sum(axis=-1) / orders
    recall = (np.where(counted, common, 0) / np.maximum(theirs, 1)).sum(axis=-1) / orders
    denominator = _BETA_SQUARED * precision + recall
    return np.asarray((1 + _BETA_SQUARED) * precision * recall / np.where(denominator > 0, denominator, 1))


def _ngrams(text: str) -> list[Counter[str]]:
    text = "".join(text.split())
    return [
        Counter(text[start : start + order] for start in range(len(text) - order + 1)) for order in range(1, ORDERS + 1)
    ]


def _matches(ours: Sequence[Counter[str]], theirs: Sequence[Counter[str]]) -> list[int]:
    counts = []
    for of_hypothesis, of_reference in zip(ours, theirs, strict=True):
        # sacrebleu counts no n-gram of the hypothesis where the reference is too short to have any.
        counts += [
            of_hypothesis.total() if of_reference else 0,
            of_reference.total(),
            (of_hypothesis & of_reference).total(),
        ]
    return counts
