"""What the benchmarks share: where data is, how things are timed, and how the result is told.

Import it before t5_pegasus, which it makes importable from anywhere.
"""

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from t5_pegasus import cli
from t5_pegasus.errors import OptionError
from t5_pegasus.files import atomic_text, to_json


def make_parser(description: str, repeated: bool = True) -> argparse.ArgumentParser:
    """Return a parser with the flags of every benchmark, --repeats only where runs are `repeated`."""
    parser = cli.make_parser(f"{description} The last line of the output is JSON.")
    if repeated:
        told = "timed runs after one that is not; the median counts"
        parser.add_argument("--repeats", type=int, default=5, help=told)
    parser.add_argument("--output", help="also write the JSON to this file")
    return parser


def public_data() -> Path | None:
    """Return the folder of public data sets that T5_PEGASUS_DATA names, or None."""
    folder = os.environ.get("T5_PEGASUS_DATA")
    return Path(folder) if folder else None


def require_public_data() -> Path:
    """Return the folder of public data sets. Raises OptionError if T5_PEGASUS_DATA names none."""
    folder = public_data()
    if folder is None:
        raise OptionError("T5_PEGASUS_DATA must name the folder of public data, got none")
    return folder


def median_seconds(contestants: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return the median wall time of calling each, in seconds.

    They are called in turn, so that what else the machine does meets them all alike, and once before it counts.
    """
    if repeats < 1:
        raise OptionError(f"repeats must be at least 1, got {repeats}")
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(repeats + 1):
        for name, call in contestants.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def print_table(title: str, rows: Mapping[str, float], unit: str) -> None:
    """Print a number for each name, under a title and a unit."""
    width = max(map(len, (title, *rows))) + 2
    print(f"{title:{width}}{unit:>14}")
    for name, value in rows.items():
        print(f"{name:{width}}{value:14,.{0 if value >= 1000 else 3}f}")


def report(result: dict[str, Any], packages: Sequence[str], output: str | None) -> None:
    """Print the result as a JSON line, with the versions and the number of cores, and write it to `output` if given."""
    versions = {"python": platform.python_version(), **{name: version(name) for name in packages}}
    line = to_json({**result, "versions": versions, "cpu_count": os.cpu_count()})
    if output is not None:
        with atomic_text(output) as file:
            file.write(f"{line}\n")
    print(line)
