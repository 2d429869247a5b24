"""Files that are whole or not there: text in and out, plain or .gz, written under a temporary name and renamed.

A file or folder is written in a folder beside it and renamed when it is complete (`atomic_path`, `atomic_text`,
`atomic_folder`). Its permissions follow the umask, and errors of the system name what the user asked for. A run that
must be the only one to write something holds a lock (`only_writer`); the lock of a killed process is free.
"""

import contextlib
import errno
import gzip
import io
import itertools
import json
import math
import os
import shlex
import shutil
import stat
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from .errors import DataError, OptionError

_SAMPLE_BYTES = 2**20  # of a file that is not UTF-8, to find its encoding
_SECONDS_BETWEEN_TRIES = 0.1  # to get a lock that another process holds
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# What reading a text file raises: of the system, of gzip for a damaged file, and of decoding.
READ_ERRORS = (OSError, UnicodeDecodeError, EOFError, zlib.error)


def is_gzip(path: str | Path) -> bool:
    """Return by its name whether a file is compressed; case makes no difference."""
    return str(path).lower().endswith(".gz")


def file_suffix(path: str | Path) -> str:
    """Return what a file's name ends in, in lower case and without .gz: `.jsonl` of `A.JSONL.GZ`."""
    return Path(str(path).lower().removesuffix(".gz")).suffix


def open_text(path: str | Path) -> io.TextIOWrapper:
    r"""Open a UTF-8 text file for reading, with or without a byte order mark, gunzipped if its name ends in .gz.

    Lines end at \n, \r\n or \r only. Raises DataError if the file is missing, cannot be opened or is UTF-16 by its byte
    order mark. A byte that is not UTF-8 raises UnicodeDecodeError while reading (see `read_error`).
    """
    path = Path(path)
    try:
        file = gzip.open(path) if is_gzip(path) else path.open("rb")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    with contextlib.suppress(*READ_ERRORS):  # reading raises it again
        if file.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff"):
            file.close()
            raise DataError(f"cannot read {path}: {encoding_hint(path)}")
    return io.TextIOWrapper(file, encoding="utf-8-sig")


def read_error(path: str | Path, error: Exception) -> DataError:
    """Return the DataError for one of READ_ERRORS; of a file that is not UTF-8 it says what it is instead."""
    return DataError(f"cannot read {path}: {encoding_hint(path) if isinstance(error, UnicodeDecodeError) else error}")


def encoding_hint(source: str | Path | bytes) -> str:
    """Return what a file or some bytes, which are not UTF-8, seem to be, and the command that converts them."""
    if isinstance(source, bytes):
        encoding = _guess_encoding(source)
        if encoding is None:
            return "not UTF-8, convert the text first"
        return f"not UTF-8 but {encoding}, convert it with `iconv -f {encoding} -t UTF-8`"
    path = Path(source)
    try:
        with gzip.open(path) if is_gzip(path) else path.open("rb") as file:
            encoding = _guess_encoding(file.read(_SAMPLE_BYTES))
    except READ_ERRORS:  # such as of a pipe that has been read
        encoding = None
    if encoding is None:
        return "not UTF-8, convert the file first"
    iconv, name = f"iconv -f {encoding} -t UTF-8", shlex.quote(str(path))
    stem, suffixes = path.name.partition(".")[0], "".join(path.suffixes)
    target = shlex.quote(str(path.with_name(f"{stem}.utf8{suffixes}")))
    command = f"{iconv} {name} > {target}"
    if is_gzip(path):
        command = f"gzip -dc {name} | {iconv} | gzip > {target}"
    return f"not UTF-8 but {encoding}, convert it with `{command}`"


def _guess_encoding(sample: bytes) -> str | None:
    """Return iconv's name of the encoding of Chinese text that is not UTF-8; None if it is neither UTF-16 nor GBK."""
    if sample.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16"
    if 0 in sample:  # in UTF-16 half of each line end; GBK has none
        return "UTF-16BE" if sample[::2].count(0) > sample[1::2].count(0) else "UTF-16LE"
    if len(sample) == _SAMPLE_BYTES:  # it may end in half of a character
        sample = sample[: sample.rfind(b"\n") + 1 or None]
    try:
        sample.decode("gb18030")
    except UnicodeDecodeError:
        return None
    return "GB18030"


def read_json(path: str | Path) -> dict[str, Any]:
    """Return the object in a JSON file: UTF-8, with or without a byte order mark.

    Raises FileNotFoundError if there is no such file, DataError if it cannot be read or is something else.
    """
    path = Path(path)
    try:
        value = json.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise read_error(path, error) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise DataError(f"{path} must hold a JSON object, got {type(value).__name__}")
    return value


