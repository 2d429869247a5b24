"""From raw documents to pairs for pretraining: cleaned, cut, gap sentences chosen, duplicates dropped, written.

The work has two steps. First every block of the corpus becomes a part in a folder beside the output: its pairs as they
will be written, the keys of its documents, and what was counted; blocks are independent, so any worker can take any.
Then the parts are joined in order, without the duplicates. A part is there whole or not at all, under a name made from
the block's content, so that a killed run goes on with the blocks that have none.
"""

from __future__ import annotations  # OutputConfig, and Recipe with it, comes after the formats it chooses from

import contextlib
import dataclasses
import functools
import gzip
import hashlib
import itertools
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from ..config import check_choices, option, require_at_least, require_only_with
from ..errors import DataError, OptionError
from ..files import (
    atomic_folder,
    atomic_path,
    check_apart,
    check_target,
    errors_about,
    file_suffix,
    is_gzip,
    only_writer,
    temporary_folder,
)
from ..locations import choose_model_dir
from ..text.sentences import MIN_PIECES
from ..text.tokenizer import MASK, PegasusTokenizer
from .cleaning import FINGERPRINTS, KEY_BYTES, CleaningConfig, clean
from .documents import SEPARATORS, Block, block_documents, list_files, read_blocks
from .gap_sentences import GapSentenceConfig, pseudo_pairs
from .runners import RUNNERS, RunnerConfig
from .shards import PAIRS_PER_SHARD, ShardWriter, check_shards_target, encode_record

PARTS_VERSION = 3  # of the parts folder: to be raised by whatever makes other pairs of the same options


@dataclasses.dataclass(frozen=True)
class CorpusConfig:
    """How documents are read."""

    text_column: str | None = option(None, "column of the document; found by its usual names if not given")
    document_separator: str = option("line", "what sets documents of a .txt apart", choices=SEPARATORS)
    skip_bad_lines: bool = option(False, "count lines that cannot be used and go on, instead of stopping at the first")

    def __post_init__(self) -> None:
        """Raise OptionError for an unknown separator."""
        check_choices(self)


class Record(NamedTuple):
    """A pair as it is written, and of its source and target: the length, and whether it was cut to that."""

    data: bytes
    lengths: tuple[int, int]
    truncated: tuple[bool, bool] = (False, False)


class Format(NamedTuple):
    """A way to write pairs.

    `check` raises OptionError for an output that cannot be written; `prepare` completes a recipe, or raises what is
    wrong with it before there is work; `encode` makes a record of source, target and recipe; `join` writes output,
    records, recipe and counts, which are complete when the records are at their end. `options` are the fields of
    OutputConfig that only this format uses.
    """

    check: Callable[[Path], None]
    prepare: Callable[[Recipe], Recipe]
    encode: Callable[[str, str, Recipe], Record]
    join: Callable[[Path, Iterator[Record], Recipe, Counter[str]], None]
    options: tuple[str, ...]


def _with_vocabulary(recipe: Recipe) -> Recipe:
    """Return the recipe with the vocabulary named; raises here, not in a worker, if it cannot be used."""
    vocab_file = str(Path(recipe.output.vocab_file or choose_model_dir(None) / "vocab.txt").resolve())
    if _tokenizer(vocab_file, recipe.output.user_dict).mask_id is None and recipe.gap_sentences.masks:
        raise OptionError(
            f"mask_rates {recipe.gap_sentences.mask_rates} needs a vocabulary with {MASK}, got {vocab_file}"
        )
    return recipe._replace(output=dataclasses.replace(recipe.output, vocab_file=vocab_file))


