"""Each rule that shortens a sentence, alone and together."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from t5_pegasus.errors import OptionError
from t5_pegasus.metrics import score
from t5_pegasus.systems.compress import compress
from t5_pegasus.systems.spec import parse_spec
from t5_pegasus.systems.table import make_system


@pytest.mark.parametrize(
    ("text", "title"),
    [
        # What is before 提出了, and parentheses, are dropped.
        ("单车很多。针对调度问题，本文提出了一种图网络（GNN）预测方法。", "一种图网络预测方法"),
        # 提出 goes before the other cues, wherever it stands; 设计 alone, without 了 or 一种, is none.
        ("设计了一个平台。最后提出三条建议。", "三条建议"),
        ("设计方案很多。本文分析了成本。", "成本"),
        ("系统的设计与实现。主要研究调度。", "调度"),
        # Subordinate clauses are dropped; if there is no other, the last is taken.
        ("提出新算法，利用缓存，并给出证明，效果很好。", "新算法，效果很好"),
        ("提出为了省电，通过休眠。", "通过休眠"),
        # Without a cue, the sentence is the most central one, and its lead-in phrase goes.
        ("天气很热。研究表明，图网络预测有效。图网络预测很准。", "图网络预测有效"),
        ("结果表明", "结果表明"),
        ("", ""),
    ],
)
def test_a_rule(text, title):
    assert compress(text, 30) == title


def test_a_title_is_cut_where_it_can_be():
    text = "提出基于图注意力网络的共享单车短时需求预测与调度方法，误差小。"
    assert compress(text, 30) == "基于图注意力网络的共享单车短时需求预测与调度方法，误差小"
    assert compress(text, 27) == "基于图注意力网络的共享单车短时需求预测与调度方法"
    assert compress(text, 20) == "基于图注意力网络的共享单车短时需求预测"
    assert compress(text, 12) == "基于图注意力网络"
    assert compress(text, 3) == "基于图"


@given(st.text("提出了设计，。（）的一种和为了图网络", max_size=60), st.integers(1, 20))
@example("。）一", 1)
@example("提出，。一", 1)
@example("结果。一", 1)
def test_a_title_fits_and_is_of_the_text(text, length):
    title = compress(text, length)
    assert len(title) <= length
    assert set(title) <= set(text) | {"，"}
    assert bool(title) == any(each not in "，。（）" for each in re.sub("（[^（）]*）", "", text))


def test_rules_write_better_titles_than_the_first_clause(public_data):
    from t5_pegasus import read_examples

    pairs = list(read_examples(public_data / "csl" / "dev.tsv"))
    found = score([compress(pair.content, 30) for pair in pairs], [pair.title for pair in pairs])
    assert found["rouge-l"] > 0.45


def test_wrong_options_are_named():
    with pytest.raises(OptionError, match="max_length must be at least 1, got 0"):
        make_system(parse_spec("compress?max_length=0"))
    with pytest.raises(OptionError, match="compress has no target"):
        make_system(parse_spec("compress:x"))
