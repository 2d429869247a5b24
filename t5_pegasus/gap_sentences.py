"""Choose gap sentences: the part of a text that a model learns to write from the rest. Pure functions of text.

The official T5-PEGASUS recipe: pieces of about 32 characters (`corpus.split_pieces`), chunks of at least 3 pieces and
1.5 characters a token, and in each the pieces that have most in common with what is left (`lcs_gap_sentences`).
"""

import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from rapidfuzz.distance import LCSseq

from .config import option
from .corpus import gather_chunks, split_pieces
from .errors import OptionError

CHARS_PER_TOKEN = 1.5
# From this many sentences on, `_encode` saves more time than it takes (benchmarks/gap_sentences.py).
ENCODE_FROM = 12


@dataclasses.dataclass(frozen=True)
class GapSentenceConfig:
    """How pairs for pretraining are made from raw documents."""

    text_column: str | None = option(None, "column of the document; found by its usual names if not given")
    gap_sentence_ratio: float = option(0.25, "sentences are taken until target / source, in characters, is above this")
    max_length: int = option(512, "tokens of a text for the model, taken as 1.5 characters each")
    workers: int = option(os.cpu_count() or 1, "processes; the pairs are the same with any number")
    skip_bad_lines: bool = option(False, "count lines that cannot be used and go on, instead of stopping at the first")

    def __post_init__(self) -> None:
        """Raise OptionError for a value no pair can be made with."""
        if not 0 < self.gap_sentence_ratio <= 1:
            raise OptionError(f"gap_sentence_ratio must be above 0 and at most 1, got {self.gap_sentence_ratio}")
        for name in ("max_length", "workers"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name} must be at least 1, got {getattr(self, name)}")


def lcs_gap_sentences(sentences: Sequence[str], ratio: float) -> list[int]:
    """Return the indices, ascending, of the gap sentences the official greedy algorithm takes.

    Again and again it takes the sentence that makes the longest common subsequence of rest and taken, in characters,
    longest (the first of equals), until len(taken) / len(rest) > `ratio` or one sentence is left.
    """
    codes = _encode(sentences) if len(sentences) >= ENCODE_FROM else sentences
    left, taken = list(range(len(sentences))), list[int]()
    left_chars, taken_chars = sum(map(len, sentences)), 0
    # LCS(rest - s, taken + s) <= LCS(rest, taken) + LCS(rest - s, s). The first term is the step before's best score,
    # the second only falls as the rest shrinks: its value in the first step, or else the length of s, bounds it.
    bounds = [len(code) for code in codes]
    common = 0
    while True:
        best = (-1, 0)  # score, -index: of equal scores the first sentence's is greatest
        # Greatest bound first, in order of index among equals, so that none after a break can win or draw first.
        for i in sorted(left, key=bounds.__getitem__, reverse=True):
            if (common + bounds[i], -i) < best:
                break
            rest = "".join([codes[j] for j in left if j != i])
            score = LCSseq.similarity(rest, "".join([codes[j] for j in sorted([*taken, i])]))
            if not taken:
                bounds[i] = score
            best = max(best, (score, -i))
        common, index = best[0], -best[1]
        left.remove(index)
        taken.append(index)
        left_chars -= len(sentences[index])
        taken_chars += len(sentences[index])
        if len(left) == 1 or not left_chars or taken_chars / left_chars > ratio:
            return sorted(taken)


# A row a strategy: the sentences of a chunk and the ratio to the indices of its gap sentences, ascending.
STRATEGIES: dict[str, Callable[[Sequence[str], float], list[int]]] = {"lcs": lcs_gap_sentences}


def pseudo_summary(sentences: Sequence[str], ratio: float = 0.25, strategy: str = "lcs") -> tuple[str, str]:
    """Return (source, target): the sentences that are left and the gap sentences, each joined in their order.

    Where the gap sentences came out longer, the two are swapped, so that the target is never the longer one. Nothing
    marks the gaps. Raises OptionError for fewer than 2 sentences and for a strategy that is not in STRATEGIES.
    """
    if strategy not in STRATEGIES:
        raise OptionError(f"strategy must be one of {', '.join(STRATEGIES)}, got {strategy}")
    if len(sentences) < 2:
        raise OptionError(f"a pseudo-summary needs at least 2 sentences, got {len(sentences)}")
    gaps = set(STRATEGIES[strategy](sentences, ratio))
    source = "".join([sentence for i, sentence in enumerate(sentences) if i not in gaps])
    target = "".join([sentence for i, sentence in enumerate(sentences) if i in gaps])
    return (target, source) if len(source) < len(target) else (source, target)


def pseudo_pairs(text: str, ratio: float = 0.25, max_length: int = 512) -> Iterator[tuple[str, str]]:
    """Yield the (source, target) of every chunk of a document, in order; none where it has fewer than 3 pieces.

    `max_length` is in tokens; a chunk holds 1.5 characters for each. Cutting both to tokens is left to training.
    """
    for chunk in gather_chunks(split_pieces(text), max_length * CHARS_PER_TOKEN):
        yield pseudo_summary(chunk, ratio)


def _encode(sentences: Sequence[str]) -> list[str]:
    """Return the sentences with the same common subsequences between any two disjoint sets of them, faster to find.

    A character that occurs once has no match and goes; the others are numbered from 0, since rapidfuzz looks up
    characters below 256 in a table and others in a hash map.
    """
    counts = Counter("".join(sentences))
    codes = dict.fromkeys(counts, "")
    repeated = [character for character, count in counts.items() if count > 1]
    codes.update((character, chr(code)) for code, character in enumerate(repeated))
    return ["".join(map(codes.__getitem__, sentence)) for sentence in sentences]
