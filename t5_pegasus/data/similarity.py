"""Texts that are equal or nearly: keys, MinHash signatures, groups of rows on disk, and an index of held-out texts.

A text is compared without punctuation, white space, case and width, by its runs of a few characters in a row. Nothing
here holds texts in memory. Runs are hashed to 64 bits; of a few million, about one pair in a million collides.
"""

import array
import functools
import hashlib
import os
import tempfile
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

RUN = 5  # characters, for near duplicates
LONG_RUN = 8  # for leaks: eight characters in a row are seldom the same by chance
BINS = 128  # of a signature
_BANDS = 16  # of 8 bins: texts of Jaccard similarity s share one with probability 1 - (1 - s^8)^16, 95 % at 0.8
_LONGEST = 5000  # characters of a text that are compared
_EMPTY = np.iinfo(np.uint64).max

# Powers of an odd number, for a polynomial hash. Two rounds of shift and multiply then mix its bits (Steele, Lea and
# Flood, "Fast splittable pseudorandom number generators", has the constants).
_FACTORS = np.array([pow(0x9E3779B97F4A7C15, place + 1, 2**64) for place in range(LONG_RUN)], np.uint64)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def plain(text: str) -> str:
    """Return the letters and digits of a text, in lower case and of one width: what is compared."""
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKC", text[:_LONGEST]).casefold()))


