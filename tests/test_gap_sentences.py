"""The fast gap-sentence choice against the plain algorithm, which is slow and obviously right."""

import pylcs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from t5_pegasus.corpus import gather_chunks, read_documents, split_pieces
from t5_pegasus.errors import OptionError
from t5_pegasus.gap_sentences import ENCODE_FROM, STRATEGIES, GapSentenceConfig, pseudo_pairs, pseudo_summary
from t5_pegasus.locations import DATA_DIR

# Few characters and short sentences, so that equal scores, which the order decides, are common; and few or many
# sentences, since many are encoded.
SENTENCES = st.lists(st.text("甲乙ab", max_size=6), min_size=2, max_size=ENCODE_FROM + 4)


def plain_pseudo_summary(sentences, ratio):
    """Try every sentence at every step, with pylcs."""
    left, taken = list(range(len(sentences))), []

    def join(indices):
        return "".join(sentences[i] for i in sorted(indices))

    while True:
        scores = [pylcs.lcs(join(set(left) - {i}), join([*taken, i])) for i in left]
        taken.append(left.pop(scores.index(max(scores))))
        source, target = join(left), join(taken)
        if len(left) == 1 or not source or len(target) / len(source) > ratio:
            return (target, source) if len(source) < len(target) else (source, target)


def assert_same_pairs(path, every=1):
    count = 0
    for document in list(read_documents(path))[::every]:
        expected = [plain_pseudo_summary(chunk, 0.25) for chunk in gather_chunks(split_pieces(document.text), 768)]
        assert list(pseudo_pairs(document.text)) == expected, document.name
        count += len(expected)
    assert count > 0


@given(SENTENCES, st.floats(0.01, 1))
@example(["", "甲", ""], 0.25)
@example(["甲", "", ""], 0.25)
@example(["甲乙"] * ENCODE_FROM, 0.5)
def test_equal_to_the_plain_algorithm(sentences, ratio):
    assert pseudo_summary(sentences, ratio) == plain_pseudo_summary(sentences, ratio)


def test_equal_to_the_plain_algorithm_beyond_256_different_characters():
    characters = [chr(0x4E00 + i) for i in range(600)] + list("😀🙃")
    sentences = ["".join(characters[i::step]) for step in (7, 5, 3) for i in range(step)]
    assert pseudo_summary(sentences, 0.5) == plain_pseudo_summary(sentences, 0.5)


def test_equal_to_the_plain_algorithm_on_the_sample_articles():
    assert_same_pairs(DATA_DIR / "articles.jsonl")


def test_equal_to_the_plain_algorithm_on_some_lctt_articles(public_data):
    assert_same_pairs(public_data / "lctt" / "dev.jsonl.gz", every=10)


@pytest.mark.slow
def test_equal_to_the_plain_algorithm_on_all_lctt_articles(public_data):
    assert_same_pairs(public_data / "lctt" / "dev.jsonl.gz")


def test_takes_what_the_rest_repeats():
    # The last shares 甲乙丁戊 (4) with the rest, the others 2 each; 4 / 6 is above 0.25.
    assert pseudo_summary(["甲乙丙", "丁戊己", "甲乙丁戊"]) == ("甲乙丙丁戊己", "甲乙丁戊")
    # Equal scores: the first is taken. It is the longer one, so the two are swapped.
    assert pseudo_summary(["甲乙丙丁戊", "甲乙"]) == ("甲乙丙丁戊", "甲乙")


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(SENTENCES, st.floats(0.01, 1))
def test_source_and_target_hold_every_sentence_once_and_in_order(strategy, sentences, ratio):
    gaps = STRATEGIES[strategy](sentences, ratio)
    assert gaps == sorted(set(gaps))
    assert set(gaps) < set(range(len(sentences)))
    taken = "".join(sentences[i] for i in gaps)
    rest = "".join(sentence for i, sentence in enumerate(sentences) if i not in gaps)
    source, target = pseudo_summary(sentences, ratio, strategy)
    assert (source, target) in ((rest, taken), (taken, rest))
    assert len(source) >= len(target)


def test_a_short_document_has_no_pair():
    assert list(pseudo_pairs("")) == list(pseudo_pairs(" \n ")) == list(pseudo_pairs("只有一句。")) == []


def test_errors_name_the_rule_and_the_value():
    for sentences in ([], ["甲"]):
        with pytest.raises(OptionError, match=f"at least 2 sentences, got {len(sentences)}"):
            pseudo_summary(sentences)
    with pytest.raises(OptionError, match="one of lcs, got best"):
        pseudo_summary(["甲", "乙"], strategy="best")
    for ratio in (0, -1, 1.5, float("nan")):
        with pytest.raises(OptionError, match=f"gap_sentence_ratio .* got {ratio}"):
            GapSentenceConfig(gap_sentence_ratio=ratio)
    for name in ("max_length", "workers"):
        with pytest.raises(OptionError, match=f"{name} must be at least 1, got 0"):
            GapSentenceConfig(**{name: 0})
