"""Cleaning and the keys by which duplicates are found."""

import random
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t5_pegasus.data.cleaning import CleaningConfig, clean, exact_keys, near_keys
from t5_pegasus.errors import OptionError

WEB_PAGE = """首页 | 新闻 | 体育
来源：某某日报
责任编辑：张三
这是第一段，编辑部的故事在这里展开，作者是谁并不重要。
点击查看更多
下载这个程序，再注册一个账号，就可以登录了。
长按识别二维码
关注我们的微信公众号
上一篇：另一篇文章
分享到微博
Copyright © 2024 某某网 版权所有
未经本网授权不得转载
"""


def test_boilerplate_lines_go_and_text_stays():
    config = CleaningConfig()
    text, taken = clean(WEB_PAGE, config)
    assert text.splitlines() == [WEB_PAGE.splitlines()[3], WEB_PAGE.splitlines()[5]]
    assert taken["boilerplate"] == 10
    assert clean(WEB_PAGE, CleaningConfig(clean="no")) == (WEB_PAGE, {})
    long = "本文转载请注明出处。" * 9
    assert clean(long, config)[0] == long, "a long line is text, whatever it says"


def test_own_boilerplate_pattern():
    text, taken = clean("甲\n【广告】乙\n丙", CleaningConfig(boilerplate_pattern="^【广告】"))
    assert text == "甲\n丙"
    assert taken["boilerplate"] == 1


def test_control_characters_go_and_white_space_stays():
    text, taken = clean("\ufeff甲\x00\u200b乙\t\r\n\u3000丙\x7f👨\u200d👩", CleaningConfig())
    assert text == "甲乙\t\r\n\u3000丙👨\u200d👩"
    assert taken["control"] == 4


@given(st.text())
def test_cleaning_takes_only_what_it_counts_and_is_done_once(text):
    config = CleaningConfig(clean="control")
    cleaned, taken = clean(text, config)
    assert len(cleaned) + taken["control"] == len(text)
    assert clean(cleaned, config) == (cleaned, {"control": 0})


@pytest.mark.parametrize(
    "line", ["登录" + "," * 70, "首页" + "|甲" * 38, "分享到" * 26, "：" * 80, "点击" + "全文" * 38]
)
def test_no_line_takes_long(line):
    clean((line + "\n") * 500, CleaningConfig())


def articles(count, length=300):
    rng = random.Random(0)
    return ["".join(chr(0x4E00 + rng.randrange(2000)) for _ in range(length)) for _ in range(count)]


def change(text, characters):
    rng = random.Random(1)
    letters = list(text)
    for place in rng.sample(range(len(text)), characters):
        letters[place] = "改"
    return "".join(letters)


def test_exact_keys_see_through_white_space_only():
    config = CleaningConfig()
    assert exact_keys("甲 乙\n丙", config) == exact_keys("甲乙丙\n", config)
    assert exact_keys("甲乙丙", config) != exact_keys("甲乙丁", config)
    assert [len(key) for key in exact_keys("甲", config)] == [16]


def test_near_keys_are_shared_by_texts_that_are_alike():
    config = CleaningConfig(deduplicate="near")
    texts = articles(40)
    keys = [set(near_keys(text, config)) for text in texts]
    # One character in 300 leaves 295 of 301 runs of five: Jaccard similarity 0.97; thirty leave less than half.
    assert all(not keys[i].isdisjoint(near_keys(change(text, 1), config)) for i, text in enumerate(texts))
    assert sum(not keys[i].isdisjoint(near_keys(change(text, 60), config)) for i, text in enumerate(texts)) == 0
    assert all(keys[i].isdisjoint(keys[j]) for i in range(40) for j in range(i))
    assert near_keys(texts[0], config) == near_keys(" ".join(texts[0]), config)
    for short in ("", "甲", "甲乙丙丁戊"):
        assert near_keys(short, config) == near_keys(short, config)


def test_a_higher_threshold_asks_for_more():
    text = articles(1)[0]
    counts = []
    for threshold in (0.3, 0.6, 0.9):
        config = CleaningConfig(deduplicate="near", near_duplicate_threshold=threshold)
        keys = set(near_keys(text, config))
        counts.append(sum(not keys.isdisjoint(near_keys(change(text, n), config)) for n in range(2, 60, 2)))
    assert counts[0] > counts[1] > counts[2]


def test_errors_name_the_rule_and_the_value(monkeypatch):
    for name, value in (
        ("clean", "soap"),
        ("deduplicate", "all"),
        ("min_document_length", -1),
        ("near_duplicate_threshold", 1.1),
        ("near_duplicate_threshold", float("nan")),
    ):
        with pytest.raises(OptionError, match=f"{name} must be .*, got {value}"):
            CleaningConfig(**{name: value})
    with pytest.raises(OptionError, match=r"boilerplate_pattern must be a regular expression \(.*\), got \("):
        CleaningConfig(boilerplate_pattern="(")
    monkeypatch.setitem(sys.modules, "datasketch", None)
    with pytest.raises(OptionError, match=r'pip install "t5-pegasus\[corpus\]"'):
        CleaningConfig(deduplicate="near", near_duplicate_threshold=0.77)
