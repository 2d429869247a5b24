"""Pairs written are the pairs read again, in every format; OpenAI's files have the form that it documents."""

import gzip
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from t5_pegasus import read_examples
from t5_pegasus.data.examples import Example, read_texts
from t5_pegasus.data.pair_formats import FORMATS, choose_format, targets, write_pairs
from t5_pegasus.errors import DataError, OptionError

PAIRS = [Example("提出一种“新”的算法。\n第二段", "一种新的算法"), Example('a, "b" and\tc', "题目")]
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).map(
    lambda text: " ".join(text.split())
)


def write(path, name, pairs):
    with write_pairs(path, choose_format(path, name)) as write_pair:
        for pair in pairs:
            write_pair(pair)
    return targets(path, choose_format(path, name)).values()


@pytest.mark.parametrize("name", FORMATS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(texts=st.lists(st.tuples(TEXT, TEXT).filter(lambda pair: all(pair) and pair[0] != pair[1]), min_size=1))
def test_what_is_written_is_read_again(tmp_path, name, texts):
    pairs = [Example(*pair) for pair in texts]
    for path in write(tmp_path / f"pairs{FORMATS[name].suffix}", name, pairs):
        assert list(read_examples(path, keep_duplicates=True)) == pairs


def test_openais_files(tmp_path):
    chat, prompt = write(tmp_path / "train.jsonl", "openai", PAIRS)
    assert (chat.name, prompt.name) == ("train.chat.jsonl", "train.prompt.jsonl")
    assert [json.loads(line) for line in chat.read_text(encoding="utf-8").splitlines()] == [
        {
            "messages": [
                {"role": "user", "content": pair.content},
                {"role": "assistant", "content": pair.title},
            ]
        }
        for pair in PAIRS
    ]
    assert json.loads(prompt.read_text(encoding="utf-8").splitlines()[0]) == {
        "prompt": PAIRS[0].content,
        "completion": PAIRS[0].title,
    }


def test_a_name_in_gz_is_compressed(tmp_path):
    (path,) = write(tmp_path / "a.tsv.gz", None, PAIRS)
    with gzip.open(path, "rt", encoding="utf-8") as file:
        assert file.readline() == "title\tcontent\n"
    assert [pair.content for pair in read_examples(path)] == ["提出一种“新”的算法。 第二段", 'a, "b" and c']
    assert {path.name for path in write(tmp_path / "b.jsonl.gz", "openai", PAIRS)} == {
        "b.chat.jsonl.gz",
        "b.prompt.jsonl.gz",
    }


def test_nothing_is_left_of_a_file_that_was_not_finished(tmp_path):
    path = tmp_path / "a.jsonl"
    with pytest.raises(AttributeError):
        write(path, "openai", [PAIRS[0], None])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("file", "name", "suffixes"), [("a.txt", None, ".jsonl or .tsv"), ("a.tsv", "openai", ".jsonl")]
)
def test_a_name_must_fit_the_format(file, name, suffixes):
    with pytest.raises(OptionError, match=rf"^the file to write must end in {suffixes}, got {file}$"):
        choose_format(file, name)


def test_a_conversation_is_its_last_answer_and_the_message_before_it(tmp_path):
    messages = [
        {"role": "system", "content": "你是编辑。"},
        {"role": "user", "content": "第一篇"},
        {"role": "assistant", "content": "一"},
        {"role": "user", "content": "第二篇"},
        {"role": "assistant", "content": "二"},
    ]
    path = tmp_path / "chat.jsonl"
    path.write_text(json.dumps({"messages": messages}), encoding="utf-8")
    assert list(read_examples(path)) == [Example("第二篇", "二")]
    path.write_text(json.dumps({"messages": messages[:-1]}), encoding="utf-8")
    assert list(read_texts(path)) == [("1", "第二篇")]
    with pytest.raises(DataError, match=r"needs columns .*prompt/completion.* got messages, prompt"):
        list(read_examples(path))
    # Other columns go before, and what is no conversation is as it was.
    path.write_text(json.dumps({"messages": messages, "content": "正文", "title": "题"}), encoding="utf-8")
    assert list(read_examples(path)) == [Example("正文", "题")]
    path.write_text(json.dumps({"messages": ["x"]}), encoding="utf-8")
    with pytest.raises(DataError, match=r"got messages$"):
        list(read_examples(path))
    path = tmp_path / "chat.json"
    path.write_text(json.dumps([{"messages": messages}]), encoding="utf-8")
    assert list(read_examples(path)) == [Example("第二篇", "二")]
