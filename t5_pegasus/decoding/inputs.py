"""What the encoder is given: of texts longer than the model reads, cut or in windows, and in batches of like length."""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ..text.tokenizer import PegasusTokenizer

# Of one text, whatever the windows: some 20,000 characters. Base keeps 73,728 bytes a token for cross-attention.
MOST_TOKENS = 12_288


def truncate(tokenizer: PegasusTokenizer, text: str, max_length: int) -> list[int]:
    """Return the first tokens of a text, at most `max_length` with [CLS] and [SEP]."""
    return tokenizer.encode(text, max_length)


def head_tail(tokenizer: PegasusTokenizer, text: str, max_length: int) -> list[int]:
    """Return the first and the last tokens of a text, half of each, at most `max_length` with [CLS] and [SEP]."""
    ids = tokenizer.encode(text)
    if len(ids) <= max_length:
        return ids
    tokenizer.num_truncated += 1
    head = (max_length + 1) // 2
    return ids[:head] + ids[len(ids) - (max_length - head) :]


def window(tokenizer: PegasusTokenizer, text: str, max_length: int) -> list[int]:
    """Return the tokens of a text, to be read in windows of `max_length`; at most MOST_TOKENS."""
    return tokenizer.encode(text, max(max_length, MOST_TOKENS))


# What is read of a text: functions of tokenizer, text and max_source_length.
LONG_TEXT: dict[str, Callable[[PegasusTokenizer, str, int], list[int]]] = {
    "truncate": truncate,
    "head_tail": head_tail,
    "window": window,
}


class Windows(NamedTuple):
    """What the encoder reads, and where each token of a source is among it.

    ids: int32 [windows, window_len], padded with 0.
    joined: int32 [sources, source_len], places in the flattened `ids`; -1 at padding.
    """

    ids: np.ndarray
    joined: np.ndarray


def divide(sources: Sequence[list[int]], max_length: int | None = None) -> Windows:
    """Divide sources into windows of at most `max_length` tokens, a source a window where it is None.

    Every window has the source's [CLS] and [SEP] round it and a quarter of its tokens in common with the next; of these
    the encoder's output is taken from the window that has more of their context. So joined every token is there once.
    """
    windows: list[list[int]] = []
    places: list[list[tuple[int, int]]] = []  # (window, position) of each token of each source
    for ids in sources:
        if max_length is None or len(ids) <= max_length:
            places.append([(len(windows), position) for position in range(len(ids))])
            windows.append(ids)
            continue
        body, size = ids[1:-1], max_length - 2
        stride = size - _overlap(size)
        starts = [*range(0, len(body) - size, stride), len(body) - size]
        borders = [(start + size + following) // 2 for start, following in itertools.pairwise(starts)]
        source = [(len(windows), 0)]
        for start, first, last in zip(starts, [0, *borders], [*borders, len(body)], strict=True):
            source += [(len(windows), 1 + token - start) for token in range(first, last)]
            windows.append([ids[0], *body[start : start + size], ids[-1]])
        places.append([*source, (len(windows) - 1, 1 + size)])
    padded = pad(windows)
    flat = [[row * padded.shape[1] + position for row, position in source] for source in places]
    return Windows(padded, pad(flat, pad_id=-1))


def _overlap(size: int) -> int:
    return size // 4


def pad(rows: Sequence[Sequence[int]], pad_id: int = 0, shape: tuple[int, int] | None = None) -> np.ndarray:
    """Return the rows, ids of unlike length, as int32 [batch, longest], or `shape`, filled up with `pad_id`."""
    batch = np.full(shape or (len(rows), max(map(len, rows))), pad_id, np.int32)
    for target, row in zip(batch, rows, strict=False):
        target[: len(row)] = row
    return batch


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
