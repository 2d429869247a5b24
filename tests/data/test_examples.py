"""What `examples.py` reads, in every format, and what it says of lines it cannot use."""

import csv
import gzip
import io
import json
import tracemalloc
import zipfile

import openpyxl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from t5_pegasus.data.examples import READERS, Example, ReadCounts, read_examples, read_texts
from t5_pegasus.data.records import PAIRS
from t5_pegasus.errors import DataError, OptionError

CONTENT = "提出一种新的算法,并以实验验证"
TITLE = "一种新的算法"


def to_tsv(rows):
    return "".join("\t".join(row) + "\n" for row in rows).encode()


def to_json(rows):
    return json.dumps([dict(zip(rows[0], row, strict=True)) for row in rows[1:]], indent=1).encode()


def to_jsonl(rows):
    return "".join(
        json.dumps(dict(zip(rows[0], row, strict=True)), ensure_ascii=False) + "\n" for row in rows[1:]
    ).encode()


def to_csv(rows):
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def to_xlsx(rows):
    book = openpyxl.Workbook(write_only=True)
    sheet = book.create_sheet()
    for row in rows:
        sheet.append(row)
    data = io.BytesIO()
    book.save(data)
    return data.getvalue()


WRITERS = {".tsv": to_tsv, ".json": to_json, ".jsonl": to_jsonl, ".csv": to_csv, ".xlsx": to_xlsx}
TABLE = [("id", "Title", "Content"), ("7", TITLE, CONTENT), ("8", "题", "文")]


@pytest.fixture
def write(tmp_path):
    """Return a function that writes bytes under a name and returns the path, relative names being in `tmp_path`."""

    def write(name, data):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


def pairs(path, **options):
    return [(example.content, example.title) for example in read_examples(path, **options)]


def complaint(path, **options):
    """Return the message of the DataError, without the folder."""
    with pytest.raises(DataError) as error:
        list(read_examples(path, **options))
    return str(error.value).replace(f"{path.parent}/", "")


@pytest.mark.parametrize("gz", ["", ".gz"])
@pytest.mark.parametrize("suffix", WRITERS)
def test_every_format_reads_alike(write, suffix, gz):
    data = WRITERS[suffix](TABLE)
    path = write(f"data{suffix.upper() if not gz else suffix}{gz}", gzip.compress(data) if gz else data)
    assert pairs(path) == [(CONTENT, TITLE), ("文", "题")]
    assert list(read_texts(path)) == [("7", CONTENT), ("8", "文")]
    assert list(read_texts(path, text_column="title")) == [("7", TITLE), ("8", "题")]


def test_no_format_is_left_out():
    assert {*WRITERS, ".txt"} == set(READERS)


