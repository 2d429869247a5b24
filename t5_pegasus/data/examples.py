"""Pairs to learn from and texts to give titles to, read from TSV, JSON, JSON Lines, CSV and XLSX, plain or .gz.

A format is a generator of (line number from 1, record) and a row in `READERS`; finding the columns, checking the fields
and counting what is left out is the same for all of them. Text is UTF-8, with or without a byte order mark. Rows are
not held in memory, but for the text of a JSON list and the table of strings in an XLSX file.
"""

import csv
import dataclasses
import hashlib
import json
import re
import sys
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import IO, cast

from ..errors import DataError, OptionError
from ..files import open_text

# Usual names of (content, title) columns. The first pair that a file has is taken.
PAIRS = (
    ("content", "title"),
    ("正文", "摘要"),
    ("正文", "标题"),
    ("src", "tgt"),
    ("source", "target"),
    ("document", "summary"),
    ("dialogue", "summary"),
    ("prompt", "completion"),
)
# The columns of a TSV file without a header, as the CSL data set has them.
TSV_COLUMNS = ("title", "content")

# Characters. The csv module's own limit, 131,072, is less than a book; without one, a stray quote takes in the file.
_LONGEST_CSV_FIELD = 1 << 24
# Bytes. Among 10^9 pairs, two that differ have the same digest with a probability of 10^-11.
_DIGEST_SIZE = 12
_NOT_UTF8 = "not UTF-8, convert the file first"
# What stands between the items of a JSON list: one character, or none at the end of the file.
_JSON_MARK = re.compile(r"\s*(.?)\s*", re.DOTALL)


@dataclasses.dataclass(frozen=True, slots=True)
class Example:
    """A text and its title: neither is empty or begins or ends with whitespace, and the title is one line."""

    content: str
    title: str


@dataclasses.dataclass(slots=True)
class ReadCounts:
    """What became of the rows that `read_examples` has met so far; one object may count over several files."""

    examples: int = 0
    duplicates: int = 0
    bad_lines: int = 0
    first_bad_line: str = ""

    def __str__(self) -> str:
        """Return one line for the user; the first bad line stands in it as `file:line: reason`."""
        parts = [f"examples: {self.examples}"]
        if self.duplicates:
            parts.append(f"duplicates dropped: {self.duplicates}")
        if self.bad_lines:
            parts.append(f"bad lines skipped: {self.bad_lines}, the first {self.first_bad_line}")
        return ", ".join(parts)


class _LineError(Exception):
    """Why one line cannot be used, while the next one may well be. Readers hand it on in place of a record."""


# Alternatives, the preferred one first; each names the columns that are needed: (content, title) or (content,).
Sought = Sequence[tuple[str, ...]]
Record = dict[str, object] | _LineError
Reader = Callable[[Path, Sought], Iterator[tuple[int, Record]]]


def read_examples(
    path: str | Path,
    text_column: str | None = None,
    summary_column: str | None = None,
    skip_bad_lines: bool = False,
    counts: ReadCounts | None = None,
    keep_duplicates: bool = False,
) -> Iterator[Example]:
    """Return an iterator over the pairs of a file, in order; the ending of its name tells the format.

    Columns that are not named are found by their usual names (`PAIRS`), in any case. TSV needs no header: its lines are
    then title, tab, content. A pair that stood in the file before is dropped and counted, unless `keep_duplicates`.
    `counts` is filled on the way; without it, one line on stderr says at the end what was left out, if anything was.

    Raises DataError, as `file:line: reason`, for the first line that cannot be used (with `skip_bad_lines` it is
    counted instead): not JSON, not UTF-8, too many fields or too few, one empty, not text or with a NUL, a title equal
    to its content. Raises DataError in any case where a file cannot be read, lacks the columns or holds no example, and
    OptionError where both columns are one.
    """
    path = Path(path)
    sought = _sought_pairs(text_column, summary_column)
    return _examples(path, _reader(path), sought, skip_bad_lines, counts, keep_duplicates)


def read_texts(path: str | Path, text_column: str | None = None) -> Iterator[tuple[str, str]]:
    """Return an iterator over (id, text) of a file, in order: the formats of `read_examples`, and .txt, a text a line.

    Only the content's column is needed, and a TSV file of one column is a text a line. The id is that of the column
    "id", or the row's number from 1. Empty texts and repeated ones are kept, so that each row can be given its title.
    Raises DataError for what cannot be read, as `read_examples` does.
    """
    path = Path(path)
    sought = [(text_column,)] if text_column else [(text,) for text, _ in PAIRS]
    return _texts(path, _reader(path), sought)


