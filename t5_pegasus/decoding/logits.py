"""What the options say of the next token, as sparse edits that an engine applies before it takes its best candidates.

A filter is a function of the prefixes so far and the options, giving (row, token) pairs and the factor that their
log-probabilities are multiplied by; a row in `FILTERS`. A log-probability is below 0: a factor of infinity forbids the
token.
"""

from typing import NamedTuple

import numpy as np

from ..config import GenerationConfig

# A log-probability of 0, which times infinity were not a number, is taken for this one.
ALMOST_CERTAIN = -1e-30


class Edits(NamedTuple):
    """Log-probabilities to change, all others stay: `pairs` int32 [edits, 2], (row, token), each once; and `factors`.

    `factors` float32 [edits] multiply the log-probabilities; infinity makes them -inf.
    """

    pairs: np.ndarray
    factors: np.ndarray


NO_EDITS = Edits(np.empty((0, 2), np.int32), np.empty(0, np.float32))

Filtered = tuple[np.ndarray, float]  # pairs int [edits, 2] and their factor
_NOTHING: Filtered = (np.empty((0, 2), np.int64), np.inf)


def repetition_penalty(prefixes: np.ndarray, end_id: int, config: GenerationConfig) -> Filtered:
    """Multiply the log-probabilities of the tokens that stand in a row by the penalty (https://arxiv.org/abs/1909.05858)."""
    if config.repetition_penalty == 1 or not prefixes.size:
        return _NOTHING
    rows = np.repeat(np.arange(len(prefixes)), prefixes.shape[1])
    return np.unique(np.stack([rows, prefixes.ravel()], axis=1), axis=0), config.repetition_penalty


def min_new_tokens(prefixes: np.ndarray, end_id: int, config: GenerationConfig) -> Filtered:
    """Forbid the end token in every row while fewer than `min_new_tokens` tokens are there."""
    if prefixes.shape[1] >= config.min_new_tokens:
        return _NOTHING
    return _in_every_row(prefixes, (end_id,)), np.inf


def no_repeat_ngrams(prefixes: np.ndarray, end_id: int, config: GenerationConfig) -> Filtered:
    """Forbid every token that would make a sequence of `no_repeat_ngram_size` tokens stand twice in its row."""
    size = config.no_repeat_ngram_size
    length = prefixes.shape[1]
    if not size or length < size:
        return _NOTHING
    # All sequences of the size, the last token apart: int [rows, starts, size - 1], against the row's tail.
    windows = np.lib.stride_tricks.sliding_window_view(prefixes, size, axis=1)
    tail = prefixes[:, None, length - size + 1 :]
    rows, starts = np.nonzero((windows[:, :, :-1] == tail).all(axis=2))
    return np.stack([rows, windows[rows, starts, -1]], axis=1), np.inf


def suppress_tokens(prefixes: np.ndarray, end_id: int, config: GenerationConfig) -> Filtered:
    """Forbid the tokens that `suppress_tokens` lists, always."""
    if not config.suppress_tokens:
        return _NOTHING
    return _in_every_row(prefixes, config.suppress_tokens), np.inf


def _in_every_row(prefixes: np.ndarray, tokens: tuple[int, ...]) -> np.ndarray:
    rows = np.repeat(np.arange(len(prefixes)), len(tokens))
    return np.stack([rows, np.tile(np.array(tokens, np.int64), len(prefixes))], axis=1)


FILTERS = (repetition_penalty, min_new_tokens, no_repeat_ngrams, suppress_tokens)


def find_edits(prefixes: np.ndarray, end_id: int, config: GenerationConfig) -> Edits:
    """Return what the filters say of the next token of each row.

    Args:
        prefixes: int [rows, generated tokens], without the start token.
        end_id: id of the end token.
        config: options.

    Returns: a pair that several filters speak of is forbidden if one of them forbids it.
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
