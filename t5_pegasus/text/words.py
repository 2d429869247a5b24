"""A word vocabulary: which words are its tokens, and how it cuts a text.

The kinds of tokens are in the order of the official vocabulary: special tokens at their ids, single characters, words,
`##` pieces. Words are those of jieba's dictionary, since jieba can cut no others, and what else it cuts from a corpus:
English words and numbers. They are ranked by their frequency in the corpus, then by that in jieba's dictionary; without
a corpus by the latter alone. The same input gives the same file, byte for byte.
"""

import dataclasses
import importlib.resources
import itertools
import re
import string
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping

from ..config import option, require, require_at_least
from ..errors import OptionError
from .characters import is_cjk, normalize
from .segmentation import Cut
from .tokenizer import PegasusTokenizer

# ids 0 to 105, as in the official vocabulary (and in Chinese BERT's, but for the last two)
SPECIAL_TOKENS = ("[PAD]", *(f"[unused{n}]" for n in range(1, 100)), "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<S>", "<T>")

_ASCII = "".join(sorted(set(string.printable) - set(string.whitespace) - set(string.ascii_uppercase)))
_MARKS = (
    "，。、；：？！…—～·“”‘’（）《》〈〉「」『』【】〔〕％＋－＝／＂＃＆＊＜＞＠［］｛｝｜￥"
    "–―‧′″°℃§×÷±≈≠≤≥∞→←↑↓√∑△○●◎◇◆□■★☆①②③④⑤⑥⑦⑧⑨⑩０１２３４５６７８９αβγδεθλμπρστφω"
)
_LETTERS = string.digits + string.ascii_lowercase
# What WordPiece cuts into pieces: of all other scripts, jieba returns single characters.
_LATIN = re.compile("[0-9a-z]+")