def write_pairs(
    input_file: str | Path, output_file: str | Path, recipe: Recipe, runner: RunnerConfig | None = None
) -> Counter[str]:
    """Write the pairs of all documents, in their order; return what was counted (see `COUNTS`).

    What is finished when a run ends early stays in `output_file` + ".parts", and the same call goes on from there.
    Raises DataError if the input cannot be used or gives no pair, OptionError for an output that cannot be written.
    """
    runner, output = runner or RunnerConfig(), Path(output_file).resolve()
    is_remote = RUNNERS[runner.runner].is_remote
    form = FORMATS[recipe.output.output_format]
    form.check(output)
    options = {name: getattr(recipe.output, name) for name in ("vocab_file", "user_dict")}
    check_apart("output_file", output_file, input_file=input_file, **options)
    if is_remote and str(input_file) != "-":
        input_file = Path(input_file).resolve()  # workers elsewhere have another working directory
    others = list[str]()
    files = list_files(input_file, recipe.corpus.text_column, others.append)
    check_apart("output_file", output_file, input_file=files)  # which links in a folder may lead to
    is_text = any(file == "-" or file_suffix(file) == ".txt" for file in files)
    require_only_with(recipe.corpus, is_text, ".txt files", "document_separator")
    recipe = form.prepare(recipe)
    parts = output.with_name(f"{output.name}.parts")
    blocks: Iterable[Block] = read_blocks(
        input_file, recipe.corpus.text_column, recipe.corpus.document_separator, not is_remote
    )
    if not any(file == "-" or is_gzip(file) for file in files):
        # Known without reading, so that progress has an end, and that a missing file leaves no folder for the output.
        blocks = list(blocks)
    with only_writer(output), errors_about(output, parts), _parts_folder(parts, recipe) as folder:
        names, counts = list[str](), Counter(unread=len(others))
        results = RUNNERS[runner.runner].run(functools.partial(make_part, folder=folder, recipe=recipe), blocks, runner)
        total = len(blocks) if isinstance(blocks, list) else None
        for _, (name, counted) in tqdm(results, total=total, unit=" blocks", disable=None):
            names.append(name)
            counts.update(counted)
        if counts.pop("pairs", 0):
            form.join(output, _kept_records(names, folder, counts), recipe, counts)
    if not counts["pairs"]:
        raise DataError(f"no pair in {input_file}: {summary(counts)}")
    return counts


def summary(counts: Counter[str]) -> str:
    """Return what was counted, in words."""
    return ", ".join(f"{counts[name]} {text}" for name, text in COUNTS.items() if counts[name] or name == "documents")


# What is counted, and its words. A document has pairs, or is empty, short or a duplicate, or its chunks are blank.
COUNTS = {
    "documents": "documents read",
    "pairs": "pairs written",
    "short": f"documents too short (fewer than {MIN_PIECES} pieces)",
    "empty": "documents nearly empty",
    "duplicates": "duplicate documents",
    "tail": f"pieces left over at ends of documents (fewer than {MIN_PIECES})",
    "blank": "chunks whose source or target would be blank",
    "cut_sources": "sources cut to max_source_length",
    "cut_targets": "targets cut to max_target_length",
    "bad": "bad lines skipped",
    "unread": "files not read (neither .txt nor .jsonl)",
    "control": "control characters removed",
    "boilerplate": "boilerplate lines removed",
}


def make_part(block: Block, folder: Path, recipe: Recipe) -> tuple[str, Counter[str]]:
    """Write the part of a block, unless it is there; return its name and what was counted."""
    with block.open() as raw:
        digest = hashlib.file_digest(raw, lambda: hashlib.blake2b(digest_size=KEY_BYTES))  # type: ignore[arg-type]
    name = f"{block.number:06d}-{digest.hexdigest()}{block.suffix}"
    index_file = folder / f"{name}.npz"
    if index_file.exists():
        with np.load(index_file) as index:
            return name, Counter(json.loads(index["counts"].tobytes()))
    counts: Counter[str] = Counter()
    sizes, lengths, truncated = list[int](), list[tuple[int, int]](), list[tuple[bool, bool]]()
    pairs, keys = list[int](), list[bytes]()
    with atomic_path(folder / f"{name}.data") as data_file, data_file.open("wb") as data:
        on_bad_line = (lambda _: counts.update(bad=1)) if recipe.corpus.skip_bad_lines else None
        for document in block_documents(
            block, recipe.corpus.text_column, on_bad_line, recipe.corpus.document_separator
        ):
            try:
                records, document_keys = _document_records(document.text, recipe, counts)
            except Exception as error:
                error.add_note(f"while working on {document}")
                raise
            if records:
                data.writelines(record.data for record in records)
                sizes += [len(record.data) for record in records]
                lengths += [record.lengths for record in records]
                truncated += [record.truncated for record in records]
                pairs.append(len(records))
                keys += document_keys
    # The part is finished once this file is there.
    with atomic_path(index_file) as temporary:
        np.savez(
            temporary,
            sizes=np.array(sizes, np.int64),  # bytes of each record
            lengths=np.array(lengths, np.int32).reshape(-1, 2),  # of each record
            truncated=np.array(truncated, bool).reshape(-1, 2),  # of each record
            pairs=np.array(pairs, np.int64),  # records of each document
            keys=np.array(keys, f"S{KEY_BYTES}").reshape(len(pairs), -1) if keys else np.empty((len(pairs), 0), "S1"),
            counts=np.frombuffer(json.dumps(counts).encode(), np.uint8),
        )
    return name, counts


