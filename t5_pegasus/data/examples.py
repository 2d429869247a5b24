"""Pairs to learn from and texts to give titles to, read from TSV, JSON, JSON Lines, CSV and XLSX, plain or .gz.

A format is a generator of (line number from 1, record) and a row in `READERS`; finding the columns, checking the fields
and counting what is left out are the same for all of them. Text is UTF-8, with or without a byte order mark. Rows are
not held in memory, but for the text of a JSON list and the table of strings in an XLSX file.
"""

import csv
import dataclasses
import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, cast

from ..errors import DataError, OptionError
from ..files import file_suffix, open_text
from ..text.lines import EncodingError, LineError, check_utf8, iterate_lines
from .records import (
    PAIRS,
    NoValue,
    Sought,
    as_object,
    choose_columns,
    find_columns,
    get_text,
    listed,
    parse_object,
    sought_pairs,
    sought_texts,
)

# The columns of a TSV file without a header, as the CSL data set has them.
TSV_COLUMNS = ("title", "content")

# Characters. The csv module's own limit, 131,072, is less than a book; without one, a stray quote takes in the file.
_LONGEST_CSV_FIELD = 1 << 24
# Bytes. Among 10^9 pairs, two that differ have the same digest with a probability of 10^-11.
_DIGEST_SIZE = 12
# What separates the items of a JSON list: one character, or none at the end of the file.
_JSON_MARK = re.compile(r"\s*(.?)\s*", re.DOTALL)


@dataclasses.dataclass(frozen=True, slots=True)
class Example:
    """A text and its title: neither is empty or begins or ends with whitespace, and the title is one line."""

    content: str
    title: str


@dataclasses.dataclass(slots=True)
class ReadCounts:
    """What became of the rows that `read_examples` has read so far; one object may count over several files."""

    examples: int = 0
    duplicates: int = 0
    bad_lines: int = 0
    first_bad_line: str = ""

    def __str__(self) -> str:
        """Return one line for the user, with the first bad line as `file:line: reason`."""
        parts = [f"examples: {self.examples}"]
        if self.duplicates:
            parts.append(f"duplicates dropped: {self.duplicates}")
        if self.bad_lines:
            parts.append(f"bad lines skipped: {self.bad_lines}, the first {self.first_bad_line}")
        return ", ".join(parts)


# The fields of a row by column; or why the row cannot be used, which a reader hands on in place of raising it.
Record = dict[str, object] | LineError
Reader = Callable[[Path, Sought], Iterator[tuple[int, Record]]]


def read_examples(
    path: str | Path,
    text_column: str | None = None,
    summary_column: str | None = None,
    skip_bad_lines: bool = False,
    counts: ReadCounts | None = None,
    keep_duplicates: bool = False,
) -> Iterator[Example]:
    """Return an iterator over the pairs of a file, in order; its name's suffix decides the format.

    Columns that are not named are found by their usual names (`records.PAIRS`), in any case. TSV needs no header: its
    lines are then title, tab, content. A pair that the file had before is dropped and counted, unless
    `keep_duplicates`. `counts` is filled on the way; without it, one line on stderr says at the end what was left out,
    if anything was.

    Raises DataError, as `file:line: reason`, for the first line that cannot be used (with `skip_bad_lines` it is
    counted instead): not JSON, not UTF-8, too many fields or too few, one empty, not text or with a NUL, a title equal
    to its content. Raises DataError in any case if a file cannot be read, lacks the columns or holds no example, and
    OptionError if both columns are one.
    """
    path = Path(path)
    if text_column and text_column == summary_column:
        raise OptionError(f"text_column and summary_column must differ, got {text_column} for both")
    sought = sought_pairs(text_column, summary_column)
    return _examples(path, _reader(path), sought, skip_bad_lines, counts, keep_duplicates)


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """A row as it stands in a file: both texts, or why it has none.

    line: from 1. columns: of content and title; () in a row before the first that has both. error: "" for a row with
    two texts, which may be empty. is_encoding_error: whether the error is that it is not UTF-8.
    """

    line: int
    content: str = ""
    title: str = ""
    columns: tuple[str, ...] = ()
    error: str = ""
    is_encoding_error: bool = False


def read_rows(path: str | Path, text_column: str | None = None, summary_column: str | None = None) -> Iterator[Row]:
    """Return an iterator over all rows of a file of pairs, those that `read_examples` refuses among them.

    Raises DataError if the file cannot be read at all, or its header lacks the columns.
    """
    path = Path(path)
    return _rows(path, _reader(path), sought_pairs(text_column, summary_column))


def _rows(path: Path, reader: Reader, sought: Sought) -> Iterator[Row]:
    columns: tuple[str, ...] = ()
    for line, record in reader(path, sought):
        try:
            row = _usable(record)
            columns = columns or choose_columns(row, sought)
            content, title = (get_text(row, column) for column in columns)
        except LineError as reason:
            yield Row(line, error=str(reason), is_encoding_error=isinstance(reason, EncodingError))
        else:
            yield Row(line, content, title, columns)


