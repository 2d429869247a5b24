"""A process of the service: uvicorn, which answers every request it has accepted before it ends."""

import asyncio
import multiprocessing
import signal
import socket
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..errors import PegasusError
from ..serving import logs
from .app import App
from .options import EXIT_FAILED, Service, Turn

_SECONDS_IDLE = 30  # a connection may be open between requests
_SECONDS_TO_LEAVE = 1.0  # for requests that are on their way over open connections when the service is stopped


class _Protocol(H11Protocol):
    """HTTP/1.1 that closes connections without a complete request: idle ones, and those that send it byte by byte."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._patience = self.loop.call_later(_SECONDS_IDLE, self._end_if_idle)

    def connection_lost(self, exc: Exception | None) -> None:
        self._patience.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        self._patience.cancel()
        self._patience = self.loop.call_later(_SECONDS_IDLE, self._end_if_idle)
        super().on_response_complete()

    def _end_if_idle(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()


class Server(uvicorn.Server):
    """Serves an app until SIGTERM or SIGINT.

    It then takes no new connections, answers the requests it has and those that come over open connections within a
    second, each as the last of its connection, and ends.
    """

    def __init__(self, app: App) -> None:
        config = uvicorn.Config(
            app.asgi,
            http=_Protocol,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=_SECONDS_IDLE,
            timeout_graceful_shutdown=int(app.serving.timeout + app.serving.body_timeout) + 5,
            backlog=2048,
        )
        super().__init__(config)
        self._app = app

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, and to watch the parent, if any: without it nobody would stop this process."""
        await super().startup(sockets)
        _on_sigterm(self.handle_exit)
        parent = multiprocessing.parent_process()
        if parent is not None:
            asyncio.get_running_loop().add_reader(parent.sentinel, self._on_parent_gone, parent.sentinel)

    def _on_parent_gone(self, sentinel: int) -> None:
        asyncio.get_running_loop().remove_reader(sentinel)
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer what has come, and end."""
        self._app.drain()
        for server in self.servers:
            server.close()
        for each in sockets or []:
            each.close()
        if self.server_state.connections and not self.force_exit:
            await asyncio.sleep(_SECONDS_TO_LEAVE)
        await super().shutdown(sockets)

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


def serve_process(service: Service, listener: socket.socket, turn: Turn | None = None) -> int:
    """Serve in this process until a signal stops it; return its exit code.

    Args:
        service: options.
        listener: a listening socket.
        turn: when to listen, for one of several processes.
    """
    logs.set_up(service.serving.log_level, service.serving.log_text)
    failure: list[Exception] = []

    def on_failure(error: Exception) -> None:
        failure.append(error)
        server.should_exit = True
        listeners.clear()  # if it does not listen yet, it never does

    listeners = [listener]
    server = Server(App(service, on_failure=on_failure, turn=turn))
    server.run(listeners)
    if not failure:
        return 0
    if isinstance(failure[0], PegasusError | OSError):
        print(f"error: {' '.join(str(failure[0]).split())}", file=sys.stderr)
        return EXIT_FAILED
    raise failure[0]
