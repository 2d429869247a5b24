"""Reading, splitting and gathering raw documents."""

import ast
import gzip
import importlib.util
import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t5_pegasus.corpus import Document, gather_chunks, read_documents, split_pieces
from t5_pegasus.errors import DataError, OptionError

TEXTS = st.text(alphabet="甲乙a。\n\r \u3000", max_size=200)


def stock_text_segmentate():
    """Return bert4keras's own function, taken out of its file: importing the module would load TensorFlow."""
    folder = importlib.util.find_spec("bert4keras").submodule_search_locations[0]
    module = ast.parse(Path(folder, "snippets.py").read_text(encoding="utf-8"))
    module.body = [node for node in module.body if getattr(node, "name", "") == "text_segmentate"]
    namespace = {}
    exec(compile(module, "snippets.py", "exec"), namespace)
    return namespace["text_segmentate"]


text_segmentate = stock_text_segmentate()


def texts_of(*args, **kwargs):
    return [document.text for document in read_documents(*args, **kwargs)]


@given(TEXTS, st.integers(1, 40))
def test_pieces_are_those_of_bert4keras_without_its_empty_ones(text, length):
    assert split_pieces(text, length) == [piece for piece in text_segmentate(text, length, "\n。") if piece]


@given(TEXTS)
def test_pieces_hold_every_character_but_white_space_once_and_in_order(text):
    assert "".join("".join(split_pieces(text)).split()) == "".join(text.split())


def test_pieces_of_real_articles_are_those_of_bert4keras(public_data):
    for text in texts_of(public_data / "lctt" / "dev.jsonl.gz"):
        assert split_pieces(text) == text_segmentate(text, 32, "\n。")


@given(st.lists(st.text("甲乙", min_size=1, max_size=30), max_size=40), st.integers(1, 100))
def test_chunks_hold_the_pieces_in_order_and_only_a_short_end_is_dropped(pieces, max_chars):
    chunks = list(gather_chunks(pieces, max_chars))
    kept = [piece for chunk in chunks for piece in chunk]
    assert kept == pieces[: len(kept)]
    assert len(pieces) - len(kept) < 3
    assert all(len(chunk) == 3 or (len(chunk) > 3 and len("".join(chunk)) <= max_chars) for chunk in chunks)
    # A chunk ends only where the next piece would not have fitted.
    firsts = [chunk[0] for chunk in chunks[1:]]
    assert all(len("".join(chunk)) + len(first) > max_chars for chunk, first in zip(chunks, firsts, strict=False))


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
    assert documents[-1].end == (len(data) if name == "-" else path.stat().st_size)


def test_standard_input_of_plain_lines(monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO("一\n二\n".encode())))
    assert texts_of("-") == ["一\n", "二\n"]


def test_text_column_is_taken_before_the_usual_names(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"content": "甲", "body": "乙"}\n', encoding="utf-8")
    assert list(read_documents(path, "body")) == [Document(f"{path}:1", "乙", path.stat().st_size)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"content": "a"', "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b'["content"]', "must be a JSON object, got list"),
        (b'{"title": "a", "id": 1}', "no column content or text or 正文 or document, got title, id"),
        (b'{"content": null}', "content must be text, got NoneType"),
        (rb'{"content": "a\ud83d"}', "content holds half a character"),
        (b'{"content": "\xff"}', "not UTF-8"),
    ],
)
def test_bad_lines_are_named_or_handed_over(tmp_path, line, reason):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"content": "first"}\n' + line + b'\n{"content": "last"}\n')
    with pytest.raises(DataError) as caught:
        list(read_documents(path))
    assert str(caught.value).startswith(f"{path}:2: {reason}")
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