def _reader(path: Path) -> Reader:
    """Return the reader for a file's name; raises DataError now, not at the first row, where there is no such file."""
    name = path.with_suffix("") if path.suffix == ".gz" else path
    reader = READERS.get(name.suffix.lower())
    if reader is None:
        raise DataError(f"the name of a data file must end in {', '.join(READERS)}, or one of them and .gz, got {path}")
    open_text(path).close()
    return reader


def _examples(
    path: Path, reader: Reader, sought: Sought, skip_bad_lines: bool, counts: ReadCounts | None, keep_duplicates: bool
) -> Iterator[Example]:
    tally = ReadCounts() if counts is None else counts
    seen: set[bytes] = set()
    columns: tuple[str, ...] = ()
    bad_line = ""
    for line, record in reader(path, sought):
        try:
            row = _usable(record)
            # Settled by the first record that has a pair: a later one that lacks it must not be read as another pair.
            columns = columns or _columns(row, sought)
            content, title = _filled(row, columns[0]), _filled(row, columns[1])
            if content.split() == title.split():
                raise _LineError(f"{columns[1]} equals {columns[0]}")
        except _LineError as reason:
            bad_line = f"{path}:{line}: {reason}"
            if not skip_bad_lines:
                raise DataError(bad_line) from None
            tally.bad_lines += 1
            tally.first_bad_line = tally.first_bad_line or bad_line
            continue
        title = " ".join(title.split())
        # Neither text has a NUL in it, so that different pairs are different bytes.
        digest = hashlib.blake2b(f"{title}\0{content}".encode(), digest_size=_DIGEST_SIZE).digest()
        if digest in seen and not keep_duplicates:
            tally.duplicates += 1
            continue
        seen.add(digest)
        tally.examples += 1
        yield Example(content, title)
    if not seen:
        raise DataError(f"{path} holds no example" + (f", only lines like {bad_line}" if bad_line else ""))
    if counts is None and (tally.duplicates or tally.bad_lines):
        print(f"{path}: {tally}", file=sys.stderr)


def _texts(path: Path, reader: Reader, sought: Sought) -> Iterator[tuple[str, str]]:
    columns: tuple[str, ...] = ()
    number = 0
    for number, (line, record) in enumerate(reader(path, sought), 1):
        try:
            row = _usable(record)
            columns = columns or _columns(row, sought)
            text = _text(row, columns[0])
        except _LineError as reason:
            raise DataError(f"{path}:{line}: {reason}") from None
        id_column = _find([("id",)], row)
        given = row[id_column[0]] if id_column else None
        yield str(number) if given is None or given == "" else str(given), text
    if not number:
        raise DataError(f"{path} holds no text")


def _sought_pairs(text_column: str | None, summary_column: str | None) -> Sought:
    if text_column and summary_column:
        if text_column == summary_column:
            raise OptionError(f"text_column and summary_column must differ, got {text_column} for both")
        return [(text_column, summary_column)]
    if not text_column and not summary_column:
        return PAIRS
    pairs = dict.fromkeys((text_column or text, summary_column or summary) for text, summary in PAIRS)
    # One name is given: its partner in PAIRS is sought first, then any usual name of the other column.
    preferred = sorted(pairs, key=lambda pair: (_key(pair[0]), _key(pair[1])) not in PAIRS)
    return [(text, summary) for text, summary in preferred if _key(text) != _key(summary)]


def _key(name: str) -> str:
    return name.strip().casefold()


def _find(sought: Sought, names: Collection[str]) -> tuple[str, ...]:
    """Return the first alternative whose columns are all among `names`, as they are spelt there; () if none is."""
    spelt = {_key(name): name for name in names} | {name: name for name in names}
    for columns in sought:
        found = tuple(spelt.get(column) or spelt.get(_key(column), "") for column in columns)
        if all(found):
            return found
    return ()


def _columns(names: Collection[str], sought: Sought) -> tuple[str, ...]:
    """Return the columns to read; raises _LineError, which says what was sought and what there is."""
    found = _find(sought, names)
    if not found:
        flags = "--text_column and --summary_column" if len(sought[0]) == 2 else "--text_column"
        wanted = " or ".join("/".join(columns) for columns in sought)
        raise _LineError(f"needs columns {wanted} (name others with {flags}), got {_listed(names)}")
    return found


