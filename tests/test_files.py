"""Files in and out: whole or not there, plain or gzipped."""

import gzip
import itertools
import json
import os
import resource
import signal
import stat
import subprocess
import sys
import threading

import pytest

from t5_pegasus.errors import DataError, OptionError
from t5_pegasus.files import (
    atomic_folder,
    atomic_path,
    atomic_text,
    check_apart,
    check_new_folder,
    file_suffix,
    finite,
    only_writer,
    open_text,
    to_json,
)
from t5_pegasus.locations import ROOT
from t5_pegasus.text.lines import read_lines

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


def test_a_folder_is_whole_or_not_there(tmp_path):
    target = tmp_path / "new" / "folder"

    def write(error=None, check=check_new_folder):
        with atomic_folder(target, check) as folder:
            (folder / "inner").mkdir()
            (folder / "inner" / "a.txt").write_text("whole")
            if error is not None:
                raise error
        assert names(target) == ["inner"]

    for error in (OSError, KeyboardInterrupt):
        with pytest.raises(error):
            write(error)
        assert names(target.parent) == []
    write()
    with pytest.raises(OptionError, match="must be empty or not exist"):
        write()
    write(check=lambda path: None)  # in place of the other
    assert names(target.parent) == ["folder"]


def test_a_folder_that_was_filled_meanwhile_is_left_alone(tmp_path):
    def write():
        with atomic_folder(tmp_path / "a") as folder:
            (folder / "mine").touch()
            (tmp_path / "a").mkdir()
            (tmp_path / "a" / "theirs").touch()

    with pytest.raises(OptionError, match="must be empty or not exist"):
        write()
    assert names(tmp_path) == ["a"]
    assert names(tmp_path / "a") == ["theirs"]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_what_a_library_writes_for_the_owner_alone_follows_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        with atomic_folder(tmp_path / "a") as folder:
            (folder / "inner").mkdir(0o700)
            for path in (folder / "b", folder / "inner" / "c"):
                os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
        with atomic_path(tmp_path / "d") as path:
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    finally:
        os.umask(before)
    modes = {name: stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a", "a/inner", "a/b", "a/inner/c", "d")}
    assert {modes["a"], modes["a/inner"]} == {0o777 & ~umask}
    assert {modes["a/b"], modes["a/inner/c"], modes["d"]} == {0o666 & ~umask}


def test_a_full_disk_and_a_missing_permission_name_what_was_asked_for(shared_path, other_user):
    target = shared_path / "a.txt"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught, atomic_text(target) as file:
            file.write("字" * 10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.filename == str(target)
    for write in (atomic_text, atomic_folder, only_writer):
        with other_user(), pytest.raises(PermissionError) as denied, write(target):
            pass
        assert denied.value.filename == str(target)
    assert names(shared_path) == []


HOLDER = """
import os, sys, time
from t5_pegasus.files import only_writer
with only_writer(sys.argv[1]):
    if os.fork() == 0:
        time.sleep(60)  # a child that outlives the holder, and shares its files
        os._exit(0)
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_process_writes_at_a_time_and_a_killed_one_holds_nothing(tmp_path):
    target = tmp_path / "a.jsonl"
    command = [sys.executable, "-c", HOLDER, target]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, start_new_session=True)
    try:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(OptionError, match=r"another run is writing .*a\.jsonl: wait"), only_writer(target):
            pass
        with only_writer(tmp_path / "b.jsonl"):
            pass
        waited = []
        threading.Timer(1, holder.kill).start()
        with only_writer(target, on_wait=lambda: waited.append(holder.poll())):
            assert waited == [None]
            assert holder.wait(10) == -signal.SIGKILL
            with pytest.raises(OptionError, match="another run"), only_writer(target):
                pass
    finally:
        os.killpg(holder.pid, signal.SIGKILL)
        holder.stdout.close()
    assert names(tmp_path) == []


def test_where_the_system_has_no_locks_nothing_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with only_writer(tmp_path / "a"), only_writer(tmp_path / "a"):
        pass
    assert names(tmp_path) == []


def test_an_output_that_is_an_input_is_refused_through_links_too(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.tsv").touch()
    (tmp_path / "soft.tsv").symlink_to(tmp_path / "in" / "a.tsv")
    (tmp_path / "hard.tsv").hardlink_to(tmp_path / "in" / "a.tsv")
    (tmp_path / "folder").symlink_to(tmp_path / "in")
    same = ("in/a.tsv", "in/../in/a.tsv", "soft.tsv", "hard.tsv", "folder/a.tsv")
    for output, source in itertools.permutations(same, 2):
        with pytest.raises(OptionError, match=rf"^out must not be the read or in it, got .*{output}$"):
            check_apart("out", tmp_path / output, other=None, read=tmp_path / source)
    for output in ("in/new.tsv", "folder/new/b.tsv", "soft.tsv"):
        with pytest.raises(OptionError, match="out must not be the read or in it"):
            check_apart("out", tmp_path / output, read=tmp_path / "in")
    check_apart("out", None, read=tmp_path / "in")
    check_apart("out", tmp_path / "b.tsv", read=tmp_path / "in" / "a.tsv", missing=tmp_path / "c.tsv")


ENCODINGS = {
    "gb18030": ("GB18030", "中文标题𠮷\n"),
    "gbk": ("GB18030", "中文标题\n"),
    "utf-16": ("UTF-16", "中文标题\n"),
    "utf-16-le": ("UTF-16LE", "中文标题\n"),
    "utf-16-be": ("UTF-16BE", "中文标题\n"),
}


@pytest.mark.parametrize("name", ["标 题.v1.txt", "a.txt.gz"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_file_of_another_encoding_is_named_with_the_command_that_converts_it(tmp_path, encoding, name):
    iconv_name, text = ENCODINGS[encoding]
    content = (text * 5).encode(encoding)
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    with pytest.raises(DataError, match=f": not UTF-8 but {iconv_name}, convert it with `.*`$") as caught:
        read_lines(tmp_path / name)
    command = str(caught.value).split("`")[1]
    subprocess.run(["bash", "-c", command], check=True)
    converted = tmp_path / name.replace(".", ".utf8.", 1)
    assert "".join(read_lines(converted)) == text * 5


def test_bytes_that_are_no_text_are_not_given_a_name(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"a\xff\xff\n")
    with pytest.raises(DataError, match=r"a\.txt:1: not UTF-8, convert the file first$"):
        read_lines(tmp_path / "a.txt")


def test_json_has_no_number_that_is_none():
    for number in (float("nan"), float("inf"), -float("inf")):
        with pytest.raises(ValueError, match="not JSON compliant"):
            to_json({"score": number})
    value = {"a": [1, {"b": float("nan")}, (-float("inf"), 0.5)], "c": float("inf"), "题": "\ud800"}
    found = finite(value)
    assert found == {
        **{"a": [1, {"b": None}, [None, 0.5]], "c": None, "题": "\ud800"},
        "impossible": {
            "a[1].b": "nan is no number of JSON",
            "a[2][0]": "-inf is no number of JSON",
            "c": "inf is no number of JSON",
        },
    }
    assert json.loads(to_json(found, indent=1)) == found
    assert finite({"a": [1.5, None, "nan"]}) == {"a": [1.5, None, "nan"]}