def to_json(value: Any, indent: int | None = None) -> str:
    """Return a value as JSON that any reader takes, in UTF-8 as far as that can spell it; one line without an indent.

    Raises ValueError for infinity and NaN, which JSON does not have: `finite` leaves them out.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which another JSON text had spelt as \ud800
        return json.dumps(value, allow_nan=False, indent=indent)
    return text


def finite(values: dict[str, Any]) -> dict[str, Any]:
    """Return an object for JSON in which None stands for each infinity and NaN.

    If there is any, "impossible" says which number it was, by the names and indices that lead to it. The object itself
    is left as it is.
    """
    impossible: dict[str, str] = {}

    def without(value: Any, path: str) -> Any:
        if isinstance(value, dict):
            return {name: without(each, f"{path}.{name}" if path else str(name)) for name, each in value.items()}
        if isinstance(value, list | tuple):
            return [without(each, f"{path}[{index}]") for index, each in enumerate(value)]
        if isinstance(value, float) and not math.isfinite(value):
            impossible[path] = f"{value} is no number of JSON"
            return None
        return value

    found = {name: without(each, str(name)) for name, each in values.items()}
    return {**found, "impossible": impossible} if impossible else found


def check_target(path: str | Path) -> None:
    """Raise OptionError for a path that no file can be written to; to be called before the work that fills it."""
    if Path(path).exists() and not Path(path).is_file():
        raise OptionError(f"the file to write must not be a directory or a device, got {path}")


def check_apart(name: str, output: str | Path | None, **inputs: str | Path | Iterable[str | Path] | None) -> None:
    """Raise OptionError if the output is one of the inputs or in it, also through links; call it before reading them.

    Args:
        name: of the option that names the output, for the error.
        output: the file or folder to write; None if there is none.
        inputs: the files and folders to read, by the names of their options; None for one that is not given, `-` for
            standard input.
    """
    if output is None:
        return
    resolved = Path(output).resolve()
    for input_name, given in inputs.items():
        for path in () if given is None else (given,) if isinstance(given, str | Path) else given:
            if _is_same(resolved, path) or (str(path) != "-" and resolved.is_relative_to(Path(path).resolve())):
                raise OptionError(f"{name} must not be the {input_name} or in it, got {output}")


def _is_same(output: Path, path: str | Path) -> bool:
    """Return whether a path, or standard input, is the file that is to be written."""
    try:
        status = os.fstat(0) if str(path) == "-" else os.stat(path)
        return os.path.samestat(output.stat(), status)
    except OSError:  # one of them is missing, or may not be looked at
        return False


def check_new_folder(path: Path) -> None:
    """Raise OptionError for a folder to write that is there already and not empty."""
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise OptionError(f"output_dir must be empty or not exist, got {path}")


@contextlib.contextmanager
def temporary_folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`, for what is to become `path`; it is removed in the end.

    It is called `.NAME.0.tmp` and locked. What a killed process left under that name is removed; while another process
    writes the same path, the next number is taken. An OSError about a file in the folder, or a full disk, names `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count():
        folder = path.with_name(f".{path.name}.{number}.tmp")
        with errors_about(path, folder), contextlib.ExitStack() as lock:
            is_new, is_locked = _make_and_lock(folder, lock)
            # Without locks only what is new is surely ours.
            if not is_locked if is_locked is not None else not is_new:
                continue
            if not is_new:
                if folder.stat().st_uid != os.getuid():
                    continue
                for entry in folder.iterdir():
                    shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            return


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path of the same name; on success it is renamed to `path`, on any error it is removed.

    Whoever reads `path` sees the old file or the whole new one, also after Ctrl-C or on a full disk. Raises OptionError
    if `path` is a directory or a device: root would replace /dev/null by a file.
    """
    path = Path(path)
    check_target(path)
    with temporary_folder(path) as folder:
        yield folder / path.name
        _follow_umask([folder / path.name], folder / f"{path.name}.mode")
        (folder / path.name).replace(path)


@contextlib.contextmanager
def atomic_folder(path: str | Path, check: Callable[[Path], None] = check_new_folder) -> Iterator[Path]:
    """Yield an empty temporary folder; on success it becomes `path`, on any error it is removed.

    Args:
        path: the folder to write.
        check: raises an error if `path` is there and must not be replaced. It is called before the work, and again
            after it, since the work may take hours.
    """
    path = Path(path)
    check(path)
    with temporary_folder(path) as temporary:
        folder = temporary / "new"
        folder.mkdir()
        yield folder
        _follow_umask(folder.rglob("*"), temporary / "mode")
        check(path)
        # A folder cannot be renamed onto another: between two renames there is none, but never half of one.
        is_replaced = path.exists()
        if is_replaced:
            path.rename(temporary / "old")
        try:
            folder.rename(path)
        except OSError:
            if is_replaced:
                (temporary / "old").rename(path)
            raise


