"""The scores are held against the plain loop of the published T5-PEGASUS scores: the packages `rouge` and nltk."""

import random
import re
import subprocess
import sys
from contextlib import contextmanager
from unittest import mock

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from rouge import Rouge

from t5_pegasus import metrics
from t5_pegasus.data.examples import read_examples
from t5_pegasus.errors import DataError
from t5_pegasus.locations import DATA_DIR, ROOT
from t5_pegasus.metrics import rouge as rouge_module
from t5_pegasus.metrics.bleu import bleu_of_several

NAMES = ["rouge-1", "rouge-2", "rouge-l", "bleu"]

# Made with rouge 1.0.1 and nltk 3.10.4.
GOLDEN = [
    (
        "基于免疫的TSP算法",
        "一种求解TSP问题的分层免疫算法",
        [0.6153846106508877, 0.33333332864583337, 0.38461537988165684, 0.08711705213057697],
    ),
    (
        "A.B测试 v1.0",
        "a.b 测试V1.0版",
        [0.9333333283555556, 0.9230769181065088, 0.9333333283555556, 0.37734654944077434],
    ),
    ("算法", "算法", [0.999999995, 0.999999995, 0.999999995, 0.316227766016838]),
    ("bbbaaa", "aaabbb", [0.999999995, 0.6666666616666668, 0.4999999950000001, 0.33980884896942454]),
    ("中文", "标题", [0.0, 0.0, 0.0, 0.0]),
]

# Full stops and what str.split() takes for white space beside a space; small forms of other length or by context;
# combining, joining and full-width characters; half a surrogate pair.
ODD = "ab.A 。中文字\t\n\u3000\xa0\x1c\u2028İΣßé\u0301\uff21\uff0c😀\u200d\ud800"
texts = st.text(ODD, max_size=30) | st.text("ab.", max_size=30) | st.text(max_size=20)


def plain_loop(prediction, reference):
    """One round of the loop: only what the two packages answer; `rouge` raises ValueError for a text of full stops."""
    prediction, reference = " ".join(prediction).lower(), " ".join(reference).lower()
    if not prediction.strip():
        return dict.fromkeys(NAMES, 0.0)
    words = prediction.split(" ")
    scores = {"bleu": sentence_bleu([reference.split(" ")], words, smoothing_function=SmoothingFunction().method1)}
    try:
        answer = Rouge().get_scores(hyps=prediction, refs=reference)[0]
    except ValueError:
        return scores
    return scores | {name: answer[name]["f"] for name in NAMES[:3]}


def assert_as_plain_loop(predictions, references):
    for prediction, reference, scores in zip(
        predictions, references, metrics.score_each(predictions, references), strict=True
    ):
        assert list(scores) == NAMES
        expected = plain_loop(prediction, reference)
        found = {name: scores[name] for name in expected}
        assert found == pytest.approx(expected, rel=0, abs=1e-9), (prediction, reference)


@contextmanager
def recursion_limit(limit):
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(limit)
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


@pytest.mark.parametrize("block", [1, 3, 512], ids="rows kept: {}".format)
@settings(deadline=None, max_examples=300)
@given(prediction=texts, reference=texts)
@example(prediction=". .", reference=" . . ")
@example(prediction="abc", reference="abc")
@example(prediction="ı", reference="i")  # the same in capitals
def test_scores_of_odd_texts_equal_the_plain_loop(block, prediction, reference):
    with mock.patch.object(rouge_module, "_BLOCK", block):
        assert_as_plain_loop([prediction], [reference])


@pytest.mark.parametrize("where", ["data", "CSL"])
def test_scores_of_titles_and_abstracts_equal_the_plain_loop(where, request):
    path = DATA_DIR if where == "data" else request.getfixturevalue("public_data") / "csl"
    pairs = list(read_examples(path / "test.tsv"))
    clauses = [re.split("[,;。\uff0c\uff1b]", pair.content.partition("提出")[2])[0] for pair in pairs]
    assert_as_plain_loop(clauses, [pair.title for pair in pairs])
    contents = [pair.content for pair in pairs[:21]]
    assert_as_plain_loop(contents[1:], contents[:-1])


