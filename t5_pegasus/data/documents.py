"""Raw documents for pretraining, streamed from files, folders and standard input in blocks that can be read apart."""

import contextlib
import functools
import gzip
import io
import itertools
import os
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

from ..errors import DataError, OptionError
from ..files import file_suffix, is_gzip
from ..text.lines import STDIN, LineError, check_utf8
from .records import choose_columns, get_text, parse_object, sought_texts

# Bytes of a block: what a core finishes in a second or less; and a few thousand blocks a corpus, if possible.
LEAST_BLOCK, MOST_BLOCK, MOST_BLOCKS = 2**18, 2**23, 4096


class Document(NamedTuple):
    """A raw text; `name` is file:line, its name in errors and notes."""

    name: str
    text: str

    def __str__(self) -> str:
        """Return the name."""
        return self.name


class Block(NamedTuple):
    """Some whole documents of a file: bytes `start` to `end` of it, or `data` if the file cannot be read from there.

    `number` counts the blocks of a corpus; `line` is the number of its first line, if known without reading.
    """

    number: int
    path: str
    suffix: str  # .txt or .jsonl
    start: int = 0
    end: int | None = None
    data: bytes | None = None
    line: int | None = 1

    def __str__(self) -> str:
        """Return its name in notes to errors."""
        return f"{self.path}, block {self.number}"

    @contextlib.contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Open what the block holds, as it is stored: of a .gz file in one block, compressed."""
        if self.data is not None:
            yield io.BytesIO(self.data)
        elif self.end is None:
            with Path(self.path).open("rb") as file:
                yield file
        else:
            with Path(self.path).open("rb") as file:
                file.seek(self.start)
                yield io.BytesIO(file.read(self.end - self.start))


def read_documents(
    path: str | Path,
    text_column: str | None = None,
    on_bad_line: Callable[[DataError], None] | None = None,
    document_separator: str = "line",
) -> Iterator[Document]:
    """Yield the documents of a .txt or .jsonl file, plain or .gz, or of all those in a folder; `-` is standard input.

    `document_separator` is a row of SEPARATORS: a .txt has a document a line, or one up to each blank line. A .jsonl
    line is an object with the document under `text_column`, or under the first usual name it has (`records.PAIRS`).
    Standard input is JSON Lines if its first line opens with a brace. Blank lines are no documents. Streams. A line
    that cannot be used raises DataError (file:line: reason), or is handed to `on_bad_line` and left out. Raises
    DataError if a file cannot be read, OptionError for another format or a `text_column` of a .txt.
    """
    stdin = _stream_blocks("-", itertools.count(), text_column, document_separator, 1)
    for file in list_files(path, text_column):
        whole = (Block(0, file, file_suffix(file)),)
        for block in stdin if file == "-" else whole:
            yield from block_documents(block, text_column, on_bad_line, document_separator)


def read_blocks(
    path: str | Path,
    text_column: str | None = None,
    document_separator: str = "line",
    split_gzip: bool = True,
    block_bytes: int | None = None,
) -> Iterator[Block]:
    """Yield the blocks of a file, a folder (its files in order of their names) or standard input (`-`).

    A plain file is divided at ends of documents, by a few seeks. A .gz file and standard input are read and come as
    data, unless `split_gzip` is off: then a .gz file is one block, and standard input is refused. The same input gives
    the same blocks. Raises as `read_documents` does.
    """
    files = list_files(path, text_column)
    if block_bytes is None:
        sizes = (os.path.getsize(file) for file in files if file != "-" and os.path.isfile(file))
        block_bytes = min(MOST_BLOCK, max(LEAST_BLOCK, sum(sizes) // MOST_BLOCKS))
    numbers = itertools.count()
    for file in files:
        with _reading(file):
            if file == "-" and not split_gzip:
                raise OptionError("input_file must be files that every worker can read with --runner spark, got -")
            if file == "-" or (is_gzip(file) and split_gzip):
                yield from _stream_blocks(file, numbers, text_column, document_separator, block_bytes)
            elif is_gzip(file):
                yield Block(next(numbers), file, file_suffix(file))
            else:
                yield from _file_blocks(file, numbers, document_separator, block_bytes)


def list_files(
    path: str | Path, text_column: str | None = None, on_other_file: Callable[[str], None] | None = None
) -> list[str]:
    """Return the files of a corpus: the path itself, or all document files in a folder and its subfolders, by name.

    Links are followed, each file is taken once, and names that begin with a dot are left out. Other files are handed to
    `on_other_file`. Raises OptionError for a format that cannot be read and for a `text_column` if a file is a .txt,
    DataError for a folder that cannot be read or has no documents.
    """
    if str(path) == "-":
        return ["-"]
    if os.path.isdir(path) and file_suffix(path) not in LINE_READERS:
        found = list[str]()
        with _reading(str(path)):
            for file in _walk(path):
                if file_suffix(file) in LINE_READERS and os.path.isfile(file):
                    found.append(file)
                elif on_other_file is not None:
                    on_other_file(file)
        found.sort()
        if not found:
            raise DataError(f"no file in {path} ends in {', '.join(LINE_READERS)} (or these with .gz)")
    else:
        found = [str(path)]
    for file in found:
        suffix = file_suffix(file)
        if suffix not in LINE_READERS:
            raise OptionError(
                f"documents are read from {', '.join(LINE_READERS)} (also .gz), a folder or - (stdin), got {path}"
            )
        if text_column and suffix == ".txt":
            raise OptionError(f"text_column is for .jsonl files, got {text_column!r} for {file}")
    return found


def _walk(folder: str | Path) -> Iterator[str]:
    """Yield the files in a folder and its subfolders, each under one of its names only."""
    seen: set[tuple[int, int]] = set()

    def is_new(path: str) -> bool:
        try:
            status = os.stat(path)
        except OSError:  # a broken link is no other file
            return True
        known = len(seen)
        seen.add((status.st_dev, status.st_ino))
        return len(seen) > known

    def fail(error: OSError) -> None:
        raise error

    is_new(str(folder))
    for parent, folders, files in os.walk(folder, onerror=fail, followlinks=True):
        folders[:] = [name for name in sorted(folders) if name[0] != "." and is_new(os.path.join(parent, name))]
        yield from filter(is_new, [os.path.join(parent, name) for name in sorted(files) if name[0] != "."])


def block_documents(
    block: Block,
    text_column: str | None = None,
    on_bad_line: Callable[[DataError], None] | None = None,
    document_separator: str = "line",
) -> Iterator[Document]:
    """Yield the documents of a block; see `read_documents`."""
    name = STDIN if block.path == "-" else block.path
    text_of = LINE_READERS[block.suffix]
    with _reading(block.path), block.open() as raw:
        compressed = block.data is None and is_gzip(block.path)
        lines: Iterable[bytes] = gzip.GzipFile(fileobj=raw) if compressed else raw
        for number, line in _separator(document_separator, block.suffix).documents(lines):
            if not line.strip():
                continue
            try:
                text = text_of(_decode(line, is_first=number == 0 and block.start == 0), text_column)
            except LineError as reason:
                # Counted only now, since it takes reading all that is before.
                line_number = number + (block.line or _line_at(block.path, block.start))
                error = DataError(f"{reason.at(name, line_number)}; --skip_bad_lines goes on without such lines")
                if on_bad_line is None:
                    raise error from None
                on_bad_line(error)
                continue
            yield Document(f"{name}:{number + block.line}" if block.line else f"{name}@{block.start}+{number}", text)


def _file_blocks(file: str, numbers: Iterator[int], document_separator: str, block_bytes: int) -> Iterator[Block]:
    suffix, size, start = file_suffix(file), os.path.getsize(file), 0
    separator = _separator(document_separator, suffix)
    with Path(file).open("rb") as raw:
        while start < size:
            raw.seek(start + block_bytes)
            if start + block_bytes < size:
                raw.readline()
                separator.skip(raw)
            end = min(raw.tell(), size)
            yield Block(next(numbers), file, suffix, start, end, None, None if start else 1)
            start = end


def _stream_blocks(
    file: str,
    numbers: Iterator[int],
    text_column: str | None,
    document_separator: str,
    block_bytes: int,
) -> Iterator[Block]:
    with contextlib.ExitStack() as stack:
        if file == "-":
            lines, suffix = sys.stdin.buffer, ".jsonl" if text_column else ""
        else:
            raw = stack.enter_context(Path(file).open("rb"))
            lines, suffix = stack.enter_context(gzip.GzipFile(fileobj=raw)), file_suffix(file)
        first, size, gathered = 1, 0, list[bytes]()
        for number, line in enumerate(lines, start=1):
            suffix = suffix or (line.strip() and _suffix_of_line(line))
            at_end = _separator(document_separator, suffix).ends_at(line)
            gathered.append(line)
            size += len(line)
            if size >= block_bytes and at_end and suffix:
                yield Block(next(numbers), file, suffix, 0 if first == 1 else 1, None, b"".join(gathered), first)
                first, size, gathered = number + 1, 0, []
        if gathered:
            suffix = suffix or ".txt"
            yield Block(next(numbers), file, suffix, 0 if first == 1 else 1, None, b"".join(gathered), first)


def _suffix_of_line(line: bytes) -> str:
    return ".jsonl" if line.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{") else ".txt"


def _paragraphs(lines: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield (number of the first line, lines joined) of each run of lines that are not blank."""
    numbered = enumerate(lines)
    for blank, run in itertools.groupby(numbered, key=lambda item: not item[1].strip()):
        if not blank:
            number, first = next(run)
            yield number, b"".join([first, *(line for _, line in run)])


