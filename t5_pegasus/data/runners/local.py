"""Map a function over a stream of items in processes of this machine."""

import itertools
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from ...errors import PegasusError

Item = TypeVar("Item")
Result = TypeVar("Result")


def run_local(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int = 1, chunk: int = 32
) -> Iterator[tuple[Item, Result]]:
    """Yield (item, function(item)) in the order of the items, computed by `workers` processes; by this one for 1.

    Items are sent `chunk` at a time, at most 4 chunks a worker are read ahead, and so memory does not grow with the
    stream. With several workers, function, items and results must be picklable. An exception of the function is
    raised as it is, with a note that names the item by its str(); PegasusError says that a process was killed.
    """
    if workers == 1:
        for item in items:
            yield item, _call(function, item)
        return
    stream = iter(items)
    pending: deque[tuple[list[Item], Future[list[Result]]]] = deque()
    executor = ProcessPoolExecutor(workers, initializer=_start_worker)
    try:
        while batch := list(itertools.islice(stream, chunk)):
            pending.append((batch, executor.submit(_call_all, function, batch)))
            if len(pending) == 4 * workers:
                yield from _finish(*pending.popleft())
        while pending:
            yield from _finish(*pending.popleft())
    except BrokenProcessPool as error:
        raise PegasusError(
            f"a worker process was killed, perhaps for lack of memory; try fewer than {workers}"
        ) from error
    finally:
        executor.shutdown(cancel_futures=True)


def _finish(batch: list[Item], future: Future[list[Result]]) -> Iterator[tuple[Item, Result]]:
    yield from zip(batch, future.result(), strict=True)


def _call_all(function: Callable[[Item], Result], items: list[Item]) -> list[Result]:
    return [_call(function, item) for item in items]


def _call(function: Callable[[Item], Result], item: Item) -> Result:
    try:
        return function(item)
    except Exception as error:
        error.add_note(f"while working on {item}")
        raise


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, which ends its workers in order, and die with it if it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
