"""Tokens a title may not go on with, as sparse edits that an engine applies before it takes its best candidates.

A filter is a function of the prefixes so far and the options, giving (row, token) pairs to forbid; a row in `FILTERS`.
"""

import numpy as np

from .config import GenerationConfig

Forbidden = list[tuple[int, int]]


def min_new_tokens(prefixes: np.ndarray, end_id: int, config: GenerationConfig) -> Forbidden:
    """Forbid the end token in every row while fewer than `min_new_tokens` tokens are there."""
    return [(row, end_id) for row in range(len(prefixes))] if prefixes.shape[1] < config.min_new_tokens else []


def no_repeat_ngrams(prefixes: np.ndarray, end_id: int, config: GenerationConfig) -> Forbidden:
    """Forbid every token that would make a sequence of `no_repeat_ngram_size` tokens stand twice in its row."""
    size = config.no_repeat_ngram_size
    length = prefixes.shape[1]
    if not size or length < size:
        return []
    # All sequences of the size, the last token apart: int [rows, starts, size - 1], against the row's tail.
    windows = np.lib.stride_tricks.sliding_window_view(prefixes, size, axis=1)
    tail = prefixes[:, None, length - size + 1 :]
    rows, starts = np.nonzero((windows[:, :, :-1] == tail).all(axis=2))
    return list(zip(rows.tolist(), windows[rows, starts, -1].tolist(), strict=True))


FILTERS = (min_new_tokens, no_repeat_ngrams)


def forbidden_tokens(prefixes: np.ndarray, end_id: int, config: GenerationConfig) -> np.ndarray:
    """Return the (row, token) pairs that no filter allows.

    Args:
        prefixes: int [rows, generated tokens], without the start token.
        end_id: id of the end token.
        config: options.

    Returns: int32 [pairs, 2]; a pair may stand in it twice.
    """
    pairs = [pair for forbid in FILTERS for pair in forbid(prefixes, end_id, config)]
    return np.array(pairs, np.int32).reshape(-1, 2)
