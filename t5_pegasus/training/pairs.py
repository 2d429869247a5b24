"""Pairs of token ids for training: from examples, and as the padded arrays of a batch."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..config import require_only_with
from ..data.examples import Example, read_examples
from ..data.shards import open_shards
from ..decoding.inputs import pad
from ..decoding.options import PROMPT_OPTIONS, DataConfig
from ..errors import OptionError
from ..text.prompts import Prompt, with_prompt
from ..text.protocol import Tokenizer
from .batches import Batch

Pairs = list[tuple[list[int], list[int]]]


class PairSource(Protocol):
    """Pairs by number: in memory (`EncodedPairs`), or shards on disk (`shards.open_shards`)."""

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of source and target, int32 [pairs, 2]."""

    def __len__(self) -> int:
        """Return the number of pairs."""

    def __getitem__(self, row: int, /) -> tuple[Any, Any]:
        """Return source ids, in their frame, and target ids, from the start token to the end token."""


class EncodedPairs:
    """Pairs in memory."""

    def __init__(self, pairs: Pairs) -> None:
        self._pairs = [(np.array(source, np.int32), np.array(target, np.int32)) for source, target in pairs]
        self.lengths = np.array([(len(source), len(target)) for source, target in pairs], np.int32).reshape(-1, 2)

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self._pairs)

    def __getitem__(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Return source and target ids, int32."""
        return self._pairs[row]


def encode_pairs(
    tokenizer: Tokenizer, examples: Sequence[Example], data: DataConfig, masked: bool = False, kind: str = "training"
) -> EncodedPairs:
    """Return the token ids of each example, cut to the lengths of `data`; say on standard error how many were cut.

    The prompt of `data` stands around each content. Where `masked`, a "[MASK]" in a content is that token and not text.
    `kind` is what the examples are for, as the user is told.
    """
    reader = with_prompt(tokenizer, data.prompt(Prompt()))
    sources = [reader.encode_source(example.content, data.max_source_length, masked) for example in examples]
    targets = [tokenizer.encode_target(example.title, data.max_target_length) for example in examples]
    cut = sum(encoded.truncated for encoded in (*sources, *targets))
    if cut:
        limits = f"max_source_length {data.max_source_length} or max_target_length {data.max_target_length}"
        print(f"{cut} {kind} texts were cut to {limits}", file=sys.stderr)
    return EncodedPairs([(source.ids, target.ids) for source, target in zip(sources, targets, strict=True)])


def open_pairs(path: Path, tokenizer: Tokenizer, data: DataConfig) -> PairSource:
    """Open a folder of token-id shards, or read and encode any file that `read_examples` takes, [MASK] as a mask.

    Raises what these raise, and OptionError for shards of longer texts than `data` allows.
    """
    columns = ("text_column", "summary_column", "skip_bad_lines")
    if not path.is_dir():
        examples = read_examples(path, **{name: getattr(data, name) for name in columns}, keep_duplicates=True)
        return encode_pairs(tokenizer, list(examples), data, masked=True)
    require_only_with(data, False, "a file of text, not shards", *columns, *PROMPT_OPTIONS)
    shards = open_shards(path, tokenizer)
    longest = shards.lengths.max(axis=0).tolist()
    if longest[0] > data.max_source_length or longest[1] > data.max_target_length:
        raise OptionError(
            f"{path} has sources of {longest[0]} and targets of {longest[1]} tokens; raise --max_source_length and "
            f"--max_target_length, got {data.max_source_length} and {data.max_target_length}, or make shorter shards"
        )
    return shards


def load_part(pairs: PairSource, batch: Batch, part: int, parts: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the n-th of so many equal parts of a batch: int32 [rows, source_length] and [rows, target_length]."""
    size = batch.size // parts
    chosen = [pairs[row] for row in batch.rows[part * size : (part + 1) * size].tolist()]
    sources, targets = [source for source, _ in chosen], [target for _, target in chosen]
    return pad(sources, shape=(size, batch.source_length)), pad(targets, shape=(size, batch.target_length))


def count_targets(pairs: PairSource, batches: Sequence[Batch]) -> int:
    """Return the target tokens that the model is to write in some batches: all but the start tokens."""
    return int(sum((pairs.lengths[batch.rows, 1] - 1).sum() for batch in batches))