def key(text: str) -> int:
    """Return a number from 1 to 2^64 - 1 that equal texts share; 0 for an empty one."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest()) or 1 if text else 0


def runs(text: str, size: int = RUN) -> np.ndarray:
    """Return the hashes of all runs of `size` characters of a plain text, sorted, each once: uint64 [runs]."""
    if not text:
        return np.empty(0, np.uint64)
    codes = np.frombuffer(text.encode("utf-32-le", "replace"), np.uint32).astype(np.uint64)
    size = min(size, len(codes))
    count = len(codes) - size + 1
    hashes = np.zeros(count, np.uint64)
    for place in range(size):
        hashes += (codes[place : place + count] + np.uint64(1)) * _FACTORS[place]
    for shift, factor in zip((np.uint64(30), np.uint64(27)), _MIX, strict=True):
        hashes = (hashes ^ (hashes >> shift)) * factor
    return np.unique(hashes ^ (hashes >> np.uint64(31)))


def signature(hashes: np.ndarray) -> np.ndarray:
    """Return the signature of a text's runs, of which two texts share the share that is their Jaccard similarity.

    One permutation hashing: the least hash in each of `BINS` equal ranges; an empty range takes that of the next one to
    the right, with the distance in it (Shrivastava and Li, "Densifying one permutation hashing via rotation").

    Args:
        hashes: uint64 [runs], sorted, at least one.

    Returns: uint16 [BINS], the low bits of each.
    """
    bins = hashes >> np.uint64(64 - BINS.bit_length() + 1)
    filled, first = np.unique(bins, return_index=True)  # the first of a bin is its least, since they are sorted
    source = np.searchsorted(filled, np.arange(BINS, dtype=np.uint64))
    distance = (filled[source % len(filled)].astype(np.int64) - np.arange(BINS)) % BINS
    found: np.ndarray = hashes[first][source % len(filled)] + distance.astype(np.uint64) * _MIX[0]
    return found.astype(np.uint16)


class Pairs(NamedTuple):
    """Rows and, for each, an earlier row that it equals or resembles: int64 [pairs], by row; and how much."""

    rows: np.ndarray
    others: np.ndarray
    similarity: np.ndarray


class Spool:
    """Keys and signatures of rows in files, so that a million rows take as little memory as a thousand.

    Args:
        folder: for the files, some 300 bytes a row.
        rows_at_a_time: that are sorted in memory.
    """

    def __init__(self, folder: Path, rows_at_a_time: int = 1 << 20) -> None:
        self._limit = rows_at_a_time
        self.rows, self._width = 0, 1
        self._keys = (folder / "keys").open("w+b", buffering=1 << 16)
        self._signatures = (folder / "signatures").open("w+b", buffering=1 << 16)

    def add(self, keys: tuple[int, ...], hashes: np.ndarray) -> None:
        """Add a row: its keys, of which all rows have as many, and the hashes of its runs."""
        self._width = len(keys)
        self._keys.write(np.array(keys, np.uint64).tobytes())
        self._signatures.write((signature(hashes) if len(hashes) else np.zeros(BINS, np.uint16)).tobytes())
        self.rows += 1

    def equal(self, column: int) -> Pairs:
        """Return each row whose key in a column an earlier row has, with the last such row."""

        def parts() -> Iterator[np.ndarray]:
            for block in self._blocks(self._keys, np.dtype(np.uint64), self._width):
                yield block[:, column]

        rows, others = self._repeated(parts)
        return Pairs(rows, others, np.ones(len(rows)))

    def similar(self, threshold: float) -> Pairs:
        """Return each row for which an earlier row is found that is at least as similar as the threshold."""
        found: dict[int, tuple[float, int]] = {}
        for band in range(_BANDS):
            rows, others = self._repeated(functools.partial(self._band, band))
            for row, other in zip(rows.tolist(), others.tolist(), strict=True):
                if row not in found:
                    share = float(np.mean(self._signature(row) == self._signature(other)))
                    if share >= threshold:
                        found[row] = (share, other)
        ordered = sorted(found)
        others_found = np.array([found[row][1] for row in ordered], np.int64)
        return Pairs(np.array(ordered, np.int64), others_found, np.array([found[row][0] for row in ordered]))

    def close(self) -> None:
        """Close the files."""
        self._keys.close()
        self._signatures.close()

    def _blocks(self, file: IO[bytes], kind: np.dtype, width: int) -> Iterator[np.ndarray]:
        file.flush()
        size, at = kind.itemsize * width, 0
        while data := os.pread(file.fileno(), size << 14, at):
            at += len(data)
            yield np.frombuffer(data, kind).reshape(-1, width)

    def _band(self, band: int) -> Iterator[np.ndarray]:
        for block in self._blocks(self._signatures, np.dtype(np.uint16), BINS):
            width = BINS // _BANDS
            words = np.ascontiguousarray(block[:, band * width : (band + 1) * width]).view(np.uint64)
            hashes = (words[:, 0] ^ (words[:, 1] * _MIX[0])) * _MIX[1]
            hashes ^= hashes >> np.uint64(31)
            yield np.where(words.any(axis=1), hashes | np.uint64(1), np.uint64(0))

    def _signature(self, row: int) -> np.ndarray:
        return np.frombuffer(os.pread(self._signatures.fileno(), 2 * BINS, 2 * BINS * row), np.uint16)

    def _repeated(self, parts: Callable[[], Iterator[np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
        """Return (row, the last row before with its key) of keys that occur twice, 0 left out, by row.

        Keys are sorted a range at a time, so that no more than some `rows_at_a_time` are in memory.
        """
        ranges = max(1, -(-self.rows // self._limit))
        found: list[tuple[np.ndarray, np.ndarray]] = []
        for number in range(ranges):
            kept, at = [], 0
            for part in parts():
                (chosen,) = np.nonzero((part % np.uint64(ranges) == number) & (part != 0))
                kept.append((part[chosen], chosen + at))
                at += len(part)
            keys = np.concatenate([each for each, _ in kept]) if kept else np.empty(0, np.uint64)
            rows = np.concatenate([each for _, each in kept]) if kept else np.empty(0, np.int64)
            order = np.argsort(keys, kind="stable")
            (same,) = np.nonzero(keys[order][1:] == keys[order][:-1])
            found.append((rows[order[same + 1]], rows[order[same]]))
        rows, others = (np.concatenate(each) for each in zip(*found, strict=True))
        order = np.argsort(rows)
        return rows[order], others[order]


class Counts:
    """How often each key occurs, of more keys than fit into memory.

    Args:
        keys_at_a_time: that are sorted in memory.
    """

    def __init__(self, keys_at_a_time: int = 1 << 21) -> None:
        self._limit, self._count = keys_at_a_time, 0
        self._file = tempfile.TemporaryFile()

    def add(self, keys: set[int]) -> None:
        """Count each of the keys once."""
        self._file.write(np.fromiter(keys, np.uint64, len(keys)).tobytes())
        self._count += len(keys)

    def frequent(self, least: int) -> dict[int, int]:
        """Return the keys that were added at least so often, with how often; and forget all."""
        self._file.flush()
        found: dict[int, int] = {}
        ranges = max(1, -(-self._count // self._limit))
        for number in range(ranges):
            kept, at = [np.empty(0, np.uint64)], 0
            while data := os.pread(self._file.fileno(), 1 << 20, at):
                at += len(data)
                part = np.frombuffer(data, np.uint64)
                kept.append(part[part % np.uint64(ranges) == number])
            keys, counts = np.unique(np.concatenate(kept), return_counts=True)
            often = counts >= least
            found.update(zip(keys[often].tolist(), counts[often].tolist(), strict=True))
        self._file.close()
        return found


class Leak(NamedTuple):
    """What a text shares with a held-out one: "pair", "title", "text" or "part"; that one's number; the share of it."""

    kind: str
    number: int
    share: float


