"""Weights files are judged without TensorFlow: whole ones pass, whatever is cut off or overwritten is refused."""

import os
import random
import shutil
import time

import h5py
import numpy as np
import pytest
import safetensors.numpy

from t5_pegasus.errors import CheckpointError
from t5_pegasus.networks.backend import tf
from t5_pegasus.networks.checkpoints import save_weights
from t5_pegasus.weight_files import check_weights

NAMES = {"HDF5": "best_model.weights", "safetensors": "model.safetensors", "checkpoint": "model.ckpt"}


@pytest.fixture(scope="module")
def whole(random_t5, tmp_path_factory):
    """Return a folder with the weights of the random model in every format."""
    folder = tmp_path_factory.mktemp("weights")
    for name in NAMES.values():
        save_weights(random_t5, folder / name)
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    """Return a copy, to be damaged."""
    return shutil.copytree(whole, tmp_path / "weights")


def files_of(folder, name):
    """Return the files of weights: of a checkpoint, the index and the data."""
    return sorted(folder.glob(f"{name}*"))


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_whole_weights_pass(whole, name):
    check_weights(whole / name)
    check_weights(str(whole / name))


def test_a_checkpoint_may_be_named_by_its_index(whole):
    check_weights(whole / "model.ckpt.index")


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.9999])
def test_weights_that_are_cut_off_are_refused_in_one_line(folder, name, share):
    for path in files_of(folder, name):
        before = path.read_bytes()
        os.truncate(path, int(len(before) * share))
        started = time.perf_counter()
        with pytest.raises(CheckpointError) as caught:
            check_weights(folder / name)
        assert time.perf_counter() - started < 3
        assert str(folder / name) in str(caught.value)
        assert "\n" not in str(caught.value)
        path.write_bytes(before)
    check_weights(folder / name)


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_what_overwrites_the_beginning_is_found(folder, name):
    path = files_of(folder, name)[-1]  # the index of a checkpoint comes last: its data have no header
    for junk in (b"\0" * 300, b"\xff" * 300, b"<html>" * 50):
        before = path.read_bytes()
        path.write_bytes(junk + before[len(junk) :])
        with pytest.raises(CheckpointError):
            check_weights(folder / name)
        path.write_bytes(before)


def test_data_of_a_checkpoint_must_be_there(folder):
    (folder / "model.ckpt.data-00000-of-00001").unlink()
    with pytest.raises(CheckpointError, match=r"model\.ckpt cannot be read, .*data-00000-of-00001"):
        check_weights(folder / "model.ckpt")


def test_one_bit_of_a_checkpoint_is_found_wherever_it_is(folder):
    """TensorFlow writes the checksums: of every variable, and of every block of the index."""
    choose = random.Random(0)
    for path in files_of(folder, "model.ckpt"):
        before = path.read_bytes()
        for position in (0, len(before) - 1, *choose.sample(range(len(before)), 30)):
            if path.suffix == ".index" and position >= len(before) - 48:
                continue  # the footer has none, and bytes that nobody reads
            after = bytearray(before)
            after[position] ^= 1 << choose.randrange(8)
            path.write_bytes(after)
            with pytest.raises(CheckpointError, match=r"does not have the checksum|its index is"):
                check_weights(folder / "model.ckpt")
        path.write_bytes(before)
    check_weights(folder / "model.ckpt")


def test_checkpoints_in_shards_and_slices_and_with_texts(tmp_path):
    """What a variable's entry says is of other kinds there: no size, or a checksum of more than the bytes."""
    tensors = {
        "a": ([tf.constant(["texts", ""]), tf.range(7), tf.zeros(0)], ["texts", "numbers", "none"], ["", "", ""]),
        "b": ([tf.fill((2, 3), 0.7), tf.constant(True)], ["part", "scalar"], ["4 3 2,2:0,3", ""]),
    }
    for name, (values, names, slices) in tensors.items():
        tf.raw_ops.SaveV2(prefix=f"{tmp_path}/{name}", tensor_names=names, shape_and_slices=slices, tensors=values)
    merged = tmp_path / "model.ckpt"
    tf.raw_ops.MergeV2Checkpoints(
        checkpoint_prefixes=[f"{tmp_path}/a", f"{tmp_path}/b"], destination_prefix=str(merged), delete_old_dirs=False
    )
    check_weights(merged)
    shards = sorted(tmp_path.glob("model.ckpt.data-*-of-00002"))
    assert len(shards) == 2
    for shard, name, value in zip(shards, ("numbers", "part"), (np.int32(5), np.float32(0.7)), strict=True):
        before = shard.read_bytes()
        assert value.tobytes() in before
        shard.write_bytes(before.replace(value.tobytes(), (value + 1).tobytes(), 1))
        with pytest.raises(CheckpointError, match=f"{name}.* does not have the checksum"):
            check_weights(merged)
        shard.write_bytes(before)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is neither HDF5 nor safetensors nor a TensorFlow checkpoint"),
        (b"PK\x03\x04 a model of PyTorch", "it is no archive of PyTorch 1.6 or later"),
        ((10**9).to_bytes(8, "little") + b"{}", "its header must have at most 2 bytes, got 1000000000"),
        ((2).to_bytes(8, "little") + b"{}more", "it must have 10 bytes, got 14"),
        ((2).to_bytes(8, "little") + b"{]", "Expecting property name"),
    ],
    ids=["empty", "of PyTorch", "a long header", "more than its header says", "no JSON"],
)
def test_files_that_are_no_weights(tmp_path, content, message):
    path = tmp_path / "best_model.weights"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        check_weights(path)


def test_tensors_must_be_as_long_as_their_shapes(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors.numpy.save({"a": np.ones((2, 3), np.float32)}).replace(b"[2,3]", b"[2,4]"))
    with pytest.raises(CheckpointError, match="a must have 32 bytes from 0 on, got 0 to 24"):
        check_weights(path)


def test_other_tools_files_pass(tmp_path):
    """Half precision; HDF5 of the newest layout, with a compressed dataset and an empty one."""
    values = {"a": np.ones((2, 3), np.float16), "b": np.zeros(0, np.float32), "c": np.array(1, np.int64)}
    (tmp_path / "model.safetensors").write_bytes(safetensors.numpy.save(values, {"format": "np"}))
    check_weights(tmp_path / "model.safetensors")
    with h5py.File(tmp_path / "new.h5", "w", libver="latest") as file:
        file.create_dataset("group/packed", data=np.zeros((50, 50)), compression="gzip")
        file.create_dataset("empty", shape=(0, 3))
    check_weights(tmp_path / "new.h5")


def test_a_file_that_may_not_be_read_is_named(shared_path, other_user):
    path = shared_path / "model.safetensors"
    path.write_bytes(b"x")
    path.chmod(0o600)
    with other_user(), pytest.raises(CheckpointError, match=r"^cannot read .*model\.safetensors: Permission denied$"):
        check_weights(path)
