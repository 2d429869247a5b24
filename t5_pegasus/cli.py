"""Command-line flags made from the config dataclasses, and errors turned into one line and exit code 2."""

import argparse
import contextlib
import dataclasses
import io
import os
import signal
import sys
import types
import typing
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, TypeVar

from .errors import OptionError, PegasusError

Config = TypeVar("Config")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> typing.NoReturn:
        """Raise OptionError instead of printing the whole usage, as argparse would."""
        raise OptionError(f"{message} (--help lists the flags)")

    def print_help(self, file: Any = None) -> None:
        """Print the help; argparse itself would hide that it cannot be written."""
        require_stdout()
        print(self.format_help(), end="", file=file, flush=True)


def make_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser that shows defaults and takes no abbreviated flags, which would break as flags are added.

    Flags that cannot be parsed raise OptionError.
    """
    return _Parser(description=description, allow_abbrev=False, formatter_class=argparse.ArgumentDefaultsHelpFormatter)


def add_flags(
    parser: argparse.ArgumentParser, *config_classes: type, only: Collection[str] = (), of_model: bool = False
) -> None:
    """Add a flag `--name` (and one for each alias) for every field of the config dataclasses, a group for each class.

    `only` names the fields that a script uses; all of them if empty. With `of_model` a flag that is not given is not
    set either: the model's own defaults go before the field's (see `given`).
    """
    for config_class in config_classes:
        group = parser.add_argument_group(config_class.__name__.removesuffix("Config").lower())
        hints = typing.get_type_hints(config_class)
        for field in dataclasses.fields(config_class):
            if only and field.name not in only:
                continue
            names = [f"--{name}" for name in (field.name, *field.metadata["aliases"])]
            keywords: dict[str, Any] = {"dest": field.name, "default": field.default, "help": field.metadata["help"]}
            if of_model:
                last = f", else {field.default}" if field.default not in (None, "", ()) else ""
                keywords |= {"default": argparse.SUPPRESS, "help": f"{keywords['help']} (default: the model's{last})"}
            kind = _plain_type(hints[field.name])
            if kind is bool:
                keywords["action"] = argparse.BooleanOptionalAction if of_model else "store_true"
            else:
                is_list = typing.get_origin(kind) is tuple
                keywords["type"] = field.metadata["parse"] or (token_ids if is_list else kind)
                keywords["choices"] = field.metadata["choices"] or None
                keywords["metavar"] = (
                    None if field.metadata["choices"] else "ID,ID" if is_list else kind.__name__.upper()
                )
            group.add_argument(*names, **keywords)


def config_from(flags: argparse.Namespace, config_class: type[Config]) -> Config:
    """Build the config object from the parsed flags; raises what its checks raise (OptionError)."""
    return config_class(**given(flags, config_class))


def given(flags: argparse.Namespace, config_class: type) -> dict[str, Any]:
    """Return the values of the flags that were given, of those that `add_flags(..., of_model=True)` added."""
    names = [field.name for field in dataclasses.fields(config_class)]
    return {name: getattr(flags, name) for name in names if hasattr(flags, name)}


def run(main: Callable[[Sequence[str] | None], int]) -> typing.NoReturn:
    """Run a script's `main` and exit: 2 with one line for an error of the user or the system, 130 for Ctrl-C.

    A standard stream that is closed (`>&-`) is opened on /dev/null first; see `require_stdout`.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `kill` cleans up as Ctrl-C does
    _open_closed_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout = _Output(sys.stdout)
    try:
        try:
            code = main(None)
        except SystemExit as finished:  # of --help
            code = int(finished.code or 0)
        sys.stdout.flush()
    except PegasusError as error:
        code = _fail(error)
    except BrokenPipeError as error:
        # The reader of our output has gone (`python test.py … | head`): there is nobody to report to. Without a reader
        # of standard error alone, the work is not done.
        code = 0 if error.filename == _STDOUT else 2
    except OSError as error:
        code = _fail(error)
    except (Exception, KeyboardInterrupt) as error:
        if not _is_interrupt(error):
            raise
        _say("interrupted")
        code = 130
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # Python would try again, say what it ignored and exit with 120
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(code)


_STDOUT = "standard output"  # its name in errors


class _Output(io.TextIOWrapper):
    """Standard output in UTF-8, since titles are Chinese, whatever the locale; errors of writing to it name it.

    A name of a file that is not UTF-8 is printed with escapes.
    """

    def __init__(self, stream: io.TextIOWrapper) -> None:
        line_buffering, write_through = stream.line_buffering, stream.write_through
        super().__init__(stream.detach(), "utf-8", "backslashreplace", None, line_buffering, write_through)

    def write(self, text: str) -> int:
        """Write some text."""
        with _named():
            return super().write(text)

    def flush(self) -> None:
        """Hand on what is kept in memory."""
        with _named():
            super().flush()


@contextlib.contextmanager
def _named() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        error.filename = _STDOUT
        raise


def require_stdout() -> None:
    """Raise OptionError if standard output is closed; for a script whose result goes there, before its work."""
    if "stdout" in _closed:
        raise OptionError("standard output is closed, and the result goes there: write >/dev/null to do without it")


_closed: set[str] = set()  # the standard streams that were closed when the script began


def _open_closed_streams() -> None:
    """Open closed standard streams on /dev/null.

    Python has None for such a stream, which cannot be read or flushed, and `print` to it goes to another one. Worse,
    the next file that is opened gets its number: what a library writes to standard error would go into that file.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            handle = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            os.set_inheritable(handle, True)
            setattr(sys, name, open(handle, mode, encoding="utf-8"))
            _closed.add(name)


def _is_interrupt(error: BaseException | None) -> bool:
    """Return whether Ctrl-C caused an error: TensorFlow raises its own if it is stopped while building a graph."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


_LONGEST_LINE = 1000  # characters: a flag may have been given a whole text


def one_line(error: PegasusError | OSError) -> str:
    """Return what a user is told of an error; of a very long message the beginning and the end."""
    line = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
    line = " ".join(line.split())
    if len(line) > _LONGEST_LINE:
        line = f"{line[: _LONGEST_LINE // 2]} … {line[-_LONGEST_LINE // 2 :]}"
    return line


def _fail(error: PegasusError | OSError) -> int:
    _say(f"error: {one_line(error)}")
    return 2


def _say(line: str) -> None:
    """Print a line to standard error, if it can be written."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr)


def token_ids(text: str) -> tuple[int, ...]:
    """Parse whole numbers with commas between them."""
    return tuple(int(part) for part in text.split(",") if part.strip())


def _plain_type(hint: Any) -> type:
    """Return `int` for both `int` and `int | None`."""
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return typing.cast(type, next(kind for kind in kinds if kind is not type(None)))