def _document_records(text: str, recipe: Recipe, counts: Counter[str]) -> tuple[list[Record], list[bytes]]:
    """Return the records of a document's pairs, and the keys it must share with no other; count what is dropped."""
    text, removed = clean(text, recipe.cleaning)
    counts.update(removed, documents=1)
    if len("".join(text.split())) < recipe.cleaning.min_document_length:
        counts["empty"] += 1
        return [], []
    encode = FORMATS[recipe.output.output_format].encode
    records = [encode(source, target, recipe) for source, target in pseudo_pairs(text, recipe.gap_sentences, counts)]
    counts["pairs"] += len(records)
    return records, FINGERPRINTS[recipe.cleaning.deduplicate](text, recipe.cleaning) if records else []


def _kept_records(names: list[str], folder: Path, counts: Counter[str]) -> Iterator[Record]:
    """Yield the records of the parts in order, except of documents that share a key with an earlier one; count both.

    The keys of all documents are held in memory, about 100 bytes each: one a document for exact duplicates, one a band
    for near ones.
    """
    seen: set[bytes] = set()
    for name in names:
        with np.load(folder / f"{name}.npz") as index, (folder / f"{name}.data").open("rb") as data:
            columns = (index[column].tolist() for column in ("sizes", "lengths", "truncated"))
            records = zip(*columns, strict=True)
            for pairs, keys in zip(index["pairs"].tolist(), index["keys"].tolist(), strict=True):
                is_kept = seen.isdisjoint(keys)
                seen.update(keys)
                counts.update(pairs=pairs * is_kept, duplicates=not is_kept)
                for size, lengths, truncated in itertools.islice(records, pairs):
                    record = Record(data.read(size), tuple(lengths), tuple(truncated))
                    if is_kept:
                        yield record


@contextlib.contextmanager
def _parts_folder(folder: Path, recipe: Recipe) -> Iterator[Path]:
    """Yield the folder for parts, with those of an earlier run with the same options; removed when the work is done.

    After an error or Ctrl-C it stays, if a part is in it.
    """
    made_by: dict[str, Any] = {"version": PARTS_VERSION, **recipe.options()}
    if recipe.output.vocab_file:
        made_by["tokenizer"] = _tokenizer(recipe.output.vocab_file, recipe.output.user_dict).fingerprint
    options = json.dumps(made_by, indent=2)  # in ASCII: a name of a file need not be UTF-8
    file = folder / "options.json"
    if folder.exists():
        if not file.is_file():
            raise OptionError(f"the folder for unfinished work must not be something else, got {folder}")
        if file.read_text(encoding="utf-8") == options:
            print(f"going on from {len(list(folder.glob('*.npz')))} finished parts in {folder}", file=sys.stderr)
        else:
            print(f"starting anew: {folder} was made with other options", file=sys.stderr)
            _remove(folder)
    if not folder.exists():
        with atomic_folder(folder) as temporary:
            (temporary / file.name).write_text(options, encoding="utf-8")
    try:
        yield folder
    except BaseException:
        if any(folder.glob("*.npz")):
            print(f"what is finished stays in {folder}: the same command goes on from there", file=sys.stderr)
        else:
            with contextlib.suppress(OSError):
                _remove(folder)
        raise
    _remove(folder)