@pytest.mark.parametrize("suffix", WRITERS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_what_is_written_is_read(write, suffix, data):
    # TSV has no way to write a tab or a newline within a field; XML turns \r into \n.
    inner = {".tsv": "", ".xlsx": "\n\t"}.get(suffix, "\n\t\r")
    text = st.text(alphabet="甲乙𠮷aA1 ,'\"\\\u3000\u2028" + inner, max_size=6)
    rows = data.draw(st.lists(st.tuples(text, text), min_size=1))
    expected = {}
    bad = duplicates = 0
    for title, content in rows:
        pair = content.strip(), " ".join(title.split())
        if not all(pair) or " ".join(content.split()) == pair[1]:
            bad += 1
        elif pair in expected:
            duplicates += 1
        expected[pair] = all(pair) and " ".join(content.split()) != pair[1]
    expected = [pair for pair, good in expected.items() if good]
    blank = sum(not title.strip() and not content.strip() for title, content in rows) if suffix == ".xlsx" else 0

    path = write(f"data{suffix}", WRITERS[suffix]([("title", "content"), *rows]))
    counts = ReadCounts()
    if expected:
        assert pairs(path, skip_bad_lines=True, counts=counts) == expected
        assert (counts.examples, counts.duplicates, counts.bad_lines) == (len(expected), duplicates, bad - blank)
    else:
        with pytest.raises(DataError, match="holds no example"):
            pairs(path, skip_bad_lines=True)


PIECES = [b"title", b"content", b"\t", b",", b'"', b"\n", b"\r", b" ", b"\0", b"\xff", b"\xef\xbb\xbf", "甲".encode()]
PIECES += [b"{", b"}", b"[", b"]", b":", b'{"content": "a", "title": "b"}', b'"\\ud800"', b"1", b"title,content\n"]
PIECES += [b'"content": ', b'"title": ', b"[" * 100_000, b"9" * 5000]


@pytest.mark.parametrize("suffix", [*READERS, ".jsonl.gz"])
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=st.lists(st.sampled_from(PIECES), max_size=12), skip_bad_lines=st.booleans())
def test_any_bytes_give_good_examples_or_a_data_error(write, suffix, pieces, skip_bad_lines):
    path = write(f"data{suffix}", b"".join(pieces))
    try:
        read = list(read_examples(path, skip_bad_lines=skip_bad_lines, counts=ReadCounts()))
    except DataError:
        return
    assert len({(e.content, e.title) for e in read}) == len(read) > 0
    for example in read:
        assert example.content == example.content.strip() != ""
        assert example.title == " ".join(example.title.split()) not in ("", example.content)
        assert "\0" not in (example.content + example.title).encode().decode()


GOOD = f"{TITLE}\t{CONTENT}\n".encode()
BAD_TSV = {
    "题 文\n".encode(): "expected 2 fields (title, content), got 1",
    b"a\tb\tc\n": "expected 2 fields (title, content), got 3",
    b"\t\n": "content is empty",
    b"\tb\n": "title is empty",
    "题\t \u3000\r\n".encode(): "content is empty",
    b"a\x00\tb\n": "title has a NUL character in it",
    b"a b\ta  b\n": "title equals content",
    "题\t文\n".encode("gb18030"): "not UTF-8, convert the file first",
}
BAD_JSONL = {
    b"{'title': 1}": "not JSON: Expecting property name enclosed in double quotes at character 2",
    b'{"title": "a", "content": "b"': "not JSON: Expecting ',' delimiter at character 30",
    b"[" * 100_000: "not JSON: maximum recursion depth exceeded while decoding a JSON array from a unicode string",
    b'["a", "b"]': 'expected a JSON object, got ["a", "b"]',
    b"{}": "column content is missing, got none",
    b'{"content": "b", "summary": "a"}': "column title is missing, got content, summary",
    b'{"content": "b", "title": null}': "title must be text, got null",
    b'{"content": ["b"], "title": "a"}': 'content must be text, got ["b"]',
    b'{"content": "b", "title": 2020}': "title must be text, got 2020",
    b'{"content": "b", "title": "\\u0000"}': "title has a NUL character in it",
    b'{"content": "b", "title": "\\ud83d"}': "title has half of a surrogate pair in it",
    b'{"content": "b", "title": "a", "note": "\xb5"}': "not UTF-8, convert the file first",
}
BAD_CSV = {
    b"a": "expected 2 fields (content, title), got 1",
    b"a,b,c": "expected 2 fields (content, title), got 3",
    b'"a"b,c': "not CSV: ',' expected after '\"', read up to line 3",
    b'a,"b\nc': "not CSV: unexpected end of data, read up to line 4",
    b"a,\xff": "not UTF-8, convert the file first",
}


@pytest.mark.parametrize(
    ("name", "good", "line", "reason"),
    [("d.tsv", GOOD, *case) for case in BAD_TSV.items()]
    + [("d.jsonl", to_jsonl([("content", "title"), (CONTENT, TITLE)]), *case) for case in BAD_JSONL.items()]
    + [("d.csv", to_csv([("content", "title"), (CONTENT, TITLE)]), *case) for case in BAD_CSV.items()],
)
def test_bad_line_is_reported_or_counted(write, capsys, name, good, line, reason):
    number = good.count(b"\n") + 1
    path = write(name, good + line)
    assert complaint(path) == f"{name}:{number}: {reason}"

    assert pairs(path, skip_bad_lines=True) == [(CONTENT, TITLE)]
    assert (
        capsys.readouterr().err == f"{path}: examples: 1, bad lines skipped: 1, the first {path}:{number}: {reason}\n"
    )


