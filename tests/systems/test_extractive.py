"""Parts of a text as its title, against networkx, scikit-learn's formula written out, and known texts."""

import itertools
import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from t5_pegasus.errors import OptionError
from t5_pegasus.metrics import score
from t5_pegasus.metrics.rouge import rouge
from t5_pegasus.systems.extractive import (
    best_by_rouge,
    central,
    clauses_of,
    lexrank_weights,
    most_central,
    sentences_of,
    textrank_weights,
    words_of,
)
from t5_pegasus.systems.protocol import Text
from t5_pegasus.systems.spec import parse_spec
from t5_pegasus.systems.table import make_system

GOLDEN = json.loads((Path(__file__).parent.parent / "golden" / "centrality.json").read_text(encoding="utf-8"))
TEXT = "针对单车调度，提出一种预测方法。该方法用图网络。实验表明：方法有效！"


def write(spec, text=TEXT, references=("预测方法",)):
    (written,) = make_system(parse_spec(spec)).write([Text(text, references)], 0)
    return written.title


@pytest.mark.parametrize("row", GOLDEN["graphs"], ids=lambda row: f"{len(row['weights'])} nodes")
def test_pagerank_is_that_of_networkx(row):
    assert central(np.array(row["weights"])) == pytest.approx(row["pagerank"], abs=1e-9)


@pytest.mark.parametrize("kind", ["textrank", "lexrank"])
def test_the_sentence_chosen_is_that_of_the_packages(kind):
    """TextRank's graph ranked by networkx; LexRank's by networkx over scikit-learn's vectors."""
    weights = {"textrank": textrank_weights, "lexrank": lexrank_weights}[kind]
    for row in GOLDEN["texts"]:
        assert [words_of(each) for each in row["sentences"]] == row["words"]
        found = central(weights(row["words"]))
        assert found == pytest.approx(row[kind], abs=1e-9)
        assert most_central(row["sentences"], weights) == row["sentences"][int(np.argmax(np.round(row[kind], 9)))]


words = st.lists(st.lists(st.sampled_from(["图网络", "方法", "预测", "调度"]), max_size=5), min_size=2, max_size=5)


@given(words)
def test_textrank_weights_are_the_papers(sentences):
    found = textrank_weights(sentences)
    for (one, ours), (other, theirs) in itertools.permutations(enumerate(sentences), 2):
        norm = math.log(max(len(ours), 1)) + math.log(max(len(theirs), 1))
        shared = sum(word in theirs for word in set(ours))
        assert found[one, other] == pytest.approx(shared / norm if norm else 0)


@given(words)
def test_lexrank_weights_are_cosines_of_tf_idf(sentences):
    known = set(itertools.chain(*sentences))
    idf = {w: math.log((1 + len(sentences)) / (1 + sum(w in each for each in sentences))) + 1 for w in known}
    vectors = [{word: count * idf[word] for word, count in Counter(each).items()} for each in sentences]
    found = lexrank_weights(sentences)
    for (one, ours), (other, theirs) in itertools.permutations(enumerate(vectors), 2):
        norm = math.dist([0] * len(ours), ours.values()) * math.dist([0] * len(theirs), theirs.values())
        dot = sum(value * theirs.get(word, 0) for word, value in ours.items())
        assert found[one, other] == pytest.approx(dot / norm if norm else 0)
    assert not found.diagonal().any()


def test_sentences_and_clauses_have_no_stops_at_their_ends():
    assert sentences_of(TEXT) == ["针对单车调度，提出一种预测方法", "该方法用图网络", "实验表明：方法有效"]
    assert clauses_of(TEXT)[:3] == ["针对单车调度", "提出一种预测方法", "该方法用图网络"]


