"""Shards of token ids: what goes in comes out, here and in TensorFlow, and damage does not go unseen."""

import json
import random
import subprocess
import sys
import threading

import numpy as np
import pytest

from t5_pegasus.data.shards import ShardWriter, encode_record, open_shards
from t5_pegasus.errors import DataError, OptionError
from t5_pegasus.locations import ROOT
from t5_pegasus.text.tokenizer import PegasusTokenizer
from tests.paths import UNTRAINED_MODEL_DIR

# ([101, 7000], [5]): length and checksum, a tf.train.Example, its checksum. TensorFlow reads the like below.
RECORD = bytes.fromhex(
    "2e00000000000000c5cb57fa"
    "0a2c0a150a0a736f757263655f69647312071a050a0365d8360a130a0a7461726765745f69647312051a030a0105"
    "4f2ecd4f"
)


def random_pairs(count):
    rng = np.random.default_rng(0)
    return [tuple(rng.integers(0, 50_000, rng.integers(0, 400), np.int32) for _ in range(2)) for _ in range(count)]


def write(folder, pairs, tokenizer="hash", **options):
    with ShardWriter(folder, tokenizer, **options) as writer:
        for source, target in pairs:
            writer.add(source, target)
    return folder


@pytest.fixture(scope="module")
def tokenizer():
    return PegasusTokenizer(UNTRAINED_MODEL_DIR / "vocab.txt")


