"""Characters as BERT's tokenizer treats them: normalised, words of their own, or left out."""

import functools
import re
import unicodedata

# Characters that BERT makes words of their own: first and last code point of each block.
_CJK_BLOCKS = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


def normalize(text: str) -> str:
    """Return the text in lower case, decomposed (NFD) and without combining marks, as bert4keras does."""
    text = unicodedata.normalize("NFD", text.lower())
    if _may_have_marks().search(text):
        text = "".join(character for character in text if unicodedata.category(character) != "Mn")
    return text


@functools.cache
def _may_have_marks() -> re.Pattern[str]:
    """Return a pattern for a combining mark or any character above U+FFFF, where `re` is slow to tell marks."""
    marks = (chr(code) for code in range(0x10000) if unicodedata.category(chr(code)) == "Mn")
    return re.compile(f"[{''.join(marks)}\U00010000-\U0010ffff]")


class _Spacing(dict[int, str]):
    """For `str.translate`: code points to the result of `_spaced`, computed when they first occur."""

    def __missing__(self, code: int) -> str:
        self[code] = _spaced(chr(code))
        return self[code]


SPACING = _Spacing()


def _spaced(character: str) -> str:
    """Return the character with spaces around it if it is a word by itself, nothing if it is invisible."""
    code = ord(character)
    category = unicodedata.category(character)
    if is_cjk(character) or _is_punctuation(character):
        return f" {character} "
    if character in " \n\r\t" or category == "Zs":
        return " "
    if code in (0, 0xFFFD) or category in ("Cc", "Cf"):
        return ""
    return character


def is_cjk(character: str) -> bool:
    """Return whether BERT treats the character as Chinese: ideographs only, no kana and no punctuation."""
    code = ord(character)
    return any(first <= code <= last for first, last in _CJK_BLOCKS)


def is_latin(character: str) -> bool:
    """Return whether the character is a letter or digit of half width, of any script but Chinese."""
    return character.isalnum() and not is_cjk(character) and unicodedata.east_asian_width(character) not in "WF"


def _is_punctuation(character: str) -> bool:
    ascii_symbol = "!" <= character <= "~" and not character.isalnum()
    return ascii_symbol or unicodedata.category(character).startswith("P")
