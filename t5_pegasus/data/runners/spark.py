"""Map a function over items on an Apache Spark cluster, or on this machine as `local[n]`."""

import contextlib
import hashlib
import os
import re
import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, TypeVar, cast

from ...errors import OptionError, PegasusError
from ...locations import PACKAGE

Item = TypeVar("Item")
Result = TypeVar("Result")


def run_spark(
    function: Callable[[Item], Result], items: Iterable[Item], master: str | None = None
) -> Iterator[tuple[Item, Result]]:
    """Yield (item, function(item)) in the order of the items, each computed by a Spark task of its own.

    An active session is used; else one is made for `master` and stopped at the end. This package is sent along; what it
    needs must be installed with the workers' Python. Items and results pass through the driver: the function should
    write what is large. The first PegasusError or OSError of the function ends the job and is raised here as
    PegasusError. Raises OptionError if PySpark or Java is not installed.
    """
    items = list(items)
    if not items:
        return
    with _session(master) as session, tempfile.TemporaryDirectory() as folder:
        archive = Path(shutil.make_archive(str(Path(folder) / PACKAGE.name), "zip", PACKAGE.parent, PACKAGE.name))
        # A session takes no other file under a name that it has; this one changes with its first bytecode.
        name = f"{PACKAGE.name}-{hashlib.blake2b(archive.read_bytes(), digest_size=8).hexdigest()}.zip"
        session.sparkContext.addPyFile(str(archive.rename(archive.with_name(name))))
        try:
            results = _collect(session.sparkContext, function, items)
        except PegasusError:
            raise
        except Exception as error:
            missing = re.search(r"ModuleNotFoundError: (.*)", str(error))
            if missing is None:
                raise
            raise PegasusError(
                f"Spark's workers lack a package ({missing[1]}): install t5-pegasus for PYSPARK_PYTHON, their Python"
            ) from error
    yield from zip(items, results, strict=True)


def _collect(context: Any, function: Callable[[Any], Any], items: list[Any]) -> list[Any]:
    """Return the results of all items; raise the first error that the user can cause, and end the other tasks.

    Errors come by an accumulator: one that is raised in a task would end in a Java traceback.
    """
    errors, group = context.accumulator([], _Errors()), f"t5-pegasus-{uuid.uuid4()}"

    def run() -> Any:
        context.setJobGroup(group, "t5-pegasus", interruptOnCancel=True)
        return context.parallelize(items, len(items)).map(_Guarded(function, errors)).collect()

    with ThreadPoolExecutor(1) as thread:
        job = thread.submit(run)
        try:
            while not wait([job], timeout=0.1).done and not errors.value:
                pass
        finally:
            if not job.done():
                context.cancelJobGroup(group)
    if errors.value:
        raise errors.value[0]
    return cast(list[Any], job.result())


class _Errors:
    """How an accumulator of errors begins and adds up (pyspark.AccumulatorParam)."""

    def zero(self, value: list[Any]) -> list[Any]:
        return []

    def addInPlace(self, some: list[Any], more: list[Any]) -> list[Any]:  # noqa: N802
        return some + more


class _Guarded:
    """A function that reports an error that the user can cause instead of raising it."""

    def __init__(self, function: Callable[[Any], Any], errors: Any) -> None:
        self.function, self.errors = function, errors

    def __call__(self, item: Any) -> Any:
        try:
            return self.function(item)
        except PegasusError as error:
            self.errors.add([error])
        except OSError as error:
            self.errors.add([PegasusError(f"{error.filename}: {error.strerror}" if error.filename else str(error))])


@contextlib.contextmanager
def _session(master: str | None) -> Iterator[Any]:
    try:
        from pyspark import SparkConf
        from pyspark.errors import PySparkException
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise OptionError('--runner spark needs PySpark: pip install "t5-pegasus[spark]"') from error
    active = SparkSession.getActiveSession()
    if active is not None:
        yield active
        return
    builder = SparkSession.builder.appName("t5-pegasus")
    if (master or SparkConf().get("spark.master", "local")).startswith("local"):
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # which has all that is needed; else python3 is taken
    try:
        session = (builder.master(master) if master else builder).getOrCreate()
    except PySparkException as error:
        raise OptionError(f"Spark does not start: {error}; it needs Java 17 or later, in JAVA_HOME or PATH") from error
    try:
        yield session
    finally:
        session.stop()
