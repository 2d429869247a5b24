"""The local runner: order, bounds, errors, and processes that do not outlive it."""

import itertools
import multiprocessing
import os
import signal

import pytest

from t5_pegasus.errors import PegasusError
from t5_pegasus.runners.local import run_local


def square(number):
    return number * number


def fail_at_seven(number):
    if number == 7:
        raise ZeroDivisionError("seven")
    return number


def die(number):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(("workers", "chunk"), [(1, 32), (1, 1), (4, 1), (2, 7), (3, 1000)])
def test_order_is_that_of_the_items(workers, chunk):
    assert list(run_local(square, iter(range(50)), workers, chunk)) == [(n, n * n) for n in range(50)]
    assert list(run_local(square, [], workers, chunk)) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_an_endless_stream_is_read_a_bounded_way_ahead(workers):
    read = itertools.count()
    results = run_local(square, (next(read) for _ in itertools.count()), workers, chunk=3)
    assert list(itertools.islice(results, 100)) == [(n, n * n) for n in range(100)]
    assert next(read) <= 100 + 4 * 3 * workers
    results.close()
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("workers", [1, 2])
def test_an_exception_comes_through_with_the_item_named(workers):
    with pytest.raises(ZeroDivisionError, match="seven") as caught:
        list(run_local(fail_at_seven, range(20), workers, chunk=4))
    assert caught.value.__notes__ == ["while working on 7"]
    assert multiprocessing.active_children() == []


def test_a_killed_worker_is_an_error_not_a_hang():
    with pytest.raises(PegasusError, match="worker process was killed"):
        list(run_local(die, range(3), 2))
