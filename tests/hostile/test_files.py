"""Every loader of files on files with accidents: what it returns is sound, or it says in one line what is wrong."""

import gzip
import io
import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import openpyxl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5_pegasus import PegasusTokenizer
from t5_pegasus.config import GenerationConfig, ModelConfig, read_generation_defaults
from t5_pegasus.data.documents import read_documents
from t5_pegasus.data.examples import ReadCounts, read_examples, read_texts
from t5_pegasus.data.predictions import read_predictions
from t5_pegasus.data.shards import INDEX, MANIFEST, ShardWriter, open_shards
from t5_pegasus.serving.options import read_api_keys
from t5_pegasus.text.segmentation import read_user_dict
from t5_pegasus.text.tokenizer import read_vocabulary
from tests.hostile.damage import as_json, damaged, damaged_object
from tests.hostile.outcomes import Refused, refusing, some_or_many
from tests.hostile.test_scripts import VOCABULARY
from tests.paths import UNTRAINED_MODEL_DIR

PAIRS = [{"id": f"n{number}", "title": f"标题{number}", "content": f"正文{number}，e=mc²。"} for number in range(8)]
CONFIG = json.loads((UNTRAINED_MODEL_DIR / "config.json").read_text(encoding="utf-8"))
GENERATION = {
    "num_beams": 4,
    "max_new_tokens": 20,
    "length_penalty": 0.5,
    "suppress_tokens": [1, 2],
    "do_sample": False,
}
VOCABULARY_LINES = VOCABULARY.splitlines(keepends=True)


def to_xlsx() -> bytes:
    book = openpyxl.Workbook()
    for row in (list(PAIRS[0]), *(list(pair.values()) for pair in PAIRS)):
        book.active.append(row)
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


def lines_of(rows: list[str]) -> bytes:
    return "".join(f"{row}\n" for row in rows).encode()


FILES = {
    ".tsv": lines_of(["id\ttitle\tcontent", *("\t".join(pair.values()) for pair in PAIRS)]),
    ".csv": lines_of(["id,title,content", *(",".join(f'"{value}"' for value in pair.values()) for pair in PAIRS)]),
    ".jsonl": lines_of([json.dumps(pair, ensure_ascii=False) for pair in PAIRS]),
    ".json": json.dumps(PAIRS, ensure_ascii=False, indent=1).encode(),
    ".xlsx": to_xlsx(),
}


def is_text(text: Any) -> bool:
    """Return whether a text can be written to any file."""
    return isinstance(text, str) and bool(text.encode() is not None) and "\0" not in text


def load_examples(path: Path) -> None:
    counts = ReadCounts()
    examples = list(read_examples(path, counts=counts))
    assert examples
    assert counts.examples == len(examples)
    for example in examples:
        assert is_text(example.content)
        assert is_text(example.title)
        assert example.content.strip() == example.content != ""
        assert " ".join(example.title.split()) == example.title != ""


def load_texts(path: Path) -> None:
    texts = list(read_texts(path))
    assert texts
    assert all(isinstance(identifier, str) and is_text(text) for identifier, text in texts)


def load_documents(path: Path) -> None:
    assert all(document.text.encode() is not None for document in read_documents(path))


def load_predictions(path: Path) -> None:
    assert all(isinstance(title, str) and "\n" not in title for title in read_predictions(path))


def load_vocabulary(path: Path) -> None:
    tokens = read_vocabulary(path)
    assert len(set(tokens)) == len(tokens)
    tokenizer = PegasusTokenizer(path)
    ids = tokenizer.encode("正文 abc")
    assert all(0 <= index < len(tokens) for index in ids)
    assert isinstance(tokenizer.decode(ids), str)


def load_user_dict(path: Path) -> None:
    for word, frequency in read_user_dict(path):
        assert 0 < len(word) <= 100
        assert frequency is None or frequency >= 0


def load_config(path: Path) -> None:
    config = ModelConfig.load(path.parent)
    sizes = [value for value in config.to_dict().values() if isinstance(value, int)]
    assert all(0 <= size <= 2**24 for size in sizes)


def load_defaults(path: Path) -> None:
    config = GenerationConfig.over(read_generation_defaults(path.parent))
    assert config.num_beams >= 1
    assert math.isfinite(config.length_penalty)


def load_api_keys(path: Path) -> None:
    assert all(key.isascii() and key for key in read_api_keys(str(path)))


class Loader(NamedTuple):
    """A function that loads a path and checks what it gets, and good files by the names that they must have."""

    load: Callable[[Path], None]
    files: dict[str, bytes]