def read_texts(path: str | Path, text_column: str | None = None) -> Iterator[tuple[str, str]]:
    """Return an iterator over (id, text) of a file, in order: the formats of `read_examples`, and .txt, a text a line.

    Only the content's column is needed, and a TSV file of one column is a text a line. The id is that of the column
    "id", or the row's number from 1. Empty texts and repeated ones are kept, so that each row can be given its title.
    Raises DataError for what cannot be read, as `read_examples` does.
    """
    path = Path(path)
    return _texts(path, _reader(path), sought_texts(text_column))


def read_column(path: str | Path, column: str) -> Iterator[str]:
    """Return an iterator over a further column of a file of pairs, such as a topic, as text; numbers are spelt out.

    Raises DataError for what cannot be read, and for a row without the column.
    """
    path = Path(path)
    return _column(path, _reader(path), column)


def _reader(path: Path) -> Reader:
    """Return the reader for a file's name; raises DataError now, not at the first row, if there is no such file."""
    reader = READERS.get(file_suffix(path))
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
            columns = columns or choose_columns(row, sought)
            content, title = _filled(row, columns[0]), _filled(row, columns[1])
            if content.split() == title.split():
                raise LineError(f"{columns[1]} equals {columns[0]}")
        except LineError as reason:
            error = reason.at(path, line)
            if not skip_bad_lines:
                raise error from None
            bad_line = str(error)
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
            columns = columns or choose_columns(row, sought)
            text = _text(row, columns[0])
        except LineError as reason:
            raise reason.at(path, line) from None
        id_column = find_columns([("id",)], row)
        given = row[id_column[0]] if id_column else None
        yield str(number) if given is None or given == "" else str(given), text
    if not number:
        raise DataError(f"{path} holds no text")


def _column(path: Path, reader: Reader, column: str) -> Iterator[str]:
    for line, record in reader(path, [(column,)]):
        try:
            row = _usable(record)
            value = row[choose_columns(row, [(column,)])[0]]
        except LineError as reason:
            raise reason.at(path, line) from None
        yield "" if value is None else " ".join(str(value).split())


def _usable(record: Record) -> dict[str, object]:
    if isinstance(record, LineError):
        raise record
    return record


def _text(row: dict[str, object], column: str) -> str:
    """Return the text of a column without the whitespace around it; raises LineError if there is none."""
    text = get_text(row, column)
    if "\0" in text:
        raise LineError(f"{column} has a NUL character in it")
    return text.strip()


def _filled(row: dict[str, object], column: str) -> str:
    text = _text(row, column)
    if not text:
        raise LineError(f"{column} is empty")
    return text


def _header(path: Path, line: int, cells: Sequence[object], sought: Sought) -> tuple[str, ...]:
    """Return the names in a header; raises DataError if one occurs twice or no alternative is complete."""
    names = tuple(str(cell).strip() for cell in cells)
    try:
        choose_columns(names, sought)
    except LineError as reason:
        raise reason.at(path, line) from None
    for name in names:
        if name and names.count(name) > 1:
            raise DataError(f"{path}:{line}: columns must have different names, got {name} twice")
    return names


def _record(names: Sequence[str], cells: Sequence[object]) -> Record:
    if len(cells) != len(names):
        return LineError(f"expected {len(names)} fields ({listed(names)}), got {len(cells)}")
    return dict(zip(names, cells, strict=True))


def _below_header(
    path: Path, rows: Iterator[tuple[int, list[Any] | LineError]], sought: Sought
) -> Iterator[tuple[int, Record]]:
    """Turn the rows of a table into records by the names in its first row."""
    names: tuple[str, ...] = ()
    for line, cells in rows:
        if names:
            yield line, cells if isinstance(cells, LineError) else _record(names, cells)
        elif isinstance(cells, LineError):
            raise cells.at(path, line)
        else:
            names = _header(path, line, cells, sought)


def _utf8_lines(path: Path) -> Iterator[tuple[int, str | LineError]]:
    for number, line in enumerate(iterate_lines(path, newline="\n"), 1):
        try:
            yield number, check_utf8(line)
        except LineError as reason:
            yield number, reason


def _read_txt(path: Path, sought: Sought) -> Iterator[tuple[int, Record]]:
    """Read a text a line, blank lines too, as the column "content"."""
    for number, line in _utf8_lines(path):
        yield number, line if isinstance(line, LineError) else {"content": line}


