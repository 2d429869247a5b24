"""sacrebleu's corpus BLEU, from counts that can be summed over texts, resampled or swapped.

sacrebleu counts each text; the formula is here, for thousands of resamples at once.
"""

from collections.abc import Sequence

import numpy as np

_ORDERS = 4


def bleu_counts(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], tokenizer: str = "zh"
) -> tuple[list[list[int]], str]:
    """Return for each text what sacrebleu sums, 2 + 2 * 4 numbers, and sacrebleu's signature.

    The numbers are the tokens of the hypothesis and of the reference (of several, the one nearest in length), the
    matches of each order and the n-grams of each order.

    Args:
        hypotheses: one for each text.
        references: for each text one or more.
        tokenizer: by its name in sacrebleu.
    """
    from sacrebleu.metrics.bleu import BLEU  # here, since it takes longer to load than hundreds of titles to score

    metric = BLEU(tokenize=tokenizer)
    counts = []
    for hypothesis, of_text in zip(hypotheses, references, strict=True):
        found = metric.corpus_score([hypothesis], [[reference] for reference in of_text])
        counts.append([found.sys_len, found.ref_len, *found.counts, *found.totals])
    return counts, str(metric.get_signature())


def bleu_of_counts(sums: np.ndarray) -> np.ndarray:
    """Return BLEU, 0 to 1, float64 [...], from sums of `bleu_counts`, float64 [..., 10].

    Papineni et al. 2002; an order without a match counts half as many as the one before it that had none (method 3 of
    Chen and Cherry 2014), and a text without any match has 0.
    """
    ours, theirs = sums[..., 0], sums[..., 1]
    matches, ngrams = sums[..., 2 : 2 + _ORDERS], sums[..., 2 + _ORDERS :]
    is_zero = matches == 0
    smoothed = np.where(is_zero, 0.5 ** np.cumsum(is_zero, axis=-1), matches)
    logs = np.log(smoothed / np.maximum(ngrams, 1))
    brevity = np.minimum(0.0, 1 - theirs / np.maximum(ours, 1))
    is_scored = (matches.sum(axis=-1) > 0) & (ngrams > 0).all(axis=-1)
    return np.where(is_scored, np.exp(brevity + logs.mean(axis=-1)), 0.0)
