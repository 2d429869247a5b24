"""Which pairs go into a batch, and what shape they are padded to."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

# Rows are sorted by length within so many batches at a time: enough to pad little, few enough to stay shuffled.
_BATCHES_SORTED_TOGETHER = 50


class Batch(NamedTuple):
    """Pairs that are computed together, and the shape they are padded to."""

    rows: np.ndarray  # int64, indices of the pairs
    size: int  # of the batch: the pairs, and rows that are all padding
    source_length: int
    target_length: int


def shuffled_batches(lengths: Sequence[int], batch_size: int, random: np.random.Generator) -> list[np.ndarray]:
    """Divide rows into batches in random order, rows of similar length together.

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


def pair_batches(
    lengths: np.ndarray, batch_size: int, multiple: int, random: np.random.Generator, devices: int = 1
) -> list[Batch]:
    """Divide pairs into batches of `batch_size` for each device, in random order, sources of similar length together.

    Args:
        lengths: int [pairs, 2], tokens of source and target.
        batch_size: see `shuffled_batches`; of each device.
        multiple: lengths of a batch are rounded up to a multiple of it.
        random: decides the order.
        devices: every batch has as many rows for each of them.

    Returns: every pair in exactly one batch.
    """
    batches = []
    for rows in shuffled_batches(lengths[:, 0].tolist(), batch_size * devices, random):
        source_length, target_length = _rounded_up(lengths[rows].max(axis=0), multiple)
        batches.append(Batch(rows, _rounded_up(len(rows), devices), int(source_length), int(target_length)))
    return batches


def bucket_batches(
    lengths: np.ndarray, max_tokens: int, multiple: int, random: np.random.Generator, devices: int = 1
) -> list[Batch]:
    """Divide pairs into batches of a padded size within a budget and of few shapes, in random order.

    Args:
        lengths: int [pairs, 2], tokens of source and target.
        max_tokens: rows times (source length + target length) of a batch on a device; a pair that is longer than that
            is a batch of its own.
        multiple: lengths are rounded up to a multiple of it; pairs of the same two lengths are a bucket.
        random: decides the order; the same state gives the same batches.
        devices: every batch has as many rows for each of them.

    Returns: every pair in exactly one batch. All batches of a bucket have one shape but its last, which has fewer rows;
    their number does not depend on `random`.
    """
    buckets, bucket_of = np.unique(_rounded_up(lengths, multiple), axis=0, return_inverse=True)
    order = random.permutation(len(lengths))
    order = order[np.argsort(bucket_of.ravel()[order], kind="stable")]
    batches = []
    ends = np.cumsum(np.bincount(bucket_of.ravel()))
    for (source_length, target_length), rows in zip(buckets.tolist(), np.split(order, ends[:-1]), strict=True):
        size = devices * max(1, max_tokens // (source_length + target_length))
        for first in range(0, len(rows), size):
            chosen = rows[first : first + size]
            batches.append(Batch(chosen, _rounded_up(len(chosen), devices), source_length, target_length))
    return [batches[index] for index in random.permutation(len(batches))]


def _rounded_up(numbers: Any, multiple: int) -> Any:
    return -(-numbers // multiple) * multiple
