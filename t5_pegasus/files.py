"""Files that are whole or not there: text in and out, plain or .gz, written under a temporary name and renamed."""

import contextlib
import gzip
import io
import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from .errors import DataError, OptionError


def is_gzip(path: str | Path) -> bool:
    """Tell by its name whether a file is compressed; case makes no difference."""
    return str(path).lower().endswith(".gz")


def file_suffix(path: str | Path) -> str:
    """Return what a file's name ends in, in lower case and without .gz: `.jsonl` of `A.JSONL.GZ`."""
    return Path(str(path).lower().removesuffix(".gz")).suffix


def open_text(path: str | Path) -> io.TextIOWrapper:
    r"""Open a UTF-8 text file for reading, with or without a byte order mark, gunzipped where its name ends in .gz.

    Lines end at \n, \r\n or \r only. Raises DataError where the file is not there or cannot be opened; a byte that
    is not UTF-8 raises UnicodeDecodeError while reading.
    """
    path = Path(path)
    try:
        if is_gzip(path):
            return io.TextIOWrapper(gzip.open(path), encoding="utf-8-sig")
        return path.open(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def check_target(path: str | Path) -> None:
    """Raise OptionError for a path no file can be written to; to be called before the work that fills it."""
    if Path(path).exists() and not Path(path).is_file():
        raise OptionError(f"the file to write must not be a directory or a device, got {path}")


@contextlib.contextmanager
def temporary_folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`, for what is to become `path`; it is removed in the end.

    It is called `.NAME.0.tmp`, and locked. What a process that was killed left under that name goes; where another
    process is writing the same path, the next number is taken.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count():
        folder = path.with_name(f".{path.name}.{number}.tmp")
        with contextlib.ExitStack() as lock:
            if not _take_folder(folder, lock):
                continue
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            return


def _take_folder(folder: Path, lock: contextlib.ExitStack) -> bool:
    """Make a folder, or empty one of ours that nobody has locked; tell whether it is ours while the lock is open."""
    is_new = True
    try:
        folder.mkdir()
    except FileExistsError:
        is_new = False
    try:
        import fcntl

        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        lock.callback(os.close, handle)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        status = os.fstat(handle)
        if not os.path.samestat(status, folder.lstat()) or not (is_new or status.st_uid == os.getuid()):
            return False
    except (BlockingIOError, FileNotFoundError):  # another's, or just removed by another
        return False
    except (ImportError, OSError):  # no locks in this system: only what is new is surely ours
        return is_new
    for entry in folder.iterdir():
        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    return True


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path of the same name; on success it is renamed to `path`, on any error it is removed.

    Whoever reads `path` sees the old file or the whole new one, also after Ctrl-C or on a full disk. Raises OptionError
    where `path` is a directory or a device: to rename a file to /dev/null would put an end to it, where root may.
    """
    path = Path(path)
    check_target(path)
    with temporary_folder(path) as folder:
        yield folder / path.name
        (folder / path.name).replace(path)


@contextlib.contextmanager
def atomic_text(path: str | Path) -> Iterator[IO[str]]:
    """Open `path` for writing UTF-8 text through `atomic_path`, gzipped where its name ends in .gz."""
    with (
        atomic_path(path) as temporary,
        gzip.open(temporary, "wt", encoding="utf-8", newline="\n")
        if is_gzip(path)
        else temporary.open("w", encoding="utf-8", newline="\n") as file,
    ):
        yield file