def test_lines_after_a_bad_one_are_read(write):
    counts = ReadCounts()
    path = write("d.tsv", b"no tab\n" + GOOD + b"\xff\n\xfe\tx\n" + GOOD + "题\t文".encode())
    assert pairs(path, skip_bad_lines=True, counts=counts) == [(CONTENT, TITLE), ("文", "题")]
    assert (counts.examples, counts.duplicates, counts.bad_lines) == (2, 1, 3)
    assert counts.first_bad_line == f"{path}:1: expected 2 fields (title, content), got 1"

    path = write("d.csv", b'title,content\na,"b"c\nd,"e\nf"\n\n1\ng,h\n')
    assert pairs(path, skip_bad_lines=True, counts=counts) == [("e\nf", "d"), ("h", "g")]
    assert (counts.examples, counts.duplicates, counts.bad_lines) == (4, 1, 5), "one object counts several files"
    path.write_bytes(b'title,content\nd,"e\nf"\n\n1\n')
    assert complaint(path) == "d.csv:5: expected 2 fields (title, content), got 1"


def test_counts_given_or_nothing_left_out_is_silent(write, capsys):
    path = write("d.tsv", GOOD * 3)
    pairs(path, counts=ReadCounts())
    pairs(write("e.tsv", GOOD))
    assert capsys.readouterr().err == ""
    pairs(path)
    assert capsys.readouterr().err == f"{path}: examples: 1, duplicates dropped: 2\n"


def test_bad_lines_alone_are_no_data(write):
    reason = "d.tsv holds no example, only lines like d.tsv:2: content is empty"
    assert complaint(write("d.tsv", b"\ta\nb\t\n"), skip_bad_lines=True) == reason


@pytest.mark.parametrize("suffix", [".tsv", ".jsonl", ".csv", ".json"])
def test_byte_order_mark_and_crlf(write, suffix):
    data = WRITERS[suffix](TABLE).replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    assert pairs(write(f"d{suffix}", b"\xef\xbb\xbf" + data)) == [(CONTENT, TITLE), ("文", "题")]


def test_unusual_line_ends_do_not_break_a_line(write):
    """A next-line, a line separator and a lone carriage return occur within scraped text and end no line."""
    content = "甲\u0085乙\u2028丙\r丁"
    assert pairs(write("d.tsv", f"题\t{content}\n".encode())) == [(content, "题")]
    assert pairs(write("d.jsonl", to_jsonl([("title", "content"), ("题", content)]))) == [(content, "题")]
    assert pairs(write("d.csv", f'title,content\r题,"{content}"\r'.encode())) == [(content, "题")], "CSV (Macintosh)"


def test_title_is_one_line_and_content_keeps_its_own(write):
    path = write("d.jsonl", to_jsonl([("title", "content"), (" 一\n种\t ", "\n甲\n\n乙 \n")]))
    assert list(read_examples(path)) == [Example(content="甲\n\n乙", title="一 种")]


@pytest.mark.parametrize(("text", "summary"), PAIRS)
def test_usual_columns_need_no_flags(write, text, summary):
    rows = [("no", summary.upper(), text), ("1", "题", "文")]
    for suffix, writer in WRITERS.items():
        assert pairs(write(f"d{suffix}", writer(rows))) == [("文", "题")]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({}, ("c", "t")),
        ({"summary_column": "summary"}, ("d", "s")),
        ({"text_column": "document"}, ("d", "s")),
        ({"text_column": "abs"}, ("a", "t")),
        ({"text_column": "ABS", "summary_column": "Content"}, ("a", "c")),
        ({"text_column": "title"}, ("t", "s")),
    ],
)
def test_flags_choose_columns(write, flags, expected):
    path = write("d.jsonl", b'{"abs": "a", "title": "t", "content": "c", "document": "d", "summary": "s"}')
    assert pairs(path, **flags) == [expected]


