"""Constraints on the next token, as sparse edits that an engine applies before it takes its best candidates.

A filter is a function of the prefixes so far and the options, which returns rows, a token of each, and the factor that
their log-probabilities are multiplied by; a row in `FILTERS`. A log-probability is below 0: a factor of infinity
forbids the token.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..config import GenerationConfig

# Replaces a log-probability of 0, which times infinity would be NaN.
ALMOST_CERTAIN = -1e-30


class Edits(NamedTuple):
    """Log-probabilities to change.

    pairs: int32 [edits, 2], (row, token), each once. factors: float32 [edits], multiply the log-probabilities; infinity
    makes them -inf.
    """

    pairs: np.ndarray
    factors: np.ndarray


NO_EDITS = Edits(np.empty((0, 2), np.int32), np.empty(0, np.float32))

Filtered = tuple[np.ndarray, np.ndarray, float]  # rows and tokens int [edits], and their factor
_NOTHING: Filtered = (np.empty(0, np.int64), np.empty(0, np.int64), np.inf)


def repetition_penalty(prefixes: np.ndarray, end_id: int, config: GenerationConfig) -> Filtered:
    """Multiply the log-probabilities of the tokens that a row has by the penalty (https://arxiv.org/abs/1909.05858)."""
    if config.repetition_penalty == 1 or not prefixes.size:
        return _NOTHING
    rows = np.repeat(np.arange(len(prefixes)), prefixes.shape[1])
    return rows, prefixes.ravel(), config.repetition_penalty


def min_new_tokens(prefixes: np.ndarray, end_id: int, config: GenerationConfig) -> Filtered:
    """Forbid the end token in every row of fewer than `min_new_tokens` tokens."""
    if prefixes.shape[1] >= config.min_new_tokens:
        return _NOTHING
    return *_in_every_row(prefixes, (end_id,)), np.inf


def no_repeat_ngrams(prefixes: np.ndarray, end_id: int, config: GenerationConfig) -> Filtered:
    """Forbid every token that would repeat a sequence of `no_repeat_ngram_size` tokens of its row."""
    size = config.no_repeat_ngram_size
    length = prefixes.shape[1]
    if not size or length < size:
        return _NOTHING
    starts = length - size + 1  # of sequences of that size, and of the tail that the next token goes on
    is_tail = np.ones((len(prefixes), starts), bool)
    for index in range(size - 1):
        is_tail &= prefixes[:, index : index + starts] == prefixes[:, starts + index, None]
    return np.nonzero(is_tail)[0], prefixes[:, size - 1 :][is_tail], np.inf


def suppress_tokens(prefixes: np.ndarray, end_id: int, config: GenerationConfig) -> Filtered:
    """Forbid the tokens in `suppress_tokens`."""
    if not config.suppress_tokens:
        return _NOTHING
    return *_in_every_row(prefixes, config.suppress_tokens), np.inf


def _in_every_row(prefixes: np.ndarray, tokens: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    rows = np.repeat(np.arange(len(prefixes)), len(tokens))
    return rows, np.tile(np.array(tokens, np.int64), len(prefixes))


FILTERS = (repetition_penalty, min_new_tokens, no_repeat_ngrams, suppress_tokens)


def suppress(config: GenerationConfig, ids: Sequence[int]) -> GenerationConfig:
    """Return the options with further tokens that are never written."""
    return dataclasses.replace(config, suppress_tokens=(*config.suppress_tokens, *ids)) if ids else config


def find_edits(prefixes: np.ndarray, end_id: int, config: GenerationConfig) -> Edits:
    """Return the edits of all filters for the next token of each row.

    Args:
        prefixes: int [rows, generated tokens], without the start token.
        end_id: id of the end token.
        config: options.

    Returns: edits with each pair once; it is forbidden if one of the filters forbids it.
    """
    found = [each for each in (filter_(prefixes, end_id, config) for filter_ in FILTERS) if len(each[0])]
    if not found:
        return NO_EDITS
    all_rows, all_tokens, all_factors = zip(*found, strict=True)
    factors = np.repeat(np.array(all_factors, np.float32), list(map(len, all_rows)))
    pairs = np.empty((len(factors), 2), np.int32)
    np.concatenate(all_rows, out=pairs[:, 0])
    np.concatenate(all_tokens, out=pairs[:, 1])
    order = np.lexsort((-factors, pairs[:, 1], pairs[:, 0]))  # the largest factor of a pair first
    pairs, factors = pairs[order], factors[order]
    is_first = np.ones(len(pairs), bool)
    is_first[1:] = (pairs[1:] != pairs[:-1]).any(axis=1)
    return Edits(pairs[is_first], factors[is_first])
