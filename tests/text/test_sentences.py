"""Splitting texts and gathering what comes of it."""

import ast
import importlib.util
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t5_pegasus.data.documents import read_documents
from t5_pegasus.text.sentences import gather_chunks, split_pieces, split_sentences

TEXTS = st.text(alphabet="甲乙a。\n\r \u3000", max_size=200)
MIXED = st.text(alphabet="甲乙aB1。！？；…,.!?“”‘’「」\"'（）() \n\r\t\u3000", max_size=60)


def stock_text_segmentate():
    """Return bert4keras's own function, taken out of its file: importing the module would load TensorFlow."""
    folder = importlib.util.find_spec("bert4keras").submodule_search_locations[0]
    module = ast.parse(Path(folder, "snippets.py").read_text(encoding="utf-8"))
    module.body = [node for node in module.body if getattr(node, "name", "") == "text_segmentate"]
    namespace = {}
    exec(compile(module, "snippets.py", "exec"), namespace)
    return namespace["text_segmentate"]


text_segmentate = stock_text_segmentate()


@pytest.mark.parametrize(
    "text",
    [
        "今天下雨。|我没出门！|真的？！|是的；|算了……|完",
        "他说：“你好。”|然后走了。|“去哪？”|她问。",
        "『甲。』|「乙！」|（丙。）|丁",
        "他问“为什么？！”。|没人答。",
        "圆周率是3.14，约3.1416。|版本2.0.1用Node.js写成。|完了.|它说",
        "See e.g. this. |Dr. Wang met J. Smith of the U.S. Army! |OK? |Go.",
        "链接是http://a.b/?c=d&e!f，点它。|好",
        "1. 安装\n|2. 运行\n\n|完",
        'He said "Go." |Then left. |他说。|"你好。"|她笑了。',
        "Wait... |what?! |no.5 and a...b stay",
        "第一行\r\n|第二行\n|　　第三行",
        "。。。|",
        "",
    ],
)
def test_sentences_by_hand(text):
    expected = [sentence for sentence in text.split("|") if sentence]
    assert split_sentences(text.replace("|", "")) == expected


@given(MIXED | st.text(max_size=80))
def test_no_character_of_a_sentence_is_lost_or_doubled(text):
    sentences = split_sentences(text)
    assert "".join(sentences) == text
    assert all(sentences)


def test_no_character_of_real_articles_is_lost_or_doubled(public_data):
    for document in read_documents(public_data / "lctt" / "dev.jsonl.gz"):
        sentences = split_sentences(document.text)
        assert "".join(sentences) == document.text
        assert max(map(len, sentences)) < 2000


@pytest.mark.parametrize("text", [" " * 100_000, "\n " * 50_000, "\"'" * 20_000, "。”" * 50_000, "a.b" * 50_000])
def test_long_runs_take_no_time(text):
    assert "".join(split_sentences(text)) == text


@given(TEXTS, st.integers(1, 40))
def test_pieces_are_those_of_bert4keras_without_its_empty_ones(text, length):
    assert split_pieces(text, length) == [piece for piece in text_segmentate(text, length, "\n。") if piece]


@given(TEXTS)
def test_pieces_hold_every_character_but_white_space_once_and_in_order(text):
    assert "".join("".join(split_pieces(text)).split()) == "".join(text.split())


def test_pieces_of_real_articles_are_those_of_bert4keras(public_data):
    for document in read_documents(public_data / "lctt" / "dev.jsonl.gz"):
        assert split_pieces(document.text) == text_segmentate(document.text, 32, "\n。")


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