def test_exact_spelling_wins(write):
    path = write("d.jsonl", b'{"TEXT": "1", "Text": "2", "text": "3", "title": "t"}')
    assert [pairs(path, text_column=name)[0][0] for name in ("TEXT", "Text", "text")] == ["1", "2", "3"]


def test_columns_not_found_are_listed(write):
    usual = " or ".join(f"{text}/{summary}" for text, summary in PAIRS)
    flags = "(name others with --text_column and --summary_column)"
    article = "长" * 300
    for name, data, got in [
        ("d.csv", f"{article},题\n文,题\n".encode(), f"{'长' * 24}, 题"),
        ("d.xlsx", to_xlsx([[None, "a b\nc", *"abcdefgh"]]), "(empty), a b c, a, b, c, d, e, f, ..."),
        ("d.jsonl", b'{"abs": "a", "ttl": "b"}', "abs, ttl"),
        ("d.txt", b"abc\n", "content"),
    ]:
        assert complaint(write(name, data)) == f"{name}:1: needs columns {usual} {flags}, got {got}"
    both = {"text_column": "abs", "summary_column": "ttl"}
    assert complaint(write("d.tsv", GOOD), **both).startswith(f"d.tsv:1: needs columns abs/ttl {flags}, got {TITLE}, ")
    assert complaint(write("d.csv", b"title,content,title\n")) == (
        "d.csv:1: columns must have different names, got title twice"
    )
    assert complaint(write("d.csv", "正文,摘要\n".encode("gb18030"))) == (
        "d.csv:1: not UTF-8 but GB18030, convert it with `iconv -f GB18030 -t UTF-8 d.csv > d.utf8.csv`"
    )
    with pytest.raises(OptionError, match="must differ, got abs for both"):
        read_examples(write("d.tsv", GOOD), text_column="abs", summary_column="abs")


def test_tsv_header_is_told_from_a_pair(write):
    assert pairs(write("d.tsv", to_tsv([("content", "id", "title"), ("文", "1", "题")]))) == [("文", "题")]
    assert pairs(write("d.tsv", to_tsv([("abs", "ttl"), ("文", "题")])), text_column="abs", summary_column="ttl") == [
        ("文", "题")
    ]
    assert pairs(write("d.tsv", to_tsv([("title", "文"), ("题", "文")]))) == [("文", "title"), ("文", "题")]
    assert pairs(write("d.tsv", b"\n" + GOOD + b" \n"), text_column="content") == [(CONTENT, TITLE)]


def test_json_list_has_line_numbers(write):
    head = b'\n[{"title": "a",\n  "content": "b"},\n\n'
    for tail, reason in [
        (b"3]", "5: expected a JSON object, got 3"),
        (b'{"title": "c",\n"content": ""}]', "5: content is empty"),
        (b'{"title": "\xff", "content": "d"}]', "5: not UTF-8, convert the file first"),
        (b"]", "5: not JSON: Expecting value: line 5 column 1 (char 37)"),
        (b'{"title": "c", "content": "d"}', "5: not a JSON list: expected , or ], got the end of the file"),
        (b'{"title": "c", "content": "d"}\n{', "6: not a JSON list: expected , or ], got '{'"),
        (b'{"title": "c", "content": "d"}]\n]', "6: not a JSON list: expected nothing more, got ']'"),
    ]:
        assert complaint(write("d.json", head + tail)) == f"d.json:{reason}"
    assert complaint(write("d.json", b'"title"')) == "d.json:1: not a JSON list: expected [, got '\"'"
    assert complaint(write("d.json", b"[ ]\n")) == "d.json holds no example"


def test_json_name_with_an_object_a_line(write):
    assert pairs(write("d.json", to_jsonl(TABLE))) == [(CONTENT, TITLE), ("文", "题")]


def test_long_csv_field(write):
    content = "长文,\n" * 100_000
    assert pairs(write("d.csv", to_csv([("content", "title"), (content, "题")]))) == [(content.strip(), "题")]


