"""What a title takes from its text, and what it repeats of itself; by characters without white space, or by words.

Both are lower-cased. Of English a word is a run of letters and digits, with the apostrophes in it.
"""

import re
from collections.abc import Sequence

SIGNATURE = "copying|chars|lower|space:no|novel:1-4|fragment:2|repeated:4"
NOVEL_ORDERS = (1, 2, 3, 4)
WORD_SIGNATURE = "copying|words|lower|novel:1-4|fragment:1|repeated:4"
_SHORTEST_FRAGMENT = 2  # characters; every text shares single ones
_WORD = re.compile(r"\w+(?:['’]\w+)*")
_REPEATED_ORDER = 4


def copying(title: str, source: str) -> dict[str, float]:
    """Return how much of a title is in its source, as "novel-1" to "novel-4", "copied" and "longest-copy".

    "novel-n" is the share of the title's n-grams that the source does not have (See et al. 2017), 0 if it is too short
    to have one. "copied" is the share of its characters that lie in fragments of two and more that both have, found
    greedily from the left, the longest first (the coverage of Grusky et al. 2018); "longest-copy" counts the characters
    of the longest one.
    """
    return _copying(_plain(title), _plain(source), _SHORTEST_FRAGMENT)


def copying_of_words(title: str, source: str) -> dict[str, float]:
    """Return the same by words, of which one alone is a fragment: "copied" is Grusky's coverage."""
    return _copying(*_as_characters(words(title), words(source)), 1)


def words(text: str) -> list[str]:
    """Return the words of an English text, lower-cased."""
    return _WORD.findall(text.lower())


def _as_characters(title: Sequence[str], source: Sequence[str]) -> tuple[str, str]:
    """Return texts in which a character stands for a word, and one character for all that the title has not."""
    codes = {word: chr(index) for index, word in enumerate(dict.fromkeys(title), 1)}
    return "".join(codes[word] for word in title), "".join(codes.get(word, "\0") for word in source)


def _copying(title: str, source: str, shortest: int) -> dict[str, float]:
    scores = {}
    for order in NOVEL_ORDERS:
        ngrams = _ngrams(title, order)
        scores[f"novel-{order}"] = sum(ngram not in source for ngram in ngrams) / len(ngrams) if ngrams else 0.0
    lengths = _fragments(title, source)
    scores["copied"] = sum(each for each in lengths if each >= shortest) / len(title) if title else 0.0
    scores["longest-copy"] = float(_longest_common(title, source))
    return scores


def repetition(title: str) -> dict[str, float]:
    """Return "repetition": the share of a title's 4-grams that occurred in it before (Welleck et al. 2020)."""
    return _repetition(_plain(title))


def repetition_of_words(title: str) -> dict[str, float]:
    """Return the same by words."""
    return _repetition(_as_characters(words(title), ())[0])


def _repetition(title: str) -> dict[str, float]:
    ngrams = _ngrams(title, _REPEATED_ORDER)
    return {"repetition": 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0}


def _plain(text: str) -> str:
    return "".join(text.lower().split())


def _ngrams(text: str, order: int) -> list[str]:
    return [text[start : start + order] for start in range(len(text) - order + 1)]


def _fragments(title: str, source: str) -> Sequence[int]:
    """Return the lengths of the fragments that cover a title; a character that the source lacks is none."""
    lengths, start = [], 0
    while start < len(title):
        length = _common_from(title, start, source)
        lengths.append(length)
        start += max(1, length)
    return lengths


def _common_from(title: str, start: int, source: str, at_least: int = 0) -> int:
    """Return how many characters from `start` on the source has in a row; `at_least` if they are not more."""
    length = at_least
    while start + length < len(title) and title[start : start + length + 1] in source:
        length += 1
    return length


def _longest_common(title: str, source: str) -> int:
    longest = 0
    for start in range(len(title)):
        longest = _common_from(title, start, source, at_least=longest)
    return longest
