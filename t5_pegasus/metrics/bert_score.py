"""BERTScore: how well each token of a title finds one of like meaning in the reference, and back (Zhang et al. 2020).

Without idf and without rescaling, as bert-score 0.3.13: [CLS] and [SEP] are found by others but do not count.
"""

from collections.abc import Sequence

import numpy as np

SIGNATURE = "bertscore|f|idf:no|rescale:no|refs:best|as:bert-score-0.3.13"
_SPECIAL = 2  # [CLS] and [SEP]


def bert_score(hypothesis: np.ndarray, reference: np.ndarray) -> tuple[float, float, float]:
    """Return (precision, recall, F), -1 to 1; zeros if one of the texts has no token of its own.

    Args:
        hypothesis: the vectors of its tokens, [CLS] first and [SEP] last, each of length 1: float [tokens, size].
        reference: likewise.
    """
    if min(len(hypothesis), len(reference)) <= _SPECIAL:
        return 0.0, 0.0, 0.0
    cosines = hypothesis.astype(np.float64) @ reference.astype(np.float64).T  # [tokens, reference tokens]
    precision = float(cosines.max(axis=1)[1:-1].mean())
    recall = float(cosines.max(axis=0)[1:-1].mean())
    total = precision + recall
    return precision, recall, 2 * precision * recall / total if total else 0.0


def best_f(hypothesis: np.ndarray, references: Sequence[np.ndarray]) -> float:
    """Return the F of the best reference."""
    return max(bert_score(hypothesis, reference)[2] for reference in references)
