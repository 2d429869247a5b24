"""ROUGE-1, ROUGE-2 and ROUGE-L by characters, equal to the package `rouge` 1.0.1 and able to score what it cannot.

`rouge` splits a text at "." into sentences, counts distinct words and word pairs, and takes for ROUGE-L the distinct
words on the traceback of one longest common subsequence (LCS) of each reference sentence with each hypothesis sentence.
Its table has a Python object for every cell and its traceback recurses, so texts of about 1,000 words end in
RecursionError. Here a table row is one integer, all hypothesis sentences lie side by side in it, and the traceback is a
loop that walks through all of them at once: 100,000 characters against 100,000 take seconds and less than 100 MB.
"""

import functools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import accumulate, chain, pairwise

SIGNATURE = "rouge|lang:zh|tok:chars|case:lower|f|distinct|sentences:.|empty:0|as:rouge-1.0.1"
NAMES = ("rouge-1", "rouge-2", "rouge-l")

# Rows of the table that are kept at a time; of the earlier ones only each block's first, to compute the block anew.
_BLOCK = 512
# byte -> the byte with its bits in reverse
_MIRROR = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def rouge(hypothesis: str, reference: str) -> dict[str, float]:
    """Return the F scores of ROUGE-1, ROUGE-2 and ROUGE-L, 0 to 1; 0 if a text has nothing but full stops."""
    sentences, reference_sentences = _sentences(hypothesis), _sentences(reference)
    words = list(chain.from_iterable(sentences))
    reference_words = list(chain.from_iterable(reference_sentences))
    unigrams, reference_unigrams = set(words), set(reference_words)
    bigrams, reference_bigrams = set(pairwise(words)), set(pairwise(reference_words))
    common = traceback_words(sentences, reference_sentences)
    return {
        "rouge-1": _f_score(len(unigrams & reference_unigrams), len(unigrams), len(reference_unigrams)),
        "rouge-2": _f_score(len(bigrams & reference_bigrams), len(bigrams), len(reference_bigrams)),
        "rouge-l": _f_score(len(common), len(unigrams), len(reference_unigrams)),
    }


def _sentences(text: str) -> list[list[str]]:
    """Split into sentences of words. White space between two full stops is a sentence of one empty word in `rouge`."""
    return [part.split() or [""] for part in " ".join(text).lower().split(".") if part]


def _f_score(overlap: int, of_hypothesis: int, of_reference: int) -> float:
    """Return F1 with the 1e-8 that `rouge` adds to the denominator."""
    if not overlap:
        return 0.0
    precision, recall = overlap / of_hypothesis, overlap / of_reference
    return 2.0 * precision * recall / (precision + recall + 1e-8)


def traceback_words(hypothesis: Sequence[Sequence[str]], reference: Sequence[Sequence[str]]) -> set[str]:
    """Return the distinct words on the LCS tracebacks of all pairs of a reference and a hypothesis sentence.

    The table T[row, column] of a pair has a row for each word of the reference sentence and a column for each of the
    hypothesis sentence, both from 1. The traceback starts in the last cell and moves, as in `rouge`: to [row - 1,
    column - 1] if the words are the same, which is then on the traceback; else to [row - 1, column] if
    T[row - 1, column] > T[row, column - 1]; else to [row, column - 1].
    """
    columns = _Columns(hypothesis)
    found: set[str] = set()
    for sentence in reference:
        starts = range(0, len(sentence), _BLOCK)
        blocks = [sentence[start : start + _BLOCK] for start in starts]
        befores = accumulate(blocks[:-1], columns.last_row, initial=columns.first_row)
        pointers = columns.ends
        for block, before in reversed(list(zip(blocks, befores, strict=True))):
            rows = list(accumulate(block, columns.next_row, initial=before))[1:]
            for word, row in zip(reversed(block), reversed(rows), strict=True):
                pointers, matched = columns.walk(pointers, row, word)
                if matched:
                    found.add(word)
    return found


class _Columns:
    """The columns of all hypothesis sentences side by side, a bit each, column 0 of every sentence before its words.

    In a row of the table a bit is 0 if T[row, column] = T[row, column - 1] + 1, and in column 0. What is `mirrored`
    has its bits in reverse, so that a subtraction borrows towards column 0 and not away from it.
    """

    def __init__(self, sentences: Sequence[Sequence[str]]) -> None:
        positions: dict[str, list[int]] = defaultdict(list)
        ends = []
        width = 0
        for sentence in sentences:
            for position, word in enumerate(sentence, width + 1):
                positions[word].append(position)
            width += 1 + len(sentence)
            ends.append(width - 1)
        size = width // 8 + 1  # bytes
        self._size = size
        self._all = (1 << 8 * size) - 1
        self.first_row, _ = _bits(chain.from_iterable(positions.values()), size)
        _, self.ends = _bits(ends, size)  # mirrored
        # A cache, not a table: with as many distinct words as columns a table would grow with the square of the text.
        # Its function does not hold `self`: in a cycle, megabytes would wait for the garbage collector.
        self._matches = functools.lru_cache(maxsize=1024)(lambda word: _bits(positions.get(word, ()), size))

    def next_row(self, row: int, word: str) -> int:
        """Return the table's row under `row`, whose word is `word` (Hyyrö 2004, bit-parallel LCS length)."""
        matches = row & self._matches(word)[0]
        # A carry out of a sentence's last column ends in the next one's column 0, and first_row clears it there.
        return ((row + matches) | (row ^ matches)) & self.first_row

    def last_row(self, row: int, words: Iterable[str]) -> int:
        """Return the row of the last of `words`, the rows under `row`."""
        return functools.reduce(self.next_row, words, row)

    def walk(self, pointers: int, row: int, word: str) -> tuple[int, int]:
        """Walk along `row` from the pointers, one in each sentence, and up to the row above.

        Returns the pointers there and the columns whose word is `word` that were on the way, all mirrored.
        """
        matches = self._matches(word)[1]
        # A pointer goes left until the words are the same or T grows in this column: there T[row - 1, column] is above
        # T[row, column - 1]. In column 0 it stays.
        stops = self._mirrored(self._all ^ row) | matches
        # Subtracting borrows from the first stop at or after the pointer, and clears that alone of the stops.
        reached = stops ^ (stops & (stops - pointers))
        matched = reached & matches
        return reached + matched, matched  # adding a bit to itself moves it one column on

    def _mirrored(self, bits: int) -> int:
        return int.from_bytes(bits.to_bytes(self._size, "little").translate(_MIRROR), "big")


def _bits(positions: Iterable[int], size: int) -> tuple[int, int]:
    """Return the integer of `size` bytes with these bits set, as it is and mirrored."""
    buffer = bytearray(size)
    for position in positions:
        buffer[position >> 3] |= 1 << (position & 7)
    return int.from_bytes(buffer, "little"), int.from_bytes(buffer.translate(_MIRROR), "big")
