"""The lines of a text file: plain or gzipped, in UTF-8 or refused by their number."""

import gzip
import os

import pytest

from t5_pegasus.errors import DataError
from t5_pegasus.text.lines import LineError, check_utf8, iterate_lines, read_lines

TEXT = "第一行\u2028仍是第一行\n第二行\n"


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte-order-mark"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(("name", "pack"), [("a.txt", bytes), ("a.txt.gz", gzip.compress), ("A.TXT.GZ", gzip.compress)])
def test_lines_are_read_however_they_were_saved(tmp_path, name, pack, line_end, mark):
    (tmp_path / name).write_bytes(pack(mark + TEXT.replace("\n", line_end).encode()))
    assert read_lines(str(tmp_path / name)) == ["第一行\u2028仍是第一行\n", "第二行\n"]
    assert "".join(iterate_lines(tmp_path / name, newline="")) == TEXT.replace("\n", line_end)


def test_a_line_that_is_not_utf_8_is_named_and_the_others_are_read(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("甲\n".encode() + "中文\n".encode("gb18030") + "丙\n".encode())
    with pytest.raises(DataError, match=rf"^{path}:2: not UTF-8, convert the file first$"):
        read_lines(path)
    first, second, third = iterate_lines(path)
    assert (check_utf8(first), check_utf8(third)) == ("甲\n", "丙\n")
    with pytest.raises(LineError):
        check_utf8(second)
    assert check_utf8("\ud83d") == "\ud83d", "of an escape in JSON, not of a byte"


@pytest.mark.parametrize(
    "content",
    [
        b"no gzip",
        gzip.compress(b"abc" * 100)[:-9],
        gzip.compress(os.urandom(99))[:20] + b"\xff" * 99,
    ],
    ids=["not-gzip", "cut-short", "damaged"],
)
def test_a_file_that_cannot_be_read_to_its_end_is_refused(tmp_path, content):
    (tmp_path / "a.txt.gz").write_bytes(content)
    with pytest.raises(DataError, match=r"^cannot read .*a\.txt\.gz: .+"):
        read_lines(tmp_path / "a.txt.gz")
