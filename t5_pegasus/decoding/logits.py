"""Constraints on the next token, as sparse edits that an engine applies before it takes its best candidates.

A filter is a function of the prefixes so far and the options, which returns (row, token) pairs and the factor that
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

Filtered = tuple[np.ndarray, float]  # pairs int [edits, 2] and their factor
_NOTHING: Filtered = (np.empty((0, 2), np.int64), np.inf)


def repetition_penalty(prefixes: np.ndarray, end_id: int, config: GenerationConfig) -> Filtered:
    """Multiply the log-probabilities of the tokens that a row has by the penalty (https://arxiv.org/abs/1909.05858)."""
    if config.repetition_penalty == 1 or not prefixes.size:
        return _NOTHING
    rows = np.repeat(np.arange(len(prefixes)), prefixes.shape[1])
    return np.unique(np.stack([rows, prefixes.ravel()], axis=1), axis=0), config.repetition_penalty


def min_new_tokens(prefixes: np.ndarray, end_id: int, config: GenerationConfig) -> Filtered:
    """Forbid the end token in every row of fewer than `min_new_tokens` tokens."""
    if prefixes.shape[1] >= config.min_new_tokens:
        return _NOTHING
    return _in_every_row(prefixes, (end_id,)), np.inf


def no_repeat_ngrams(prefixes: np.ndarray, end_id: int, config: GenerationConfig) -> Filtered:
    """Forbid every token that would repeat a sequence of `no_repeat_ngram_size` tokens of its row."""
    size = config.no_repeat_ngram_size
    length = prefixes.shape[1]
    if not size or length < size:
        return _NOTHING
    ngrams = np.lib.stride_tricks.sliding_window_view(prefixes, size, axis=1)  # [rows, starts, size]
    tail = prefixes[:, None, length - size + 1 :]  # [rows, 1, size - 1]
    rows, starts = np.nonzero((ngrams[:, :, :-1] == tail).all(axis=2))
    return np.stack([rows, ngrams[rows, starts, -1]], axis=1), np.inf


def suppress_tokens(prefixes: np.ndarray, end_id: int, config: GenerationConfig) -> Filtered:
    """Forbid the tokens in `suppress_tokens`."""
    if not config.suppress_tokens:
        return _NOTHING
    return _in_every_row(prefixes, config.suppress_tokens), np.inf


def _in_every_row(prefixes: np.ndarray, tokens: tuple[int, ...]) -> np.ndarray:
    rows = np.repeat(np.arange(len(prefixes)), len(tokens))
    return np.stack([rows, np.tile(np.array(tokens, np.int64), len(prefixes))], axis=1)


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
    pairs = np.concatenate([pairs for pairs, _ in found])
    factors = np.repeat([factor for _, factor in found], [len(pairs) for pairs, _ in found])
    order = np.lexsort((-factors, pairs[:, 1], pairs[:, 0]))  # the largest factor of a pair first
    pairs, factors = pairs[order], factors[order]
    first = np.ones(len(pairs), bool)
    first[1:] = (pairs[1:] != pairs[:-1]).any(axis=1)
    return Edits(pairs[first].astype(np.int32), factors[first].astype(np.float32))
