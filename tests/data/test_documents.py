"""Reading raw documents, whole and in blocks."""

import gzip
import io
import json
import re
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t5_pegasus.data.documents import Document, block_documents, list_files, read_blocks, read_documents
from t5_pegasus.errors import DataError, OptionError


def texts_of(*args, **kwargs):
    return [document.text for document in read_documents(*args, **kwargs)]


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.jsonl", "a.jsonl.gz", "-"])
def test_every_format_gives_the_same_documents(tmp_path, monkeypatch, name):
    texts = ["第一篇。\u2028仍是第一篇", "第二篇", "第三篇"]
    if name.startswith("a.txt"):
        lines = texts
    else:
        columns = [{"title": "题", "content": texts[0]}, {"text": texts[1]}, {"正文": texts[2]}]
        lines = [json.dumps(record, ensure_ascii=False) for record in columns]
    # A byte order mark, a blank line and Windows line ends are no part of any document.
    data = b"\xef\xbb\xbf" + "\r\n".join([lines[0], "", *lines[1:]]).encode()
    if name == "-":
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))
        path = name
    else:
        path = tmp_path / name
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    documents = list(read_documents(path))
    assert [document.text.rstrip() for document in documents] == texts
    label = "standard input" if name == "-" else path
    assert [str(document) for document in documents] == [f"{label}:{number}" for number in (1, 3, 4)]


def test_standard_input_of_plain_lines(monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO("一\n二\n".encode())))
    assert texts_of("-") == ["一\n", "二\n"]


def test_text_column_is_taken_before_the_usual_names(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"content": "甲", "body": "乙"}\n', encoding="utf-8")
    assert list(read_documents(path, "body")) == [Document(f"{path}:1", "乙")]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"content": "a"', "not JSON: Expecting ',' delimiter at character"),
        (b"[" * 100_000, "not JSON: maximum recursion depth exceeded"),
        (b'["content"]', r'expected a JSON object, got \["content"\]'),
        (
            b'{"title": "a", "id": 1}',
            r"needs columns content or text or .* with --text_column\), got title, id",
        ),
        (b'{"content": null}', "content must be text, got null"),
        (rb'{"content": "a\ud83d"}', "content has half of a surrogate pair in it"),
        (b'{"content": "\xff"}', "not UTF-8"),
    ],
)
def test_bad_lines_are_named_or_handed_over(tmp_path, line, reason):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"content": "first"}\n' + line + b'\n{"content": "last"}\n')
    with pytest.raises(DataError) as caught:
        list(read_documents(path))
    assert re.match(rf"{path}:2: {reason}.*; --skip_bad_lines goes on without such lines$", str(caught.value))
    bad = []
    assert texts_of(path, on_bad_line=bad.append) == ["first", "last"]
    assert [str(error) for error in bad] == [str(caught.value)]


def test_files_that_cannot_be_read(tmp_path):
    for name, content in {
        "cut.jsonl.gz": gzip.compress(b'{"content": "a"}\n' * 1000)[:-20],
        "no.txt.gz": b"not gzip",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=f"cannot read .*{name}"):
            list(read_documents(tmp_path / name))
    (tmp_path / "folder.txt").mkdir()
    for name in ("missing.txt", "folder.txt"):
        with pytest.raises(DataError, match=f"cannot read .*{name}"):
            list(read_documents(tmp_path / name))
    with pytest.raises(OptionError, match=r"got a\.pdf"):
        list(read_documents("a.pdf"))
    with pytest.raises(OptionError, match=r"text_column is for \.jsonl"):
        list(read_documents("a.txt", "content"))


# Folders, paragraphs and blocks


