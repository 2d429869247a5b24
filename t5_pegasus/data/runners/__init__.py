"""The same map over the blocks of a corpus in different places."""

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ...config import check_choices, option, require_only_with
from ...errors import OptionError
from .local import run_local
from .spark import run_spark

# A row a place: (function, items, config) to an iterator of (item, function(item)), in the order of the items.
RUNNERS: dict[str, Callable[[Callable[[Any], Any], Iterable[Any], "RunnerConfig"], Iterator[tuple[Any, Any]]]] = {
    "local": lambda function, items, config: run_local(function, items, config.workers, chunk=1),
    "spark": lambda function, items, config: run_spark(function, items, config.spark_master),
}


@dataclasses.dataclass(frozen=True)
class RunnerConfig:
    """Where the work is done."""

    runner: str = option("local", "processes of this machine, or an Apache Spark cluster", choices=tuple(RUNNERS))
    workers: int = option(os.cpu_count() or 1, "local: processes; the pairs are the same with any number")
    spark_master: str | None = option(None, "spark: master, such as local[4]; spark-submit's, or local[*] if not given")

    def __post_init__(self) -> None:
        """Raise OptionError for a runner that is not there, and fewer than one process."""
        check_choices(self)
        require_only_with(self, self.runner == "local", "runner local", "workers")
        require_only_with(self, self.runner == "spark", "runner spark", "spark_master")
        if self.workers < 1:
            raise OptionError(f"workers must be at least 1, got {self.workers}")
