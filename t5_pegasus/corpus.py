"""Raw documents for pretraining: streamed from files, split into pieces, gathered into chunks a model can read."""

import contextlib
import gzip
import json
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from .errors import DataError, OptionError

TEXT_COLUMNS = ("content", "text", "正文", "document")
PIECE_LENGTH = 32
SEPARATORS = "\n。"
MIN_PIECES = 3


class Document(NamedTuple):
    """A raw text; `name` is file:line, `end` how many bytes of the file were read up to it (0 for a pipe)."""

    name: str
    text: str
    end: int = 0

    def __str__(self) -> str:
        """Return the name, which is how errors and notes call a document."""
        return self.name


def read_documents(
    path: str | Path, text_column: str | None = None, on_bad_line: Callable[[DataError], None] | None = None
) -> Iterator[Document]:
    """Yield the documents of a .txt or .jsonl file, plain or .gz, one a line; `-` is standard input. Streams.

    A .txt line is a document. A .jsonl line is an object with the document under `text_column`, or under the first name
    of TEXT_COLUMNS it has. Standard input is JSON Lines where its first line opens with a brace. Blank lines are no
    documents. A line that cannot be used raises DataError (file:line: reason), or is handed to `on_bad_line` and left
    out. Raises DataError where the file cannot be read, OptionError for another format or a `text_column` of a .txt.
    """
    standard_input = str(path) == "-"
    name = "standard input" if standard_input else str(path)
    text_of = _line_reader(path, text_column)
    try:
        with contextlib.ExitStack() as stack:
            raw = sys.stdin.buffer if standard_input else stack.enter_context(Path(path).open("rb"))
            lines: Any = stack.enter_context(gzip.GzipFile(fileobj=raw)) if Path(path).suffix == ".gz" else raw
            has_position = raw.seekable()
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                try:
                    decoded = _decode(line, first=number == 1)
                    text_of = text_of or (_json_text if decoded.lstrip().startswith("{") else _plain_text)
                    text = text_of(decoded, text_column)
                except ValueError as reason:
                    error = DataError(f"{name}:{number}: {reason}; --skip_bad_lines goes on without such lines")
                    if on_bad_line is None:
                        raise error from reason
                    on_bad_line(error)
                else:
                    yield Document(f"{name}:{number}", text, raw.tell() if has_position else 0)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {name}: {getattr(error, 'strerror', None) or error}") from error


def split_pieces(text: str, length: int = PIECE_LENGTH, separators: str = SEPARATORS) -> list[str]:
    """Split a document into pieces of about `length` characters, each ending where a separator stands.

    Equal to bert4keras's `text_segmentate(text, length, separators)` without its empty pieces: cut after the first
    separator, neighbours gathered up to `length`, and what is still longer cut after the next separator. What has none
    stays whole, however long. White space at the edges of pieces falls away; no other character does.
    """
    text = text.strip()
    if not text:
        return []
    if not separators or len(text) <= length:
        return [text]
    separator, finer = separators[0], separators[1:]
    pieces, run = [], ""
    for part in text.split(separator):
        if run and part and len(run) + len(part) + len(separator) > length:
            pieces += split_pieces(run, length, finer)
            run = ""
        run += part + separator
    # The last part ends with the text, not at a separator.
    return pieces + split_pieces(run.removesuffix(separator), length, finer)


def gather_chunks(pieces: Iterable[str], max_chars: float, min_pieces: int = MIN_PIECES) -> Iterator[list[str]]:
    """Yield runs of neighbouring pieces: as many as fit `max_chars` characters, or `min_pieces` where fewer fit.

    What is left at the end is a chunk if it has `min_pieces`; else it is dropped, as in the official recipe.
    """
    chunk: list[str] = []
    chars = 0
    for piece in pieces:
        if chars + len(piece) > max_chars and len(chunk) >= min_pieces:
            yield chunk
            chunk, chars = [], 0
        chunk.append(piece)
        chars += len(piece)
    if len(chunk) >= min_pieces:
        yield chunk


def _plain_text(line: str, text_column: str | None) -> str:
    return line


def _json_text(line: str, text_column: str | None) -> str:
    """Return the text of a JSON line; raises ValueError with the reason where it has none that can be written again."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not valid JSON ({getattr(error, 'msg', error)})") from error
    if not isinstance(record, dict):
        raise ValueError(f"must be a JSON object, got {type(record).__name__}")
    columns = (text_column,) if text_column else TEXT_COLUMNS
    column = next((column for column in columns if column in record), None)
    if column is None:
        names = ", ".join(record) or "none"
        raise ValueError(f"no column {' or '.join(columns)}, got {names}; name it by --text_column")
    text = record[column]
    if not isinstance(text, str):
        raise ValueError(f"{column} must be text, got {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{column} holds half a character (\\u{ord(text[error.start]):04x})") from error
    return text


# A row a format: a line of the file and the text column to the document's text, or ValueError with the reason.
LINE_READERS: dict[str, Callable[[str, str | None], str]] = {".txt": _plain_text, ".jsonl": _json_text}


def _line_reader(path: str | Path, text_column: str | None) -> Callable[[str, str | None], str] | None:
    """Return the row of LINE_READERS for a file; None for standard input, which its first line decides."""
    if str(path) == "-":
        return _json_text if text_column else None
    suffix = Path(str(path).removesuffix(".gz")).suffix
    if suffix not in LINE_READERS:
        raise OptionError(f"documents are read from {', '.join(LINE_READERS)} (also .gz) or - (stdin), got {path}")
    if text_column and suffix == ".txt":
        raise OptionError(f"text_column is for .jsonl files, got {text_column!r} for {path}")
    return LINE_READERS[suffix]


def _decode(line: bytes, first: bool) -> str:
    try:
        return line.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 (byte 0x{line[error.start]:02x} at {error.start})") from error
