"""Files of named tensors as mappings of names to arrays, each read when it is asked for: whole, or in shards.

A row in `READERS` for each format: safetensors, and PyTorch's pickles, of which only tensors are read. Shards are what
an index file lists, Hugging Face's `model.safetensors.index.json`.
"""

import functools
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors

from ..errors import CheckpointError
from .torch_files import read_pickled_tensors

INDEX_SUFFIX = ".index.json"


class Entry(NamedTuple):
    """A tensor of a file that is not read yet: its shape, and what reads it."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


class Tensors(Mapping[str, np.ndarray]):
    """Arrays by their names; each look-up reads the array anew."""

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        self.entries = dict(entries)

    def __getitem__(self, name: str) -> np.ndarray:
        """Return an array in the type that the file has."""
        return self.entries[name].read()

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self.entries)

    def __len__(self) -> int:
        """Return the number of arrays."""
        return len(self.entries)


def open_tensors(path: str | Path) -> Tensors:
    """Open a file of tensors, or all shards that an index file lists.

    Raises CheckpointError for a shard or a tensor that is missing and for an index that cannot be used, and what the
    readers raise for a damaged file.
    """
    path = Path(path)
    if not path.name.endswith(INDEX_SUFFIX):
        return _reader_of(path)(path)
    try:
        weight_map = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        files = sorted({str(file) for file in weight_map.values()})
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{path} must hold a JSON object whose weight_map names a file for each tensor"
        ) from error
    entries: dict[str, Entry] = {}
    for file in files:
        # A name alone: an index must not lead out of its folder.
        if Path(file).name != file or Path(file).suffix not in READERS or not path.with_name(file).is_file():
            raise CheckpointError(f"{path} lists {file}, which is not a file of weights beside it")
        shard = READERS[Path(file).suffix](path.with_name(file)).entries
        entries |= {name: entry for name, entry in shard.items() if weight_map.get(name) == file}
    if missing := [name for name in weight_map if name not in entries]:
        raise CheckpointError(f"{path} lists {missing[0]}, which {weight_map[missing[0]]} lacks")
    return Tensors(entries)


def _open_safetensors(path: Path) -> Tensors:
    file: Any = safetensors.safe_open(path, framework="numpy")
    return Tensors(
        {
            name: Entry(tuple(file.get_slice(name).get_shape()), functools.partial(file.get_tensor, name))
            for name in file.keys()  # noqa: SIM118  it is no mapping
        }
    )


def _open_pickled(path: Path) -> Tensors:
    return Tensors({name: Entry(shape, read) for name, (shape, read) in read_pickled_tensors(path).items()})


READERS: dict[str, Callable[[Path], Tensors]] = {".safetensors": _open_safetensors, ".bin": _open_pickled}


def is_pickled(path: Path) -> bool:
    """Return whether a file is PyTorch's, by its name or its first bytes."""
    return path.suffix == ".bin" or zipfile.is_zipfile(path)


def _reader_of(path: Path) -> Callable[[Path], Tensors]:
    return READERS[".bin" if is_pickled(path) else ".safetensors"]
