"""A process of the service: uvicorn, which answers every request it has accepted before it ends."""

import asyncio
import contextlib
import math
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import uvicorn

from ..errors import PegasusError
from . import channel, logs
from .app import App
from .connections import EXTRA, SECONDS_IDLE, Connection, Connections, Patience
from .intake import Door, Intake, Listener, find_room
from .logs import logger
from .options import EXIT_FAILED, GRACE, Service

_SECONDS_TO_LEAVE = 1.0  # for requests that are on their way over open connections when the service is stopped
_SECONDS_TO_END = GRACE // 2  # of the grace: for the answers of requests that came last; the rest is for the model


class Server(uvicorn.Server):
    """Serves an app until SIGTERM or SIGINT.

    It then takes no new connections, answers the requests it has and those that come over open connections within a
    second, each as the last of its connection, and ends, within the timeout of requests and GRACE seconds.

    Args:
        app: the application.
        door: where connections come from; the socket that `run` is given if there is none.
    """

    def __init__(self, app: App, door: Door | None = None) -> None:
        serving = app.serving
        self._seconds_to_drain = math.ceil(serving.timeout) + _SECONDS_TO_END
        config = uvicorn.Config(
            app.asgi,
            http=Connection,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=SECONDS_IDLE,
            timeout_graceful_shutdown=self._seconds_to_drain,
        )
        super().__init__(config)
        self._app, self._door = app, door
        self._most = find_room(serving.max_connections)
        self._connections = Connections(self._most, Patience(serving.body_timeout, serving.timeout), app.metrics)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to take connections, and to watch the parent, if any: without it nobody would stop this process."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets=[])
        if self._door is None:
            self._door = Listener((sockets or [])[0])
        self._intake = Intake(self._door, self._most + EXTRA, self._make_connection, self.stop)
        self._intake.start()
        self._door.tell(channel.UP)
        self._watch = asyncio.create_task(self._connections.watch())
        _on_sigterm(self.handle_exit)
        parent = multiprocessing.parent_process()
        if parent is not None:
            self._loop.add_reader(parent.sentinel, self._on_parent_gone, parent.sentinel)

    def _on_parent_gone(self, sentinel: int) -> None:
        self._loop.remove_reader(sentinel)
        self.stop()

    def _make_connection(self, on_lost: Callable[[], None]) -> Connection:
        return Connection(self._connections, on_lost, self.config, self.server_state, self.lifespan.state)

    def stop(self) -> None:
        """End as on SIGTERM."""
        self.should_exit = True

    def tell(self, event: bytes) -> None:
        """Tell whoever hands out connections of an event; from any thread."""
        if self._door is not None:
            with contextlib.suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(self._door.tell, event)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer what has come, and end."""
        with _end_after(self._seconds_to_drain + _SECONDS_TO_END - 1):
            self._app.drain()
            await self._intake.finish()
            if self.server_state.connections and not self.force_exit:
                await asyncio.sleep(_SECONDS_TO_LEAVE)
            self._loop.call_later(self._seconds_to_drain - _SECONDS_TO_LEAVE, self._connections.abort)
            await super().shutdown()
            self._watch.cancel()

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Handle signals while serving; one that stops the service is not an error, and is not raised again.

        SIGTERM ends a process that does not listen yet at once, whatever its threads are doing: a client that connected
        now would wait in vain.
        """
        with super().capture_signals():
            _on_sigterm(signal.SIG_DFL)
            yield
            self._captured_signals.clear()


def _on_sigterm(handler: Any) -> None:
    if threading.current_thread() is threading.main_thread():  # only it may
        signal.signal(signal.SIGTERM, handler)


@contextmanager
def _end_after(seconds: float) -> Generator[None, None, None]:
    """End the process if what is done within takes longer: a model at work cannot be interrupted otherwise."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    timer = threading.Timer(seconds, _end)
    timer.daemon = True
    timer.start()
    yield
    timer.cancel()


def _end() -> None:
    logger.error("ended with work undone")
    os._exit(1)


def serve_process(service: Service, door: Door) -> int:
    """Serve in this process until a signal stops it; return its exit code.

    Raises what loading the model raises.

    Args:
        service: options.
        door: where connections come from.
    """
    failure: list[Exception] = []

    def on_loaded(error: Exception | None) -> None:
        if error is None:
            server.tell(channel.READY)
        else:
            failure.append(error)
            server.stop()

    app = App(service, on_loaded=on_loaded)
    server = Server(app, door)
    server.run()
    if failure:
        raise failure[0]
    if app.batcher.is_left:
        os._exit(0)  # what it is loading would crash with the interpreter
    return 0


def work(service: Service, end: socket.socket) -> int:
    """Be one of several processes: serve, and log what fails; return the exit code."""
    with logs.json_lines(service.serving.log_level, service.serving.log_text):
        try:
            return serve_process(service, channel.Channel(end))
        except (PegasusError, OSError) as error:
            reason = " ".join(str(error).split())
            logger.error("the model cannot be loaded", extra={"fields": {"reason": reason}})
            return EXIT_FAILED
