"""Several processes of the service behind one port: start, watch, restart when one dies, stop together."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import sys
import tempfile
import time
from multiprocessing.context import SpawnProcess
from types import FrameType

from ..errors import OptionError
from ..serving import logs
from .logs import logger
from .options import EXIT_FAILED, Service, Turn

_SECONDS_BETWEEN_LOOKS = 0.2
_LONGEST_PAUSE = 30.0  # seconds before a process that keeps dying is started again
_SECONDS_OF_HEALTH = 30.0  # after which a process does not count as one that keeps dying


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
    """Serve until SIGTERM or Ctrl-C; return the exit code."""
    listener = listen(service.serving.host, service.serving.port)
    host, port = listener.getsockname()[:2]
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104  nothing is bound here
    print(f"serving {service.model.model_dir} on http://{shown}:{port}/", file=sys.stderr, flush=True)
    if service.serving.workers == 1:
        from .server import serve_process

        return serve_process(service, listener)
    with tempfile.TemporaryDirectory(prefix="t5_pegasus_metrics_") as folder:
        # prometheus_client adds up the processes in it. The name is metrics.MULTIPROCESS_DIR, but that module imports
        # prometheus_client, which must not happen before this is set.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        return Supervisor(service, listener).run()


class Supervisor:
    """Keeps `service.serving.workers` processes alive."""

    def __init__(self, service: Service, listener: socket.socket) -> None:
        self._service, self._listener = service, listener
        self._context = multiprocessing.get_context("spawn")
        self._opened, self._loaded = self._context.Event(), self._context.Event()
        self._should_stop = False

    def run(self) -> int:
        """Run until a signal, or until a process cannot load its model and none has one; return the exit code."""
        logs.set_up(self._service.serving.log_level, self._service.serving.log_text)
        handlers = {number: signal.signal(number, self._on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
        slots = [_Slot() for _ in range(self._service.serving.workers)]
        code = 0
        try:
            while not self._should_stop:
                for number, slot in enumerate(slots):
                    if slot.process is None and time.monotonic() >= slot.start_at:
                        slot.process, slot.started = self._start(number), time.monotonic()
                sentinels = [slot.process.sentinel for slot in slots if slot.process is not None]
                multiprocessing.connection.wait(sentinels, _SECONDS_BETWEEN_LOOKS)
                for slot in slots:
                    if slot.process is not None and slot.process.exitcode is not None:
                        if slot.process.exitcode == EXIT_FAILED and not self._loaded.is_set():
                            code, self._should_stop = EXIT_FAILED, True
                        self._on_death(slot, slot.process)
        finally:
            self._stop([slot.process for slot in slots if slot.process is not None])
            for number, handler in handlers.items():
                signal.signal(number, handler)
        return code

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._should_stop = True

    def _start(self, number: int) -> SpawnProcess:
        turn = Turn(number == 0 and not self._opened.is_set(), self._opened, self._loaded)
        process = self._context.Process(target=_work, args=(self._service, self._listener, number, turn), daemon=True)
        process.start()
        logger.info("process started", extra={"fields": {"worker": process.pid}})
        return process

    def _on_death(self, slot: "_Slot", process: SpawnProcess) -> None:
        from prometheus_client import multiprocess

        fields = {"worker": process.pid, "exit_code": process.exitcode}
        logger.error("process died", extra={"fields": fields})
        self._opened.set()  # if it was the first, the others would wait for it in vain
        multiprocess.mark_process_dead(process.pid)  # type: ignore[no-untyped-call]
        if time.monotonic() - slot.started > _SECONDS_OF_HEALTH:
            slot.deaths = 0
        pause = min(_LONGEST_PAUSE, 2.0**slot.deaths - 1)
        slot.process, slot.deaths, slot.start_at = None, slot.deaths + 1, time.monotonic() + pause

    def _stop(self, processes: list[SpawnProcess]) -> None:
        """End all processes, each after it has answered its requests."""
        self._listener.close()  # a connection is accepted while any copy is open, also theirs
        for process in processes:
            process.terminate()
        deadline = time.monotonic() + self._service.serving.timeout + self._service.serving.body_timeout + 15
        for process in processes:
            process.join(max(0.1, deadline - time.monotonic()))
            if process.exitcode is None:
                process.kill()
                process.join()


class _Slot:
    """One of the workers: its process, since when it runs, and how often one has died of late."""

    def __init__(self) -> None:
        self.process: SpawnProcess | None = None
        self.started = self.start_at = 0.0
        self.deaths = 0


def _work(service: Service, listener: socket.socket, number: int, turn: Turn) -> None:
    """Be a process of the service, on its share of the cores: threads of all processes on all cores slow each other."""
    from .server import serve_process

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process: no tracebacks from half-started ones
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[number :: service.serving.workers] or {cores[number % len(cores)]})
    sys.exit(serve_process(service, listener, turn))
