"""What the encoder reads: a text cut to the length that it takes or divided into windows, and texts of like length."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple, Self

import numpy as np

from ..text.protocol import Frame, Tokenizer

# Of one text in windows: some 20,000 characters. In the base model a token takes 73,728 bytes for cross-attention.
MOST_TOKENS = 12_288


class Window(NamedTuple):
    """Token ids that the encoder reads at once; the decoder sees its output from `start` to `stop`."""

    ids: Sequence[int]
    start: int
    stop: int


@dataclasses.dataclass(frozen=True)
class Source:
    """A text as the encoder reads it; its length is the number of tokens that the decoder sees.

    windows: one, or as many as a longer text is divided into. truncated: True if they lack some of the text. adapter:
    the name of the adapter that the engine is to read and write with; None for the model itself.
    """

    windows: tuple[Window, ...]
    truncated: bool = False
    adapter: str | None = None

    @classmethod
    def whole(cls, ids: Sequence[int], truncated: bool = False) -> Self:
        """Return a source that is read at once."""
        return cls((Window(ids, 0, len(ids)),), truncated)

    @property
    def ids(self) -> list[int]:
        """Return the token ids that the decoder sees, each token once."""
        return [token for ids, start, stop in self.windows for token in ids[start:stop]]

    def __len__(self) -> int:
        """Return the number of these ids."""
        return sum(stop - start for _, start, stop in self.windows)


NO_TEXT = Source(())


def truncate(tokenizer: Tokenizer, text: str, max_length: int) -> Source:
    """Read the first tokens of a text, `max_length` at most, those of the frame counted."""
    return Source.whole(*tokenizer.encode_source(text, max_length))


def head_tail(tokenizer: Tokenizer, text: str, max_length: int) -> Source:
    """Read the first and the last tokens of a text, half of each, `max_length` at most, those of the frame counted."""
    encoded = tokenizer.encode_source(text, max_length)
    if not encoded.truncated:
        return Source.whole(encoded.ids)
    ids = _framed(tokenizer, tokenizer.encode_prefix(text))
    if len(ids) <= max_length:
        return Source.whole(ids)
    leading, trailing = map(len, tokenizer.frame)
    room = max_length - tokenizer.frame.size
    head, tail = leading + (room + 1) // 2, room // 2 + trailing
    return Source.whole(ids[:head] + ids[len(ids) - tail :], truncated=True)


def window(tokenizer: Tokenizer, text: str, max_length: int) -> Source:
    """Read all of a text, MOST_TOKENS at most, in windows of `max_length` tokens."""
    encoded = tokenizer.encode_source(text, max_length)
    if not encoded.truncated:
        return Source.whole(encoded.ids)
    ids = tokenizer.encode_prefix(text)
    room = max(max_length, MOST_TOKENS) - tokenizer.frame.size
    return Source(divide(_framed(tokenizer, ids[:room]), max_length, tokenizer.frame), len(ids) > room)


def _framed(tokenizer: Tokenizer, ids: Sequence[int]) -> list[int]:
    """Return the ids of a text in the tokenizer's frame, each id of which is then one of it.

    The ids of a text that is encoded together with what is around it need not be: a token may reach over the border.
    """
    leading, trailing = tokenizer.frame
    return [*leading, *ids, *trailing]


# What is read of a long text: functions of tokenizer, text and max_source_length.
LONG_TEXT: dict[str, Callable[[Tokenizer, str, int], Source]] = {
    "truncate": truncate,
    "head_tail": head_tail,
    "window": window,
}


def divide(ids: Sequence[int], max_length: int, frame: Frame) -> tuple[Window, ...]:
    """Divide the token ids of a text into windows of at most `max_length` ids, which is more than the frame has.

    Each window has the text's frame and a quarter of its tokens in common with the next; of a common token, the decoder
    sees the output of the window that has more context around it. So it sees every token once.
    """
    leading, trailing = map(len, frame)
    body, size = ids[leading : len(ids) - trailing], max_length - frame.size
    stride = size - size // 4
    starts = [*range(0, len(body) - size, stride), max(0, len(body) - size)]
    # Tokens of the body from which on the next window's output is taken: the middle of what two windows share.
    borders = [(start + size + following) // 2 for start, following in itertools.pairwise(starts)]
    firsts, lasts = [-leading, *borders], [*borders, len(body) + trailing]
    return tuple(
        Window(
            [*frame.leading, *body[start : start + size], *frame.trailing],
            leading + first - start,
            leading + last - start,
        )
        for start, first, last in zip(starts, firsts, lasts, strict=True)
    )


class Inputs(NamedTuple):
    """A batch of sources as arrays.

    ids: int32 [windows, window_len], padded with 0. joined: int32 [sources, source_len], the index in the flattened
    `ids` of each token of a source that the decoder sees; -1 at padding. owners: int32 [windows], the source of each
    window. adapters: the name of each source's adapter, or None.
    """

    ids: np.ndarray
    joined: np.ndarray
    owners: np.ndarray
    adapters: tuple[str | None, ...]


def make_inputs(sources: Sequence[Source]) -> Inputs:
    """Return the arrays of a batch, of sources that have at least a token each."""
    ids = pad([window.ids for source in sources for window in source.windows])  # [windows, window_len]
    rows = itertools.count(step=ids.shape[1])  # where each window begins in the flattened ids
    joined = [
        # Windows first: zip takes a row only if there is a window for it.
        [
            row + position
            for (_, start, stop), row in zip(source.windows, rows, strict=False)
            for position in range(start, stop)
        ]
        for source in sources
    ]
    owners = np.repeat(np.arange(len(sources), dtype=np.int32), [len(source.windows) for source in sources])
    return Inputs(ids, pad(joined, pad_id=-1), owners, tuple(source.adapter for source in sources))


def pad(rows: Sequence[Sequence[int]], pad_id: int = 0, shape: tuple[int, int] | None = None) -> np.ndarray:
    """Return rows of ids of any lengths as int32 [batch, longest], or as `shape`, filled up with `pad_id`."""
    batch = np.full(shape or (len(rows), max(map(len, rows))), pad_id, np.int32)
    for target, row in zip(batch, rows, strict=False):
        target[: len(row)] = row
    return batch


def budget_batches(lengths: Sequence[int], max_tokens: int) -> list[np.ndarray]:
    """Divide rows into batches of like length whose padded size is within a budget.

    Args:
        lengths: tokens of each row.
        max_tokens: rows times longest row of a batch; a row longer than that is a batch of its own.

    Returns: row numbers of each batch, the longest rows first, so that the batch that needs most memory comes first.
    """
    order = np.argsort(-np.asarray(lengths), kind="stable")
    batches = []
    while len(order):
        count = max(1, max_tokens // max(1, lengths[order[0]]))
        batches.append(order[:count])
        order = order[count:]
    return batches
