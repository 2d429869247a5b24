"""How the supervisor hands connections to its processes: open sockets one way, a byte for each event the other way."""

import collections
import contextlib
import socket
import time

UP, READY, TAKEN, CLOSED, LEAVING = b"u", b"r", b"+", b"-", b"l"

_SECONDS_TO_TAKE = 1.0  # after which a process that has not taken a connection counts as stalled


class Channel:
    """The end of a process of the service, a door for `intake.Intake`.

    Args:
        end: the socket made by `Link`, which is closed with the channel.
    """

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end, self._owed = end, bytearray()

    def fileno(self) -> int:
        """Return the descriptor that can be read when a connection has come."""
        return self._end.fileno()

    def take(self) -> socket.socket | None:
        """Return the next connection, None if there will be no more.

        Raises BlockingIOError if none has come yet, OSError if there is no descriptor left for it.
        """
        data, descriptors, _, _ = socket.recv_fds(self._end, 1, 1)
        if not data:
            return None
        self.tell(TAKEN)
        if not descriptors:
            self.tell(CLOSED)
            raise OSError("a connection was lost: there is no file descriptor for it")
        connection = socket.socket(fileno=descriptors[0])
        connection.setblocking(False)
        return connection

    def tell(self, event: bytes) -> None:
        """Tell the supervisor of an event."""
        self._owed += event
        with contextlib.suppress(OSError):  # it reads later, or is gone
            del self._owed[: self._end.send(self._owed)]

    def stop(self) -> None:
        """Ask for no further connections; `take` returns None when all that were on their way have come."""
        self.tell(LEAVING)

    def close(self) -> None:
        """Close it."""
        self._end.close()


class Link:
    """The supervisor's end: what has been handed to a process and has not been closed yet.

    Attributes:
        child: the other end, to be passed to the process and then closed here.
        open: connections that the process has, and those on their way to it.
        handed: connections handed to it so far.
        is_up: whether it takes connections.
        is_ready: whether it has its model.
    """

    def __init__(self) -> None:
        self._end, self.child = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._end.setblocking(False)
        self._pending: collections.deque[tuple[float, socket.socket]] = collections.deque()
        self.open = self.handed = 0
        self.is_up = self.is_ready = False

    def fileno(self) -> int:
        """Return the descriptor that can be read when the process tells something."""
        return self._end.fileno()

    def hand(self, connection: socket.socket) -> bool:
        """Hand a connection over; return False if the process has no room for more, or is gone.

        It stays open here until the process has taken it: of one that dies before, another can take it.
        """
        try:
            socket.send_fds(self._end, [b"c"], [connection.fileno()])
        except OSError:
            return False
        self._pending.append((time.monotonic(), connection))
        self.open += 1
        self.handed += 1
        return True

    def hear(self) -> bool:
        """Note what the process has told; return False if it will tell no more."""
        while True:
            try:
                told = self._end.recv(4096)
            except BlockingIOError:
                return True
            except OSError:
                return False
            if not told:
                return False
            for event in told:
                self._note(bytes([event]))

    def _note(self, event: bytes) -> None:
        if event == TAKEN:
            self._pending.popleft()[1].close()
        elif event == CLOSED:
            self.open -= 1
        elif event == UP:
            self.is_up = True
        elif event == READY:
            self.is_ready = True
        elif event == LEAVING:
            self.end()

    @property
    def pending(self) -> int:
        """Return how many connections are on their way."""
        return len(self._pending)

    def order(self) -> tuple[bool, bool, int, int]:
        """Return what processes are sorted by to find the one for the next connection.

        It has its model if any has, takes what it is given, and has the fewest connections.
        """
        is_stalled = bool(self._pending) and time.monotonic() - self._pending[0][0] > _SECONDS_TO_TAKE
        return not self.is_ready, is_stalled, self.open, self.handed

    def end(self) -> None:
        """Hand over nothing more."""
        self.is_up = False
        with contextlib.suppress(OSError):
            self._end.shutdown(socket.SHUT_WR)

    def close(self) -> list[socket.socket]:
        """Close it when the process has ended; return the connections that it never took."""
        self.hear()
        self.is_up = False
        self._end.close()
        never_taken = [connection for _, connection in self._pending]
        self._pending.clear()
        return never_taken
