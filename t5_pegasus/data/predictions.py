"""Read the titles that are to be scored, from the files that hold them."""

from collections.abc import Callable
from pathlib import Path

from ..errors import DataError
from ..files import file_suffix
from ..text.lines import LineError, check_utf8, iterate_lines
from .records import get_string, parse_object


def read_predictions(path: str | Path) -> list[str]:
    """Return the titles of a file, in order: of JSON Lines as `test.py` writes them, or of plain text, one a line.

    JSON Lines hold a "title" and, if a text has several titles, the "rank" of each from 1: the first counts. In plain
    text an empty line is an empty title. Raises DataError for a file that cannot be read, and for a malformed line by
    its number.
    """
    title_of = READERS.get(file_suffix(path))
    if title_of is None:
        raise DataError(f"predictions must be in a file of {' or '.join(READERS)}, plain or .gz, got {path}")
    titles = []
    for number, line in enumerate(iterate_lines(path), 1):
        try:
            title = title_of(check_utf8(line))
        except LineError as reason:
            raise reason.at(path, number) from None
        if title is not None:
            titles.append(title)
    return titles


def _plain_title(line: str) -> str:
    return line.rstrip("\n")


def _best_title(line: str) -> str | None:
    """Return the title of a JSON line; None of a blank line and of a title that is not its text's first."""
    if not line.strip():
        return None
    row = parse_object(line)
    # null is what `test.py` writes where the options forbid every title: it is scored as an empty one.
    title = "" if row.get("title", "") is None else get_string(row, "title")
    return title if row.get("rank", 1) == 1 else None


# A row a format: a line of the file to a title, or to None if it has none to score.
READERS: dict[str, Callable[[str], str | None]] = {".jsonl": _best_title, ".txt": _plain_title}
