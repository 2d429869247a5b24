"""Files of tensors, whole and in shards."""

import json

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from t5_pegasus.errors import CheckpointError
from t5_pegasus.networks.tensor_files import open_tensors

ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.array([1.5, -2], np.float16),
    "c": np.array([3, 1e30], ml_dtypes.bfloat16),
    "d": np.array(7, np.int64),
}


@pytest.fixture
def shards(tmp_path):
    """Return an index of two shards."""
    for file, names in (("one.safetensors", "ab"), ("two.safetensors", "cd")):
        safetensors.numpy.save_file({name: ARRAYS[name] for name in names}, tmp_path / file)
    index = tmp_path / "model.safetensors.index.json"
    files = {"a": "one.safetensors", "b": "one.safetensors", "c": "two.safetensors", "d": "two.safetensors"}
    index.write_text(json.dumps({"weight_map": files}))
    return index


def assert_same(tensors):
    assert set(tensors) == set(ARRAYS)
    assert len(tensors) == len(ARRAYS)
    for name, expected in ARRAYS.items():
        assert tensors[name].dtype == expected.dtype
        np.testing.assert_array_equal(tensors[name], expected)


@pytest.mark.parametrize("file", ["model.safetensors", "best.weights"])
def test_a_file(file, tmp_path):
    safetensors.numpy.save_file(ARRAYS, tmp_path / file)
    assert_same(open_tensors(tmp_path / file))


def test_shards(shards):
    assert_same(open_tensors(shards))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": {}}}', "[" * 100_000])
def test_what_is_no_index(shards, text):
    shards.write_text(text)
    with pytest.raises(CheckpointError, match=r"index\.json") as caught:
        open_tensors(shards)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["three.safetensors", "../one.safetensors", "/etc/passwd", "one.txt", ""])
def test_a_shard_that_is_none(shards, file):
    (shards.parent / "one.txt").touch()
    shards.write_text(json.dumps({"weight_map": {"a": file}}))
    with pytest.raises(CheckpointError, match="which is not a file of weights beside it"):
        open_tensors(shards)


def test_a_tensor_that_is_in_no_shard(shards):
    shards.write_text(json.dumps({"weight_map": {"a": "one.safetensors", "z": "one.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"index.json lists z, which one\.safetensors lacks"):
        open_tensors(shards)
