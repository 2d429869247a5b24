"""Files that are whole or not there: text in and out, plain or .gz, written under a temporary name and renamed."""

import contextlib
import gzip
import io
import os
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from .errors import DataError, OptionError


def open_text(path: str | Path) -> io.TextIOWrapper:
    r"""Open a UTF-8 text file for reading, with or without a byte order mark, gunzipped where its name ends in .gz.

    Lines end at \n, \r\n or \r only. Raises DataError where the file is not there or cannot be opened; a byte that
    is not UTF-8 raises UnicodeDecodeError while reading.
    """
    path = Path(path)
    try:
        if path.suffix == ".gz":
            return io.TextIOWrapper(gzip.open(path), encoding="utf-8-sig")
        return path.open(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def read_lines(path: str | Path) -> list[str]:
    """Return all lines of a file as `open_text` reads it. Raises DataError where it cannot be read to its end."""
    try:
        with open_text(path) as file:
            return list(file)
    except (OSError, UnicodeDecodeError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path}: {error}") from error


def check_target(path: str | Path) -> None:
    """Raise OptionError for a path no file can be written to; to be called before the work that fills it."""
    if Path(path).exists() and not Path(path).is_file():
        raise OptionError(f"the file to write must not be a directory or a device, got {path}")


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is renamed to `path`, on any error it is removed.

    Whoever reads `path` sees the old file or the whole new one, also after Ctrl-C or on a full disk. Raises OptionError
    where `path` is a directory or a device: to rename a file to /dev/null would put an end to it, where root may.
    """
    path = Path(path)
    check_target(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=f".tmp{path.suffix}", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        # mkstemp makes files only their owner can read; the final file follows the user's umask, as any other does.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_text(path: str | Path) -> Iterator[IO[str]]:
    """Open `path` for writing UTF-8 text through `atomic_path`, gzipped where its name ends in .gz."""
    with (
        atomic_path(path) as temporary,
        gzip.open(temporary, "wt", encoding="utf-8", newline="\n")
        if Path(path).suffix == ".gz"
        else temporary.open("w", encoding="utf-8", newline="\n") as file,
    ):
        yield file
