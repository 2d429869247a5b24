"""The scores of English are held against rouge-score, nltk and sacrebleu, which made english_scores.json."""

import itertools
import json
import re
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nltk.stem.porter import PorterStemmer
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

from t5_pegasus import metrics
from t5_pegasus.errors import OptionError
from t5_pegasus.locations import ROOT
from t5_pegasus.metrics import english
from t5_pegasus.metrics.options import ScoringConfig
from t5_pegasus.training.options import TrainingConfig

NAMES = ["rouge-1", "rouge-2", "rouge-l", "rouge-lsum", "bleu"]
GOLDEN = json.loads((ROOT / "tests" / "golden" / "english_scores.json").read_text(encoding="utf-8"))
TYPES = {"rouge-1": "rouge1", "rouge-2": "rouge2", "rouge-l": "rougeL"}

WORDS = [
    *("The", "cat", "cats", "sat", "running", "runs", "on", "3.14", "U.S.", "Dr.", "it's", "well-known", "&amp;"),
    *("<skipped>", "é", "中文", "\ud800", ".", "!", "?", ",", "\n"),
]
texts = st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join) | st.text(max_size=20)


@pytest.mark.parametrize("row", GOLDEN["rows"], ids=lambda row: row["prediction"][:20])
def test_golden_numbers(row):
    (scores,) = metrics.score_each([row["prediction"]], [row["reference"]], "en")
    assert list(scores) == NAMES
    assert scores == pytest.approx(row["scores"], rel=0, abs=1e-12)


def test_corpus_bleu_is_sacrebleus():
    predictions, references = ([row[name] for row in GOLDEN["rows"]] for name in ("prediction", "reference"))
    value, signature = metrics.corpus_bleu(predictions, references, "en")
    assert value == pytest.approx(GOLDEN["corpus BLEU"])
    assert signature.startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")


@settings(max_examples=60)
@given(prediction=texts, reference=texts)
@example(prediction="<skipped>", reference="a")
@example(prediction="a.b.C d", reference="A B c. D")
def test_scores_of_odd_texts_equal_the_packages_own(prediction, reference):
    (scores,) = metrics.score_each([prediction], [reference], "en")
    if not prediction.strip():
        assert set(scores.values()) == {0.0}
        return
    expected = RougeScorer(list(TYPES.values()), use_stemmer=True).score(reference, prediction)
    for name, kind in TYPES.items():
        assert scores[name] == pytest.approx(expected[kind].fmeasure, rel=0, abs=1e-12)
    tokenize = Tokenizer13a()
    words, reference_words = tokenize(prediction.lower()).split(), tokenize(reference.lower()).split()
    plain = sentence_bleu([reference_words], words, smoothing_function=SmoothingFunction().method1)
    assert scores["bleu"] == pytest.approx(plain, rel=0, abs=1e-12)


@settings(max_examples=60)
@given(prediction=texts, reference=texts)
def test_rouge_is_that_of_its_definition(prediction, reference):
    """A slow, obvious version: counts of stems, their pairs, and the table of longest common subsequences."""

    def stems(text):
        stemmer = PorterStemmer()
        found = re.findall("[a-z0-9]+", text.lower())
        return [word for each in found if (word := stemmer.stem(each) if len(each) > 3 else each)]

    def common(one, other):
        rest = list(other)
        return sum(1 for each in one if each in rest and (rest.remove(each) or True))

    def lcs(one, other):
        row = [0] * (len(other) + 1)
        for word in one:
            row = _next_row(row, word, other)
        return row[-1]

    def f_score(overlap, one, other):
        return 2 * overlap / (len(one) + len(other)) if overlap else 0.0

    ours, theirs = stems(prediction), stems(reference)
    pairs, their_pairs = list(itertools.pairwise(ours)), list(itertools.pairwise(theirs))
    scores = english.rouge(prediction, reference)
    assert scores["rouge-1"] == pytest.approx(f_score(common(ours, theirs), ours, theirs))
    assert scores["rouge-2"] == pytest.approx(f_score(common(pairs, their_pairs), pairs, their_pairs))
    assert scores["rouge-l"] == pytest.approx(f_score(lcs(ours, theirs), ours, theirs))


def _next_row(row, word, words):
    """Return the row of the table of longest common subsequences that is below `row`."""
    below = [0]
    for column, other in enumerate(words):
        below.append(row[column] + 1 if other == word else max(below[-1], row[column + 1]))
    return below


def test_lsum_compares_sentences_in_any_order():
    one, other = "Rain fell all day. The match was off.", "The match was off. Rain fell all day."
    scores = english.rouge(one, other)
    assert scores["rouge-lsum"] == 1.0
    assert scores["rouge-l"] == 0.5
    # An abbreviation ends no sentence, and lines are sentences already.
    assert (
        english.rouge("We met Dr. Lee", "Lee met Dr. Wu")["rouge-lsum"]
        == english.rouge("We met Dr Lee", "Lee met Dr Wu")["rouge-l"]
    )
    assert english.rouge(one.replace(". ", "\n"), other)["rouge-lsum"] == 1.0


def test_signatures_say_language_tokens_and_versions():
    (rouge, bleu) = (metric.describe() for metric in metrics.LANGUAGES["en"].metrics.values())
    versions = GOLDEN["versions"]
    assert rouge.startswith("rouge|lang:en|tok:rouge-score|case:lower|stem:porter|")
    assert f"|rouge-score:{versions['rouge-score']}|nltk:{versions['nltk']}|sentencex:" in rouge
    assert bleu.startswith("bleu|lang:en|tok:13a|case:lower|sentence|")
    assert f"|sacrebleu:{versions['sacrebleu']}|version:" in bleu
    for metric in metrics.LANGUAGES["zh"].metrics.values():
        assert re.fullmatch(r"(rouge|bleu)\|lang:zh\|tok:chars\|case:lower\|.*\|version:\d.*", metric.describe())


@pytest.mark.parametrize("package", ["rouge_score", "sentencex"])
def test_a_missing_package_is_told_by_its_extra(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"{package}.rouge_scorer", raising=False)
    english._scorer.cache_clear()
    with pytest.raises(OptionError, match=f"^language en needs {package}: install the extra english, `pip install"):
        metrics.score(["a"], ["b"], "en")
    for config in (ScoringConfig, TrainingConfig):  # before titles are generated, or a night of training
        with pytest.raises(OptionError, match=f"^language en needs {package}"):
            config(language="en")


def test_an_unknown_language_is_refused():
    with pytest.raises(OptionError, match="language must be one of zh, en, got fr"):
        metrics.score(["a"], ["a"], "fr")
