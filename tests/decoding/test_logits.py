"""Each filter alone, against the sentence that describes it; together they are held to brute force in test_search."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from t5_pegasus.config import GenerationConfig
from t5_pegasus.decoding.logits import FILTERS, find_edits, suppress

END = 9
OPTIONS = {
    "repetition_penalty": {"repetition_penalty": 2.0},
    "min_new_tokens": {"min_new_tokens": 3},
    "no_repeat_ngrams": {"no_repeat_ngram_size": 2},
    "suppress_tokens": {"suppress_tokens": (4, 1)},
}


def expected_factors(row, config):
    """Return the factor of each of the ten tokens after a prefix, from the words of the options' help."""
    factors = [config.repetition_penalty if token in row else 1.0 for token in range(10)]
    for token in range(10):
        size = config.no_repeat_ngram_size
        grams = [tuple(row[n : n + size]) for n in range(len(row) - size + 1)] if size else []
        repeats = bool(size) and tuple([*row, token][-size:]) in grams and len(row) >= size
        if repeats or token in config.suppress_tokens or (token == END and len(row) < config.min_new_tokens):
            factors[token] = np.inf
    return factors


@pytest.mark.parametrize("options", [*OPTIONS.values(), {k: v for each in OPTIONS.values() for k, v in each.items()}])
@given(
    rows=st.integers(0, 6).flatmap(
        lambda n: st.lists(st.lists(st.integers(0, 8), min_size=n, max_size=n), min_size=1, max_size=4)
    )
)
def test_edits_are_what_the_options_say(options, rows):
    config = GenerationConfig(**options)
    pairs, factors = find_edits(np.array(rows, np.int32).reshape(len(rows), -1), END, config)
    assert (pairs.dtype, factors.dtype) == (np.int32, np.float32)
    found = np.ones((len(rows), 10))
    assert len({tuple(pair) for pair in pairs.tolist()}) == len(pairs) == len(factors)
    for (row, token), factor in zip(pairs, factors, strict=True):
        found[row, token] = factor
    np.testing.assert_array_equal(found, [expected_factors(row, config) for row in rows])


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_no_sequence_of_any_size_is_repeated(size):
    rows = list(itertools.product((0, 1), repeat=5))
    config = GenerationConfig(no_repeat_ngram_size=size)
    pairs, factors = find_edits(np.array(rows, np.int32), END, config)
    found = np.ones((len(rows), 10))
    found[tuple(pairs.T)] = factors
    np.testing.assert_array_equal(found, [expected_factors(row, config) for row in rows])


def test_every_filter_is_tried():
    assert {filter_.__name__ for filter_ in FILTERS} == set(OPTIONS)


def test_without_options_nothing_is_edited():
    pairs, factors = find_edits(np.array([[1, 1, 1]], np.int32), END, GenerationConfig())
    assert pairs.shape == (0, 2)
    assert factors.shape == (0,)


def test_further_tokens_are_suppressed_beside_those_of_the_options():
    config = GenerationConfig(num_beams=3, suppress_tokens=(4, 1))
    assert suppress(config, range(7, 9)) == dataclasses.replace(config, suppress_tokens=(4, 1, 7, 8))
    assert suppress(config, ()) is config