class HeldOut:
    """Texts that training must not see, to be found again in training data, whole or in part.

    A text leaks in part if it and a held-out one share enough of the runs of the shorter: an abstract that stands in an
    article counts. Runs are kept up to a number; beyond it only those whose hashes are divisible by a scale, which
    doubles, so that memory is bounded and shares are estimated (FracMinHash: Irber et al., "Lightweight compositional
    analysis of metagenomes with FracMinHash and minimum metagenome covers").

    Args:
        most_runs: that are kept; each takes 12 bytes.
        overlap: the share from which a text counts as leaked.
    """

    _MOST_TEXTS_OF_A_RUN = 50  # a run of more texts is a phrase
    _FEWEST_RUNS = 8  # of a text, or a share says nothing

    def __init__(self, overlap: float = 0.5, most_runs: int = 1 << 22) -> None:
        self._overlap, self._most_runs, self._scale = overlap, most_runs, 1
        self._titles, self._texts = array.array("Q"), array.array("Q")  # keys
        self._pending: list[np.ndarray] = []  # the runs of the last texts
        self._waiting = 0  # runs among them
        self._runs, self._owners = np.empty(0, np.uint64), np.empty(0, np.int32)
        self._sizes = np.empty(0, np.int64)

    def add(self, title: str, text: str) -> int:
        """Add a pair, of which either may be empty, and return its number. `find` knows it after `freeze`."""
        self._titles.append(key(plain(title)))
        self._texts.append(key(plain(text)))
        self._pending.append(self._sampled(runs(plain(text), LONG_RUN)))
        self._waiting += len(self._pending[-1])
        if self._waiting > self._most_runs // 4:
            self._merge()
        return len(self._titles) - 1

    def freeze(self) -> None:
        """Let `find` know all that were added."""
        self._merge()
        self._title_keys = _sorted_keys(self._titles)
        self._text_keys = _sorted_keys(self._texts)

    def _sampled(self, hashes: np.ndarray) -> np.ndarray:
        return hashes if self._scale == 1 else hashes[hashes % np.uint64(self._scale) == 0]

    def _merge(self) -> None:
        first = len(self._titles) - len(self._pending)
        owners = np.repeat(
            np.arange(first, first + len(self._pending), dtype=np.int32), [len(each) for each in self._pending]
        )
        hashes = np.concatenate([self._runs, *self._pending])
        owners = np.concatenate([self._owners, owners])
        self._pending, self._waiting = [], 0
        while len(hashes) > self._most_runs:
            self._scale *= 2
            kept = hashes % np.uint64(self._scale) == 0
            hashes, owners = hashes[kept], owners[kept]
        order = np.argsort(hashes, kind="stable")
        self._runs, self._owners = hashes[order], owners[order]
        self._sizes = np.bincount(self._owners, minlength=len(self._titles))

    def find(self, title: str, text: str) -> Leak | None:
        """Return what a pair shares with a held-out one, its text, its title or a part of its text; or None."""
        if not self._titles:
            return None
        comparable, title_key = plain(text), key(plain(title))
        title_of, text_of = _look_up(self._title_keys, title_key), _look_up(self._text_keys, key(comparable))
        if text_of is not None:
            return Leak("pair" if self._titles[text_of] == title_key else "text", text_of, 1.0)
        return Leak("title", title_of, 1.0) if title_of is not None else self._find_part(comparable)

    def _find_part(self, comparable: str) -> Leak | None:
        hashes = self._sampled(runs(comparable, LONG_RUN))
        if len(hashes) < self._FEWEST_RUNS:
            return None
        first, last = (np.searchsorted(self._runs, hashes, side) for side in ("left", "right"))
        counts = last - first
        counts[counts > self._MOST_TEXTS_OF_A_RUN] = 0
        if not counts.any():
            return None
        starts = np.repeat(first - np.concatenate([[0], np.cumsum(counts)[:-1]]), counts)
        owners, shared = np.unique(self._owners[starts + np.arange(counts.sum())], return_counts=True)
        sizes = np.minimum(self._sizes[owners], len(hashes))
        share = np.where(sizes >= self._FEWEST_RUNS, shared / np.maximum(sizes, 1), 0)
        best = int(share.argmax())
        return Leak("part", int(owners[best]), float(share[best])) if share[best] >= self._overlap else None


def _sorted_keys(keys: "array.array[int]") -> tuple[np.ndarray, np.ndarray]:
    found = np.array(keys, np.uint64)
    order = np.argsort(found, kind="stable")
    return found[order], order


def _look_up(keys: tuple[np.ndarray, np.ndarray], sought: int) -> int | None:
    """Return the number of the first text with a key; None if there is none, or for the key of an empty text."""
    values, numbers = keys
    at = int(np.searchsorted(values, np.uint64(sought)))
    return int(numbers[at]) if sought and at < len(values) and int(values[at]) == sought else None
