"""The lines of a text file, and the error for one that cannot be used: `file:line: reason`."""

import re
from collections.abc import Iterator
from pathlib import Path

from ..errors import DataError
from ..files import READ_ERRORS, encoding_hint, open_text, read_error

STDIN = "standard input"  # its name in errors

# What the error handler "surrogateescape" makes of a byte.
_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")


class LineError(Exception):
    """Why one line of a file cannot be used, though the next one may be: the reason alone."""

    def at(self, name: str | Path, line: int) -> DataError:
        """Return the error for the user: `name:line: reason`, with lines counted from 1."""
        return DataError(f"{name}:{line}: {self}")


class EncodingError(LineError):
    """That a line is not UTF-8: the error says what the file is instead, and how to convert it."""

    def __init__(self, line: str) -> None:
        super().__init__("not UTF-8, convert the file first")
        self._bytes = line.encode("utf-8", "surrogateescape")

    def at(self, name: str | Path, line: int) -> DataError:
        """Return the error for the user."""
        return DataError(f"{name}:{line}: {encoding_hint(self._bytes if name == STDIN else name)}")


def iterate_lines(path: str | Path, newline: str | None = None) -> Iterator[str]:
    """Yield the lines of a file that `open_text` opens, with their ends; `newline` is that of `open`.

    A byte that is not UTF-8 becomes half of a surrogate pair, which `check_utf8` finds: a strict decoder fails for a
    block of many lines, and says neither which one is wrong nor what follows it. Raises DataError if the file cannot be
    read to its end.
    """
    with open_text(path) as file:
        file.reconfigure(errors="surrogateescape", newline=newline)
        try:
            yield from file
        except READ_ERRORS as error:
            raise read_error(path, error) from error


def check_utf8(line: str) -> str:
    """Return a line of `iterate_lines`; raises LineError if a byte of it is not UTF-8."""
    if _ESCAPED_BYTE.search(line):
        raise EncodingError(line)
    return line


def read_lines(path: str | Path) -> list[str]:
    """Return all lines of a file.

    Raises DataError if it cannot be read to its end, or has a line that is not UTF-8.
    """
    lines = []
    for number, line in enumerate(iterate_lines(path), 1):
        try:
            lines.append(check_utf8(line))
        except LineError as reason:
            raise reason.at(path, number) from None
    return lines
