"""CRC-32C (Castagnoli), the checksum in TensorFlow checkpoints: a gigabyte in less than a second, with numpy alone.

A CRC is the remainder of a division by a polynomial over GF(2), whose coefficients are the bits. This one's divides
x^A + x^B + x^C + 1, so that x^A may be replaced by x^B + x^C + 1: the bits that are A or more from the end are XORed
onto three places nearer to it, and the remainder stays the same. By squaring, that is as true of x^8 and x^64 for x:
of whole bytes and of words of 64 bits, which are folded first.
"""

import functools
import io
from typing import Any

import numpy as np

_A, _B, _C = 5685, 1362, 426  # found by trying: with a small A and B, steps are few and long
_POLYNOMIAL = 0x82F63B78  # without x^32; as in all that follows, the coefficient of x^0 is the highest bit
_START = bytes.fromhex("54641f64")  # 4 bytes whose remainder is the ones that a CRC begins with
_ONES = 0xFFFFFFFF
_CHUNK = 1 << 20  # bytes that are read at once; a multiple of 8


def crc32c(file: io.BufferedIOBase, size: int) -> int:
    """Return the CRC-32C of the next `size` bytes of a file; raises ValueError if it ends before."""
    rest = np.frombuffer(bytes(-(size + len(_START)) % 8) + _START, np.uint8)  # zeros in front change nothing
    while size:
        count = size % _CHUNK or _CHUNK  # the first chunk is the short one: with `rest` it is whole words
        chunk = np.empty(len(rest) + count, np.uint8)
        chunk[: len(rest)] = rest
        if file.readinto(chunk[len(rest) :].data) != count:
            raise ValueError(f"{size} more bytes were expected")
        rest = _folded(chunk.view(np.uint64)).view(np.uint8)
        size -= count
    bits = _folded(np.unpackbits(_folded(rest), bitorder="little"))
    remainders = _remainders()[: len(bits)][::-1]
    return int(np.bitwise_xor.reduce(remainders[bits == 1])) ^ _ONES


def masked(crc: int) -> int:
    """Return a CRC as TensorFlow stores it: rotated, and a constant added."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & _ONES


def _folded(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the last `_A` elements or fewer, with those before them folded into them, in place."""
    start, end = 0, len(values) - _A
    while start < end:
        count = min(_A - _B, end - start)  # nearer than that nothing is XORed
        block = values[start : start + count]
        for distance in (_A - _B, _A - _C, _A):
            values[start + distance : start + distance + count] ^= block
        start += count
    return values[start:]


@functools.cache
def _remainders() -> np.ndarray[Any, Any]:
    """Return the remainders of x^32, x^33, … x^(31 + _A): uint32 [_A]."""
    values = [_POLYNOMIAL]
    for _ in range(_A - 1):
        values.append(values[-1] >> 1 ^ (values[-1] & 1) * _POLYNOMIAL)
    return np.array(values, np.uint32)
