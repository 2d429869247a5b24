"""Columns and lines are the same for every reader: what works for a corpus works for pairs, texts and predictions."""

import gzip
import json

import pytest

from t5_pegasus.data.documents import read_documents
from t5_pegasus.data.examples import read_examples, read_texts
from t5_pegasus.data.predictions import read_predictions
from t5_pegasus.data.records import PAIRS, choose_columns, find_columns, sought_pairs, sought_texts
from t5_pegasus.errors import DataError
from t5_pegasus.text.lines import LineError

READERS = {
    "documents": lambda path: [document.text for document in read_documents(path)],
    "texts": lambda path: [text for _, text in read_texts(path)],
    "examples": lambda path: [example.content for example in read_examples(path)],
    "predictions": read_predictions,
}


def write(path, *lines):
    path.write_bytes(b"\xef\xbb\xbf" + b"\n".join(lines) + b"\n")
    return path


@pytest.mark.parametrize("spell", [str, str.upper, str.title, lambda name: f" {name} "])
@pytest.mark.parametrize(("text", "summary"), PAIRS)
def test_usual_columns_are_found_by_every_reader(tmp_path, text, summary, spell):
    path = tmp_path / "a.jsonl"
    write(path, json.dumps({spell(text): "文", spell(summary): "题", "id": "1"}).encode())
    assert {name: READERS[name](path) for name in ("documents", "texts", "examples")} == {
        "documents": ["文"],
        "texts": ["文"],
        "examples": ["文"],
    }


@pytest.mark.parametrize("name", READERS)
def test_case_of_a_file_name_makes_no_difference(tmp_path, name):
    line = '{"text": "文", "title": "题"}\n'.encode()
    for suffix in (".jsonl.gz", ".JSONL.GZ", ".Jsonl.gZ"):
        path = tmp_path / f"a{suffix}"
        path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + line))
        assert READERS[name](path) == ["题" if name == "predictions" else "文"]


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "a"', "not JSON: Expecting ',' delimiter at character"),
        (
            b"[" * 100_000,
            "not JSON: maximum recursion depth exceeded while decoding a JSON array from a unicode string",
        ),
        (b"[1]", "expected a JSON object, got [1]"),
        (b'{"text": 1, "title": 1}', "{column} must be text, got 1"),
        (b'{"text": "a", "title": "\xff"}', "not UTF-8, convert the file first"),
        (b'{"text": "\xff"', "not UTF-8, convert the file first"),
    ],
)
def test_a_line_that_cannot_be_used_has_one_error(tmp_path, name, line, reason):
    path = write(tmp_path / "a.jsonl", b'{"text": "b", "title": "c"}', b"", line)
    with pytest.raises(DataError) as caught:
        READERS[name](path)
    message = str(caught.value).removesuffix("; --skip_bad_lines goes on without such lines")
    column = "title" if name == "predictions" else "text"
    assert message.startswith(f"{path}:3: {reason.replace('{column}', column)}")


def test_a_corpus_s_text_goes_before_the_name_of_its_source():
    assert find_columns(sought_texts(), ["source", "Text"]) == ("Text",)
    assert find_columns(sought_texts("Source"), ["source", "text"]) == ("source",)
    assert find_columns(sought_texts("body"), ["source", "text"]) == ()


def test_one_name_that_is_given_finds_its_partner():
    names = ["abs", "title", "content", "document", "summary"]
    assert choose_columns(names, sought_pairs()) == ("content", "title")
    assert choose_columns(names, sought_pairs("document")) == ("document", "summary")
    assert choose_columns(names, sought_pairs(None, "summary")) == ("document", "summary")
    assert choose_columns(names, sought_pairs("abs", "content")) == ("abs", "content")
    with pytest.raises(LineError, match=r"^needs columns abs/ttl \(name others with .*\), got abs, title, content, d"):
        choose_columns(names, sought_pairs("abs", "ttl"))
