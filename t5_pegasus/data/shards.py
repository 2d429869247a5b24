"""Pairs as token ids in TFRecord shards, so that training does no text work.

A folder of shards holds `manifest.json` (counts, options, hash of the tokenizer), `index.bin` (where each pair stands
and how long it is) and `shard-00000.tfrecord`, …: records of `tf.train.Example` with two int64 features, `source_ids`
and `target_ids`. Any TFRecord reader takes the shards without the index; nothing here imports TensorFlow.

    with ShardWriter("pairs", tokenizer.fingerprint) as writer:
        writer.add(source_ids, target_ids)
    shards = open_shards("pairs", tokenizer)
    shards.lengths  # int32 [pairs, 2], without reading a pair
    source_ids, target_ids = shards[7]
"""

import contextlib
import functools
import json
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from ..config import require
from ..crc32c import masked_crc32c
from ..errors import DataError, OptionError
from ..files import atomic_folder
from ..text.protocol import Tokenizer

MANIFEST, INDEX = "manifest.json", "index.bin"
VERSION = 1
PAIRS_PER_SHARD = 100_000
# A row a pair: the offset of its record in its shard, in bytes, and its tokens, [CLS] and [SEP] counted.
INDEX_ROW = np.dtype([("offset", "<i8"), ("lengths", "<i4", (2,))])

_HEADER = struct.Struct("<QI")  # length of the data, its checksum; after the data stands the checksum of the data
_FOOTER = struct.Struct("<I")

Ids = np.ndarray[tuple[int], np.dtype[np.int32]]


def encode_record(source_ids: Sequence[int] | Ids, target_ids: Sequence[int] | Ids) -> bytes:
    """Return a pair as a shard has it: a tf.train.Example framed as a TFRecord."""
    example = _example_class()()
    for name, ids in (("source_ids", source_ids), ("target_ids", target_ids)):
        example.features.feature[name].int64_list.value.extend(ids)
    data = example.SerializeToString(deterministic=True)
    length = struct.pack("<Q", len(data))
    return b"".join((length, _FOOTER.pack(masked_crc32c([length])), data, _FOOTER.pack(masked_crc32c([data]))))


