"""Map a function over items on an Apache Spark cluster, or on this machine as `local[n]`."""

import contextlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from ..errors import OptionError, PegasusError

Item = TypeVar("Item")
Result = TypeVar("Result")


def run_spark(
    function: Callable[[Item], Result], items: Iterable[Item], master: str | None = None
) -> Iterator[tuple[Item, Result]]:
    """Yield (item, function(item)) in the order of the items, each worked on by a Spark task of its own.

    The session that is there is used; else one is made for `master` and ended. This package is sent along; what it
    needs must be installed with the workers' Python. Items and results pass through the driver: let the function write
    what is large. A PegasusError of the function is raised here; OptionError where PySpark or Java is not installed.
    """
    items = list(items)
    if not items:
        return
    with _session(master) as session, tempfile.TemporaryDirectory() as folder:
        package = Path(__file__).resolve().parent.parent
        archive = shutil.make_archive(str(Path(folder) / package.name), "zip", package.parent, package.name)
        session.sparkContext.addPyFile(archive)
        try:
            results = session.sparkContext.parallelize(items, len(items)).map(_Guarded(function)).collect()
        except Exception as error:
            missing = re.search(r"ModuleNotFoundError: (.*)", str(error))
            if missing is None:
                raise
            raise PegasusError(
                f"Spark's workers lack a package ({missing[1]}): install t5-pegasus for PYSPARK_PYTHON, their Python"
            ) from error
    for item, result in zip(items, results, strict=True):
        if isinstance(result, PegasusError):
            raise result
        yield item, result


class _Guarded:
    """A function that returns an error of the user's in place of raising it, which Spark would wrap in its own."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    def __call__(self, item: Any) -> Any:
        try:
            return self.function(item)
        except PegasusError as error:
            return error


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