@dataclasses.dataclass(frozen=True)
class VocabularyConfig:
    """Size of a vocabulary and how it is divided."""

    size: int = option(7000, "tokens in the vocabulary, all kinds together")
    num_characters: int | None = option(
        None, "Chinese characters among them; 6 in 10, but at most 6000, if not given; the rest are mostly words"
    )
    num_pieces: int | None = option(
        None, "## pieces among them, at most; the 36 letters and digits or 3 in 100, if not given"
    )
    min_count: int = option(5, "how often English words, numbers and rare signs must occur in the corpus to be tokens")

    def __post_init__(self) -> None:
        """Raise OptionError if the fixed part does not fit."""
        fixed = len(SPECIAL_TOKENS) + len(_fixed_characters()) + len(_LETTERS)
        if self.characters < 1 or self.size < fixed + self.characters:
            raise OptionError(
                f"size must be at least num_characters (from 1) and {fixed} more for special tokens, signs and pieces, "
                f"got size {self.size} with num_characters {self.characters}"
            )
        letters = len(_LETTERS)
        require(self.pieces >= letters, f"num_pieces must be at least {letters}, for letters and digits", self.pieces)
        require_at_least(self, 1, "min_count")

    @property
    def characters(self) -> int:
        """Return the number of Chinese characters."""
        return min(6000, self.size * 6 // 10) if self.num_characters is None else self.num_characters

    @property
    def pieces(self) -> int:
        """Return the largest number of `##` pieces."""
        return max(len(_LETTERS), self.size * 3 // 100) if self.num_pieces is None else self.num_pieces


@dataclasses.dataclass(frozen=True)
class Coverage:
    """How a vocabulary cuts a text. Characters are counted after normalisation, without white space."""

    characters: int
    tokens: int
    unknown_characters: int  # those that became [UNK]
    words: int  # of two characters and more, as jieba cuts them
    whole_words: int  # those that are one token

    def to_dict(self) -> dict[str, float]:
        """Return the counts and three ratios made of them."""
        characters, words = max(self.characters, 1), max(self.words, 1)
        return {
            **dataclasses.asdict(self),
            "coverage": 1 - self.unknown_characters / characters,
            "whole_word_share": self.whole_words / words,
            "tokens_per_character": self.tokens / characters,
        }


def count_words(texts: Iterable[str], cut: Cut) -> Counter[str]:
    """Count the words of texts. Streams: memory grows with the number of distinct words only."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(cut(normalize(text)))
    return counts


def build_vocabulary(
    config: VocabularyConfig, counts: Mapping[str, int] | None = None, existing: Collection[str] = ()
) -> list[str]:
    """Return exactly `config.size` tokens, the same for the same arguments.

    Args:
        config: size and division.
        counts: how often each word occurs in a corpus (`count_words`).
        existing: tokens of another vocabulary. Those that a text can have come before all others of their kind: a
            larger size extends that vocabulary, a smaller one keeps its most frequent tokens.

    Raises OptionError if there are not so many tokens.
    """
    counts, existing = Counter(counts or {}), frozenset(existing)
    frequencies = _jieba_frequencies()
    common = _common_characters(frequencies, counts, existing, config.characters)
    if len(common) < config.characters:
        raise OptionError(f"num_characters must be at most {len(common)}, got {config.characters}")
    fixed = [*SPECIAL_TOKENS, *_fixed_characters(), *common]
    room = config.size - len(fixed)

    met = {word for word, count in counts.items() if count >= config.min_count or word in existing}
    others = {word for word in met | existing if (len(word) == 1 and not is_cjk(word)) or _LATIN.fullmatch(word)}
    others |= {word for word in met if len(word) > 1}
    candidates = {word for word in frequencies if len(word) > 1} | set(filter(_is_writable, others))
    candidates -= set(fixed)

    def rank(word: str) -> tuple[int, int, str]:
        return -counts[word], -frequencies[word], word

    ranked = sorted(candidates, key=lambda word: (word not in existing, rank(word)))
    num_pieces = min(config.pieces, room)
    tails = _tails({*fixed, *ranked[: room - num_pieces]}, {word: counts[word] for word in met})
    pieces = _choose_pieces(tails, existing, num_pieces, config.min_count)
    # If there are fewer pieces than allowed, there are more words.
    num_words = room - len(pieces)
    if num_words > len(ranked):
        raise OptionError(f"size must be at most {config.size - num_words + len(ranked)}, got {config.size}")
    chosen = sorted(ranked[:num_words], key=rank)
    signs = sorted(word for word in chosen if len(word) == 1)
    return [*fixed, *signs, *(word for word in chosen if len(word) > 1), *(f"##{piece}" for piece in pieces)]


def measure_coverage(tokenizer: PegasusTokenizer, counts: Mapping[str, int]) -> Coverage:
    """Return how a vocabulary cuts a text, given by the counts of its words (`count_words`)."""
    total: Counter[str] = Counter()
    for word, count in counts.items():
        if word.isspace():
            continue
        ids = tokenizer.encode_word(word)
        # [UNK] is a whole run of letters, or a single character between others.
        unknown = len(word) if ids == (tokenizer.unk_id,) else ids.count(tokenizer.unk_id)
        is_whole = len(ids) == 1 and not unknown
        total["characters"] += count * len(word)
        total["tokens"] += count * len(ids)
        total["unknown_characters"] += count * unknown
        if len(word) > 1:
            total["words"] += count
            total["whole_words"] += count * is_whole
    return Coverage(**{field.name: total[field.name] for field in dataclasses.fields(Coverage)})


def _fixed_characters() -> list[str]:
    return list(dict.fromkeys(normalize(_ASCII + _MARKS)))


def _jieba_frequencies() -> Counter[str]:
    """Return the frequency, in jieba's own corpus, of each word of its dictionary and of each of their characters.

    Words such as "T恤" are left out, since no text in lower case has them.
    """
    frequencies: Counter[str] = Counter()
    with importlib.resources.files("jieba").joinpath("dict.txt").open(encoding="utf-8") as file:
        for line in file:
            word, frequency, *_ = line.split(" ")
            if normalize(word) == word:
                if len(word) > 1:
                    frequencies[word] += int(frequency)
                for character in word:
                    frequencies[character] += int(frequency)
    return frequencies


def _common_characters(
    frequencies: Counter[str], counts: Counter[str], existing: Collection[str], number: int
) -> list[str]:
    """Return the Chinese characters in common use, sorted: those most frequent in the corpus, then GB 2312's level 1.

    Frequency alone would leave out characters that every reader knows but that are rare in the news that jieba counted.
    """
    level_1 = {bytes((row, cell)).decode("gb2312", "ignore") for row in range(0xB0, 0xD8) for cell in range(0xA1, 0xFF)}
    met: Counter[str] = Counter()
    for word, count in counts.items():
        for character in filter(is_cjk, word):
            met[character] += count
    characters = {token for token in {*frequencies, *met, *existing} if len(token) == 1 and is_cjk(token)}
    ranked = sorted(
        filter(_is_writable, characters),
        key=lambda each: (each not in existing, -met[each], each not in level_1, -frequencies[each], each),
    )
    return sorted(ranked[:number])


def _is_writable(word: str) -> bool:
    """Return whether a word can be a line of a vocabulary and occur in a text: no white space, no control, no "A"."""
    visible = all(unicodedata.category(character)[0] not in "CZ" and character != "\ufffd" for character in word)
    return visible and not word.startswith("##") and normalize(word) == word


def _tails(tokens: Collection[str], counts: Mapping[str, int]) -> dict[str, int]:
    """Return the rest of each English word that is no token, after the longest token that it begins with."""
    tails: Counter[str] = Counter()
    for word, count in counts.items():
        if word not in tokens and _LATIN.fullmatch(word):
            end = next(end for end in range(len(word), 0, -1) if word[:end] in tokens)
            tails[word[end:]] += count
    return tails


def _choose_pieces(tails: Mapping[str, int], existing: Collection[str], number: int, min_count: int) -> list[str]:
    """Return at most `number` pieces, without their `##`, ordered by length and code point, as the official ones.

    They are the letters and digits, then pieces of the existing vocabulary by how often WordPiece would use them, then
    pairs that byte-pair encoding joins.
    """
    inherited = {token[2:] for token in existing if token.startswith("##") and _LATIN.fullmatch(token[2:])}
    known = {*_LETTERS, *inherited}
    uses: Counter[str] = Counter()
    for tail, count in tails.items():
        for piece in _longest_pieces(tail, known):
            uses[piece] += count
    pieces = list(_LETTERS)
    pieces += sorted(inherited - set(pieces), key=lambda piece: (-uses[piece], piece))[: number - len(pieces)]
    known = set(pieces)
    sequences = [(_longest_pieces(tail, known), count) for tail, count in sorted(tails.items())]
    pieces += _join_pairs(sequences, number - len(pieces), min_count)
    return sorted(pieces, key=lambda piece: (len(piece), piece))


def _longest_pieces(tail: str, known: Collection[str]) -> list[str]:
    """Cut a tail into pieces as WordPiece does: the longest known piece, then the longest of the rest, and so on."""
    pieces: list[str] = []
    start = 0
    while start < len(tail):
        end = next(end for end in range(len(tail), start, -1) if tail[start:end] in known)
        pieces.append(tail[start:end])
        start = end
    return pieces


def _join_pairs(sequences: list[tuple[list[str], int]], number: int, min_count: int) -> list[str]:
    """Return `number` new pieces by byte-pair encoding: the most frequent pair of neighbours becomes one, and so on.

    `sequences` are pieces of words with the words' counts; they are joined in place. Fewer pieces are returned if no
    pair is left that occurs `min_count` times. Source: Sennrich et al., https://arxiv.org/abs/1508.07909.
    """
    pairs: Counter[tuple[str, str]] = Counter()
    sequences_with: defaultdict[tuple[str, str], set[int]] = defaultdict(set)

    def add(index: int, sign: int) -> None:
        pieces, count = sequences[index]
        for pair in itertools.pairwise(pieces):
            pairs[pair] += sign * count
            sequences_with[pair].add(index)

    for index in range(len(sequences)):
        add(index, +1)
    joined: dict[str, None] = {}
    while len(joined) < number and pairs:
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        if pairs[best] < min_count:
            break
        for index in sequences_with.pop(best):
            add(index, -1)
            pieces = sequences[index][0]
            for position in range(len(pieces) - 2, -1, -1):
                if (*pieces[position : position + 2],) == best:
                    pieces[position : position + 2] = ["".join(best)]
            add(index, +1)
        joined["".join(best)] = None
    return list(joined)