def _read_tsv(path: Path, sought: Sought) -> Iterator[tuple[int, Record]]:
    """Read fields between tabs, never quoted. The first line is a header if it names the columns sought.

    Blank lines are skipped, except in a file of one column: there they are empty texts.
    """
    names: tuple[str, ...] = ()
    for number, line in _utf8_lines(path):
        if isinstance(line, LineError):
            yield number, line
            continue
        cells = line.rstrip("\r\n").split("\t")
        if not line.strip("\r\n ") and len(names or sought[0]) > 1:
            continue
        if not names:
            unnamed = TSV_COLUMNS if len(cells) > 1 or len(sought[0]) > 1 else TSV_COLUMNS[1:]
            if find_columns(sought, cells) or not find_columns(sought, unnamed):
                names = _header(path, number, cells, sought)
                continue
            names = unnamed
        yield number, _record(names, cells)


def _read_csv(path: Path, sought: Sought) -> Iterator[tuple[int, Record]]:
    """Read comma-separated fields below a header, quoted as spreadsheets do it; empty lines are skipped."""
    return _below_header(path, _csv_rows(path), sought)


def _csv_rows(path: Path) -> Iterator[tuple[int, list[Any] | LineError]]:
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_CSV_FIELD))
    rows = csv.reader(iterate_lines(path, newline=""), strict=True)
    while True:
        line = rows.line_num + 1
        try:
            cells = next(rows)
            check_utf8("".join(cells))
        except StopIteration:
            return
        except LineError as reason:
            yield line, reason
            continue
        except csv.Error as error:
            yield line, LineError(f"not CSV: {error}, read up to line {rows.line_num}")
            continue
        if cells:
            yield line, cells


def _read_xlsx(path: Path, sought: Sought) -> Iterator[tuple[int, Record]]:
    """Read the first sheet, below a header; numbers and dates become text, empty rows are skipped.

    TRUE, FALSE and what a formula has instead of a value, such as #N/A, are no text.
    """
    return _below_header(path, _xlsx_rows(path), sought)


def _xlsx_rows(path: Path) -> Iterator[tuple[int, list[Any] | LineError]]:
    width = 0
    for number, row in enumerate(_sheet(path), 1):
        cells = [_cell_value(cell) for cell in row]
        while cells and isinstance(cells[-1], str) and not cells[-1].strip():
            cells.pop()
        if cells:
            width = width or len(cells)
            yield number, cells + [""] * (width - len(cells))


def _cell_value(cell: Any) -> str | bool | NoValue:
    if cell.data_type == "e":
        return NoValue(str(cell.value))
    return cell.value if isinstance(cell.value, bool) else "" if cell.value is None else str(cell.value)


def _sheet(path: Path) -> Iterator[tuple[Any, ...]]:
    # Not at the top: it takes a quarter of a second, which every command would pay.
    import openpyxl

    with open_text(path) as file:
        try:
            book = openpyxl.load_workbook(cast(IO[bytes], file.buffer), read_only=True, data_only=True)
            sheet = book.worksheets[0]
            # Some programs write a sheet's size wrongly, and its columns would be cut to that.
            sheet.reset_dimensions()
            yield from sheet.iter_rows()
        # A damaged file makes the zip, XML or openpyxl's own code raise almost anything.
        except Exception as error:
            raise DataError(f"cannot read {path} as XLSX: {error}") from error


def _read_jsonl(path: Path, sought: Sought) -> Iterator[tuple[int, Record]]:
    """Read a JSON object a line; blank lines are skipped."""
    for number, line in enumerate(iterate_lines(path, newline="\n"), 1):
        if line.strip():
            yield number, _parsed(line)


def _parsed(line: str) -> Record:
    try:
        return _flat(parse_object(line))
    except LineError as reason:
        return reason


def _flat(record: dict[str, object]) -> dict[str, object]:
    """Return a conversation, as OpenAI's fine-tuning has it, as "prompt" and "completion"; other records as they are.

    They are the last answer of the assistant and the message of the user before it.
    """
    messages = record.get("messages")
    if not isinstance(messages, list) or find_columns(PAIRS, record):
        return record
    said: dict[str, object] = {}
    for message in messages:
        role, content = (message.get("role"), message.get("content")) if isinstance(message, dict) else (None, None)
        if role == "user":
            said = {"prompt": content}
        elif role == "assistant" and said:
            said["completion"] = content
    return {**record, **said}


def _read_json(path: Path, sought: Sought) -> Iterator[tuple[int, Record]]:
    """Read a JSON list of objects; or an object a line, which many data sets have in files of this name."""
    first = next((line.lstrip()[0] for line in iterate_lines(path) if line.strip()), "")
    return _read_jsonl(path, sought) if first == "{" else _json_list(path)


def _json_list(path: Path) -> Iterator[tuple[int, Record]]:
    """Decode item after item, so that each has a line number; raises DataError if the next item cannot be found."""
    text = "".join(iterate_lines(path, newline="\n"))
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
            try:
                yield line, _flat(as_object(value, text[position:end]))
            except LineError as reason:
                yield line, reason
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
