"""The same map over the blocks of a corpus, in processes of this machine or on a cluster."""

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from ...config import MOST_WORKERS, check_choices, option, require_at_least, require_between, require_only_with
from .local import run_local
from .spark import run_spark


class Runner(NamedTuple):
    """A way to run a map.

    run: function, items and config to an iterator of (item, function(item)), in the order of the items.
    is_remote: whether the workers are on other machines: they read the files of the corpus themselves.
    options: the fields of RunnerConfig that only this one uses.
    """

    run: Callable[[Callable[[Any], Any], Iterable[Any], "RunnerConfig"], Iterator[tuple[Any, Any]]]
    is_remote: bool
    options: tuple[str, ...]


RUNNERS = {
    "local": Runner(
        lambda function, items, config: run_local(function, items, config.workers, chunk=1),
        is_remote=False,
        options=("workers",),
    ),
    "spark": Runner(
        lambda function, items, config: run_spark(function, items, config.spark_master),
        is_remote=True,
        options=("spark_master",),
    ),
}


@dataclasses.dataclass(frozen=True)
class RunnerConfig:
    """Where the work runs."""

    runner: str = option("local", "processes of this machine, or an Apache Spark cluster", choices=RUNNERS)
    workers: int = option(os.cpu_count() or 1, "local: processes; the pairs are the same with any number")
    spark_master: str | None = option(None, "spark: master, such as local[4]; spark-submit's, or local[*] if not given")

    def __post_init__(self) -> None:
        """Raise OptionError for an unknown runner, an option of another one, and too few or many processes."""
        check_choices(self)
        for name, runner in RUNNERS.items():
            require_only_with(self, self.runner == name, f"runner {name}", *runner.options)
        require_at_least(self, 1, "workers")
        require_between(self, 1, MOST_WORKERS, "workers")