def test_a_folder_is_its_files_by_name(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "1.txt").write_text("三\n四\n", encoding="utf-8")
    (tmp_path / "a.jsonl").write_text('{"text": "一"}\n', encoding="utf-8")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress("二".encode()))
    (tmp_path / "notes.md").write_text("无", encoding="utf-8")
    # "b.txt.gz" stands before "b/1.txt": a stop sorts before a slash.
    assert [text.strip() for text in texts_of(tmp_path)] == ["一", "二", "三", "四"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no file in .*empty ends in \.txt, \.jsonl"):
        texts_of(tmp_path / "empty")
    with pytest.raises(OptionError, match=r"text_column is for \.jsonl files, got 'x' for .*1\.txt"):
        texts_of(tmp_path / "b", "x")


def test_a_folder_s_files_are_taken_once_under_any_name(tmp_path):
    corpus, elsewhere = tmp_path / "corpus", tmp_path / "elsewhere"
    for folder in (corpus / "a", corpus / ".ipynb_checkpoints", elsewhere):
        folder.mkdir(parents=True)
    (corpus / "a" / "1.TXT").write_text("一", encoding="utf-8")
    (corpus / "a" / "2.txt.GZ").write_bytes(gzip.compress("二".encode()))
    (corpus / "3.JSONL").write_text('{"text": "三"}', encoding="utf-8")
    (corpus / ".ipynb_checkpoints" / "1.txt").write_text("一", encoding="utf-8")
    (corpus / ".hidden.txt").write_text("零", encoding="utf-8")
    (elsewhere / "4.txt").write_text("四", encoding="utf-8")
    (corpus / "a" / "up").symlink_to(corpus, target_is_directory=True)
    (corpus / "z").symlink_to(elsewhere, target_is_directory=True)
    (corpus / "newest.txt").symlink_to(elsewhere / "4.txt")
    (corpus / "data.json").write_text("[]", encoding="utf-8")
    (corpus / "gone.txt").symlink_to(corpus / "nothing.txt")
    others = []
    assert sorted(texts_of(corpus)) == ["一", "三", "二", "四"]
    list_files(corpus, on_other_file=others.append)
    assert others == [str(corpus / "data.json"), str(corpus / "gone.txt")]
    blocks = [[document.text for document in block_documents(block)] for block in read_blocks(corpus)]
    assert sorted(text for texts in blocks for text in texts) == ["一", "三", "二", "四"]


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "-"])
def test_documents_set_apart_by_blank_lines(tmp_path, monkeypatch, name):
    data = "\ufeff第一段\r\n还是第一篇\r\n \t\r\n\n第二篇\n\n\n第三篇\n完".encode()
    if name == "-":
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))
        path = name
    else:
        path = tmp_path / name
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    documents = list(read_documents(path, document_separator="blank_line"))
    assert [document.text.split() for document in documents] == [["第一段", "还是第一篇"], ["第二篇"], ["第三篇", "完"]]
    assert [document.name.rsplit(":")[-1] for document in documents] == ["1", "5", "8"]


@given(
    st.lists(st.sampled_from([b"\n", b" \r\n", "甲\n".encode(), "乙乙乙乙\n".encode(), b"c\r\n"]), max_size=30),
    st.booleans(),
    st.integers(1, 40),
    st.sampled_from(["line", "blank_line"]),
    st.sampled_from([".txt", ".txt.gz"]),
)
def test_blocks_hold_every_document_once_and_in_order(tmp_path_factory, lines, at_end, size, separator, suffix):
    data = b"".join(lines) + (b"" if at_end else "末".encode())
    path = tmp_path_factory.mktemp("blocks") / f"a{suffix}"
    path.write_bytes(gzip.compress(data) if suffix.endswith(".gz") else data)
    expected = [document.text for document in read_documents(path, document_separator=separator)]
    for split_gzip in (True, False):
        blocks = list(read_blocks(path, None, separator, split_gzip, size))
        assert [block.number for block in blocks] == list(range(len(blocks)))
        found = [[document.text for document in block_documents(block, None, None, separator)] for block in blocks]
        assert [text for texts in found for text in texts] == expected
        if suffix == ".txt":
            assert [block.start for block in blocks] == [0, *(block.end for block in blocks)][: len(blocks)]
            assert len(blocks) >= len(data) // (size + 60)


def test_a_bad_line_of_a_later_block_is_named_by_its_line(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "甲"}\n' * 50 + "bad\n" + '{"text": "乙"}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.jsonl:51: not JSON"):
        [list(block_documents(block)) for block in read_blocks(path, block_bytes=100)]


def test_standard_input_is_refused_where_others_must_read_it():
    with pytest.raises(OptionError, match="files that every worker can read with --runner spark, got -"):
        list(read_blocks("-", split_gzip=False))
