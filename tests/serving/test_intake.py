"""How connections come in: from a socket or over a channel, evenly, none lost, whatever there is a lack of."""

import asyncio
import errno
import os
import socket
import types

import pytest

from t5_pegasus.errors import OptionError
from t5_pegasus.serving import channel, intake
from t5_pegasus.serving.channel import Channel, Link
from t5_pegasus.serving.intake import Intake, Listener, find_room
from t5_pegasus.serving.supervisor import listen

# --- channel


def pairs(count: int) -> tuple[list[socket.socket], list[socket.socket]]:
    """Return the servers' and the clients' ends of connections."""
    servers, clients = zip(*(socket.socketpair() for _ in range(count)), strict=True)
    return list(servers), list(clients)


def test_connections_go_over_a_channel_and_their_ends_come_back():
    link = Link()
    process = Channel(link.child)
    with pytest.raises(BlockingIOError):
        process.take()
    servers, clients = pairs(3)
    assert all(link.hand(server) for server in servers)
    assert (link.open, link.pending, link.is_up) == (3, 3, False)
    taken = [process.take() for _ in range(2)]
    process.tell(channel.UP)
    assert link.hear()
    assert (link.open, link.pending, link.is_up, link.is_ready) == (3, 1, True, False)
    process.tell(channel.READY)
    process.tell(channel.CLOSED)
    assert link.hear()
    assert (link.open, link.handed, link.is_ready) == (2, 3, True)
    for client, end in zip(clients, taken, strict=False):
        client.sendall(b"hello")
        assert end.recv(9) == b"hello"
        end.close()
        assert client.recv(9) == b""  # nobody else has it open
    process.close()
    assert not link.hear()
    (left,) = link.close()  # the one that was never taken can go to another
    clients[2].sendall(b"hello")
    assert left.recv(9) == b"hello"
    left.close()
    for client in clients:
        client.close()


def test_a_process_that_leaves_takes_what_is_on_its_way_and_no_more():
    link = Link()
    process = Channel(link.child)
    process.tell(channel.UP)
    servers, clients = pairs(1)
    link.hear()
    link.hand(servers[0])
    process.stop()
    link.hear()
    assert not link.is_up
    assert not link.hand(clients[0])
    process.take().close()
    assert process.take() is None
    process.close()
    link.close()
    clients[0].close()


def test_a_channel_is_full_some_time_and_nothing_is_lost():
    link = Link()
    process = Channel(link.child)
    servers, clients = pairs(1)
    handed = 0
    while handed < 100_000 and link.hand(socket.socket(fileno=os.dup(servers[0].fileno()))):
        handed += 1
    assert 1 <= handed < 100_000
    for _ in range(handed):
        process.take().close()
        process.tell(channel.CLOSED)
    link.hear()
    process.tell(b"")  # what did not fit before
    link.hear()
    assert (link.open, link.pending) == (0, 0)
    for each in (*servers, *clients):
        each.close()
    process.close()
    link.close()


