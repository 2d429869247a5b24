"""PyTorch's files are read without it: `tests/golden/make_torch_file.py` has written one; others are forged here."""

import io
import pickle
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from t5_pegasus.errors import CheckpointError
from t5_pegasus.locations import ROOT
from t5_pegasus.networks.tensor_files import open_tensors

GOLDEN = ROOT / "tests" / "golden"


def test_tensors_of_every_type_and_layout():
    """Made by torch.save: views, transposes, shared storages, bfloat16, parameters, a tensor without elements."""
    tensors, expected = open_tensors(GOLDEN / "torch.bin"), np.load(GOLDEN / "torch.npz")
    assert set(tensors) == set(expected)
    for name in tensors:
        assert tensors.entries[name].shape == tensors[name].shape
        assert tensors[name].dtype == expected[name].dtype
        np.testing.assert_array_equal(tensors[name], expected[name])


class Forged:
    """What is pickled as a call of a function."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):  # noqa: D105
        return self.call


def write(path, state, member="archive/data.pkl", data=b"\0" * 64, key="0"):
    """Write a file as torch.save does, of any state."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return value if isinstance(value, tuple) and value[:1] == ("storage",) else None

    buffer = io.BytesIO()
    Pickler(buffer, 2).dump(state)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, buffer.getvalue() if not isinstance(state, bytes) else state)
        archive.writestr(f"archive/data/{key}", data)
    return path


def tensor(size=16, offset=0, shape=(4, 4), strides=(4, 1), kind="FloatStorage", key="0"):
    """Return the opcodes of a dictionary with one tensor."""
    numbers = "".join
    return numbers(
        [
            "(dp0\nVweight\np1\nctorch._utils\n_rebuild_tensor_v2\n((Vstorage\nctorch\n",
            f"{kind}\nV{key}\nVcpu\nI{size}\ntQI{offset}\n({''.join(f'I{each}' + chr(10) for each in shape)}t",
            f"({''.join(f'I{each}' + chr(10) for each in strides)}tI00\nNtRs.",
        ]
    ).encode()


def write_raw(path, pickled, data=b"\0" * 64):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/data/0", data)
    return path


def refused(path):
    with pytest.raises(CheckpointError) as caught:
        dict(open_tensors(path))
    assert "\n" not in str(caught.value)
    assert "safetensors" in str(caught.value)
    return str(caught.value)


def test_the_forgery_without_fault_is_read(tmp_path):
    numbers = np.arange(16, dtype="<f4")
    found = open_tensors(write_raw(tmp_path / "a.bin", tensor(), numbers.tobytes()))
    np.testing.assert_array_equal(found["weight"], numbers.reshape(4, 4))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ((print, ("code ran",)), "builtin__.print, which is no tensor and could run code"),
        ((eval, ("1/0",)), "builtin__.eval"),
        ((__import__("os").system, ("touch ran",)), "system, which is no tensor"),
        ((getattr, ({}, "clear")), "builtin__.getattr"),
        ((bytearray, (8,)), "builtin__.bytearray"),
    ],
)
def test_code_is_refused_and_not_run(call, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for state in ({"weight": Forged(*call)}, Forged(*call), [Forged(*call)]):
        assert words in refused(write(tmp_path / "a.bin", state))
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"size": -1}, "a storage without key and size"),
        ({"offset": 1}, "weight is cut off"),
        ({"offset": -1}, "impossible shape"),
        ({"shape": (4, 5)}, "weight is cut off"),
        ({"shape": (2**40, 2**40)}, "weight is cut off"),
        ({"shape": (2**40, 4), "strides": (0, 1)}, "weight is cut off"),
        ({"shape": (4, -4)}, "impossible shape"),
        ({"strides": (4,)}, "impossible shape"),
        ({"strides": (4, 1000)}, "weight is cut off"),
        ({"shape": (1,) * 9, "strides": (1,) * 9}, "impossible shape"),
        ({"key": "1"}, "it lacks the numbers of weight"),
        ({"kind": "QUInt8Storage"}, "torch.QUInt8Storage"),
    ],
)
def test_tensors_beyond_their_storage(changes, words, tmp_path):
    assert words in refused(write_raw(tmp_path / "a.bin", tensor(**changes)))


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({}, "it holds no dictionary of tensors"),
        ([1, 2], "it holds no dictionary of tensors"),
        ({"weight": 3}, "'weight' in it is no tensor"),
        ({3: 3}, "'3' in it is no tensor"),
    ],
)
def test_what_is_no_dictionary_of_tensors(state, words, tmp_path):
    assert words in refused(write(tmp_path / "a.bin", state))


def test_files_that_are_no_archives(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    for content in (b"", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", b"PK\x03\x04"):
        path.write_bytes(content)
        assert "is not a file of PyTorch 1.6 or later" in refused(path)
    assert "an archive without data.pkl" in refused(write(path, {}, member="archive/data.txt"))


@settings(max_examples=80, suppress_health_check=list(HealthCheck))
@given(position=st.integers(0, 2**16), byte=st.integers(0, 255), cut=st.booleans())
def test_a_damaged_file_is_read_or_refused_in_one_line(tmp_path, position, byte, cut):
    content = bytearray((GOLDEN / "torch.bin").read_bytes())
    position %= len(content)
    content[position] = byte
    path = tmp_path / "a.bin"
    path.unlink(missing_ok=True)  # an earlier one is still mapped
    path.write_bytes(content[:position] if cut else content)
    try:
        dict(open_tensors(path))
    except CheckpointError as error:
        assert "\n" not in str(error)  # noqa: PT017