@contextlib.contextmanager
def atomic_text(path: str | Path) -> Iterator[IO[str]]:
    """Open `path` for writing UTF-8 text through `atomic_path`, gzipped if its name ends in .gz.

    A character that UTF-8 has not, as in the name of a file in another encoding, is escaped as Python and JSON do it.
    """
    with (
        atomic_path(path) as temporary,
        gzip.open(temporary, "wt", encoding="utf-8", errors="backslashreplace", newline="\n")
        if is_gzip(path)
        else temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file,
    ):
        yield file


@contextlib.contextmanager
def only_writer(path: str | Path, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Be the only process that writes `path`, a file or a folder, while the `with` block lasts.

    The lock is on a folder beside `path`, `.NAME.lock`, which is removed in the end; the lock of a killed process is
    free. On a file system without locks nothing is held, and several may write.

    Args:
        path: what is written; it need not exist.
        on_wait: called once if another process is writing `path`, which is then waited for. Without it OptionError is
            raised.
    """
    path = Path(path).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = path.with_name(f".{path.name}.lock")
    has_waited = False
    with contextlib.ExitStack() as lock:
        while True:
            with errors_about(path, folder):
                is_new, is_locked = _make_and_lock(folder, lock)
            if is_locked is not False:
                break
            if on_wait is None:
                raise OptionError(f"another run is writing {path}: wait until it has ended, or choose another output")
            if not has_waited:
                on_wait()
            has_waited = True
            time.sleep(_SECONDS_BETWEEN_TRIES)
        try:
            yield
        finally:
            if is_locked or is_new:
                with contextlib.suppress(OSError):
                    folder.rmdir()


def check_no_writer(path: str | Path) -> None:
    """Raise OptionError if another process writes `path` (see `only_writer`); to be called before long work."""
    if Path(path).parent.is_dir():
        with only_writer(path):
            pass


def _make_and_lock(folder: Path, lock: contextlib.ExitStack) -> tuple[bool, bool | None]:
    """Make a folder if it is missing and lock it until `lock` is closed.

    Returns: whether it is new; and True if this process has locked it, False if another process has, None if that
    cannot be known, since the system or the file system has no locks, or the path is not a folder we can open.
    """
    while True:
        try:
            folder.mkdir()
            is_new = True
        except FileExistsError:
            is_new = False
        try:
            import fcntl

            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            lock.callback(_close, handle)
            _handles.add(handle)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(handle), folder.lstat()):
                return is_new, True
        except BlockingIOError:
            return is_new, False
        except FileNotFoundError:
            pass
        except (ImportError, OSError):
            return is_new, None
        # Another process, which had the lock, has just removed the folder: make it anew.


_handles: set[int] = set()  # of the locks that this process holds


def _close(handle: int) -> None:
    if handle in _handles:
        _handles.remove(handle)
        os.close(handle)


def _close_all() -> None:
    for handle in list(_handles):
        _close(handle)


if hasattr(os, "register_at_fork"):
    # A child shares the lock while it has the handle open, and may outlive a parent that was killed.
    os.register_at_fork(after_in_child=_close_all)


@contextlib.contextmanager
def errors_about(path: Path, temporary: Path) -> Iterator[None]:
    """Let an OSError name `path` instead of something temporary; one of a full disk, which has no name, as well."""
    try:
        yield
    except OSError as error:
        is_temporary = error.filename is not None and str(temporary) in str(error.filename)
        if not is_temporary and not (error.filename is None and error.errno in _DISK_FULL):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def _follow_umask(paths: Iterable[Path], reference: Path) -> None:
    """Give files and folders the permissions that the umask leaves: some libraries write files for their owner alone.

    `reference` is a file to make and remove; its permissions are those to give, whatever decides them.
    """
    reference.touch()
    of_file = stat.S_IMODE(reference.stat().st_mode)
    reference.unlink()
    for path in paths:
        mode = stat.S_IMODE(path.stat().st_mode)
        usual = of_file | (of_file & 0o444) >> 2 if path.is_dir() else of_file  # who may read a folder may enter it
        if mode & 0o777 != usual:
            with contextlib.suppress(PermissionError):  # a file system without permissions
                path.chmod(mode & ~0o777 | usual)