@pytest.mark.parametrize(
    ("spec", "title"),
    [
        ("lead", "针对单车调度"),
        ("lead?n=2", "针对单车调度，提出一种预测方法"),
        ("lead?unit=sentence", "针对单车调度，提出一种预测方法"),
        ("lead?unit=characters&n=4", "针对单车"),
        ("oracle", "针对单车调度，提出一种预测方法"),
        ("oracle?unit=clause", "提出一种预测方法"),
    ],
)
def test_titles_of_a_known_text(spec, title):
    assert write(spec) == title


@pytest.mark.parametrize("kind", ["textrank", "lexrank"])
def test_the_sentence_that_shares_words_with_all_others_is_central(kind):
    assert write(kind, "方法有效。该方法用图网络。图网络预测方法调度。预测很准。") == "图网络预测方法调度"


@pytest.mark.parametrize("kind", ["lead", "textrank", "lexrank", "oracle", "compress"])
@pytest.mark.parametrize("text", ["", "  \n", "。。", "一", "啊" * 500])
def test_any_text_has_a_title_or_none(kind, text):
    title = write(kind, text)
    assert title == title.strip()
    assert title in text


ENGLISH = "Nick: Hi Dr. Grace, may I borrow it?\nGrace: Yes; it rains, so take it. It is 3.5 years old."


@pytest.mark.parametrize(
    ("spec", "title"),
    [
        ("lead", "Nick"),
        ("lead?n=3", "Nick, Hi Dr. Grace, may I borrow it"),
        ("lead?unit=sentence", "Nick: Hi Dr. Grace, may I borrow it?"),
        ("lead?unit=sentence&n=2", "Nick: Hi Dr. Grace, may I borrow it? Grace: Yes; it rains, so take it."),
        ("lead?unit=characters&n=4", "Nick"),
        ("oracle", "It is 3.5 years old."),
        ("oracle?unit=clause", "It is 3.5 years old"),
        ("textrank", "Grace: Yes; it rains, so take it."),
        ("lexrank", "Grace: Yes; it rains, so take it."),
    ],
)
def test_titles_of_a_known_english_text(spec, title):
    (written,) = make_system(parse_spec(spec, "en")).write([Text(ENGLISH, ("A thing of 3.5 years",))], 0)
    assert written.title == title


@pytest.mark.parametrize("kind", ["lead", "textrank", "lexrank", "oracle"])
@pytest.mark.parametrize("text", ["", "  \n", "...", "a", "题。", "\ud800"])
def test_any_text_is_divided_as_english(kind, text):
    (written,) = make_system(parse_spec(kind, "en")).write([Text(text, ("a",))], 0)
    assert written.title == written.title.strip()


def test_titles_in_another_language_are_others():
    assert make_system(parse_spec("lead")).identity() != make_system(parse_spec("lead", "en")).identity()


def test_no_sentence_beats_the_oracle(sample_pairs):
    for pair in sample_pairs[:10]:
        sentences = sentences_of(pair.content)
        best = sum(rouge(best_by_rouge(sentences, [pair.title]), pair.title).values())
        assert best == max(sum(rouge(each, pair.title).values()) for each in sentences)


def test_the_first_clause_of_csl_scores_what_is_published_here(public_data):
    from t5_pegasus import read_examples

    pairs = list(read_examples(public_data / "csl" / "test.tsv", keep_duplicates=True))
    titles = [each.title for each in make_system(parse_spec("lead")).write([Text(p.content, ()) for p in pairs], 0)]
    found = score(titles, [pair.title for pair in pairs])
    assert [round(100 * each, 1) for each in found.values()] == [38.3, 26.3, 33.6, 17.4]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("lead?unit=word", "unit must be one of sentence, clause, characters, got word"),
        ("lead?n=0", "n must be at least 1, got 0"),
        ("textrank?n=2", "options of this system are name, unit, got n"),
        ("oracle:file", "oracle has no target"),
    ],
)
def test_wrong_options_are_named(spec, message):
    with pytest.raises(OptionError, match=message):
        make_system(parse_spec(spec))