@pytest.mark.parametrize(("prediction", "reference", "expected"), GOLDEN)
def test_golden_numbers(prediction, reference, expected):
    scores = metrics.score_each([prediction], [reference])[0]
    assert list(scores.values()) == pytest.approx(expected, rel=0, abs=1e-12)


few = st.text("abc文 ", min_size=1, max_size=9)


@given(prediction=few.filter(str.strip), references=st.lists(few, min_size=1, max_size=3))
def test_bleu_of_several_references_equals_nltks(prediction, references):
    words, *others = (" ".join(text).split(" ") for text in (prediction, *references))
    expected = sentence_bleu(others, words, smoothing_function=SmoothingFunction().method1)
    assert bleu_of_several(prediction, references) == {"bleu": pytest.approx(expected, rel=0, abs=1e-12)}


def test_texts_beyond_the_recursion_of_rouge_are_scored_as_it_would():
    # Few words are common, so that the traceback is long; the second sentences are all ties.
    choose = random.Random(0).choices
    prediction = "".join(choose("甲乙丙丁戊己庚辛", k=550)) + "." + "ab" * 40
    reference = "".join(choose("庚辛壬癸子丑寅卯", k=700)) + "." + "ba" * 30
    with pytest.raises(RecursionError):
        plain_loop(prediction, reference)
    with recursion_limit(5000):
        assert_as_plain_loop([prediction], [reference])


def test_100_000_characters_score_as_their_small_copy():
    def swapped(size):
        return ["a" * 4 * size + "b" * 4 * size], ["b" * size + "a" * size]

    # Both halves of the reference are longest common subsequences; the traceback takes one, the same at every size.
    assert_as_plain_loop(*swapped(3))
    small, large = metrics.score(*swapped(3)), metrics.score(*swapped(12_500))
    assert large["rouge-l"] == small["rouge-l"] == pytest.approx(0.5)
    assert large["bleu"] == pytest.approx(0.25, abs=1e-3)


def test_an_example_without_a_prediction_counts_0_in_the_mean():
    prediction, reference, expected = GOLDEN[0]
    empty = ["", " \t\u3000", "."]
    means = metrics.score([prediction, *empty], [reference, reference, " ", reference])
    assert list(means.values()) == pytest.approx([value / 4 for value in expected])


def test_corpus_bleu_is_sacrebleus():
    # Made with sacrebleu 2.6.0.
    value, signature = metrics.corpus_bleu([row[0] for row in GOLDEN], [row[1] for row in GOLDEN])
    assert value == pytest.approx(8.771917455838382)
    assert signature.startswith("nrefs:1|case:mixed|eff:no|tok:zh|smooth:exp|version:")


@pytest.mark.parametrize("function", [metrics.score, metrics.score_each, metrics.corpus_bleu])
@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [(["a"], [], "got 1 and 0"), ([], [], "nothing to score"), ("ab", ["a", "b"], "lists of texts")],
)
def test_lists_that_cannot_be_scored_are_refused(function, predictions, references, message):
    with pytest.raises(DataError, match=message):
        function(predictions, references)


def test_a_row_in_the_table_is_a_score_more(monkeypatch):
    def same(prediction, reference):
        return {"same": float(prediction == reference)}

    monkeypatch.setitem(metrics.METRICS, "same", metrics.Metric(("same",), same, "same|mixed"))
    assert metrics.score(["甲", "", "丙"], ["甲", "", "丁"])["same"] == pytest.approx(1 / 3)
    assert list(metrics.score(["甲"], ["甲"])) == [*NAMES, "same"]


def test_scoring_imports_nothing_heavy():
    heavy = ["tensorflow", "numpy", "nltk", "rouge", "sacrebleu", "jieba"]
    code = (
        "import sys; from t5_pegasus import score; score(['甲'], ['乙']);"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
