"""Lengths, scripts, unknown tokens and copy rates, against numpy and by hand."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from t5_pegasus import PegasusTokenizer, read_examples
from t5_pegasus.data.profile import Profile, quantile, script_of, suggested_limit
from t5_pegasus.locations import DATA_DIR, TINY_MODEL_DIR


@pytest.fixture(scope="module")
def tokenizer() -> PegasusTokenizer:
    return PegasusTokenizer(TINY_MODEL_DIR / "vocab.txt")


@given(st.lists(st.integers(0, 50), min_size=1), st.sampled_from([0.25, 0.5, 0.95, 0.99, 1]))
def test_a_quantile_is_numpys(numbers, share):
    assert quantile(Counter(numbers), share) == np.quantile(numbers, share, method="inverted_cdf")
    assert quantile(Counter(), share) == 0
    limit = suggested_limit(Counter(numbers), share, 8)
    assert limit % 8 == 0
    assert sum(number > limit for number in numbers) <= (1 - share) * len(numbers) + 1e-9
    assert limit - 8 < quantile(Counter(numbers), share) or limit == 0


def test_counts_are_those_of_the_texts(tokenizer):
    pairs = list(read_examples(DATA_DIR / "test.tsv"))
    profile = Profile()
    for pair in pairs:
        profile.add(pair.content, pair.title, tokenizer, 0.5)
    profile.settle()
    lengths = [len(tokenizer.encode(pair.content)) for pair in pairs]
    assert sorted(profile.lengths["content_tokens"].elements()) == sorted(lengths)
    assert profile.cut("content", 100) == np.mean(np.array(lengths) > 100)
    assert profile.tokens == sum(lengths) + sum(len(tokenizer.encode(pair.title)) for pair in pairs) - 4 * len(pairs)
    assert profile.characters == Counter("".join(pair.content + pair.title for pair in pairs))
    assert profile.copy_rate() == 0.5
    low, high = profile.fences["content"]
    logs = [math.log(len(pair.content)) for pair in pairs]
    first, third = np.quantile(logs, [0.25, 0.75], method="inverted_cdf")
    width = 3 * max(third - first, math.log(1.25))
    assert (math.log(low), math.log(high)) == pytest.approx((first - width, third + width))


def test_characters_that_the_vocabulary_lacks_are_counted(tokenizer):
    profile = Profile()
    profile.add("研究😀方法😀", "𠮷", tokenizer, 0.0)
    assert profile.unknown == Counter({"😀": 2, "𠮷": 1})
    assert profile.unknown_tokens == 3


def test_scripts():
    kinds = {
        "Chinese": "中㐀𠀀豈",
        "Latin": "aZéＡ",
        "digits": "1２½",
        "punctuation": "，。 +\n",
        "kana": "あカ",
        "hangul": "한",
    }
    for kind, characters in kinds.items():
        assert {script_of(each) for each in characters} == {kind}
    assert script_of("ا") == "other"
