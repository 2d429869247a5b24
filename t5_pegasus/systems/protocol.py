"""What a system is to a comparison: texts in, titles out, and what the titles depend on."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol


@dataclasses.dataclass(frozen=True, slots=True)
class Text:
    """A text to write a title for, and its reference titles, which only an oracle looks at."""

    content: str
    references: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Written:
    """A title; `refused` is whether the system declined to write one; tokens are those that a provider counts."""

    title: str
    refused: bool = False
    input_tokens: int = 0
    output_tokens: int = 0


class System(Protocol):
    """What writes titles.

    Attributes:
        chunk_size: texts that are given to `write` at once. Their titles are kept together, so that is what a stopped
            comparison loses.
        runs_here: whether the work is done in this process, which has then its time and memory measured alone.
        asked_length: the characters or words that titles were asked to have at most; None if that was not said.
    """

    chunk_size: int
    runs_here: bool
    asked_length: int | None

    def identity(self) -> dict[str, Any]:
        """Return what the titles depend on beside the texts, as JSON: hashes of files, options, addresses."""
        ...

    def write(self, texts: Sequence[Text], start: int) -> list[Written]:
        """Return a title for each text; `start` is the index of the first one. Raises PegasusError if it cannot."""
        ...

    def cost(self, written: Sequence[Written]) -> float | None:
        """Return what the titles have cost, in the currency of the prices given, or None if no price is known."""
        ...


class LocalSystem:
    """Base of systems that cost nothing and run here."""

    chunk_size = 32
    runs_here = True
    asked_length: int | None = None

    def cost(self, written: Sequence[Written]) -> float | None:
        """Return None: no price is known."""
        return None
