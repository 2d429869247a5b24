"""The only outcomes that there may be: a right answer, or one line for the user and exit code 2."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from t5_pegasus import cli
from t5_pegasus.errors import PegasusError

LONGEST = 1500  # characters of a line that is still read


class Refused(Exception):  # noqa: N818 - an outcome, no error
    """What the user is told; exit code 2."""


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """Turn what `cli.run` would print as one line into Refused; whatever else is raised inside is a defect."""
    try:
        yield
    except (PegasusError, OSError) as error:
        # The system's errors are for the user if they say which file they are about.
        named = isinstance(error, PegasusError) or error.filename is not None
        line = cli.one_line(error)
        assert named, line
        assert 5 < len(line) < LONGEST, line
        line.encode("utf-8", "backslashreplace")
        raise Refused(line) from error


def outcome(main: Callable[[Sequence[str]], int], argv: Sequence[str]) -> tuple[int, str]:
    """Return the exit code of a script and the line it is refused with, "" if it is not."""
    try:
        with refusing():
            return main(argv), ""
    except Refused as refused:
        return 2, str(refused)


def files_in(folder: Path) -> set[str]:
    """Return the paths of all files and folders in a folder."""
    return {os.path.relpath(path, folder) for path in folder.rglob("*")}


def some_or_many(some: int, many: int) -> pytest.MarkDecorator:
    """Return what gives a test its number of cases, `examples`: some in `make test`, many in `make test-slow`."""
    slow = pytest.param(many, id="many", marks=pytest.mark.slow)
    return pytest.mark.parametrize("examples", [pytest.param(some, id="some"), slow])
