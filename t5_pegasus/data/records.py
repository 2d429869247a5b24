"""Records: the JSON object of a line, the usual names of columns, and the texts in them.

Every reader of this room finds columns here, so that a name which works for a corpus works for pairs too.
"""

import json
from collections.abc import Collection, Mapping, Sequence

from ..text.lines import LineError, check_utf8

# Usual names of (content, title) columns, in any case. The first pair that a record has is taken.
PAIRS = (
    ("content", "title"),
    ("text", "title"),
    ("text", "summary"),
    ("正文", "摘要"),
    ("正文", "标题"),
    ("document", "summary"),
    ("src", "tgt"),
    ("source", "target"),
    ("dialogue", "summary"),
    ("article", "highlights"),
    ("prompt", "completion"),
)


class NoValue(str):
    """What a spreadsheet shows where a formula has no value, such as #N/A."""


# Alternatives, the preferred one first; each names the columns that are needed: (content, title) or (content,).
Sought = Sequence[tuple[str, ...]]


def sought_texts(text_column: str | None = None) -> Sought:
    """Return the column that is named, or the usual names of a content's."""
    return [(text_column,)] if text_column else list(dict.fromkeys((text,) for text, _ in PAIRS))


def sought_pairs(text_column: str | None = None, summary_column: str | None = None) -> Sought:
    """Return the (content, title) columns to look for; of a column that is not named, all usual names."""
    if text_column and summary_column:
        return [(text_column, summary_column)]
    if not text_column and not summary_column:
        return PAIRS
    pairs = dict.fromkeys((text_column or text, summary_column or summary) for text, summary in PAIRS)
    # One name is given: its partner in PAIRS is sought first, then any usual name of the other column.
    preferred = sorted(pairs, key=lambda pair: (_key(pair[0]), _key(pair[1])) not in PAIRS)
    return [(text, summary) for text, summary in preferred if _key(text) != _key(summary)]


def find_columns(sought: Sought, names: Collection[str]) -> tuple[str, ...]:
    """Return the first alternative whose columns are all among `names`, as they are spelt there; () if none is."""
    spelt = {_key(name): name for name in names} | {name: name for name in names}
    for columns in sought:
        found = tuple(spelt.get(column) or spelt.get(_key(column), "") for column in columns)
        if all(found):
            return found
    return ()


def choose_columns(names: Collection[str], sought: Sought) -> tuple[str, ...]:
    """Return the columns to read; raises LineError, which says what was sought and what there is."""
    found = find_columns(sought, names)
    if not found:
        flags = "--text_column and --summary_column" if len(sought[0]) == 2 else "--text_column"
        wanted = " or ".join("/".join(columns) for columns in sought)
        raise LineError(f"needs columns {wanted} (name others with {flags}), got {listed(names)}")
    return found


def parse_object(line: str) -> dict[str, object]:
    """Return the JSON object of a line; raises LineError with the reason if there is none."""
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        reason = f"{error.msg} at character {error.pos + 1}"
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, a thousand brackets
        reason = str(error)
    else:
        return as_object(value, line)
    check_utf8(line)
    raise LineError(f"not JSON: {reason}")


def as_object(value: object, text: str) -> dict[str, object]:
    """Return the value of a JSON text if it is an object in UTF-8; raises LineError if not."""
    check_utf8(text)
    if not isinstance(value, dict):
        raise LineError(f"expected a JSON object, got {_shown(value)}")
    return value


def get_string(row: Mapping[str, object], column: str) -> str:
    """Return the text of a column; raises LineError if it is missing or of another type."""
    if column not in row:
        raise LineError(f"column {column} is missing, got {listed(row)}")
    value = row[column]
    if not isinstance(value, str):
        raise LineError(f"{column} must be text, got {_shown(value)}")
    if isinstance(value, NoValue):
        raise LineError(f"{column} must be text, got {value}, for which a formula has no value")
    return value


def get_text(row: Mapping[str, object], column: str) -> str:
    """Return the text of a column as `get_string` does; raises LineError too if it cannot be written as UTF-8."""
    text = get_string(row, column)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise LineError(f"{column} has half of a surrogate pair in it") from None
    return text


def listed(names: Collection[str]) -> str:
    """Return some names in one short line."""
    # If a header is missing, the "names" are whole articles.
    shown = [" ".join(name.split())[:24] or "(empty)" for name in names]
    return ", ".join(shown[:8] + ["..."] * (len(shown) > 8)) or "none"


def _key(name: str) -> str:
    return name.strip().casefold()


def _shown(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)[:40]
