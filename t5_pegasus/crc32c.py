"""The checksum of TensorFlow's files: CRC-32C, rotated and a constant added (tensorflow/core/lib/hash/crc32c.h)."""

from collections.abc import Iterable

import google_crc32c


def masked_crc32c(chunks: Iterable[bytes]) -> int:
    """Return the checksum of the chunks as one, 32 bits, as TFRecord files and checkpoints store it."""
    crc = 0
    for chunk in chunks:
        crc = google_crc32c.extend(crc, chunk)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
