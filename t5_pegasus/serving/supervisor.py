"""Several processes of the service behind one port: start, watch, restart when one dies, stop together.

It takes the connections itself and hands each to the process with the fewest. Left to the operating system, whichever
process is awake takes nearly all of them, and the others idle.
"""

import collections
import contextlib
import multiprocessing
import os
import selectors
import signal
import socket
import sys
import tempfile
import time
from multiprocessing.context import SpawnProcess
from types import FrameType

from ..errors import OptionError, PegasusError
from . import logs
from .channel import Link
from .intake import Listener, find_room
from .logs import connections_logger, logger
from .options import EXIT_FAILED, GRACE, Service

_SECONDS_BETWEEN_LOOKS = 0.2
_SECONDS_TO_RECOVER = 0.5  # before another try where there was no file descriptor, or no memory
_LONGEST_PAUSE = 30.0  # seconds before a process that keeps dying is started again
_SECONDS_OF_HEALTH = 30.0  # after which a process does not count as one that keeps dying
_AT_ONCE = 64  # connections taken before processes are heard again
_MOST_ON_THEIR_WAY = 64  # to a process; further ones wait to be accepted


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens. Raises OptionError if the address is in use or is not this machine's."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        raise OptionError(f"cannot listen on {host} port {port}: {error.strerror}; --port names another") from error
    return listener


def serve(service: Service) -> int:
    """Serve until SIGTERM or Ctrl-C; return the exit code. Raises PegasusError if there is nothing to serve."""
    find_room(service.serving.max_connections)
    listener = listen(service.serving.host, service.serving.port)
    host, port = listener.getsockname()[:2]
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104  nothing is bound here
    logs.announce("serving", model=str(service.model.model_dir), url=f"http://{shown}:{port}/")
    if service.serving.workers == 1:
        from .server import serve_process

        return serve_process(service, Listener(listener))
    with tempfile.TemporaryDirectory(prefix="t5_pegasus_metrics_") as folder:
        # prometheus_client adds up the processes in it. The name is metrics.MULTIPROCESS_DIR, but that module imports
        # prometheus_client, which must not happen before this is set.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        # Multiprocessing's tracker cleans up after a process that was killed, and would say so in a line of its own.
        warnings = [os.environ.get("PYTHONWARNINGS", ""), "ignore:resource_tracker"]
        os.environ["PYTHONWARNINGS"] = ",".join(filter(None, warnings))
        Supervisor(service, listener).run()
    return 0