def test_the_next_connection_is_for_who_is_ready_awake_and_has_the_fewest(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(channel.time, "monotonic", lambda: now[0])
    links = [Link() for _ in range(4)]
    processes = [Channel(link.child) for link in links]
    for process in processes:
        process.tell(channel.UP)
    for process in processes[1:]:
        process.tell(channel.READY)
    servers, clients = pairs(4)
    links[1].hand(servers[0])  # and it does not take it
    for server in servers[1:3]:
        links[2].hand(server)
        processes[2].take().close()
    links[3].hand(servers[3])
    processes[3].take().close()
    for link in links:
        link.hear()

    def order() -> list[int]:
        return [links.index(link) for link in sorted(links, key=lambda link: link.order())]

    assert order() == [1, 3, 2, 0]
    now[0] = 5.0
    assert order() == [3, 2, 1, 0]
    for each in (*processes, *clients):
        each.close()
    for link in links:
        for left in link.close():
            left.close()


# --- intake


class Accepted(asyncio.Protocol):
    """Notes how many are open, and the most that have been."""

    open = most = 0

    def __init__(self, on_lost) -> None:
        self._on_lost = on_lost

    def connection_made(self, transport) -> None:
        type(self).open += 1
        type(self).most = max(type(self).most, type(self).open)

    def connection_lost(self, error) -> None:
        type(self).open -= 1
        self._on_lost()


def test_no_more_come_in_than_there_is_room_for_and_all_in_the_end():
    class Counted(Accepted):
        total = 0

        def connection_made(self, transport) -> None:
            super().connection_made(transport)
            Counted.total += 1
            asyncio.get_running_loop().call_later(0.002, transport.close)

    async def run() -> None:
        listener = listen("127.0.0.1", 0)
        address = listener.getsockname()
        taking = Intake(Listener(listener), 5, Counted, lambda: None)
        taking.start()
        clients = [socket.create_connection(address) for _ in range(60)]
        async with asyncio.timeout(20):
            while Counted.total < 60:
                await asyncio.sleep(0.01)
        assert Counted.most == 5
        for client in clients:
            client.close()
        late = socket.create_connection(address)  # waits to be accepted when it is over
        await taking.finish()
        assert Counted.total == 61
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
        late.close()

    asyncio.run(run())


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_a_lack_of_descriptors_is_waited_out_and_told_in_one_line(monkeypatch, caplog, number):
    monkeypatch.setattr(intake, "_SECONDS_TO_RECOVER", 0.05)

    class Short(Listener):
        tries = 0

        def take(self):
            Short.tries += 1
            if Short.tries <= 3:
                raise OSError(number, os.strerror(number))
            return super().take()

    async def run() -> None:
        listener = listen("127.0.0.1", 0)
        taking = Intake(Short(listener), 5, Accepted, lambda: None)
        taking.start()
        with socket.create_connection(listener.getsockname()):
            async with asyncio.timeout(20):
                while Accepted.open == 0:
                    await asyncio.sleep(0.01)
            await taking.finish()
        while Accepted.open:
            await asyncio.sleep(0.01)

    asyncio.run(run())
    told = [record for record in caplog.records if record.getMessage() == "no connection could be taken"]
    assert len(told) == 3  # one for each pause; the log itself passes one a second
    assert all(record.name.endswith(".connections") and record.exc_info is None for record in told)


@pytest.mark.parametrize(
    ("limits", "wanted", "room", "raised"),
    [
        ((1024, 1024), 500, 500, None),
        ((1024, 4096), 1000, 1000, 1064),
        ((1024, 2000), 5000, 1936, 2000),
        ((200, 200), 1000, 136, None),
        ((80, 80), 1000, 16, None),
        ((-1, -1), 1000, 1000, None),
        ((100, -1), 1000, 1000, 1064),
    ],
)
def test_there_is_room_for_as_many_as_descriptors_allow(monkeypatch, limits, wanted, room, raised):
    import resource

    given = []
    fake = types.SimpleNamespace(
        RLIMIT_NOFILE=7,
        RLIM_INFINITY=-1,
        getrlimit=lambda kind: limits,
        setrlimit=lambda kind, value: given.append(value),
    )
    monkeypatch.setitem(__import__("sys").modules, "resource", fake)
    assert find_room(wanted) == room
    assert [soft for soft, _ in given if soft != limits[0]] == ([] if raised is None else [raised])
    monkeypatch.setitem(__import__("sys").modules, "resource", resource)


def test_hardly_any_descriptors_are_an_error(monkeypatch):
    fake = types.SimpleNamespace(
        RLIMIT_NOFILE=7, RLIM_INFINITY=-1, getrlimit=lambda kind: (50, 50), setrlimit=lambda kind, value: None
    )
    monkeypatch.setitem(__import__("sys").modules, "resource", fake)
    with pytest.raises(OptionError, match="must be allowed 80 open files, got 50: raise it with `ulimit -n`"):
        find_room(1000)
