"""Texts cut into words as by `jieba.cut(text, HMM=False)`; rjieba does it if it is installed."""

import functools
import importlib.util
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

from ..errors import DataError
from .characters import normalize
from .lines import read_lines

_HIGHEST_FREQUENCY = 10**12  # of a user word, in rjieba; those of its own dictionary add up to 6 * 10**7

Cut = Callable[[str], Iterable[str]]


# Characters. For each word jieba keeps all that it begins with: of a text by mistake, that would be gigabytes.
_LONGEST_USER_WORD = 100
_NUMBER = re.compile(r" [-+]?[0-9][0-9.,]*(e[-+]?[0-9]+)?(?= |$)")


def read_user_dict(user_dict: str | Path) -> list[tuple[str, int | None]]:
    """Return (word, frequency or None) of each line `word [frequency] [tag]`, the words normalised as texts are.

    Blank lines are skipped. Raises DataError for a line that is something else: jieba would take all of it for a word,
    which it never finds.
    """
    words = []
    for number, line in enumerate(read_lines(user_dict), 1):
        if not (line := line.strip()):
            continue
        match = re.fullmatch(r"(.+?)(?: ([0-9]{1,30}))?(?: [a-z]+)?", line)
        if match is None or not _is_word(match[1]):
            rule = f"word [frequency] [tag]: a word of at most {_LONGEST_USER_WORD} characters, a whole number, letters"
            raise DataError(f"{user_dict}:{number}: expected {rule}; single spaces between them, got {line[:40]!r}")
        words.append((normalize(match[1]), int(match[2]) if match[2] else None))
    return words


def _is_word(text: str) -> bool:
    is_text = text.isprintable() and not _NUMBER.search(text)
    return is_text and 0 < len(normalize(text)) <= _LONGEST_USER_WORD


def load_cut(user_dict: str | Path | None = None) -> Cut:
    """Return a function that cuts a text into words as the tokenizer does, before it looks them up."""
    return make_cut([] if user_dict is None else read_user_dict(user_dict))


def make_cut(user_words: list[tuple[str, int | None]]) -> Cut:
    """Return a function that cuts as `jieba.cut(text, HMM=False)` does, with rjieba if it is installed.

    It has a dictionary of its own, so that user words neither leak into the caller's jieba nor come from there.
    """
    with_rjieba = importlib.util.find_spec("rjieba") is not None
    if with_rjieba and not user_words:
        return _rjieba_cut({}, 0)

    import jieba

    jieba.setLogLevel("WARNING")
    segmenter = jieba.Tokenizer()
    segmenter.initialize()
    for word, frequency in user_words:
        segmenter.add_word(word, frequency)
    # jieba counts a word that is added again twice in its sum of frequencies; rjieba does not and gets the difference.
    user_frequencies = {word: segmenter.FREQ[word] for word, _ in user_words}
    counted_twice = segmenter.total - sum(segmenter.FREQ.values())
    # Frequency 0 removes a word from jieba's dictionary; rjieba cannot do that, nor count beyond its integers.
    if with_rjieba and all(0 < frequency <= _HIGHEST_FREQUENCY for frequency in user_frequencies.values()):
        return _rjieba_cut(user_frequencies, counted_twice)
    return functools.partial(segmenter.cut, HMM=False)


def _rjieba_cut(user_frequencies: dict[str, int], add_to_sum: int) -> Cut:
    """Return rjieba's cut with further words, and a number added to the sum that frequencies are divided by."""
    import rjieba

    segmenter = rjieba.Jieba()
    for word, frequency in user_frequencies.items():
        segmenter.add_word(word, frequency, None)
    if add_to_sum:
        segmenter.add_word("\n", add_to_sum, None)  # never part of a longer word, since line ends are cut off alone
    return functools.partial(_cut_by_rjieba, segmenter)


# Not passed to rjieba, since each is a word by itself to jieba: ideographs that rjieba allows in words (they end up
# alone, but near one it would add the same numbers in another order, and rounding may break a tie the other way), and
# halves of surrogate pairs, as broken JSON has them, which rjieba does not accept.
_APART = re.compile("([\u3400-\u4dbf\u9fd6-\u9fff\ud800-\udfff\uf900-\ufaff\U00020000-\U0003ffff])")


def _cut_by_rjieba(segmenter: Any, text: str) -> list[str]:
    if not _APART.search(text):
        return cast(list[str], segmenter.cut(text, hmm=False))
    words: list[str] = []
    for number, part in enumerate(_APART.split(text)):
        words += [part] if number % 2 else segmenter.cut(part, hmm=False)
    return words