class ShardWriter:
    """Write a folder of shards; it appears whole when the `with` block ends, and not at all if that raises.

    Args:
        folder: what to write; a folder of shards that stands there is replaced.
        tokenizer: the `fingerprint` of the tokenizer whose ids are written.
        pairs_per_shard: pairs in a file, but for the last.

    `manifest` takes further values for manifest.json, until the block ends. Memory does not grow with the pairs. Raises
    OptionError if `folder` is something else than shards or an empty folder, DataError if no pair was added.
    """

    def __init__(self, folder: str | Path, tokenizer: str, pairs_per_shard: int = PAIRS_PER_SHARD) -> None:
        require(pairs_per_shard >= 1, "pairs_per_shard must be at least 1", pairs_per_shard)
        self.folder = Path(folder)
        check_shards_target(self.folder)
        self.manifest: dict[str, Any] = {"version": VERSION, "tokenizer": tokenizer}
        self._pairs_per_shard = pairs_per_shard
        self._tokens = [0, 0]
        self._pairs: list[int] = []  # of each shard

    def __enter__(self) -> Self:
        """Open a temporary folder beside the one to write."""
        self._stack = contextlib.ExitStack()
        self._temporary = self._stack.enter_context(atomic_folder(self.folder, check_shards_target))
        self._index = (self._temporary / INDEX).open("wb")
        self._shard: IO[bytes] | None = None
        return self

    def add(self, source_ids: Sequence[int] | Ids, target_ids: Sequence[int] | Ids) -> None:
        """Append a pair of token ids."""
        self.add_record(encode_record(source_ids, target_ids), (len(source_ids), len(target_ids)))

    def add_record(self, record: bytes, lengths: tuple[int, int]) -> None:
        """Append what `encode_record` returned, and the lengths of its source and target."""
        if self._shard is None or self._pairs[-1] == self._pairs_per_shard:
            if self._shard is not None:
                self._shard.close()
            self._shard = (self._temporary / _shard_name(len(self._pairs))).open("wb")
            self._pairs.append(0)
        self._index.write(np.array((self._shard.tell(), lengths), INDEX_ROW).tobytes())
        self._shard.write(record)
        self._pairs[-1] += 1
        self._tokens = [total + length for total, length in zip(self._tokens, lengths, strict=True)]

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Publish the folder, or remove it after an exception."""
        with self._stack:
            self._index.close()
            if self._shard is not None:
                self._shard.close()
            if error is not None:
                raise error
            self._write_manifest()

    def _write_manifest(self) -> None:
        if not self._pairs:
            raise DataError(f"no pair to write to {self.folder}")
        shards = [
            {
                "file": _shard_name(number),
                "pairs": pairs,
                "bytes": (self._temporary / _shard_name(number)).stat().st_size,
            }
            for number, pairs in enumerate(self._pairs)
        ]
        manifest = {
            **self.manifest,
            "pairs": sum(self._pairs),
            "source_tokens": self._tokens[0],
            "target_tokens": self._tokens[1],
            "shards": shards,
        }
        text = json.dumps(manifest, indent=2)  # in ASCII: a name of a file in it need not be UTF-8
        (self._temporary / MANIFEST).write_bytes(f"{text}\n".encode())


class Shards(Sequence[tuple[Ids, Ids]]):
    """The pairs of a folder of shards, read when they are asked for; made by `open_shards`.

    Attributes:
        manifest: what manifest.json says.
        lengths: int32 [pairs, 2], the tokens of each source and target, [CLS] and [SEP] counted; mapped, not loaded.
    """

    def __init__(self, folder: Path, manifest: Mapping[str, Any], index: np.ndarray[Any, Any]) -> None:
        self.folder = folder
        self.manifest = manifest
        self.lengths = index["lengths"]
        self._offsets = index["offset"]
        self._ends = np.cumsum([shard["pairs"] for shard in manifest["shards"]])
        self._files: dict[int, IO[bytes]] = {}

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self._offsets)

    def __getitem__(self, row: Any) -> Any:
        """Return (source_ids, target_ids) of a pair, each int32 [length]; rows count from the end below 0.

        May be called by several threads. Raises IndexError beyond the last, DataError for a damaged record.
        """
        row = range(len(self))[row]
        number = int(np.searchsorted(self._ends, row, side="right"))
        if number not in self._files:
            self._files[number] = (self.folder / _shard_name(number)).open("rb")
        file, offset = self._files[number].fileno(), int(self._offsets[row])
        try:
            header = os.pread(file, _HEADER.size, offset)
            size, checksum = _HEADER.unpack(header)
            if masked_crc32c([header[:8]]) != checksum:
                raise ValueError("its length fails the checksum")
            body = os.pread(file, size + _FOOTER.size, offset + _HEADER.size)
            if masked_crc32c([body[:size]]) != _FOOTER.unpack(body[size:])[0]:
                raise ValueError("its data fail the checksum")
            features = _example_class().FromString(body[:size]).features.feature
            pair = tuple(np.array(features[name].int64_list.value, np.int32) for name in ("source_ids", "target_ids"))
            if any(len(ids) != length for ids, length in zip(pair, self.lengths[row], strict=True)):
                raise ValueError("its lengths are not those of the index")
        except (struct.error, OSError, OverflowError, ValueError, DecodeError) as error:
            path = self.folder / _shard_name(number)
            raise DataError(
                f"{path} is damaged at byte {offset}, pair {row}: {error}; make the shards again"
            ) from error
        return pair

    def __iter__(self) -> Iterator[tuple[Ids, Ids]]:
        """Yield the pairs in order."""
        return map(self.__getitem__, range(len(self)))


def open_shards(folder: str | Path, tokenizer: Tokenizer | None = None) -> Shards:
    """Open a folder of shards, without reading a pair.

    Raises DataError where it is no such folder, is not whole, or was made with another tokenizer than the one given.
    """
    folder = Path(folder)
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        if manifest["version"] != VERSION:
            raise DataError(f"{folder} has shards of version {manifest['version']}, this reads {VERSION}")
        index = np.memmap(folder / INDEX, INDEX_ROW, mode="r")
        sizes = {name: (folder / name).stat().st_size for name in map(_shard_name, range(len(manifest["shards"])))}
        expected = {shard["file"]: shard["bytes"] for shard in manifest["shards"]}
        pairs, made_with = manifest["pairs"], manifest["tokenizer"]
    except OSError as error:
        raise DataError(
            f"cannot read shards in {folder}: {error.filename or folder}: {error.strerror}; "
            "`python pretrain_data.py --output_format tfrecord` makes them"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / MANIFEST} is damaged: {error!r}; make the shards again") from error
    for name, size in expected.items():
        if sizes.get(name) != size:
            raise DataError(f"{folder / name} must have {size} bytes, got {sizes.get(name)}; make the shards again")
    if len(index) != pairs:
        raise DataError(f"{folder / INDEX} must have {pairs} pairs, got {len(index)}; make the shards again")
    if tokenizer is not None and tokenizer.fingerprint != made_with:
        raise DataError(
            f"the shards in {folder} were made with another tokenizer than {tokenizer.vocab_file}: "
            "use the vocab.txt (and user_dict) they were made with, or make them again"
        )
    return Shards(folder, manifest, index)


def check_shards_target(folder: Path) -> None:
    """Raise OptionError if a folder of shards would replace something else."""
    is_folder = folder.is_dir() and ((folder / MANIFEST).is_file() or not any(folder.iterdir()))
    if folder.exists() and not is_folder:
        raise OptionError(f"shards are written to a new folder, or in place of shards, got {folder}")


def _shard_name(number: int) -> str:
    return f"shard-{number:05d}.tfrecord"


@functools.cache
def _example_class() -> Any:
    """Return the class of the message tf.train.Example, of which only what is used here is declared.

    See tensorflow/core/example/{example,feature}.proto; a map is a repeated message of key and value.
    """
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="t5_pegasus", syntax="proto3")

    def add_message(parent: Any, name: str, *fields: tuple[str, int, int, int, str]) -> Any:
        message = parent.add(name=name)
        for field_name, number, label, kind, type_name in fields:
            message.field.add(name=field_name, number=number, label=label, type=kind, type_name=type_name or None)
        return message

    one, many, nested = field.LABEL_OPTIONAL, field.LABEL_REPEATED, field.TYPE_MESSAGE
    add_message(file.message_type, "Int64List", ("value", 1, many, field.TYPE_INT64, ""))
    add_message(file.message_type, "Feature", ("int64_list", 3, one, nested, ".t5_pegasus.Int64List"))
    features = add_message(
        file.message_type, "Features", ("feature", 1, many, nested, ".t5_pegasus.Features.FeatureEntry")
    )
    entry = add_message(
        features.nested_type,
        "FeatureEntry",
        ("key", 1, one, field.TYPE_STRING, ""),
        ("value", 2, one, nested, ".t5_pegasus.Feature"),
    )
    entry.options.map_entry = True
    add_message(file.message_type, "Example", ("features", 1, one, nested, ".t5_pegasus.Features"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t5_pegasus.Example"))
