"""Read the titles that are to be scored, from the files that hold them."""

import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from ..errors import DataError
from ..files import open_text


def read_predictions(path: str | Path) -> list[str]:
    """Return the titles of a file, in order: of JSON Lines as `test.py` writes them, or of plain text, one a line.

    JSON Lines hold a "title" and, where a text has several titles, the "rank" of each from 1: the first counts.
    In plain text an empty line is an empty title. Raises DataError for a file that cannot be read or a malformed line.
    """
    path = Path(path)
    name = path.with_suffix("") if path.suffix == ".gz" else path
    reader = READERS.get(name.suffix.lower())
    if reader is None:
        raise DataError(f"predictions must be in a file of {' or '.join(READERS)}, plain or .gz, got {path}")
    with open_text(path) as lines:
        try:
            return list(reader(lines))
        except (DataError, OSError, UnicodeDecodeError, EOFError, zlib.error) as error:
            raise DataError(f"cannot read {path}: {error}") from error


def _plain_titles(lines: Iterable[str]) -> Iterator[str]:
    return (line.rstrip("\n") for line in lines)


def _best_titles(lines: Iterable[str]) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict) or not isinstance(row.get("title"), str):
            raise DataError(f'line {number} must be a JSON object with a text as "title", got {line[:60]!r}')
        if row.get("rank", 1) == 1:
            yield row["title"]


READERS: dict[str, Callable[[Iterable[str]], Iterator[str]]] = {".jsonl": _best_titles, ".txt": _plain_titles}
