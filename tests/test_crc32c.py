"""The masked CRC-32C: the standard's examples, and the same whatever the chunks are.

TensorFlow reads what is written with it in data/test_shards.py, and wrote what is compared in test_weight_files.py.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t5_pegasus.crc32c import masked_crc32c


@pytest.mark.parametrize(
    ("data", "crc"),
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
def test_the_examples_of_the_standard(data, crc):
    rotated = (masked_crc32c([data]) - 0xA282EAD8) % 2**32
    assert (rotated << 15 | rotated >> 17) % 2**32 == crc


@given(st.lists(st.binary(max_size=40)))
def test_chunks_count_as_one(chunks):
    assert masked_crc32c(chunks) == masked_crc32c([b"".join(chunks)])