def _listed(names: Collection[str]) -> str:
    # Where a header is missing, the "names" are whole articles.
    shown = [" ".join(name.split())[:24] or "(empty)" for name in names]
    return ", ".join(shown[:8] + ["..."] * (len(shown) > 8)) or "none"


def _usable(record: Record) -> dict[str, object]:
    if isinstance(record, _LineError):
        raise record
    return record


def _text(row: dict[str, object], column: str) -> str:
    """Return the text of a column without the whitespace around it; raises _LineError where it is none."""
    if column not in row:
        raise _LineError(f"column {column} is missing, got {_listed(row)}")
    value = row[column]
    if not isinstance(value, str):
        raise _LineError(f"{column} must be text, got {_shown(value)}")
    if "\0" in value:
        raise _LineError(f"{column} has a NUL character in it")
    if not _is_unicode(value):
        raise _LineError(f"{column} has half of a surrogate pair in it")
    return value.strip()


def _filled(row: dict[str, object], column: str) -> str:
    text = _text(row, column)
    if not text:
        raise _LineError(f"{column} is empty")
    return text


def _shown(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)[:40]


def _is_unicode(text: str) -> bool:
    """Tell whether the text can be written as UTF-8. It cannot where `_lines` met a byte that is not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _lines(path: Path, newline: str = "\n") -> Iterator[str]:
    """Yield the lines of a text file with their ends. A byte that is not UTF-8 becomes half of a surrogate pair.

    (A strict decoder fails for a block of many lines, and says neither which one it was nor what comes after it.)
    """
    with open_text(path) as file:
        file.reconfigure(errors="surrogateescape", newline=newline)
        try:
            yield from file
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"cannot read {path}: {error}") from error


def _header(path: Path, line: int, cells: Sequence[str], sought: Sought) -> tuple[str, ...]:
    """Return the names in a header; raises DataError where one stands twice or none of the alternatives is there."""
    names = tuple(cell.strip() for cell in cells)
    try:
        _columns(names, sought)
    except _LineError as reason:
        raise DataError(f"{path}:{line}: {reason}") from None
    for name in names:
        if name and names.count(name) > 1:
            raise DataError(f"{path}:{line}: columns must have different names, got {name} twice")
    return names


def _record(names: Sequence[str], cells: Sequence[str]) -> Record:
    if len(cells) != len(names):
        return _LineError(f"expected {len(names)} fields ({_listed(names)}), got {len(cells)}")
    return dict(zip(names, cells, strict=True))


def _below_header(
    path: Path, rows: Iterator[tuple[int, list[str] | _LineError]], sought: Sought
) -> Iterator[tuple[int, Record]]:
    """Turn the rows of a table into records by the names in its first row."""
    names: tuple[str, ...] = ()
    for line, cells in rows:
        if names:
            yield line, cells if isinstance(cells, _LineError) else _record(names, cells)
        elif isinstance(cells, _LineError):
            raise DataError(f"{path}:{line}: {cells}")
        else:
            names = _header(path, line, cells, sought)


def _read_txt(path: Path, sought: Sought) -> Iterator[tuple[int, Record]]:
    """Read a text a line, blank lines too, as the column "content"."""
    for number, line in enumerate(_lines(path), 1):
        yield number, {"content": line} if _is_unicode(line) else _LineError(_NOT_UTF8)


def _read_tsv(path: Path, sought: Sought) -> Iterator[tuple[int, Record]]:
    """Read fields between tabs, never quoted. The first line is a header if it names the columns sought.

    Blank lines are passed over, except in a file of one column, where they are empty texts.
    """
    names: tuple[str, ...] = ()
    for number, line in enumerate(_lines(path), 1):
        if not _is_unicode(line):
            yield number, _LineError(_NOT_UTF8)
            continue
        cells = line.rstrip("\r\n").split("\t")
        if not line.strip("\r\n ") and len(names or sought[0]) > 1:
            continue
        if not names:
            unnamed = TSV_COLUMNS if len(cells) > 1 or len(sought[0]) > 1 else TSV_COLUMNS[1:]
            if _find(sought, cells) or not _find(sought, unnamed):
                names = _header(path, number, cells, sought)
                continue
            names = unnamed
        yield number, _record(names, cells)


def _read_csv(path: Path, sought: Sought) -> Iterator[tuple[int, Record]]:
    """Read comma-separated fields below a header, quoted as spreadsheets do it; empty lines are passed over."""
    return _below_header(path, _csv_rows(path), sought)


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str] | _LineError]]:
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_CSV_FIELD))
    rows = csv.reader(_lines(path, newline=""), strict=True)
    while True:
        line = rows.line_num + 1
        try:
            cells = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, _LineError(f"not CSV: {error}, read up to line {rows.line_num}")
            continue
        if cells:
            yield line, cells if _is_unicode("".join(cells)) else _LineError(_NOT_UTF8)


def _read_xlsx(path: Path, sought: Sought) -> Iterator[tuple[int, Record]]:
    """Read the first sheet, below a header; numbers and dates become text, empty rows are passed over."""
    return _below_header(path, _xlsx_rows(path), sought)


def _xlsx_rows(path: Path) -> Iterator[tuple[int, list[str] | _LineError]]:
    width = 0
    for number, values in enumerate(_sheet(path), 1):
        cells = ["" if value is None else str(value) for value in values]
        while cells and not cells[-1].strip():
            cells.pop()
        if cells:
            width = width or len(cells)
            yield number, cells + [""] * (width - len(cells))


def _sheet(path: Path) -> Iterator[tuple[object, ...]]:
    # Not at the top: it takes a quarter of a second, which every command would pay.
    import openpyxl

    with open_text(path) as file:
        try:
            book = openpyxl.load_workbook(cast(IO[bytes], file.buffer), read_only=True, data_only=True)
            sheet = book.worksheets[0]
            # Some programs write a sheet's size wrongly, and its columns would be cut to that.
            sheet.reset_dimensions()
            yield from sheet.iter_rows(values_only=True)
        # A damaged file brings out whatever the zip, XML and openpyxl's own code happen to raise.
        except Exception as error:
            raise DataError(f"cannot read {path} as XLSX: {error}") from error


def _read_jsonl(path: Path, sought: Sought) -> Iterator[tuple[int, Record]]:
    """Read a JSON object a line; blank lines are passed over."""
    for number, line in enumerate(_lines(path), 1):
        if line.strip():
            yield number, _parsed(line)


def _parsed(line: str) -> Record:
    try:
        return _object(json.loads(line), line)
    except json.JSONDecodeError as error:
        reason = f"{error.msg} at character {error.pos + 1}"
    except (ValueError, RecursionError) as error:
        reason = str(error)
    return _LineError(f"not JSON: {reason}" if _is_unicode(line) else _NOT_UTF8)


def _object(value: object, text: str) -> Record:
    """Return the value of a JSON text as a record."""
    if not _is_unicode(text):
        return _LineError(_NOT_UTF8)
    return value if isinstance(value, dict) else _LineError(f"expected a JSON object, got {_shown(value)}")


def _read_json(path: Path, sought: Sought) -> Iterator[tuple[int, Record]]:
    """Read a JSON list of objects; or an object a line, which many data sets have in files of this name."""
    first = next((line.lstrip()[0] for line in _lines(path) if line.strip()), "")
    return _read_jsonl(path, sought) if first == "{" else _json_list(path)


def _json_list(path: Path) -> Iterator[tuple[int, Record]]:
    """Decode item after item, for the line that each begins at; raises DataError where it cannot tell the next item."""
    text = "".join(_lines(path))
    decode = json.JSONDecoder().raw_decode
    line, position = 1, 0
    due: tuple[str, ...] = ("[",)  # what may come next; "" is the end of the file
    while True:
        mark = cast(re.Match[str], _JSON_MARK.match(text, position))
        if mark[1] not in due:
            line += text.count("\n", position, mark.start(1))
            expected = " or ".join(due) or "nothing more"
            got = repr(mark[1]) if mark[1] else "the end of the file"
            raise DataError(f"{path}:{line}: not a JSON list: expected {expected}, got {got}")
        if not mark[1]:
            return
        line += text.count("\n", position, mark.end())
        position = mark.end()
        if mark[1] == "]":
            due = ("",)
        elif mark[1] == "[" and text.startswith("]", position):
            due = ("]",)
        else:
            try:
                value, end = decode(text, position)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{path}:{line}: not JSON: {error}") from error
            yield line, _object(value, text[position:end])
            line += text.count("\n", position, end)
            position, due = end, (",", "]")


READERS: dict[str, Reader] = {
    ".tsv": _read_tsv,
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".xlsx": _read_xlsx,
    ".txt": _read_txt,
}
