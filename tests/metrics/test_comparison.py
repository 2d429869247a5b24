"""The scores of a comparison against sacrebleu, nltk and obvious versions of themselves."""

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from sacrebleu.metrics import BLEU, CHRF

from t5_pegasus import metrics
from t5_pegasus.metrics import LANGUAGES, english
from t5_pegasus.metrics.bleu import bleu_of_several
from t5_pegasus.metrics.chrf import chrf_counts, chrf_of_counts
from t5_pegasus.metrics.comparison import COMPARED, CORPUS_SCORES, Case, corpus_measures, score_case, text_measures
from t5_pegasus.metrics.copying import copying, copying_of_words, repetition, repetition_of_words
from t5_pegasus.metrics.corpus import bleu_counts, bleu_of_counts
from t5_pegasus.metrics.invention import invented, invented_in_english

texts = st.text("甲乙丙AaB1 。", max_size=14)
filled = texts.filter(str.strip)


@given(texts, st.lists(filled, min_size=1, max_size=3))
@settings(max_examples=200)
def test_chrf_of_a_text_is_sacrebleus(title, references):
    found = chrf_of_counts(np.array(chrf_counts(title, references), float))
    assert 100 * found == pytest.approx(CHRF().sentence_score(title, references).score, abs=1e-9)


@given(st.lists(st.tuples(texts, filled, filled), min_size=1, max_size=5))
@settings(max_examples=60)
def test_corpus_scores_are_sacrebleus(rows):
    titles, first, second = (list(column) for column in zip(*rows, strict=True))
    measures, signatures = corpus_measures([titles], list(zip(first, second, strict=True)))
    for measure, metric in zip(measures, (BLEU(tokenize="zh"), CHRF()), strict=True):
        found = measure.of_sums(measure.totals.sum(axis=1))
        assert 100 * found[0] == pytest.approx(metric.corpus_score(titles, [first, second]).score, abs=1e-9)
    assert signatures[0].startswith("corpus-bleu|nrefs:2|case:mixed|eff:no|tok:zh|smooth:exp|")
    assert [measure.name for measure in measures] == [score.name for score in CORPUS_SCORES]


@given(st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=4), min_size=1, max_size=4))
def test_corpus_bleu_is_smoothed_as_sacrebleu_smooths(rows):
    """Matches that no text has, such as none of two characters but one of three."""
    totals = [9, 8, 7, 6]
    for correct in rows:
        score = BLEU.compute_bleu(list(correct), list(totals), 9, 11, smooth_method="exp").score
        assert 100 * bleu_of_counts(np.array([9, 11, *correct, *totals], float)) == pytest.approx(score, abs=1e-9)


def test_counts_of_texts_are_those_of_sacrebleu():
    counts, _ = bleu_counts(["甲乙丙", "a b"], [("甲乙丁", "甲"), ("b",)])
    assert counts == [[3, 3, 2, 1, 0, 0, 3, 2, 1, 0], [2, 1, 1, 0, 0, 0, 2, 1, 0, 0]]


@given(filled, st.lists(filled, min_size=1, max_size=3))
@settings(max_examples=200)
def test_bleu_against_several_references_is_nltks(title, references):
    split = [" ".join(text).lower().split(" ") for text in (title, *references)]
    expected = sentence_bleu(split[1:], split[0], smoothing_function=SmoothingFunction().method1)
    assert bleu_of_several(title, references)["bleu"] == pytest.approx(expected, abs=1e-12)


def slow_copying(title, source):
    title, source = ("".join(text.lower().split()) for text in (title, source))
    spans = [(start, end) for start in range(len(title)) for end in range(start + 1, len(title) + 1)]
    common = [(start, end) for start, end in spans if title[start:end] in source]
    covered, start = 0, 0
    while start < len(title):
        length = max((end - begin for begin, end in common if begin == start), default=0)
        covered += length if length > 1 else 0
        start += max(1, length)
    novel = {}
    for order in range(1, 5):
        ngrams = [title[begin:end] for begin, end in spans if end - begin == order]
        novel[f"novel-{order}"] = sum(each not in source for each in ngrams) / len(ngrams) if ngrams else 0
    longest = max((end - begin for begin, end in common), default=0)
    return {**novel, "copied": covered / len(title) if title else 0, "longest-copy": longest}


@given(texts, st.text("甲乙丙AaB1 。", max_size=30))
@settings(max_examples=200)
def test_what_is_copied_equals_a_slow_search(title, source):
    assert copying(title, source) == pytest.approx(slow_copying(title, source))


