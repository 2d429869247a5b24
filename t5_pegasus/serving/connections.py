"""HTTP/1.1 over a connection, and all connections of a process: none may keep the place of another for nothing.

A connection without a request in progress is idle. It is closed after a while, and where places are scarce at once, the
longest idle first. Where none is idle, a further connection may only ask whether the service is alive.
"""

import asyncio
import json
import socket
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol
from uvicorn.server import ServerState

from .errors import ServiceError
from .logs import connections_logger
from .metrics import Metrics
from .middleware import CROWDED

SECONDS_IDLE = 30  # a connection may be open between requests
EXTRA = 16  # connections that may only ask whether the service is alive
_SECONDS_BETWEEN_LOOKS = 1.0
_SECONDS_BEFORE_PROBE = 1.0  # after a client has closed its side: most answers come sooner
_SECONDS_TO_REPLY = 0.2  # of the client's machine, if nobody there has the connection any more


class Patience(NamedTuple):
    """How long a client may take: seconds to take any more of what was sent, and to take all that there was to send."""

    more: float
    everything: float


class Connections:
    """The open connections of a process.

    Args:
        most: that are open, besides EXTRA.
        patience: with clients that do not take their answers.
        metrics: of the service; updated here.
    """

    def __init__(self, most: int, patience: Patience, metrics: Metrics) -> None:
        self._most, self._patience, self._metrics = most, patience, metrics
        self._all: set[Connection] = set()
        self._idle: dict[Connection, float] = {}  # since when, the longest idle first

    def add(self, connection: "Connection") -> bool:
        """Take in a new connection; return whether it is one too many."""
        if len(self._all) >= self._most and self._idle:
            self.drop(next(iter(self._idle)), "idle")
        is_crowded = len(self._all) >= self._most
        self._all.add(connection)
        self.set_idle(connection)
        self._metrics.connections.set(len(self._all))
        return is_crowded

    def remove(self, connection: "Connection") -> None:
        """Forget a connection that is lost."""
        self._all.discard(connection)
        self._idle.pop(connection, None)
        self._metrics.connections.set(len(self._all))

    def set_idle(self, connection: "Connection") -> None:
        """Note that a connection waits for a request from now on."""
        if connection in self._all:
            self._idle.pop(connection, None)
            self._idle[connection] = time.monotonic()

    def set_busy(self, connection: "Connection") -> None:
        """Note that a connection has a request."""
        self._idle.pop(connection, None)

    def drop(self, connection: "Connection", reason: str) -> None:
        """Close a connection at once, whatever it has still to send."""
        self.remove(connection)
        self._metrics.dropped.labels(reason).inc()
        connections_logger.warning("connection dropped", extra={"fields": {"reason": reason, "open": len(self._all)}})
        connection.transport.abort()

    def abort(self) -> None:
        """Drop all that are left when the service ends."""
        for connection in list(self._all):
            self.drop(connection, "stop")

    async def watch(self) -> None:
        """Close connections that are idle for long, and those of clients that do not take their answers; for ever."""
        while True:
            await asyncio.sleep(_SECONDS_BETWEEN_LOOKS)
            now = time.monotonic()
            for connection in [each for each in self._all if each.is_given_up(now, self._patience)]:
                self.drop(connection, "unread")
            for connection in [each for each, since in self._idle.items() if now - since > SECONDS_IDLE]:
                connection.transport.close()


class Connection(H11Protocol):
    """HTTP/1.1 as uvicorn speaks it, but for errors as JSON, clients that close their side, and `Connections`.

    Args:
        connections: those that it belongs to.
        on_lost: called when its socket is about to be closed.
    """

    def __init__(
        self,
        connections: Connections,
        on_lost: Callable[[], None],
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
    ) -> None:
        super().__init__(config, server_state, app_state)
        self._connections, self._on_lost = connections, on_lost
        self._is_half_closed = False
        # Bytes that the client has not taken, since when there are any, and when they last became fewer.
        self._unsent, self._unsent_since, self._taken_at = 0, 0.0, 0.0

    @property
    def is_idle(self) -> bool:
        """Return whether no request is in progress."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin."""
        super().connection_made(transport)
        if self._connections.add(self):
            self.app_state = {**self.app_state, CROWDED: True}

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._connections.remove(self)
        super().connection_lost(exc)
        self._on_lost()

    def handle_events(self) -> None:
        """Begin the requests that have come."""
        super().handle_events()
        if not self.is_idle:
            self._connections.set_busy(self)

    def on_response_complete(self) -> None:
        """Wait for the next request, or begin it if it has come."""
        self._connections.set_idle(self)
        super().on_response_complete()
        if self._is_half_closed and self.is_idle:
            self.transport.close()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keep the connection for the answer if a client closes its side after a complete request.

        A client that has gone altogether looks the same, until something is sent to it.
        """
        if self.is_idle or self.cycle.more_body:
            return False
        if not self._is_half_closed:
            self._is_half_closed = True
            self.loop.call_later(_SECONDS_BEFORE_PROBE, self._probe)
        return True

    def _probe(self) -> None:
        """Send what means nothing, so that the machine of a client that has gone says so."""
        may_send = self.conn.our_state is h11.SEND_RESPONSE and self.scope["http_version"] == "1.1"
        if may_send and not self.transport.is_closing():
            self.transport.write(self.conn.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
            self.loop.call_later(_SECONDS_TO_REPLY, self._end_if_gone)

    def _end_if_gone(self) -> None:
        if not self.transport.is_closing():
            end = self.transport.get_extra_info("socket")
            if end.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self.transport.abort()

    def is_given_up(self, now: float, patience: Patience) -> bool:
        """Return whether the client has not taken what it was sent for too long; to be called now and then."""
        unsent = self.transport.get_write_buffer_size()
        if not self._unsent:
            self._unsent_since = self._taken_at = now
        elif unsent < self._unsent:
            self._taken_at = now
        self._unsent = unsent
        waited, waited_in_all = now - self._taken_at, now - self._unsent_since
        return unsent > 0 and (waited >= patience.more or waited_in_all >= patience.everything)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP request, as JSON, and close the connection."""
        if not self.is_idle:  # what comes after the beginning of a request makes no sense
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.abort()
            return
        status = getattr(sys.exception(), "error_status_hint", 400)
        code, message = _PROTOCOL_ERRORS.get(status, _PROTOCOL_ERRORS[400])
        body = json.dumps(ServiceError(status, code, message).to_dict()).encode()
        headers = [
            *self.server_state.default_headers,
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"connection", b"close"),
        ]
        response = h11.Response(status_code=status, headers=headers, reason=STATUS_PHRASES[status])
        events = (response, h11.Data(data=body), h11.EndOfMessage())
        self.transport.write(b"".join(self.conn.send(event) or b"" for event in events))
        self.transport.close()


# What h11 finds wrong, by status.
_PROTOCOL_ERRORS = {
    400: ("invalid_http", "the request is not HTTP/1.1"),
    431: ("headers_too_large", "the headers of the request are too large"),
    501: ("not_implemented", "the transfer encoding of the request is not read"),
}
