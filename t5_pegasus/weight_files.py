"""Whether a weights file is whole: told within a second, before TensorFlow is loaded and a model is built.

A format is a way to recognise it, a check of what its header says against the size of the file, and a row in FORMATS.
TensorFlow's checkpoints have checksums of their values, which are compared. In other formats a bit of a matrix that has
changed is not seen here: values that are not finite are left to the reader (`networks.checkpoints`).
"""

import importlib.util
import json
import math
import struct
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from .crc32c import masked_crc32c
from .errors import CheckpointError

_LONGEST_HEADER = 10**8  # bytes, of safetensors; its library takes no more
# Bytes of a value of safetensors. One of another type is not checked.
_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}

# What reading a file raises that is not what it seems: of the system, of a text, of a header that ends too early.
_DAMAGES = (OSError, LookupError, ValueError, TypeError, RuntimeError, AttributeError, RecursionError, struct.error)


class Format(NamedTuple):
    """A kind of weights file.

    recognises: whether a path is one, by its first bytes or its name.
    check: raises one of `_DAMAGES` for a file that is not whole.
    """

    recognises: Callable[[Path], bool]
    check: Callable[[Path], None]


def check_weights(path: str | Path) -> None:
    """Raise CheckpointError if weights cannot be read, are of no format in FORMATS, or are cut off or damaged."""
    path = Path(str(path).removesuffix(".index"))
    try:
        check = next((row.check for row in FORMATS.values() if row.recognises(path)), None)
        if check is None:
            raise CheckpointError(f"{path} is neither {' nor '.join(FORMATS)}")
        check(path)
    except PermissionError as error:
        raise CheckpointError(f"cannot read {error.filename or path}: {error.strerror}") from error
    except _DAMAGES as error:
        raise CheckpointError(f"{path} cannot be read, it may be damaged or cut off: {_one_line(error)}") from error


def starts_with(path: Path, offset: int, magic: bytes) -> bool:
    """Return whether a file has these bytes at an offset."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(len(magic)) == magic


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return f"no {text}" if isinstance(error, LookupError) else text


def _require_size(path: Path, needed: int) -> None:
    size = path.stat().st_size
    if size < needed:
        raise ValueError(f"{path.name} must have at least {needed} bytes, got {size}")


# safetensors: 8 bytes with the length of a JSON object, the object, and the tensors one after the other


def _check_safetensors(path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if not 0 < length <= min(_LONGEST_HEADER, size - 8):
            raise ValueError(f"its header must have at most {size - 8} bytes, got {length}")
        header = json.loads(file.read(length))
    end = 0
    tensors = {name: tensor for name, tensor in header.items() if name != "__metadata__"}
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1]["data_offsets"]):
        start, stop = tensor["data_offsets"]
        needed = math.prod(tensor["shape"]) * _SIZES[tensor["dtype"]] if tensor["dtype"] in _SIZES else stop - start
        if start != end or stop - start != needed:
            raise ValueError(f"{name} must have {needed} bytes from {end} on, got {start} to {stop}")
        end = stop
    if size != 8 + length + end:
        raise ValueError(f"it must have {8 + length + end} bytes, got {size}")


# HDF5, see https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html, "Disk Format: Level 0A"

_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_END_OF_FILE = {0: 40, 1: 44, 2: 28, 3: 28}  # where the superblock of a version says how long the file is


def _check_hdf5(path: Path) -> None:
    with path.open("rb") as file:
        superblock = file.read(64)
    version = superblock[8]
    if version not in _END_OF_FILE:
        raise ValueError(f"its superblock must have a version up to 3, got {version}")
    _require_size(path, struct.unpack_from("<Q", superblock, _END_OF_FILE[version])[0])
    if importlib.util.find_spec("h5py") is None:  # nothing can load it then, which is said elsewhere
        return
    import h5py

    with h5py.File(path, "r") as file:
        file.visititems(_check_dataset)


def _check_dataset(name: str, item: Any) -> None:
    if hasattr(item, "shape"):  # else it is a group
        stored, needed = item.id.get_storage_size(), math.prod(item.shape) * item.dtype.itemsize
        if item.compression is None and stored != needed:
            raise ValueError(f"{name} must have {needed} bytes, got {stored}")


# A TensorFlow checkpoint: an index, and files of data. The index is a table of LevelDB, from the names of variables to
# a protocol buffer each (tensorflow/core/protobuf/tensor_bundle.proto, tensorflow/core/lib/io/format.cc).

_TABLE_MAGIC = 0xDB4775248B80FB57
_FOOTER, _TRAILER = 48, 5  # bytes: of the table; of a block, its compression and a checksum
_TYPE, _SHARD, _OFFSET, _SIZE, _CHECKSUM = 1, 3, 4, 5, 6  # fields of a variable's entry
_NUM_SHARDS = 1  # of the header, the entry without a name
_CHUNK = 1 << 20  # bytes that are read at once
_OTHERWISE_CHECKED = {7, 21}  # types whose checksum is not that of the bytes in the file: texts and variants


def _check_checkpoint(path: Path) -> None:
    index = path.with_name(f"{path.name}.index").read_bytes()
    shards, variables = 1, defaultdict[int, list[tuple[bytes, dict[int, int]]]](list)
    for name, value in _table(index):
        fields = dict(_fields(value))
        if not name:
            shards = fields.get(_NUM_SHARDS, 1)
        else:
            variables[fields.get(_SHARD, 0)].append((name, {_OFFSET: 0, _SIZE: 0, **fields}))
    for shard, of_shard in variables.items():
        data = path.with_name(f"{path.name}.data-{shard:05d}-of-{shards:05d}")
        _require_size(data, max(fields[_OFFSET] + fields[_SIZE] for _, fields in of_shard))
        with data.open("rb") as file:
            for name, fields in of_shard:
                if _CHECKSUM in fields and fields.get(_TYPE) not in _OTHERWISE_CHECKED:
                    file.seek(fields[_OFFSET])
                    chunks = _chunks(file, fields[_SIZE])
                    _require_checksum(chunks, fields[_CHECKSUM], name.decode(errors="replace"))


def _require_checksum(chunks: Iterable[bytes], checksum: int, name: str) -> None:
    if masked_crc32c(chunks) != checksum:
        raise ValueError(f"{name} does not have the checksum that it was saved with")


def _chunks(file: IO[bytes], size: int) -> Iterator[bytes]:
    """Yield the next `size` bytes of a file piece by piece; raise ValueError if it ends before."""
    while size:
        chunk = file.read(min(size, _CHUNK))
        if not chunk:
            raise ValueError(f"{size} more bytes were expected")
        size -= len(chunk)
        yield chunk


def _table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the entries of a table, by key."""
    (magic,) = struct.unpack("<Q", data[-8:])
    if magic != _TABLE_MAGIC or len(data) < _FOOTER:
        raise ValueError("its index has no end")
    position = len(data) - _FOOTER
    handle = []  # offset and size of the block of metadata, then of the block of blocks
    for _ in range(4):
        number, position = _varint(data, position)
        handle.append(number)
    for _, value in _block(data, *handle[2:]):
        offset, position = _varint(value, 0)
        size, _ = _varint(value, position)
        yield from _block(data, offset, size)


