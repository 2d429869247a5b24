"""Build a word vocabulary: `python -m t5_pegasus.vocabulary --size 7000 --output_file vocab.txt`.

The tokens stand in the order of the official vocabulary: special tokens at their ids, single characters, words, `##`
pieces. Words and the rarer characters are taken by their frequency in jieba's own dictionary, so that every word in the
vocabulary is one that jieba can cut.
"""

import dataclasses
import importlib.resources
import string
import sys
from collections import Counter
from collections.abc import Sequence

from . import cli
from .config import option
from .errors import OptionError
from .files import atomic_text
from .tokenizer import is_cjk, normalize

# ids 0 to 105, as in the official vocabulary (and in Chinese BERT's, but for the last two)
SPECIAL_TOKENS = ("[PAD]", *(f"[unused{n}]" for n in range(1, 100)), "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<S>", "<T>")

_ASCII = "".join(sorted(set(string.printable) - set(string.whitespace) - set(string.ascii_uppercase)))
_MARKS = (
    "，。、；：？！…—～·“”‘’（）《》〈〉「」『』【】〔〕％＋－＝／＂＃＆＊＜＞＠［］｛｝｜￥"
    "–―‧′″°℃§×÷±≈≠≤≥∞→←↑↓√∑△○●◎◇◆□■★☆①②③④⑤⑥⑦⑧⑨⑩０１２３４５６７８９αβγδεθλμπρστφω"
)
_PIECES = [f"##{character}" for character in string.digits + string.ascii_lowercase]


@dataclasses.dataclass(frozen=True)
class VocabularyConfig:
    """How large a vocabulary is and how it is divided."""

    size: int = option(7000, "tokens in the vocabulary, all kinds together")
    num_characters: int = option(4200, "Chinese characters among them; the rest are words")

    def __post_init__(self) -> None:
        """Raise OptionError where the fixed part does not fit."""
        fixed = len(SPECIAL_TOKENS) + len(_fixed_characters()) + len(_PIECES)
        if self.num_characters < 1 or self.size < fixed + self.num_characters:
            raise OptionError(
                f"size must be at least num_characters (from 1) and {fixed} more for special tokens, signs and pieces, "
                f"got size {self.size} with num_characters {self.num_characters}"
            )


def build_vocabulary(config: VocabularyConfig) -> list[str]:
    """Return exactly `config.size` tokens, the same for a config; raises OptionError where so many do not exist."""
    words, characters = _jieba_frequencies()
    common = _common_characters(characters, config.num_characters)
    if len(common) < config.num_characters:
        raise OptionError(f"num_characters must be at most {len(common)}, got {config.num_characters}")
    fixed = [*SPECIAL_TOKENS, *_fixed_characters(), *common]
    num_words = config.size - len(fixed) - len(_PIECES)
    if num_words > len(words):
        raise OptionError(f"size must be at most {config.size - num_words + len(words)}, got {config.size}")
    return [*fixed, *words[:num_words], *_PIECES]


def _fixed_characters() -> list[str]:
    return list(dict.fromkeys(normalize(_ASCII + _MARKS)))


def _jieba_frequencies() -> tuple[list[str], Counter[str]]:
    """Return jieba's words of two characters and more, by falling frequency, and how often each character is in a text.

    Words with a letter, a digit or a character outside BERT's Chinese blocks are left out: jieba's dictionary has
    names such as "T恤", which lower-casing would never meet.
    """
    frequencies: Counter[str] = Counter()
    characters: Counter[str] = Counter()
    with importlib.resources.files("jieba").joinpath("dict.txt").open(encoding="utf-8") as file:
        for line in file:
            word, frequency, *_ = line.split(" ")
            if all(map(is_cjk, word)):
                frequencies[word] = int(frequency)
                for character in word:
                    characters[character] += int(frequency)
    words = sorted((word for word in frequencies if len(word) > 1), key=lambda word: (-frequencies[word], word))
    return words, characters


def _common_characters(frequencies: Counter[str], count: int) -> list[str]:
    """Return the characters in common use: level 1 of GB 2312 (3,755 of them) first, the rest by frequency, sorted.

    Frequency alone would leave out characters every reader knows but seldom meets in the news that jieba counted.
    """
    level_1 = [bytes((row, cell)).decode("gb2312", "ignore") for row in range(0xB0, 0xD8) for cell in range(0xA1, 0xFF)]
    ranked = sorted(frequencies, key=lambda character: (-frequencies[character], character))
    chosen = list(dict.fromkeys([*filter(None, level_1), *ranked]))[:count]
    return sorted(chosen)


def main(argv: Sequence[str] | None = None) -> int:
    """Write a vocabulary file."""
    parser = cli.make_parser("Build a vocabulary from jieba's dictionary.")
    parser.add_argument("--output_file", default="vocab.txt", help="file to write, one token a line")
    cli.add_flags(parser, VocabularyConfig)
    flags = parser.parse_args(argv)
    tokens = build_vocabulary(cli.config_from(flags, VocabularyConfig))
    with atomic_text(flags.output_file) as file:
        file.writelines(f"{token}\n" for token in tokens)
    print(f"{len(tokens)} tokens in {flags.output_file}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    cli.run(main)
