"""Numbers, Latin words and quoted names of a title that its text does not have: a cheap check on invented facts.

Full-width characters count as half-width ones, and case does not. It finds what stands in the title and nowhere in the
text; not a number that is in the text and means something else. In English, a word with a capital letter is a name
unless a sentence begins with it, or most words of the title have one.
"""

import re
import unicodedata

SIGNATURE = "invented|nfkc|lower|numbers:equal|latin:contained|quoted:contained"
NAMES = ("invented-numbers", "invented-latin", "invented-names")

_NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")
_LATIN = re.compile(r"[a-z](?:[a-z0-9]|[-+.#/](?=[a-z0-9]))*[+#]*")
_QUOTED = re.compile(r"《([^》]+)》|“([^”]+)”|「([^」]+)」|『([^』]+)』|\"([^\"]+)\"")
_CHINESE_NUMBER = re.compile("[零〇一二两三四五六七八九十百千万亿]+")
_DIGITS = {character: value for value, character in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2}
_UNITS = {"十": 10, "百": 100, "千": 1000}
_LARGE_UNITS = {"万": 10**4, "亿": 10**8}

ENGLISH_SIGNATURE = "invented|nfkc|lower|numbers:equal|capitals:begin|quoted:contained"
ENGLISH_NAMES = ("invented-numbers", "invented-names")
_WORD = re.compile(r"[^\W\d_]+(?:['’.&-]?[^\W_]+)*")
_BEGINNING = re.compile(r"(?:^|[.!?:\n])[\s\"'“”‘’()\[\]-]*$")
_POSSESSIVE = re.compile(r"['’]s?$")
_NO_NAMES = re.compile(r"i(?:['’]\w+)?")
_ONES = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_ENGLISH_NUMBER = re.compile(rf"\b(?:({'|'.join(_TENS)})(?:[-\s]({'|'.join(_ONES[1:10])}))?|({'|'.join(_ONES)}))\b")


def invented(title: str, source: str) -> dict[str, list[str]]:
    """Return what of a title is not in its source, in order, for each of NAMES.

    A number must be equal to one of the source, which may write it in Chinese (3 and 三); a Latin word and what stands
    in quotation marks or 《》 must be part of the source.
    """
    title, source = _normalized(title), _normalized(source)
    known = set(_numbers(source)) | {str(_value(number)) for number in _CHINESE_NUMBER.findall(source)}
    quoted = (next(filter(None, groups)) for groups in _QUOTED.findall(title))
    return {
        "invented-numbers": [number for number in _numbers(title) if number not in known],
        "invented-latin": [word for word in _LATIN.findall(title) if word not in source],
        "invented-names": [name for name in quoted if _spaceless(name) not in _spaceless(source)],
    }


def invented_in_english(title: str, source: str) -> dict[str, list[str]]:
    """Return what of an English title is not in its source, in order, for each of ENGLISH_NAMES.

    A number must be equal to one of the source, which may write it in words up to ninety-nine; a word
    of the source must begin with a name; what stands in quotation marks must be part of the source.
    """
    written = unicodedata.normalize("NFKC", title)
    title, source = _normalized(title), _normalized(source)
    known = set(_numbers(source)) | {_english_value(*match) for match in _ENGLISH_NUMBER.findall(source)}
    quoted = [next(filter(None, groups)) for groups in _QUOTED.findall(title)]
    return {
        "invented-numbers": [number for number in _numbers(title) if number not in known],
        "invented-names": [
            *(name for name in _names(written) if not re.search(rf"(?<!\w){re.escape(name)}", source)),
            *(name for name in quoted if _spaceless(name) not in _spaceless(source)),
        ],
    }


def _names(title: str) -> list[str]:
    found = list(_WORD.finditer(title))
    capitals = [match for match in found if match[0][0].isupper()]
    if 2 * len(capitals) > len(found):
        return []
    names = [match[0].lower() for match in capitals if not _BEGINNING.search(title[: match.start()])]
    return [_POSSESSIVE.sub("", name) for name in names if not _NO_NAMES.fullmatch(name)]


def _english_value(tens: str, ones: str, alone: str) -> str:
    """Return the value of a number in words, of which some are empty."""
    if alone:
        return str(_ONES.index(alone))
    return str(20 + 10 * _TENS.index(tens) + (_ONES.index(ones) if ones else 0))


def _normalized(text: str) -> str:
    return unicodedata.normalize("NFKC", text).lower()


def _spaceless(text: str) -> str:
    return "".join(text.split())


def _numbers(text: str) -> list[str]:
    return [number.replace(",", "") for number in _NUMBER.findall(text)]


def _value(number: str) -> int:
    """Return the value of a number in Chinese: 二十三 is 23, 三万五千 35000, 二〇二六 2026."""
    if not set(number) & (_UNITS.keys() | _LARGE_UNITS.keys()):
        return int("".join(str(_DIGITS[character]) for character in number))
    total, section, digit = 0, 0, 0
    for character in number:
        if character in _DIGITS:
            digit = _DIGITS[character]
        elif character in _UNITS:
            section += (digit or 1) * _UNITS[character]
            digit = 0
        else:
            higher = total if character == "亿" else 0  # 万亿, not 亿万
            total = (total - higher) + (higher + section + digit or 1) * _LARGE_UNITS[character]
            section, digit = 0, 0
    return total + section + digit
