"""Files in and out: whole or not there, plain or gzipped."""

import gzip
import os
import signal
import stat
import subprocess
import sys

import pytest

from t5_pegasus.errors import DataError, OptionError
from t5_pegasus.files import atomic_path, atomic_text, file_suffix, open_text
from t5_pegasus.locations import ROOT

TEXT = "第一行\u2028仍是第一行\n第二行\n"


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte-order-mark"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(("name", "pack"), [("a.txt", bytes), ("a.txt.gz", gzip.compress)])
def test_text_is_read_however_it_was_saved(tmp_path, name, pack, line_end, mark):
    (tmp_path / name).write_bytes(pack(mark + TEXT.replace("\n", line_end).encode()))
    with open_text(tmp_path / name) as file:
        assert file.read() == TEXT


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_what_is_no_file_is_refused(tmp_path, name):
    with pytest.raises(DataError, match=rf"^cannot read .*{name}: No such file or directory$"):
        open_text(tmp_path / name)
    (tmp_path / name).mkdir()
    with pytest.raises(DataError, match=rf"^cannot read .*{name}: Is a directory$"):
        open_text(tmp_path / name)


def test_case_of_a_name_makes_no_difference(tmp_path):
    assert [file_suffix(name) for name in ("a.JSONL", "b/c.d.Txt.GZ", "e", ".gz")] == [".jsonl", ".txt", "", ""]
    with atomic_text(tmp_path / "A.TXT.GZ") as file:
        file.write(TEXT)
    assert gzip.decompress((tmp_path / "A.TXT.GZ").read_bytes()) == TEXT.encode()
    with open_text(tmp_path / "A.TXT.GZ") as file:
        assert file.read() == TEXT


def test_text_is_written_in_utf_8_with_plain_line_ends(tmp_path):
    for name in ("new/folder/a.txt", "a.txt.gz"):
        with atomic_text(tmp_path / name) as file:
            file.write(TEXT)
            assert not (tmp_path / name).exists()
    assert (tmp_path / "new/folder/a.txt").read_bytes() == TEXT.encode()
    assert gzip.decompress((tmp_path / "a.txt.gz").read_bytes()) == TEXT.encode()
    assert names(tmp_path) == ["a.txt.gz", "new"]


@pytest.mark.parametrize("old", [None, b"old"])
@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, OSError])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, name, error, old):
    if old is not None:
        (tmp_path / name).write_bytes(old)
    before = contents(tmp_path)

    def write():
        with atomic_text(tmp_path / name) as file:
            file.write(TEXT * 10_000)
            raise error

    with pytest.raises(error):
        write()
    assert contents(tmp_path) == before


def test_a_failed_rename_leaves_nothing(tmp_path):
    def write():
        with atomic_path(tmp_path / "a") as temporary:
            temporary.write_text("new")
            (tmp_path / "a").mkdir()

    with pytest.raises(IsADirectoryError):
        write()
    assert names(tmp_path) == ["a"]


def test_what_is_written_replaces_the_old_when_it_is_whole(tmp_path):
    target = tmp_path / "a.h5"
    target.write_text("old")
    with atomic_path(target) as temporary:
        assert temporary.parent.parent == tmp_path  # where a rename is one
        assert temporary.name == "a.h5"  # some writers choose the format by its ending
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert contents(tmp_path) == {"a.h5": b"new"}


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_permissions_follow_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        with atomic_text(tmp_path / "a.txt") as file:
            file.write(TEXT)
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o666 & ~umask


def test_directories_and_devices_are_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("folder", "pipe"):
        with (
            pytest.raises(OptionError, match=rf"must not be a directory or a device, got .*{name}$"),
            atomic_path(tmp_path / name),
        ):
            pass
    assert names(tmp_path) == ["folder", "pipe"]
    assert (tmp_path / "pipe").is_fifo()


KILLED = """
import os, signal, sys
from t5_pegasus.files import atomic_path
with atomic_path(sys.argv[1]) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_writer_left_is_replaced_by_the_next(tmp_path):
    target = tmp_path / "a.txt"
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", KILLED, target], cwd=ROOT, check=False)
        assert done.returncode == -signal.SIGKILL
    assert names(tmp_path) == [".a.txt.0.tmp"]
    with atomic_path(target) as temporary:
        assert names(temporary.parent) == []
        temporary.write_text("whole")
    assert contents(tmp_path) == {"a.txt": b"whole"}


def test_two_writers_of_a_file_leave_each_other_alone(tmp_path):
    target = tmp_path / "a.txt"
    with atomic_path(target) as first:
        first.write_text("first")
        with atomic_path(target) as second:
            assert second != first
            second.write_text("second")
        assert target.read_text() == "second"
    assert contents(tmp_path) == {"a.txt": b"first"}


def test_a_file_is_written_where_the_system_has_no_locks(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    (tmp_path / ".a.txt.0.tmp").mkdir()
    with atomic_path(tmp_path / "a.txt") as temporary:
        assert temporary.parent.name == ".a.txt.1.tmp", "the other may be somebody's"
        temporary.write_text("whole")
    assert names(tmp_path) == [".a.txt.0.tmp", "a.txt"]


def test_nothing_is_emptied_that_only_has_the_name_of_a_temporary_folder(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").touch()
    (tmp_path / ".a.txt.0.tmp").symlink_to(tmp_path / "mine", target_is_directory=True)
    (tmp_path / ".a.txt.1.tmp").touch()
    with atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("whole")
    assert names(tmp_path) == [".a.txt.0.tmp", ".a.txt.1.tmp", "a.txt", "mine"]
    assert names(tmp_path / "mine") == ["notes"]