def _block(data: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield the entries of a block. A key is given by how much of the one before it begins with, and the rest."""
    if offset + size + _TRAILER > len(data) or data[offset + size]:
        raise ValueError("its index is cut off, or compressed")
    (checksum,) = struct.unpack_from("<I", data, offset + size + 1)
    _require_checksum([data[offset : offset + size + 1]], checksum, "its index")
    block, key, position = data[offset : offset + size], b"", 0
    (restarts,) = struct.unpack("<I", block[-4:])
    while position < size - 4 * (restarts + 1):
        shared, position = _varint(block, position)
        rest, position = _varint(block, position)
        length, position = _varint(block, position)
        key = key[:shared] + block[position : position + rest]
        yield key, block[position + rest : position + rest + length]
        position += rest + length


def _fields(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield number and value of each whole number in a protocol buffer, but for those of 8 bytes."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, position = _varint(data, position)
            yield number, value
        elif kind == 2:
            length, position = _varint(data, position)
            position += length
        else:
            if kind == 5:
                yield number, int.from_bytes(data[position : position + 4], "little")
            position += {1: 8, 5: 4}[kind]


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """Return the number at a position, seven bits a byte, and the position after it."""
    number = shift = 0
    while True:
        byte = data[position]
        number |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return number, position


# Hugging Face's: archives of PyTorch, and indices of shards, each a file of weights


def _check_archive(path: Path) -> None:
    if not zipfile.is_zipfile(path):
        raise ValueError("it is no archive of PyTorch 1.6 or later; save the model again as safetensors")


def _check_index(path: Path) -> None:
    for file in sorted(set(json.loads(path.read_bytes())["weight_map"].values())):
        if Path(file).name != file or not path.with_name(file).is_file():
            raise ValueError(f"it lists {file}, which is not a file of weights beside it")
        check_weights(path.with_name(file))


# A row a format, by its name. A safetensors file begins with the length of its header, in 8 bytes.
FORMATS = {
    "HDF5": Format(lambda path: starts_with(path, 0, _HDF5_MAGIC), _check_hdf5),
    "safetensors": Format(lambda path: starts_with(path, 8, b"{"), _check_safetensors),
    "a TensorFlow checkpoint": Format(lambda path: path.with_name(f"{path.name}.index").exists(), _check_checkpoint),
    "PyTorch's": Format(lambda path: path.suffix == ".bin" or starts_with(path, 0, b"PK\x03\x04"), _check_archive),
    "an index of shards": Format(lambda path: path.name.endswith(".index.json") and path.is_file(), _check_index),
}