def test_what_is_copied_of_a_known_title():
    assert copying("分层免疫算法研究", "本文提出一种分层的免疫算法。") == {
        **{"novel-1": 2 / 8, "novel-2": 3 / 7, "novel-3": 4 / 6, "novel-4": 4 / 5},
        **{"copied": 6 / 8, "longest-copy": 4},
    }


@pytest.mark.parametrize(
    ("title", "share"), [("甲乙丙丁甲乙丙丁", 1 / 5), ("甲甲甲甲甲甲", 2 / 3), ("甲乙丙丁戊", 0), ("甲", 0), ("", 0)]
)
def test_repetition(title, share):
    assert repetition(title)["repetition"] == pytest.approx(share)


@pytest.mark.parametrize(
    ("title", "source", "expected"),
    [
        ("３种方法提升15.0%", "三种方法提升15%", [["15.0"], [], []]),
        ("1,200人与2035年", "一千二百人，展望二〇三五年", [[], [], []]),
        ("3.5万台", "三万五千台", [["3.5"], [], []]),
        ("16项", "2016年", [["16"], [], []]),
        ("基于BERT与LSTM的模型", "采用 Bert 和 BiLSTM", [[], [], []]),
        ("GPT-4与C++", "gpt4", [[], ["gpt-4", "c++"], []]),
        ("《红楼梦》与“好了 歌”", "红楼梦里的好了歌", [[], [], []]),
        ("《水浒传》读后", "红楼梦", [[], [], ["水浒传"]]),
        ("十二个月", "一年", [[], [], []]),
    ],
)
def test_what_is_invented(title, source, expected):
    assert list(invented(title, source).values()) == expected


@pytest.mark.parametrize(
    ("number", "value"),
    [
        ("十", 10),
        ("二十三", 23),
        ("三百零五", 305),
        ("两万", 20_000),
        ("一亿二千万", 120_000_000),
        ("三万亿", 3 * 10**12),
        ("二〇二六", 2026),
    ],
)
def test_a_chinese_number_of_the_text_is_not_invented(number, value):
    assert invented(f"{value}个", f"{number}个")["invented-numbers"] == []
    assert invented(f"{value + 1}个", f"{number}个")["invented-numbers"] == [str(value + 1)]


@given(st.text("零一二两十百千万亿", min_size=1, max_size=8))
def test_any_run_of_chinese_digits_can_be_read(number):
    invented("1", number)


def test_the_best_reference_counts_and_one_is_as_score(sample_pairs):
    pair = sample_pairs[0]
    title = pair.content[:15]
    alone = score_case(Case(title, (pair.title,), pair.content))
    assert {name: alone[name] for name in metrics.score_names()} == metrics.score([title], [pair.title])
    several = score_case(Case(title, (pair.title, title), pair.content))
    assert (several["exact"], several["rouge-l"], several["length-ratio"]) == (1, pytest.approx(1), 1)
    assert alone["exact"] == 0


@pytest.mark.parametrize("language", LANGUAGES)
def test_rows_say_what_they_score(language):
    groups = COMPARED[language].groups
    scores = score_case(Case("甲1 a", ("甲 a",), "乙 b"), language)
    assert list(scores) == [score.name for group in groups for score in group.scores]
    assert all(0 <= scores[score.name] <= 1 for group in groups for score in group.scores if score.is_share)
    assert all(re.match(r"[a-z-]+\|", group.describe()) for group in groups)
    json.dumps(scores)


def test_every_language_of_scores_is_compared():
    assert list(COMPARED) == list(LANGUAGES)


@pytest.mark.parametrize("language", LANGUAGES)
def test_an_empty_title_has_no_score_and_no_error(language):
    scores = score_case(Case(" ", ("甲",), "乙"), language)
    assert {name for name, value in scores.items() if value} <= {"length-ratio"}


# --- English ----------------------------------------------------------------------------------------------------------

words = st.text("ab AB'., 1\n", max_size=24)


def slow_copying_of_words(title, source):
    title, source = (re.findall(r"\w+(?:['’]\w+)*", text.lower()) for text in (title, source))
    spans = [(start, end) for start in range(len(title)) for end in range(start + 1, len(title) + 1)]
    runs = {tuple(source[start:end]) for start in range(len(source)) for end in range(start + 1, len(source) + 1)}
    common = [(start, end) for start, end in spans if tuple(title[start:end]) in runs]
    covered, start = 0, 0
    while start < len(title):
        length = max((end - begin for begin, end in common if begin == start), default=0)
        covered += length
        start += max(1, length)
    novel = {}
    for order in range(1, 5):
        ngrams = [tuple(title[begin:end]) for begin, end in spans if end - begin == order]
        novel[f"novel-{order}"] = sum(each not in runs for each in ngrams) / len(ngrams) if ngrams else 0
    longest = max((end - begin for begin, end in common), default=0)
    return {**novel, "copied": covered / len(title) if title else 0, "longest-copy": longest}