def sheet(cells, dimension=""):
    """Return an XLSX file whose sheet is written by hand: `cells` is the XML of its rows."""
    source = zipfile.ZipFile(io.BytesIO(to_xlsx([["x"]])))
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as target:
        for name in source.namelist():
            xml = source.read(name)
            if name == "xl/worksheets/sheet1.xml":
                xml = (
                    '<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main">'
                    f"{dimension}<sheetData>{cells}</sheetData></worksheet>"
                ).encode()
            target.writestr(name, xml)
    return data.getvalue()


def text_row(number, *texts):
    cells = "".join(
        f'<c r="{column}{number}" t="inlineStr"><is><t>{text}</t></is></c>'
        for column, text in zip("ABC", texts, strict=False)
    )
    return f'<row r="{number}">{cells}</row>'


@pytest.mark.parametrize("value", [True, "#N/A", "#REF!", "#DIV/0!"])
def test_xlsx_cells_that_are_no_text(write, value):
    path = write("d.xlsx", to_xlsx([["title", "content", "checked"], ["题", "文", value], ["题", value, "x"]]))
    shown = "true" if value is True else f"{value}, for which a formula has no value"
    assert complaint(path) == f"d.xlsx:3: content must be text, got {shown}"
    assert [text for _, text in read_texts(write("e.xlsx", to_xlsx([["content"], ["文"], [5]])))] == ["文", "5"]


def test_xlsx_sheet_as_other_programs_write_it(write):
    """A wrong size, rows that are not there, numbers, a formula, cells with a format alone."""
    rows = text_row(2, "title", "content") + text_row(5, "题", "文")
    rows += '<row r="6"><c r="A6"><v>2020</v></c><c r="B6"><f>1/2</f><v>0.5</v></c><c r="C6"/></row>'
    rows += '<row r="7"><c r="A7"/></row>'
    path = write("d.xlsx", sheet(rows, '<dimension ref="A1"/>'))
    assert pairs(path) == [("文", "题"), ("0.5", "2020")]
    path = write("d.xlsx", sheet(rows + text_row(9, "只有题")))
    assert complaint(path) == "d.xlsx:9: content is empty"
    path = write("d.xlsx", sheet(rows + text_row(9, "题", "文", "余")))
    assert complaint(path) == "d.xlsx:9: expected 2 fields (title, content), got 3"