# A row a loader.
LOADERS = {
    "examples": Loader(load_examples, {f"a{suffix}": content for suffix, content in FILES.items()}),
    "texts": Loader(load_texts, {**{f"a{suffix}": content for suffix, content in FILES.items()}, "a.txt": VOCABULARY}),
    "documents": Loader(load_documents, {"a.jsonl": FILES[".jsonl"], "a.txt": FILES[".tsv"]}),
    "predictions": Loader(load_predictions, {"a.jsonl": FILES[".jsonl"], "a.txt": VOCABULARY}),
    "vocabulary": Loader(load_vocabulary, {"vocab.txt": VOCABULARY}),
    "user words": Loader(load_user_dict, {"u.txt": "语言模型 3 n\nt5\n自监督 nz\nc++17 50\n".encode()}),
    "config": Loader(load_config, {"config.json": json.dumps(CONFIG).encode()}),
    "defaults": Loader(load_defaults, {"generation_config.json": json.dumps(GENERATION).encode()}),
    "API keys": Loader(load_api_keys, {"keys.txt": b"a-key\nanother-key\n"}),
}
CASES = [(name, file) for name, loader in LOADERS.items() for file in loader.files]


@some_or_many(12, 60)
@pytest.mark.parametrize(("name", "file"), CASES)
def test_files_with_accidents(name, file, examples):
    load, content = LOADERS[name].load, LOADERS[name].files[file]

    @settings(max_examples=examples)
    @given(damaged(content), st.booleans())
    def attack(changed, compressed):
        told = None
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / file
            if compressed and name in ("examples", "texts", "documents", "predictions"):
                path = path.with_name(f"{file}.gz")
                changed = gzip.compress(changed, 1)
            path.write_bytes(changed)
            try:
                with refusing():
                    load(path)
            except Refused as refused:
                told = str(refused)
        assert told is None or file in told

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / file).write_bytes(content)
        load(Path(folder) / file)  # or the attack would prove nothing
    attack()


@some_or_many(20, 200)
@pytest.mark.parametrize(
    ("name", "good"), [("config", CONFIG), ("defaults", GENERATION)], ids=["config.json", "generation_config.json"]
)
def test_configs_with_odd_values(name, good, examples):
    @settings(max_examples=examples)
    @given(damaged_object(good))
    def attack(values):
        (file,) = LOADERS[name].files
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / file).write_bytes(as_json(values))
            try:
                with refusing():
                    LOADERS[name].load(Path(folder) / file)
            except Refused:
                pass

    attack()


@some_or_many(20, 200)
@pytest.mark.parametrize("suffix", [".jsonl", ".tsv"])
def test_a_bad_line_costs_no_other_line(suffix, examples):
    """With skip_bad_lines all lines but the one of the accident give their pair, as they do without it."""
    lines = FILES[suffix].splitlines(keepends=True)
    first = len(lines) - len(PAIRS)
    expected = [(pair["content"], pair["title"]) for pair in PAIRS]

    @settings(max_examples=examples)
    @given(st.integers(first, len(lines) - 1), st.data())
    def attack(row, data):
        changed = data.draw(damaged(lines[row][:-1], most=1)).replace(b"\n", b"").replace(b"\r", b"")
        if suffix == ".jsonl" and changed.startswith((b"\xff\xfe", b"\xfe\xff")) and row == 0:
            return  # the mark of another encoding at the beginning is about the whole file
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"a{suffix}"
            path.write_bytes(b"".join([*lines[:row], changed, b"\n", *lines[row + 1 :]]))
            found = [
                (each.content, each.title) for each in read_examples(path, skip_bad_lines=True, counts=ReadCounts())
            ]
        others = expected[: row - first] + expected[row - first + 1 :]
        assert [pair for pair in found if pair in others] == others
        assert len(found) <= len(expected)

    attack()


@some_or_many(20, 150)
def test_shards_with_accidents(examples):
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "shards"
        with ShardWriter(whole, "fingerprint") as writer:
            for length in (3, 5, 4):
                writer.add(list(range(length)), [1, 2])
        expected = [[ids.tolist() for ids in pair] for pair in open_shards(whole)]
        files = {path.name: path.read_bytes() for path in whole.iterdir()}
        assert {MANIFEST, INDEX} < set(files)

        @settings(max_examples=examples)
        @given(st.sampled_from(sorted(files)), st.data())
        def attack(name, data):
            (whole / name).write_bytes(data.draw(damaged(files[name], most=1)))
            try:
                with refusing():
                    found = [[ids.tolist() for ids in pair] for pair in open_shards(whole)]
                    # A checksum stands for each pair; the manifest has notes that nobody compares.
                    assert found == expected
            except Refused:
                pass
            finally:
                (whole / name).write_bytes(files[name])

        attack()