@given(words, words)
@settings(max_examples=200)
def test_words_that_are_copied_equal_a_slow_search(title, source):
    assert copying_of_words(title, source) == pytest.approx(slow_copying_of_words(title, source))


def test_words_that_are_copied_of_a_known_summary():
    found = copying_of_words(
        "Grace's umbrella is blue, Nick says.", "Nick: May I borrow Grace’s/Grace's umbrella? It is."
    )
    assert found["novel-1"] == pytest.approx(2 / 6)  # blue, says
    assert found["copied"] == pytest.approx(4 / 6)
    assert found["longest-copy"] == 2
    assert repetition_of_words("to be or not to be or not")["repetition"] == pytest.approx(1 / 5)


@given(words.filter(str.strip), st.lists(words.filter(str.strip), min_size=1, max_size=3))
@settings(max_examples=100)
def test_bleu_of_words_against_several_references_is_nltks(title, references):
    split = [BLEU(tokenize="13a").tokenizer(text.lower()).split() for text in (title, *references)]
    expected = sentence_bleu(split[1:], split[0], smoothing_function=SmoothingFunction().method1)
    assert english.bleu_of_several(title, references)["bleu"] == pytest.approx(expected, abs=1e-12)


@given(st.lists(st.tuples(words, words.filter(str.strip)), min_size=1, max_size=4))
@settings(max_examples=40)
def test_corpus_scores_of_english_are_sacrebleus(rows):
    titles, references = (list(column) for column in zip(*rows, strict=True))
    measures, signatures = corpus_measures([titles], [(each,) for each in references], "en")
    for measure, metric in zip(measures, (BLEU(), CHRF()), strict=True):
        found = measure.of_sums(measure.totals.sum(axis=1))
        assert 100 * found[0] == pytest.approx(metric.corpus_score(titles, [references]).score, abs=1e-9)
    assert "|tok:13a|" in signatures[0]


@pytest.mark.parametrize(
    ("title", "source", "expected"),
    [
        ("They meet at 8 with 25 friends.", "See you at eight, all twenty-five of us", [[], []]),
        ("They meet at 9.", "See you at eight.", [["9"], []]),
        ("It costs 1,200 dollars.", "1200 it is", [[], []]),
        ("Grace will call Nick's mother.", "grace: I call her. nick: ok", [[], []]),
        ("She will call Anne and Bob.", "planning to call bob", [[], ["anne"]]),
        ("Tonight I'm off. Later I call: Maybe not.", "nothing", [[], []]),  # beginnings of sentences are no names
        ("Police Arrest Two Men", "two were taken", [[], []]),  # nor are capitals of a headline
        ('He saw "The Shining" there.', "he saw it, the shining", [[], []]),
        ('He saw "Alien" there.', "he saw it", [[], ["alien", "alien"]]),
        ("The U.S. and O'Neil agree.", "u.s. envoy o'neil agrees", [[], []]),
    ],
)
def test_what_is_invented_in_english(title, source, expected):
    assert list(invented_in_english(title, source).values()) == expected


@given(st.text(), st.text())
def test_any_text_can_be_read_as_english(title, source):
    assert all(value >= 0 for value in copying_of_words(title, source).values())
    invented_in_english(title, source)


def test_english_of_one_reference_is_as_score_and_the_best_of_several_counts():
    title, references, source = (
        "Grace lends Nick it.",
        ("Grace will lend Nick the umbrella.", "Grace lends it."),
        "Nick.",
    )
    alone = score_case(Case(title, references[:1], source), "en")
    assert {name: alone[name] for name in metrics.score_names("en")} == metrics.score([title], references[:1], "en")
    several, other = (
        score_case(Case(title, references, source), "en"),
        score_case(Case(title, references[1:], source), "en"),
    )
    for name in english.ROUGE_NAMES:
        assert several[name] == max(alone[name], other[name])
    assert alone["length-ratio"] == 4 / 6


def test_measures_are_means_of_systems():
    scores = [[{"a": 1.0}, {"a": 0.0}], [{"a": 0.5}, {"a": 0.5}]]
    (measure,) = text_measures(scores)
    assert measure.name == "a"
    assert measure.of_sums(measure.totals.sum(axis=1)).tolist() == [0.5, 0.5]
