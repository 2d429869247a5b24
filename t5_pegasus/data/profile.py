"""What the texts of a data set are like: lengths in characters and tokens, scripts, unknown tokens, copying."""

import math
import unicodedata
from collections import Counter

from ..text.protocol import Tokenizer

_LONGEST = 20_000  # characters of a text whose tokens are counted
_FAR = 3.0  # quartile ranges beyond the quartiles: "far out" (Tukey, Exploratory Data Analysis, 1977)
_NARROWEST = math.log(1.25)  # of a quartile range, or in even data every length would be far out


class Profile:
    """Counts over the rows of a file, of bounded size.

    Attributes:
        lengths: how often each length occurs: "content" and "title" in characters, "content_tokens" and "title_tokens"
            in tokens with [CLS] and [SEP].
        copied: how often each copy rate occurs, in percent.
        characters: of contents and titles.
        unknown: characters that the vocabulary cannot spell.
        tokens: of all texts; unknown_tokens: how many of them are [UNK].
        fences: the shortest and longest usual length of "content" and "title", after `settle`.
    """

    def __init__(self) -> None:
        self.lengths = {name: Counter[int]() for name in ("content", "title", "content_tokens", "title_tokens")}
        self.copied: Counter[int] = Counter()
        self.characters: Counter[str] = Counter()
        self.unknown: Counter[str] = Counter()
        self.tokens = self.unknown_tokens = 0
        self.fences = {"content": (0.0, math.inf), "title": (0.0, math.inf)}
        self._spelled: dict[str, bool] = {}

    def add(self, content: str, title: str, tokenizer: Tokenizer, copy_rate: float) -> None:
        """Add a row."""
        for name, text in (("content", content), ("title", title)):
            self.lengths[name][len(text)] += 1
            self.characters.update(text)
            ids = tokenizer.encode_prefix(text[:_LONGEST])
            self.lengths[f"{name}_tokens"][len(ids) + tokenizer.frame.size] += 1
            self.tokens += len(ids)
            unknown = ids.count(tokenizer.unk_id)
            if unknown:
                self.unknown_tokens += unknown
                self.unknown.update(character for character in text if not self._is_spelled(character, tokenizer))
        self.copied[round(100 * copy_rate)] += 1

    def _is_spelled(self, character: str, tokenizer: Tokenizer) -> bool:
        if character not in self._spelled:
            self._spelled[character] = tokenizer.unk_id not in tokenizer.encode_prefix(character)
        return self._spelled[character]

    def settle(self) -> None:
        """Set `fences`, once all rows are counted: three quartile ranges from the quartiles, in logarithms."""
        for name in self.fences:
            lengths = self.lengths[name]
            if lengths:
                low, high = (math.log(max(1, quantile(lengths, share))) for share in (0.25, 0.75))
                width = _FAR * max(high - low, _NARROWEST)
                self.fences[name] = (math.exp(low - width), math.exp(high + width))

    def scripts(self) -> dict[str, float]:
        """Return the share of each kind of character, the most frequent first."""
        counts: Counter[str] = Counter()
        for character, count in self.characters.items():
            counts[script_of(character)] += count
        return {name: count / counts.total() for name, count in counts.most_common()}

    def cut(self, name: str, limit: int) -> float:
        """Return the share of texts with more tokens than a limit."""
        lengths = self.lengths[f"{name}_tokens"]
        return sum(count for length, count in lengths.items() if length > limit) / max(1, lengths.total())

    def copy_rate(self) -> float:
        """Return the mean share of a title's pairs of characters that its content has."""
        return sum(rate * count for rate, count in self.copied.items()) / 100 / max(1, self.copied.total())


def quantile(counts: Counter[int], share: float) -> int:
    """Return the least number that at least this share of what was counted does not exceed; 0 of nothing."""
    due, seen = share * counts.total(), 0
    for number in sorted(counts):
        seen += counts[number]
        if seen >= due:
            return number
    return 0


def suggested_limit(lengths: Counter[int], share: float, multiple: int) -> int:
    """Return the limit that cuts at most what is beyond this share of the lengths, rounded up to a multiple."""
    return -(-quantile(lengths, share) // multiple) * multiple


_SCRIPTS = {"CJK": "Chinese", "LATIN": "Latin", "FULLWIDTH": "Latin", "HIRAGANA": "kana", "KATAKANA": "kana"}
_SCRIPTS |= {"HANGUL": "hangul", "GREEK": "Greek", "CYRILLIC": "Cyrillic"}


def script_of(character: str) -> str:
    """Return the kind of a character: by its category digits or punctuation, else by the first word of its name."""
    category = unicodedata.category(character)
    if category.startswith("N"):
        return "digits"
    if not category.startswith("L"):
        return "punctuation"
    return _SCRIPTS.get(unicodedata.name(character, "").partition(" ")[0], "other")