def _remove(folder: Path) -> None:
    """Remove a folder: it is there whole or not at all, even if this is killed."""
    with temporary_folder(folder) as temporary:
        folder.rename(temporary / "old")


def _json_record(source: str, target: str, recipe: Recipe) -> Record:
    line = json.dumps({"source": source, "target": target}, ensure_ascii=False)
    return Record(f"{line}\n".encode(), (len(source), len(target)))


def _join_json(output: Path, records: Iterator[Record], recipe: Recipe, counts: Counter[str]) -> None:
    with (
        atomic_path(output) as temporary,
        gzip.open(temporary, "wb") if is_gzip(output) else temporary.open("wb") as file,
    ):
        file.writelines(record.data for record in records)


def _token_record(source: str, target: str, recipe: Recipe) -> Record:
    output = recipe.output
    tokenizer = _tokenizer(output.vocab_file or "", output.user_dict)
    # White space as `read_examples` leaves it, so that training on JSON lines has the same ids.
    source_ids, source_cut = tokenizer.encode_source(source.strip(), output.max_source_length, masked=True)
    target_ids, target_cut = tokenizer.encode_target(" ".join(target.split()), output.max_target_length)
    record = encode_record(source_ids, target_ids)
    return Record(record, (len(source_ids), len(target_ids)), (source_cut, target_cut))


def _join_tokens(output: Path, records: Iterator[Record], recipe: Recipe, counts: Counter[str]) -> None:
    tokenizer = _tokenizer(recipe.output.vocab_file or "", recipe.output.user_dict)
    with ShardWriter(output, tokenizer.fingerprint, recipe.output.pairs_per_shard) as writer:
        for record in records:
            counts.update(cut_sources=record.truncated[0], cut_targets=record.truncated[1])
            writer.add_record(record.data, record.lengths)
        writer.manifest.update(options=recipe.options(), counts={name: counts[name] for name in COUNTS})


@functools.cache
def _tokenizer(vocab_file: str, user_dict: str | None) -> PegasusTokenizer:
    return PegasusTokenizer(vocab_file, user_dict)


FORMATS = {
    "jsonl": Format(check_target, lambda recipe: recipe, _json_record, _join_json, options=()),
    "tfrecord": Format(
        check_shards_target,
        _with_vocabulary,
        _token_record,
        _join_tokens,
        options=("vocab_file", "user_dict", "max_source_length", "max_target_length", "pairs_per_shard"),
    ),
}


@dataclasses.dataclass(frozen=True)
class OutputConfig:
    """How pairs are written. Lengths are in tokens and count [CLS] and [SEP]."""

    output_format: str = option(
        "jsonl", 'JSON lines {"source", "target"}, or a folder of token ids in TFRecord', choices=FORMATS
    )
    vocab_file: str | None = option(None, "tfrecord: vocabulary; the base or the tiny model's if not given")
    user_dict: str | None = option(None, "tfrecord: jieba user dictionary")
    max_source_length: int = option(384, "tfrecord: sources are cut to this many tokens")
    max_target_length: int = option(128, "tfrecord: targets are cut to this many tokens")
    pairs_per_shard: int = option(PAIRS_PER_SHARD, "tfrecord: pairs in a file")

    def __post_init__(self) -> None:
        """Raise OptionError for an unknown format, an option of another one, and sizes that nothing fits in."""
        check_choices(self)
        for name, form in FORMATS.items():
            require_only_with(self, self.output_format == name, f"output_format {name}", *form.options)
        require_at_least(self, 3, "max_source_length", "max_target_length")
        require_at_least(self, 1, "pairs_per_shard")


class Recipe(NamedTuple):
    """All that decides which pairs a corpus gives and how they are written."""

    corpus: CorpusConfig
    cleaning: CleaningConfig
    gap_sentences: GapSentenceConfig
    output: OutputConfig

    def options(self) -> dict[str, Any]:
        """Return every option by its name."""
        return {name: value for config in self for name, value in dataclasses.asdict(config).items()}
