"""The title that is nearest to the others, against a slow version and known titles."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import test as write_titles
from t5_pegasus import AutoTitle, metrics
from t5_pegasus.decoding.rerank import mbr
from t5_pegasus.errors import OptionError
from t5_pegasus.locations import TINY_MODEL_DIR

SAMPLING = {"do_sample": True, "temperature": 2.0, "seed": 3, "num_return_sequences": 6, "max_new_tokens": 10}


def test_the_title_that_others_resemble_is_kept():
    titles = ["单车需求的经济学", "图网络单车需求预测", "基于图网络的单车需求预测", "图网络单车预测"]
    assert mbr(titles) == 1
    assert mbr(["甲乙", "丙丁", "丙丁"]) == 1  # a title that was drawn twice counts twice
    assert mbr(["甲乙", "丙丁"]) == 0  # no other is nearer: the model's best
    assert mbr(["", ""]) == 0
    assert mbr(["甲"]) == 0


@given(st.lists(st.text("甲乙丙丁", max_size=5), min_size=1, max_size=5))
def test_mbr_equals_a_loop_over_all_pairs(titles):
    likeness = []
    for index, title in enumerate(titles):
        others = [metrics.score([title], [other]) for number, other in enumerate(titles) if number != index]
        likeness.append(sum(sum(each[name] for name in ("rouge-1", "rouge-2", "rouge-l")) for each in others))
    assert likeness[mbr(titles)] == pytest.approx(max(likeness))


def test_one_of_the_titles_drawn_is_kept(sample_pairs, capsys):
    title = AutoTitle.load(TINY_MODEL_DIR)
    content = sample_pairs[0].content[:60]
    drawn = [each.text for each in title.generate_n_best([content], **SAMPLING)[0]]
    assert len(set(drawn)) > 2
    ((kept,),) = title.generate_n_best([content], rerank="mbr", **SAMPLING)
    assert kept.text == drawn[mbr(drawn)]
    assert title.generate(content, rerank="mbr", **SAMPLING) == kept.text
    flags = [word for name, value in SAMPLING.items() if name != "do_sample" for word in (f"--{name}", value)]
    command = [content, "--model_dir", TINY_MODEL_DIR, "--do_sample", "--rerank", "mbr", *flags]
    assert write_titles.main([str(word) for word in command]) == 0
    assert capsys.readouterr().out.splitlines() == [kept.text]


def test_there_must_be_something_to_choose_from():
    with pytest.raises(OptionError, match="rerank needs num_return_sequences above 1, got 1"):
        write_titles.main(["正文", "--model_dir", str(TINY_MODEL_DIR), "--rerank", "mbr"])
    with pytest.raises(OptionError, match="rerank must be one of none, mbr, got best"):
        AutoTitle.load(TINY_MODEL_DIR).generate("正文", rerank="best")
