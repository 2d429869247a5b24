"""What data, training and decoding ask of a tokenizer, and no more."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol


class Encoded(NamedTuple):
    """Token ids of a text, and whether they are cut short of its end."""

    ids: list[int]
    truncated: bool


class Frame(NamedTuple):
    """The ids around the tokens of a text, as the encoder reads it: `[CLS]` and `[SEP]`, or only `</s>` at the end."""

    leading: tuple[int, ...]
    trailing: tuple[int, ...]

    @property
    def size(self) -> int:
        """Return the number of ids, leading and trailing."""
        return len(self.leading) + len(self.trailing)


class Tokenizer(Protocol):
    """Text to token ids and back.

    A model may have more rows of embeddings than its tokenizer has tokens, to round the size up: `decode` leaves their
    ids out.

    Attributes:
        vocab_file: the file that defines the tokens; an exported model takes it along.
        vocab_size: number of tokens; ids are below it.
        pad_id, unk_id: ids of padding and of what the vocabulary cannot spell.
        start_id, end_id: ids that the decoder begins with and ends at.
        mask_id: id of a masked gap sentence; None if the vocabulary has no mask.
    """

    vocab_file: Path
    vocab_size: int
    pad_id: int
    unk_id: int
    start_id: int
    end_id: int
    mask_id: int | None

    @property
    def frame(self) -> Frame:
        """Return the ids around a source."""

    @property
    def fingerprint(self) -> str:
        """Return a hash of all that decides a text's ids, by which files of ids name their tokenizer."""

    def encode(self, text: str, max_length: int | None = None) -> list[int]:
        """Return the ids of `encode_source`."""

    def encode_batch(self, texts: Iterable[str], max_length: int | None = None) -> list[list[int]]:
        """Return the ids of each text; see `encode`."""

    def encode_source(self, text: str, max_length: int | None = None, masked: bool = False) -> Encoded:
        """Return what the encoder reads of a text: its tokens in their frame.

        Args:
            text: any text.
            max_length: ids to keep, those of the frame among them; all if None.
            masked: read "[MASK]" in the text as `mask_id`, not as text.

        Raises OptionError if `max_length` has no room for the frame, DataError for a mask that the vocabulary lacks.
        """

    def encode_target(self, text: str, max_length: int | None = None) -> Encoded:
        """Return what the decoder learns to write, from `start_id` to `end_id`; `max_length` counts both."""

    def encode_prefix(self, text: str) -> list[int]:
        """Return the ids of the text alone, which a title is to begin with: no `start_id`, no `end_id`."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids; special tokens, and ids that are no tokens, are left out."""
