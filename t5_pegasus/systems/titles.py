"""The titles of a system, kept in a file while they are written, so that a stopped comparison goes on.

A file is of one system and one set of texts: its name has the hash of all that the titles depend on, and its first line
says what that is. Each further line holds the titles of a few texts. It is only ever appended to; a line that a killed
process has left half-written is dropped.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..files import atomic_text
from .protocol import Written


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Some titles in the order of their texts, the seconds they took, and the most memory of the process by then."""

    written: list[Written]
    seconds: float
    peak_bytes: int | None


class TitleFile:
    """The file of a system's titles.

    Args:
        folder: of all such files.
        identity: what the titles depend on, as JSON; its hash names the file.
    """

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        text = json.dumps(identity, ensure_ascii=False, sort_keys=True)
        self._header = json.dumps({"identity": identity}, ensure_ascii=False, sort_keys=True)
        digest = hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:16]
        self.path = folder / f"{identity['system']['kind']}-{digest}.jsonl"

    def read(self) -> list[Chunk]:
        """Return what the file has; nothing if there is none. Whatever follows a damaged line is dropped."""
        try:
            lines = self.path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        kept, chunks = [], []
        for line in lines[1:]:  # the first is the header, which the name stands for
            try:
                chunks.append(_chunk(json.loads(line)))
            except (KeyError, TypeError, ValueError):
                break
            kept.append(line)
        if len(lines) != len(kept) + 2 or lines[-1]:  # the last line ends, and nothing follows it
            self._rewrite([line.decode() for line in kept])
        return chunks

    def append(self, chunk: Chunk) -> None:
        """Add titles; they are on the disk when this returns."""
        if not self.path.exists():
            self._rewrite([])
        row = {**dataclasses.asdict(chunk), "written": [_row(each) for each in chunk.written]}
        with self.path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(f"{json.dumps(row, ensure_ascii=True)}\n")
            file.flush()
            os.fsync(file.fileno())

    def _rewrite(self, lines: Sequence[str]) -> None:
        with atomic_text(self.path) as file:
            file.writelines(f"{line}\n" for line in (self._header, *lines))


def _row(written: Written) -> dict[str, Any]:
    """Return the fields that say something."""
    defaults = Written(written.title)
    row = {"title": written.title}
    return row | {
        name: value for name, value in dataclasses.asdict(written).items() if value != getattr(defaults, name)
    }


def _chunk(row: dict[str, Any]) -> Chunk:
    peak = row["peak_bytes"]
    return Chunk(
        [Written(**each) for each in row["written"]], float(row["seconds"]), None if peak is None else int(peak)
    )
