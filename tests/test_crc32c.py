"""CRC-32C: equal to the standard's examples and the loop over bytes; TensorFlow's own are in test_weight_files.py."""

import io
import random

import pytest

from t5_pegasus import crc32c as module
from t5_pegasus.crc32c import crc32c


def of_beginnings(data):
    """Return the CRC of every beginning of the data, by the definition."""
    remainder, found = 0xFFFFFFFF, [0]
    for byte in data:
        remainder ^= byte
        for _ in range(8):
            remainder = remainder >> 1 ^ (remainder & 1) * 0x82F63B78
        found.append(remainder ^ 0xFFFFFFFF)
    return found


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        # RFC 3720, B.4
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_the_examples_of_the_standard(data, expected):
    assert crc32c(io.BytesIO(data), len(data)) == of_beginnings(data)[-1] == expected


def test_any_length_and_any_chunk_equal_the_loop_over_bytes(monkeypatch):
    # Around the chunks, and where folding begins: at 5685 bits, bytes and words.
    lengths = [*range(40), *range(700, 720), *range(5674, 5694), *range(45464, 45490), *range(65530, 65540), 150_001]
    data = random.Random(0).randbytes(max(lengths))
    expected = of_beginnings(data)
    for chunk in (8, 5688, 1 << 16):
        monkeypatch.setattr(module, "_CHUNK", chunk)
        for length in lengths if chunk > 8 else lengths[::20]:
            file = io.BytesIO(b"before" + data)
            file.seek(6)
            assert crc32c(file, length) == expected[length], (chunk, length)
            assert file.tell() == 6 + length


def test_a_file_that_ends_before_is_refused():
    with pytest.raises(ValueError, match="5 more bytes were expected"):
        crc32c(io.BytesIO(b"four"), 5)
