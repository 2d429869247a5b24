"""Where connections come in: as many as there is room for, whatever the operating system is short of."""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Any, Protocol

from ..errors import OptionError
from .channel import CLOSED
from .logs import connections_logger

_AT_ONCE = 16  # connections taken in one turn of the event loop, so that requests have their turn
_SECONDS_TO_RECOVER = 0.5  # before another try where there was no file descriptor, or no memory
_RESERVE = 64  # file descriptors for everything else, `connections.EXTRA` among them
_LEAST = 16  # connections that a service must have room for
_SECONDS_TO_COME = 1.0  # for connections that are on their way when a process stops


def find_room(wanted: int) -> int:
    """Return how many connections this process may have open: `wanted`, or as many as its file descriptors allow.

    The soft limit of descriptors is raised where the hard one allows. Raises OptionError if hardly any are left.
    """
    try:
        import resource
    except ImportError:  # there is no such limit
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + _RESERVE
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    elif soft == resource.RLIM_INFINITY:
        return wanted
    least = _RESERVE + _LEAST
    if soft < least:
        raise OptionError(f"a process must be allowed {least} open files, got {soft}: raise it with `ulimit -n`")
    return min(wanted, soft - _RESERVE)


class Door(Protocol):
    """Where `Intake` takes connections from: a listening socket, or the supervisor."""

    def fileno(self) -> int:
        """Return the descriptor that can be read when a connection has come."""

    def take(self) -> socket.socket | None:
        """Return the next connection, not blocking; None if there will be no more."""

    def tell(self, event: bytes) -> None:
        """Tell whoever hands out connections of an event of `channel`."""

    def stop(self) -> None:
        """Ask for no further connections."""

    def close(self) -> None:
        """Close it."""


class Listener:
    """A listening socket as a door."""

    def __init__(self, listener: socket.socket) -> None:
        listener.setblocking(False)
        self._listener, self._is_stopped = listener, False

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._listener.fileno()

    def take(self) -> socket.socket | None:
        """Return the next connection, None if it is stopped and none waits; raises BlockingIOError if none waits."""
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            if self._is_stopped:
                return None
            raise
        connection.setblocking(False)
        return connection

    def tell(self, event: bytes) -> None:
        """Do nothing: nobody hands out connections."""

    def stop(self) -> None:
        """Take only what waits already."""
        self._is_stopped = True

    def close(self) -> None:
        """Close the socket."""
        self._listener.close()


class Intake:
    """Takes connections from a door and gives each a protocol, as long as there is room.

    Args:
        door: where they come from.
        room: the most that are open at a time, each counted until its socket is closed.
        make: returns the protocol of a connection, given what to call when it is lost.
        on_end: called if the door will have no more connections.
    """

    def __init__(
        self,
        door: Door,
        room: int,
        make: Callable[[Callable[[], None]], asyncio.Protocol],
        on_end: Callable[[], None],
    ) -> None:
        self._door, self._room, self._make, self._on_end = door, room, make, on_end
        self._loop = asyncio.get_running_loop()
        self._open = 0
        self._is_reading = False
        self._recovers_at = 0.0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._ended = asyncio.Event()

    def start(self) -> None:
        """Begin, or go on, to take connections."""
        if not self._is_reading and not self._ended.is_set():
            self._is_reading = True
            self._loop.add_reader(self._door, self._take_some)

    def _pause(self) -> None:
        if self._is_reading:
            self._is_reading = False
            self._loop.remove_reader(self._door)

    def _take_some(self) -> bool:
        """Take some of the connections that have come; return whether there may be more."""
        for _ in range(_AT_ONCE):
            if self._open >= self._room:
                self._pause()  # until one is lost
                return False
            try:
                connection = self._door.take()
            except (BlockingIOError, InterruptedError):
                return False
            except ConnectionAbortedError:
                continue
            except OSError as error:
                connections_logger.error("no connection could be taken", extra={"fields": {"reason": str(error)}})
                self._pause()
                self._recovers_at = self._loop.time() + _SECONDS_TO_RECOVER
                self._loop.call_at(self._recovers_at, self.start)
                return False
            if connection is None:
                self._pause()
                self._ended.set()
                self._on_end()
                return False
            self._open += 1
            task = self._loop.create_task(self._connect(connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return True

    async def _connect(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: self._make(self._release), connection)
        except OSError:  # it has gone before it was there
            connection.close()
            self._release()

    def _release(self) -> None:
        self._open -= 1
        self._door.tell(CLOSED)
        if self._loop.time() >= self._recovers_at:
            self.start()

    async def finish(self) -> None:
        """Take the connections that are on their way, then no more."""
        self._door.stop()
        while self._take_some():
            await asyncio.sleep(0)
        self.start()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), _SECONDS_TO_COME)
        self._pause()
        self._ended.set()
        self._door.close()
        if self._tasks:
            await asyncio.wait(self._tasks)
