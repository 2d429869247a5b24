"""PyTorch's `pytorch_model.bin`, read without PyTorch and without running what is pickled in it.

Such a file is a zip archive: a pickle that names tensors, and a member for the bytes of each. A pickle can call any
function; here it can name tensors and their dictionary, and everything else is refused. safetensors, which hold
nothing but tensors, are to be preferred.
"""

import collections
import functools
import io
import math
import mmap
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import CheckpointError

_MOST_PICKLE_BYTES = 2**26  # a thousand tensors take a hundred kilobytes
_MOST_DIMENSIONS = 8

# Types of storages, and the type in which numpy has them. bfloat16 is the first half of a float32.
_BFLOAT16 = "BFloat16Storage"
_TYPES = {
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "DoubleStorage": "<f8",
    _BFLOAT16: "<u2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}

_PREFERRED = "safetensors are read without such a risk: save the model again with save_pretrained"


class Storage(NamedTuple):
    """Where the numbers of a tensor are: a type of `_TYPES`, the name of a member of the archive, their number."""

    kind: str
    key: str
    size: int


class PickledTensor(NamedTuple):
    """A tensor as a pickle has it: offset, shape and strides in numbers of a storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Dictionary(collections.OrderedDict[str, Any]):
    """The dictionary of a pickle, without the attributes that PyTorch gives it."""

    def __setstate__(self, state: object) -> None:
        """Ignore the state."""


def _rebuild_tensor(storage: object, offset: Any, shape: object, strides: object, *rest: object) -> PickledTensor:
    """Return what `torch._utils._rebuild_tensor_v2` would make a tensor of."""
    if not (isinstance(storage, Storage) and isinstance(shape, tuple) and isinstance(strides, tuple)):
        raise pickle.UnpicklingError("a tensor without storage, shape and strides")
    numbers = (offset, *shape, *strides)
    if len(shape) != len(strides) or len(shape) > _MOST_DIMENSIONS or not all(map(_is_count, numbers)):
        raise pickle.UnpicklingError(f"a tensor of an impossible shape, {shape}")
    return PickledTensor(storage, offset, shape, strides)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**48


def _rebuild_parameter(tensor: object, *rest: object) -> object:
    """Return the tensor of a `torch.nn.Parameter`."""
    return tensor


# All that a pickle may name.
_ADMITTED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _Dictionary,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    **{("torch", kind): kind for kind in _TYPES},
}


class _TensorsOnly(pickle.Unpickler):
    """Unpickles names, numbers, dictionaries and `PickledTensor`s."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what a name stands for; raises UnpicklingError for all that is no tensor."""
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is no tensor and could run code")
        return _ADMITTED[module, name]

    def persistent_load(self, pid: object) -> Storage:
        """Return the storage that a tensor names."""
        if not (isinstance(pid, tuple) and len(pid) == 5 and pid[0] == "storage" and pid[1] in _TYPES):
            raise pickle.UnpicklingError("it names a storage of an unknown kind")
        _, kind, key, _, size = pid
        if not isinstance(key, str) or type(size) is not int or size < 0:
            raise pickle.UnpicklingError("it names a storage without key and size")
        return Storage(kind, key, size)


Found = dict[str, tuple[tuple[int, ...], Callable[[], np.ndarray]]]


def read_pickled_tensors(path: Path) -> Found:
    """Return the shape of each tensor in a file and what reads it, by the names of the tensors.

    Raises CheckpointError for a file of PyTorch's before 1.6, for one that holds anything but tensors or is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _read_archive(path, archive)
    except zipfile.BadZipFile as error:
        raise CheckpointError(
            f"{path} is not a file of PyTorch 1.6 or later, or it is damaged; {_PREFERRED}"
        ) from error
    except OSError:
        raise
    except Exception as error:  # a damaged pickle or archive raises almost any
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(f"{path} is refused: {reason}; {_PREFERRED}") from error


def _read_archive(path: Path, archive: zipfile.ZipFile) -> Found:
    members = {member.filename.partition("/")[2]: member for member in archive.infolist()}
    if "data.pkl" not in members:
        raise pickle.UnpicklingError("it is an archive without data.pkl")
    if members["data.pkl"].file_size > _MOST_PICKLE_BYTES:
        raise pickle.UnpicklingError("its data.pkl is too large for a list of tensors")
    state = _TensorsOnly(io.BytesIO(archive.read(members["data.pkl"]))).load()
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not state:
        raise pickle.UnpicklingError("it holds no dictionary of tensors")
    found: Found = {}
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, PickledTensor):
            raise pickle.UnpicklingError(f"{str(name)[:100]!r} in it is no tensor")
        member = members.get(f"data/{tensor.storage.key}")
        if member is None or member.compress_type != zipfile.ZIP_STORED:
            raise pickle.UnpicklingError(f"it lacks the numbers of {name}")
        start = _start_of(data, member)
        if start + member.file_size > len(data):
            raise pickle.UnpicklingError(f"{name} is cut off")
        found[name] = (tensor.shape, functools.partial(_array, data, start, member.file_size, tensor))
        _check_bounds(name, tensor, member.file_size)
    return found


def _start_of(data: mmap.mmap, member: zipfile.ZipInfo) -> int:
    """Return where the bytes of a member begin: after its header, a name and an extra field of lengths it says."""
    name, extra = struct.unpack_from("<HH", data, member.header_offset + 26)
    return int(member.header_offset + 30 + name + extra)


def _check_bounds(name: str, tensor: PickledTensor, num_bytes: int) -> None:
    size = np.dtype(_TYPES[tensor.storage.kind]).itemsize
    last = tensor.offset + sum(
        (length - 1) * stride for length, stride in zip(tensor.shape, tensor.strides, strict=True)
    )
    is_empty = 0 in tensor.shape
    if not is_empty and (last >= num_bytes // size or math.prod(tensor.shape) > num_bytes // size):
        raise pickle.UnpicklingError(f"{name} is cut off")


def _array(data: mmap.mmap, start: int, num_bytes: int, tensor: PickledTensor) -> np.ndarray:
    """Return a tensor as an array, float32 for bfloat16."""
    kind = np.dtype(_TYPES[tensor.storage.kind])
    numbers = np.frombuffer(data, kind, num_bytes // kind.itemsize, start)
    if 0 in tensor.shape:
        return np.empty(tensor.shape, kind)
    strides = tuple(stride * kind.itemsize for stride in tensor.strides)
    array = np.lib.stride_tricks.as_strided(numbers[tensor.offset :], tensor.shape, strides, writeable=False)
    if tensor.storage.kind == _BFLOAT16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array
