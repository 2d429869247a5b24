"""Sentence BLEU, of characters or other words, equal to nltk's `sentence_bleu` with `SmoothingFunction().method1`.

Papineni et al. 2002, up to four words with equal weights; method 1 of Chen and Cherry 2014 counts 0.1 matches if
there are none.
"""

import math
from collections import Counter
from collections.abc import Sequence

SETTINGS = "sentence|orders:4|smooth:method1|empty:0|as:nltk-3.10"
SIGNATURE = f"bleu|lang:zh|tok:chars|case:lower|{SETTINGS}"
NAMES = ("bleu",)

_ORDERS = 4
_EPSILON = 0.1


def bleu(hypothesis: str, reference: str) -> dict[str, float]:
    """Return the BLEU of one hypothesis by characters, 0 to 1; 0 if no character is in both texts.

    Of n-grams longer than the hypothesis there are 0 matches of 1, as in nltk, so three equal characters score 0.56.
    """
    return bleu_of_several(hypothesis, [reference])


def bleu_of_several(hypothesis: str, references: Sequence[str]) -> dict[str, float]:
    """Return the BLEU of one hypothesis by characters against several references, 0 to 1."""
    return {"bleu": sentence_bleu(_words(hypothesis), *map(_words, references))}


def sentence_bleu(words: Sequence[str], *references: Sequence[str]) -> float:
    """Return the BLEU of a text in words against references, 0 to 1; 0 if no word is in it and one of them.

    An n-gram matches as often as the reference that has most of it; the length that counts is that of the reference
    nearest in length, the shorter one of two.
    """
    log_precisions = []
    for order in range(1, _ORDERS + 1):
        ngrams = _count_ngrams(words, order)
        reference_ngrams: Counter[tuple[str, ...]] = Counter()
        for reference in references:
            reference_ngrams |= _count_ngrams(reference, order)
        matches = sum(min(count, reference_ngrams[ngram]) for ngram, count in ngrams.items())
        if order == 1 and not matches:
            return 0.0
        log_precisions.append(math.log((matches or _EPSILON) / max(1, len(words) - order + 1)))
    nearest = min(map(len, references), key=lambda length: (abs(length - len(words)), length))
    brevity = min(0.0, 1 - nearest / len(words))
    return math.exp(brevity + math.fsum(log_precisions) / _ORDERS)


def _words(text: str) -> list[str]:
    """Return the lower-cased characters; a space of the text's own is two empty words."""
    return " ".join(text).lower().split(" ")


def _count_ngrams(words: Sequence[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(words[start:] for start in range(order)), strict=False))