def _skip_to_blank(file: IO[bytes]) -> None:
    while line := file.readline():
        if not line.strip():
            return


class Separator(NamedTuple):
    """What sets the documents of a .txt file apart.

    documents: lines to (index of its first line, bytes) of each document; what is blank is left to the caller.
    ends_at: whether no document goes on after a line.
    skip: moves an open file from the start of a line to where a document can start.
    """

    documents: Callable[[Iterable[bytes]], Iterator[tuple[int, bytes]]]
    ends_at: Callable[[bytes], bool]
    skip: Callable[[IO[bytes]], None]


SEPARATORS = {
    "line": Separator(enumerate, lambda line: True, lambda file: None),
    "blank_line": Separator(_paragraphs, lambda line: not line.strip(), _skip_to_blank),
}


def _separator(name: str, suffix: str) -> Separator:
    """Return the row of SEPARATORS for a file; a .jsonl has a document a line, whatever separates those of a .txt."""
    return SEPARATORS[name if suffix == ".txt" else "line"]


@contextlib.contextmanager
def _reading(file: str) -> Iterator[None]:
    """Turn the errors of reading a file into DataError."""
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        name = STDIN if file == "-" else file
        raise DataError(f"cannot read {name}: {getattr(error, 'strerror', None) or error}") from error


def _line_at(file: str, position: int) -> int:
    """Return the number of the line that starts at a byte of a file."""
    with Path(file).open("rb") as raw:
        chunks = iter(functools.partial(raw.read, 2**20), b"")
        count, read = 1, 0
        for chunk in chunks:
            count += chunk[: position - read].count(b"\n")
            read += len(chunk)
            if read >= position:
                break
    return count


def _plain_text(line: str, text_column: str | None) -> str:
    return line


def _json_text(line: str, text_column: str | None) -> str:
    row = parse_object(line)
    return get_text(row, choose_columns(row, sought_texts(text_column))[0])


# A row a format: a line of the file and the text column to the document's text, or LineError with the reason.
LINE_READERS: dict[str, Callable[[str, str | None], str]] = {".txt": _plain_text, ".jsonl": _json_text}


def _decode(line: bytes, is_first: bool) -> str:
    return check_utf8(line.decode("utf-8-sig" if is_first else "utf-8", errors="surrogateescape"))
