"""Parts of a test set: by lengths, by how much of the title is in the text, by what it has, by a column of the data."""

import bisect
import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Sequence

from ..metrics import LANGUAGES
from ..metrics.comparison import COMPARED
from .protocol import Text

_THIRDS = 3
_MOST_GROUPS = 20  # values of a column that have a slice of their own; the others are one
_OTHERS = "…"


@dataclasses.dataclass(frozen=True)
class Slice:
    """Some texts: what they are divided by, which part this is, and their indices."""

    by: str
    value: str
    texts: list[int]


# What the number of a text is, in a language, for slices of its thirds.
NUMBERS: dict[str, Callable[[Text, str], float]] = {
    "source-length": lambda text, language: LANGUAGES[language].count(text.content),
    "title-length": lambda text, language: LANGUAGES[language].count(text.references[0]),
    "copy-rate": lambda text, language: round(
        100 * COMPARED[language].copying(text.references[0], text.content)["copied"]
    ),
}
# What a reference has or has not, in each language.
PATTERNS = {
    "zh": {"numbers": re.compile(r"\d"), "latin": re.compile(r"[A-Za-z]")},
    "en": {"numbers": re.compile(r"\d")},
}


def make_slices(
    texts: Sequence[Text], groups: Sequence[str] | None = None, group_by: str = "", language: str = "zh"
) -> list[Slice]:
    """Return the slices of texts; those that would be empty are left out.

    Args:
        texts: in their order.
        groups: the value of a column for each text, if there is one.
        group_by: the column's name.
        language: of the texts.
    """
    slices = []
    for name, number_of in NUMBERS.items():
        slices += _thirds(name, [number_of(text, language) for text in texts])
    for name, pattern in PATTERNS[language].items():
        has = ["yes" if pattern.search(text.references[0]) else "no" for text in texts]
        slices += _by_value(name, has, ["yes", "no"])
    if groups is not None:
        frequent = [value for value, _ in Counter(groups).most_common(_MOST_GROUPS)]
        known = set(frequent)
        values = [value if value in known else _OTHERS for value in groups]
        slices += _by_value(group_by, values, [*frequent, *([_OTHERS] if _OTHERS not in known else [])])
    return [each for each in slices if each.texts]


def _thirds(name: str, numbers: Sequence[float]) -> list[Slice]:
    """Return slices of about a third each, equal numbers together, named by their smallest and largest number."""
    ordered = sorted(numbers)
    # The largest number of each part but the last.
    bounds = sorted({ordered[len(ordered) * part // _THIRDS - 1] for part in range(1, _THIRDS)})
    places = [bisect.bisect_left(bounds, number) for number in numbers]
    slices = []
    for place in range(len(bounds) + 1):
        chosen = [index for index, each in enumerate(places) if each == place]
        if chosen:
            low, high = min(numbers[index] for index in chosen), max(numbers[index] for index in chosen)
            slices.append(Slice(name, f"{low:g}–{high:g}", chosen))
    return slices


def _by_value(name: str, values: Sequence[str], order: Sequence[str]) -> list[Slice]:
    return [Slice(name, value, [index for index, each in enumerate(values) if each == value]) for value in order]