def test_damaged_files(write, tmp_path):
    xlsx, packed = to_xlsx(TABLE), gzip.compress(GOOD * 50)
    hollow = sheet(text_row(1, "title", "content") + '<row r="2"><c')
    for name, data in [
        ("a.xlsx", b"no zip"),
        ("b.xlsx", xlsx[: len(xlsx) // 2]),
        ("c.xlsx", b""),
        ("d.xlsx", hollow),
        ("e.xlsx.gz", xlsx),
        ("f.tsv.gz", GOOD),
        ("g.tsv.gz", packed[:-9]),
        ("h.tsv.gz", packed[:10] + b"\xff" + packed[11:]),
    ]:
        assert complaint(write(name, data)).startswith(f"cannot read {name}")
    for name in ("a.tsv", "a.csv", "a.jsonl", "a.txt"):
        assert complaint(write(name, b"\n")).startswith(name)
        assert complaint(write(name, b"")) == f"{name} holds no example"
        with pytest.raises(DataError, match="holds no text"):
            list(read_texts(tmp_path / name))


@pytest.mark.parametrize("read", [read_examples, read_texts])
def test_wrong_path_is_told_at_once(tmp_path, read):
    """At the call, before the first example is asked for."""
    with pytest.raises(DataError, match=r"cannot read .*a\.tsv: No such file"):
        read(tmp_path / "a.tsv")
    (tmp_path / "b.csv").mkdir()
    with pytest.raises(DataError, match=r"cannot read .*b\.csv: Is a directory"):
        read(tmp_path / "b.csv")
    for name in ("a.parquet", "tsv", "a.gz", "a.tsv.bz2"):
        with pytest.raises(DataError, match=r"must end in \.tsv, .*, got .*"):
            read(tmp_path / name)


def test_texts_keep_their_rows(write):
    """Nothing is dropped: an empty text, a repeated one and one without an id have their place in the output."""
    lines = (
        b'{"content": "a", "id": 5}\n\n{"content": " ", "id": null}\n{"content": "a"}\n{"content": "b", "ID": "x"}\n'
    )
    assert list(read_texts(write("d.jsonl", lines))) == [("5", "a"), ("2", ""), ("3", "a"), ("x", "b")]
    assert list(read_texts(write("d.txt", "\n甲\t乙\n\n甲\r\n丙".encode()))) == [
        *[("1", ""), ("2", "甲\t乙"), ("3", ""), ("4", "甲"), ("5", "丙")]
    ]
    assert list(read_texts(write("d.csv", b'content\na\n""\n'))) == [("1", "a"), ("2", "")]


def test_texts_of_a_tsv_file(write):
    assert list(read_texts(write("d.tsv", b"\na\n\nb\n"))) == [("1", ""), ("2", "a"), ("3", ""), ("4", "b")]
    assert list(read_texts(write("d.tsv", b"t\ta\n\n\t\nt\tb\n"))) == [("1", "a"), ("2", ""), ("3", "b")]
    assert list(read_texts(write("d.tsv", b"id\tcontent\nx\ta\n"))) == [("x", "a")]
    assert list(read_texts(write("d.tsv", b"body\na\n"), text_column="body")) == [("1", "a")]
    for data, reason in [
        (b"a\nt\tb\n", r"d\.tsv:2: expected 1 fields \(content\), got 2"),
        (b"t\tb\na\n", r"d\.tsv:2: expected 2 fields \(title, content\), got 1"),
        (b"t\tb\nt\t\0\n", r"d\.tsv:2: content has a NUL character in it"),
    ]:
        with pytest.raises(DataError, match=reason):
            list(read_texts(write("d.tsv", data)))
    with pytest.raises(DataError, match=r"d\.tsv:1: needs columns body \(name others with --text_column\), got t, b"):
        list(read_texts(write("d.tsv", b"t\tb\n"), text_column="body"))


@pytest.mark.parametrize("suffix", [".tsv", ".jsonl", ".csv", ".csv.gz"])
def test_a_long_file_is_not_held_in_memory(write, suffix):
    rows = [("title", "content"), *((f"题{number}", f"{number}" + "文" * 300) for number in range(10_000))]
    data = WRITERS[suffix.removesuffix(".gz")](rows)
    path = write(f"d{suffix}", gzip.compress(data, 1) if suffix.endswith(".gz") else data)
    size = len(data)
    del rows, data
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_examples(path)) == 10_000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < size / 5


@pytest.mark.parametrize("name", ["train", "dev", "test", "extra"])
def test_csl(public_data, name):
    path = public_data / "csl" / f"{name}.tsv"
    lines = path.read_bytes().decode("utf-8").removesuffix("\n").split("\n")
    rows = [tuple(field.strip() for field in line.split("\t")) for line in lines]
    expected = [(content, title) for title, content in dict.fromkeys(rows)]
    counts = ReadCounts()
    assert pairs(path, counts=counts) == expected
    assert counts == ReadCounts(examples=len(expected), duplicates=len(lines) - len(expected))
    assert [text for _, text in read_texts(path)] == [content for _, content in rows]


@pytest.mark.parametrize("name", ["dev", "test"])
def test_lctt(public_data, name):
    path = public_data / "lctt" / f"{name}.jsonl.gz"
    rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    assert pairs(path) == [(row["content"].strip(), " ".join(row["title"].split())) for row in rows]
    counts = ReadCounts()
    summaries = pairs(path, summary_column="summary", skip_bad_lines=True, counts=counts)
    assert len(summaries) == sum(row["summary"] is not None for row in rows)
    assert counts.bad_lines == len(rows) - len(summaries)