def test_pairs_come_back_in_any_order_with_their_lengths(tmp_path, tokenizer):
    pairs = random_pairs(25)
    shards = open_shards(write(tmp_path / "s", pairs, tokenizer.fingerprint, pairs_per_shard=10), tokenizer)
    assert len(shards) == 25
    assert shards.lengths.dtype == np.int32
    assert not shards.lengths.flags.writeable
    np.testing.assert_array_equal(shards.lengths, [[len(source), len(target)] for source, target in pairs])
    rows = [*random.Random(0).sample(range(25), 25), -1, -25]
    for row in rows:
        for ids, expected in zip(shards[row], pairs[row], strict=True):
            assert ids.dtype == np.int32
            np.testing.assert_array_equal(ids, expected)
    assert all(
        np.array_equal(a, b) for got, want in zip(shards, pairs, strict=True) for a, b in zip(got, want, strict=True)
    )
    for row in (25, -26):
        with pytest.raises(IndexError):
            shards[row]
    manifest = json.loads((tmp_path / "s" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest == shards.manifest
    assert [shard["pairs"] for shard in manifest["shards"]] == [10, 10, 5]
    assert manifest["source_tokens"] == sum(len(source) for source, _ in pairs)
    assert {path.name for path in tmp_path.iterdir()} == {"s"}


def test_tensorflow_reads_the_records_and_checks_them(tmp_path):
    tf = pytest.importorskip("tensorflow")
    pairs = random_pairs(20)
    folder = write(tmp_path / "s", pairs, pairs_per_shard=8)
    files = sorted(map(str, folder.glob("*.tfrecord")))
    ragged = {name: tf.io.RaggedFeature(tf.int64) for name in ("source_ids", "target_ids")}
    rows = [tf.io.parse_single_example(record, ragged) for record in tf.data.TFRecordDataset(files)]
    assert len(rows) == 20
    for row, (source, target) in zip(rows, pairs, strict=True):
        np.testing.assert_array_equal(row["source_ids"], source)
        np.testing.assert_array_equal(row["target_ids"], target)


def test_threads_read_together(tmp_path):
    pairs = random_pairs(40)
    shards = open_shards(write(tmp_path / "s", pairs, pairs_per_shard=7))
    wrong = []

    def read(seed):
        for row in random.Random(seed).sample(range(40), 40):
            if not all(map(np.array_equal, shards[row], pairs[row])):
                wrong.append(row)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_every_damaged_byte_is_seen(tmp_path):
    folder = write(tmp_path / "s", [([101, 7000, 102], [101, 300, 102])])
    file = folder / "shard-00000.tfrecord"
    whole = file.read_bytes()
    assert whole == encode_record([101, 7000, 102], [101, 300, 102])
    for place in range(len(whole)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(
            DataError, match=r"shard-00000\.tfrecord is damaged at byte 0, pair 0: .*; make the shards again"
        ):
            open_shards(folder)[0]


def test_what_is_written_is_the_same_to_the_byte(tmp_path):
    """As by version 1 from the first: shards of others are read for years."""
    folder = write(tmp_path / "s", [([101, 7000], [5]), ([], [7])], pairs_per_shard=1)
    assert sorted(path.name for path in folder.iterdir()) == [
        *("index.bin", "manifest.json", "shard-00000.tfrecord", "shard-00001.tfrecord")
    ]
    assert (folder / "shard-00000.tfrecord").read_bytes() == RECORD
    assert np.fromfile(folder / "index.bin", "<i4").tolist() == [0, 0, 2, 1, 0, 0, 0, 1]
    manifest = {
        **{"version": 1, "tokenizer": "hash", "pairs": 2, "source_tokens": 2, "target_tokens": 2},
        "shards": [
            {"file": "shard-00000.tfrecord", "pairs": 1, "bytes": len(RECORD)},
            {"file": "shard-00001.tfrecord", "pairs": 1, "bytes": (folder / "shard-00001.tfrecord").stat().st_size},
        ],
    }
    assert (folder / "manifest.json").read_text(encoding="utf-8") == json.dumps(manifest, indent=2) + "\n"


def test_shards_of_another_version_and_of_another_index_are_refused(tmp_path):
    folder = write(tmp_path / "s", [([1, 2], [3]), ([4], [5])])
    index, manifest = (folder / name for name in ("index.bin", "manifest.json"))
    rows = np.fromfile(index, "<i4")
    for place in (2, 3):
        changed = rows.copy()
        changed[place] += 1
        index.write_bytes(changed.tobytes())
        with pytest.raises(DataError, match="at byte 0, pair 0: its lengths are not those of the index"):
            open_shards(folder)[0]
        assert [ids.tolist() for ids in open_shards(folder)[1]] == [[4], [5]]
    manifest.write_text(manifest.read_text(encoding="utf-8").replace('"version": 1', '"version": 2'), encoding="utf-8")
    with pytest.raises(DataError, match="has shards of version 2, this reads 1"):
        open_shards(folder)


def test_a_folder_that_is_not_whole_is_refused(tmp_path):
    folder = write(tmp_path / "s", random_pairs(5))
    file = folder / "shard-00000.tfrecord"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(DataError, match=f"must have {len(whole)} bytes, got {len(whole) - 1}; make the shards again"):
        open_shards(folder)
    file.unlink()
    with pytest.raises(DataError, match=r"cannot read shards .*shard-00000\.tfrecord: No such file"):
        open_shards(folder)
    file.write_bytes(whole)
    (folder / "index.bin").write_bytes((folder / "index.bin").read_bytes()[:-16])
    with pytest.raises(DataError, match=r"index\.bin must have 5 pairs, got 4"):
        open_shards(folder)
    (folder / "manifest.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match=r"manifest\.json is damaged"):
        open_shards(folder)
    with pytest.raises(DataError, match=r"cannot read shards .* --output_format tfrecord` makes them"):
        open_shards(tmp_path / "none")


def test_shards_of_another_tokenizer_are_refused(tmp_path, tokenizer):
    words = tmp_path / "words.txt"
    words.write_text("追一科技\n", encoding="utf-8")
    other = PegasusTokenizer(tokenizer.vocab_file, words)
    assert other.fingerprint != tokenizer.fingerprint
    folder = write(tmp_path / "s", random_pairs(1), tokenizer.fingerprint)
    with pytest.raises(DataError, match="made with another tokenizer"):
        open_shards(folder, other)


def test_a_failed_writer_leaves_what_was_there(tmp_path):
    old = write(tmp_path / "s", random_pairs(3))
    with pytest.raises(ZeroDivisionError):
        write(old, (([1], [1 // divisor]) for divisor in (1, 0)))
    assert len(open_shards(old)) == 3
    with pytest.raises(DataError, match="no pair to write"):
        write(tmp_path / "new", [])
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
    assert len(open_shards(write(old, random_pairs(4)))) == 4, "shards are replaced by shards"
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_what_a_killed_writer_left_is_replaced_by_the_next(tmp_path):
    code = (
        "import os, signal, sys; from t5_pegasus.data.shards import ShardWriter\n"
        "with ShardWriter(sys.argv[1], 'hash') as writer:\n"
        "    writer.add([1], [2]); os.kill(os.getpid(), signal.SIGKILL)"
    )
    for _ in range(2):
        subprocess.run([sys.executable, "-c", code, tmp_path / "s"], check=False, cwd=ROOT)
    assert [path.name for path in tmp_path.iterdir()] == [".s.0.tmp"]
    assert len(open_shards(write(tmp_path / "s", random_pairs(3)))) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_no_other_folder_is_replaced(tmp_path):
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    for target in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(OptionError, match="shards are written to a new folder"):
            ShardWriter(target, "hash")
    with pytest.raises(OptionError, match="pairs_per_shard must be at least 1, got 0"):
        ShardWriter(tmp_path / "s", "hash", 0)


def test_reading_and_writing_load_no_tensorflow():
    code = (
        "import sys, t5_pegasus.data.shards as s; s.encode_record([1], [2]); assert 'tensorflow' not in sys.modules;"
        "assert 'tf_keras' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
