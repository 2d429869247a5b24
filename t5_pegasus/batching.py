"""Batches of token ids: which rows go together, and how they are padded."""

from collections.abc import Sequence

import numpy as np

# Rows are sorted by length within so many batches at a time: enough to pad little, few enough to stay shuffled.
_BATCHES_SORTED_TOGETHER = 50


def pad(rows: Sequence[Sequence[int]], pad_id: int = 0) -> np.ndarray:
    """Return the rows, ids of unlike length, as one array int32 [batch, longest], filled up with `pad_id`."""
    batch = np.full((len(rows), max(map(len, rows))), pad_id, np.int32)
    for target, row in zip(batch, rows, strict=True):
        target[: len(row)] = row
    return batch


def shuffled_batches(lengths: Sequence[int], batch_size: int, random: np.random.Generator) -> list[np.ndarray]:
    """Divide rows into batches in random order, rows of like length together.

    Args:
        lengths: tokens of each row.
        batch_size: rows of a batch; the last one of an epoch may have fewer.
        random: decides the order; the same state gives the same batches.

    Returns: row numbers of each batch, int64 [at most batch_size]; every row in exactly one.
    """
    order = random.permutation(len(lengths))
    sizes = np.asarray(lengths)
    batches = []
    window = batch_size * _BATCHES_SORTED_TOGETHER
    for start in range(0, len(order), window):
        rows = order[start : start + window]
        rows = rows[np.argsort(sizes[rows], kind="stable")]
        batches += [rows[first : first + batch_size] for first in range(0, len(rows), batch_size)]
    return [batches[index] for index in random.permutation(len(batches))]


def budget_batches(lengths: Sequence[int], max_tokens: int) -> list[np.ndarray]:
    """Divide rows into batches of like length whose padded size is within a budget.

    Args:
        lengths: tokens of each row.
        max_tokens: rows times longest row of a batch; a row longer than that is a batch of its own.

    Returns: row numbers of each batch, the longest rows first, so that what needs most memory comes first.
    """
    order = np.argsort(-np.asarray(lengths, np.int64), kind="stable")
    batches = []
    while len(order):
        count = max(1, max_tokens // max(1, lengths[order[0]]))
        batches.append(order[:count])
        order = order[count:]
    return batches