class Supervisor:
    """Keeps `service.serving.workers` processes alive, and busy alike."""

    def __init__(self, service: Service, listener: socket.socket) -> None:
        self._service, self._listener = service, Listener(listener)
        self._context = multiprocessing.get_context("spawn")
        self._slots = [_Slot(number) for number in range(service.serving.workers)]
        self._selector = selectors.DefaultSelector()
        self._unplaced: collections.deque[socket.socket] = collections.deque()
        self._is_listening, self._recovers_at = False, 0.0
        self._has_had_a_model = self._should_stop = False

    def run(self) -> None:
        """Run until a signal. Raises PegasusError if a process cannot load its model and none ever could."""
        handlers = {number: signal.signal(number, self._on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            while not self._should_stop:
                for slot in self._slots:
                    if slot.process is None and time.monotonic() >= slot.start_at:
                        self._start(slot)
                self._listen_if_useful()
                for key, _ in self._selector.select(_SECONDS_BETWEEN_LOOKS):
                    key.data()
                self._place()
        finally:
            self._stop()
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._should_stop = True

    # processes

    def _start(self, slot: "_Slot") -> None:
        slot.link, slot.started = Link(), time.monotonic()
        # A daemon of multiprocessing: it does not outlive this process.
        slot.process = self._context.Process(
            target=_work, args=(self._service, slot.link.child, slot.number), daemon=True
        )
        slot.process.start()
        slot.link.child.close()
        self._selector.register(slot.link, selectors.EVENT_READ, lambda: self._hear(slot))
        self._selector.register(slot.process.sentinel, selectors.EVENT_READ, lambda: self._on_death(slot))
        logger.info("process started", extra={"fields": {"worker": slot.process.pid}})

    def _hear(self, slot: "_Slot") -> None:
        if slot.link is None:
            return
        if not slot.link.hear():
            with contextlib.suppress(KeyError):
                self._selector.unregister(slot.link)
        self._has_had_a_model |= slot.link.is_ready

    def _on_death(self, slot: "_Slot") -> None:
        from prometheus_client import multiprocess

        process = slot.process
        if process is None or slot.link is None or process.exitcode is None:
            return
        self._selector.unregister(process.sentinel)
        self._hear(slot)
        with contextlib.suppress(KeyError):
            self._selector.unregister(slot.link)
        self._unplaced.extend(slot.link.close())
        logger.error("process died", extra={"fields": {"worker": process.pid, "exit_code": process.exitcode}})
        multiprocess.mark_process_dead(process.pid)  # type: ignore[no-untyped-call]
        slot.process = slot.link = None
        if process.exitcode == EXIT_FAILED and not self._has_had_a_model:
            raise PegasusError("no process could load the model; the log says why")
        if time.monotonic() - slot.started > _SECONDS_OF_HEALTH:
            slot.deaths = 0
        slot.start_at = time.monotonic() + min(_LONGEST_PAUSE, 2.0**slot.deaths - 1)
        slot.deaths += 1

    # connections

    def _links(self) -> list[Link]:
        """Return those to processes that take connections, the one for the next connection first."""
        links = [slot.link for slot in self._slots if slot.link is not None]
        return sorted(
            (link for link in links if link.is_up and link.pending < _MOST_ON_THEIR_WAY), key=lambda link: link.order()
        )

    def _listen_if_useful(self) -> None:
        """Listen where there is someone to hand connections to; otherwise they wait to be accepted."""
        is_useful = bool(self._links()) and not self._unplaced and time.monotonic() >= self._recovers_at
        if is_useful and not self._is_listening:
            self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        elif self._is_listening and not is_useful:
            self._selector.unregister(self._listener)
        self._is_listening = is_useful

    def _accept(self) -> bool:
        """Accept connections and hand them out; return whether more may be waiting."""
        for _ in range(_AT_ONCE):
            try:
                connection = self._listener.take()
            except (BlockingIOError, InterruptedError):
                return False
            except ConnectionAbortedError:
                continue
            except OSError as error:
                connections_logger.error("no connection could be taken", extra={"fields": {"reason": str(error)}})
                self._recovers_at = time.monotonic() + _SECONDS_TO_RECOVER
                return False
            if connection is None:
                return False
            self._unplaced.append(connection)
            self._place()
            if self._unplaced:
                return False
        return True

    def _place(self) -> None:
        """Hand out the connections that no process has yet."""
        while self._unplaced:
            if not any(link.hand(self._unplaced[0]) for link in self._links()):
                return
            self._unplaced.popleft()

    def _stop(self) -> None:
        """End all processes, each after it has answered its requests, and those that are waiting to be accepted."""
        deadline = time.monotonic() + self._service.serving.timeout + GRACE
        self._listener.stop()
        while self._links() and self._accept():
            pass
        self._listener.close()
        processes = [slot.process for slot in self._slots if slot.process is not None]
        for slot in self._slots:
            if slot.link is not None:
                slot.link.end()
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(max(0.1, deadline - time.monotonic()))
            if process.exitcode is None:
                process.kill()
                process.join()
        for connection in self._unplaced:
            connection.close()
        self._selector.close()


class _Slot:
    """One of the workers: its process, since when it runs, and how often one has died of late."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.process: SpawnProcess | None = None
        self.link: Link | None = None
        self.started = self.start_at = 0.0
        self.deaths = 0


def _work(service: Service, end: socket.socket, number: int) -> None:
    """Be a process of the service, on its share of the cores: threads of all processes on all cores slow each other."""
    from .server import work

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process: no tracebacks from half-started ones
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[number :: service.serving.workers] or {cores[number % len(cores)]})
    sys.exit(work(service, end))
