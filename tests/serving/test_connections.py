"""Connections of clients who do what they should not: each is answered or dropped, and nobody else notices."""

import concurrent.futures
import contextlib
import json
import logging
import re
import socket
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from t5_pegasus.serving import connections
from t5_pegasus.serving.connections import Connection, Patience
from tests.serving.running import TEXT, Fake, wait_for

PATIENCE = Patience(more=2, everything=5)


def request(text: str = TEXT, path: str = "/invocations", version: str = "1.1") -> bytes:
    body = json.dumps({"data": text}).encode()
    head = f"POST {path} HTTP/{version}\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return f"{head}\r\n\r\n".encode() + body


@contextlib.contextmanager
def connected(running, receive_buffer=None):
    with socket.socket() as client:
        if receive_buffer is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.settimeout(20)
        client.connect(("127.0.0.1", running.port))
        yield client


def read_all(client) -> bytes:
    return b"".join(iter(lambda: client.recv(65536), b""))


def is_closed(client) -> bool:
    client.settimeout(0.05)
    try:
        return client.recv(1) == b""
    except TimeoutError:
        return False
    except ConnectionResetError:
        return True
    finally:
        client.settimeout(20)


def metric(running, name: str) -> float:
    found = re.search(rf"^t5_pegasus_{re.escape(name)} (.*)$", running.client.get("/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0


# --- clients that close their side


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_who_closes_his_side_after_a_request_has_his_answer(service, title, version):
    with connected(service) as client:
        client.sendall(request(version=version))
        client.shutdown(socket.SHUT_WR)
        head, _, body = read_all(client).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert json.loads(body)["result"] == title.generate(TEXT, max_new_tokens=8)


def test_who_closes_his_side_after_several_requests_has_all_answers(service, title):
    texts = ["一丁七万", "丈三上下", "不与"]
    with connected(service) as client:
        client.sendall(b"".join(map(request, texts)))
        client.shutdown(socket.SHUT_WR)
        bodies = re.findall(rb"\r\n\r\n(\{.*?\})(?=HTTP|$)", read_all(client))
    assert [json.loads(body)["result"] for body in bodies] == title.generate(texts, max_new_tokens=8)


@pytest.mark.parametrize("part", [0, 30, -5])
def test_who_closes_his_side_before_the_end_of_a_request_has_none(service, part):
    with connected(service) as client:
        client.sendall(request()[:part] if part else b"")
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == b""


def test_who_has_closed_his_side_is_told_to_wait_and_answered(start, title, monkeypatch):
    monkeypatch.setattr(connections, "_SECONDS_BEFORE_PROBE", 0.05)
    fake = Fake(title)
    running = start(lambda: fake)
    with connected(running) as client:
        client.sendall(request())
        client.shutdown(socket.SHUT_WR)
        assert client.recv(65536) == b"HTTP/1.1 100 \r\n\r\n"
        fake.gate.set()
        assert read_all(client).startswith(b"HTTP/1.1 200 ")
    assert fake.given_up == []


# --- what is no HTTP

HEAD = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
NO_HTTP = [
    (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400, "invalid_http"),
    (b"nonsense\r\n\r\n", 400, "invalid_http"),
    (b"POST / HTTP/1.1\r\nHost x\r\n\r\n", 400, "invalid_http"),
    (b"GET /ping HTTP/1.1\r\n\r\n", 400, "invalid_http"),
    ("GET /标题 HTTP/1.1\r\nHost: x\r\n\r\n".encode(), 400, "invalid_http"),
    (HEAD + b"Content-Length: -1\r\n\r\n", 400, "invalid_http"),
    (HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, "invalid_http"),
    (HEAD + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n", 400, "invalid_http"),
    (HEAD + b"Transfer-Encoding: gzip\r\n\r\n", 501, "not_implemented"),
    (HEAD + b"X: " + b"x" * 70_000, 431, "headers_too_large"),
]


@pytest.mark.parametrize(("sent", "status", "code"), NO_HTTP, ids=range(len(NO_HTTP)))
def test_what_is_no_http_is_told_as_json(service, sent, status, code):
    with connected(service) as client:
        client.sendall(sent)
        head, _, body = read_all(client).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"\r\ncontent-type: application/json\r\n" in head
    error = json.loads(body)["error"]
    assert (error["code"], set(error)) == (code, {"code", "message"})


def test_nonsense_after_a_request_costs_its_answer_only(service, caplog):
    with connected(service) as client:
        client.sendall(request() + b"nonsense\r\n\r\n")
        answers = read_all(client)
    assert answers.count(b"HTTP/1.1 ") in (1, 2)
    assert b"invalid_http" in answers
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    start_of=st.sampled_from([b"", b"GET /ping HTTP/1.1\r\n", HEAD, HEAD + b"Transfer-Encoding: chunked\r\n\r\n"]),
    junk=st.binary(max_size=80),
    closes=st.booleans(),
)
def test_any_bytes_are_answered_as_json_or_not_at_all(service, caplog, start_of, junk, closes):
    with connected(service) as client:
        client.sendall(start_of + junk + b"\r\n\r\n")
        if closes:
            client.shutdown(socket.SHUT_WR)
            answer = read_all(client)
            for body in re.findall(rb"\r\n\r\n(\{.*?\})(?=HTTP|$)", answer):
                json.loads(body)
            assert answer == b"" or answer.startswith(b"HTTP/1.1 ")
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


# --- more connections than there is room for


def test_the_longest_idle_makes_room_for_who_comes(start):
    running = start(max_connections=5)
    running.client.close()
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(connected(running)) for _ in range(30)]
        wait_for(lambda: is_closed(idle[24]))
        assert all(map(is_closed, idle[:25]))
        assert not any(map(is_closed, idle[25:]))
        idle[25].sendall(request())
        assert idle[25].recv(100).startswith(b"HTTP/1.1 200 ")
        # It has been idle for less long than the others now.
        late = stack.enter_context(connected(running))
        late.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        metrics = read_all(late).decode()
        assert is_closed(idle[26])
        assert not is_closed(idle[25])
    assert "\nt5_pegasus_connections 5.0\n" in metrics
    assert '\nt5_pegasus_connections_dropped_total{reason="idle"} 26.0\n' in metrics


def test_where_all_are_busy_only_ping_is_answered(start, title):
    fake = Fake(title)
    running = start(lambda: fake, max_connections=4)
    running.client.close()
    ping = b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n"
    with contextlib.ExitStack() as stack:
        busy = [stack.enter_context(connected(running)) for _ in range(4)]
        for client in busy:
            client.sendall(request())
        wait_for(lambda: running.app.metrics.queue_length._value.get() + sum(fake.batches) == 4)
        for _ in range(40):  # these wait for a request, and are in nobody's way
            stack.enter_context(connected(running))
        with connected(running) as client:
            client.sendall(ping)
            head, _, body = read_all(client).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ")
            assert json.loads(body) == {"status": "ready"}
        with connected(running) as client:
            client.sendall(request())
            head, _, body = read_all(client).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 503 ")
            assert b"retry-after: 1" in head
            assert json.loads(body)["error"]["code"] == "too_many_connections"
        fake.gate.set()
        for client in busy:
            assert client.recv(100).startswith(b"HTTP/1.1 200 ")
        with connected(running) as client:
            client.sendall(request())
            assert client.recv(100).startswith(b"HTTP/1.1 200 ")


# --- clients that do not take their answers


def test_who_never_reads_is_dropped(start):
    running = start(body_timeout=0.5)
    with connected(running, receive_buffer=4096) as client:
        client.settimeout(0.2)
        sent = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 200
        with contextlib.suppress(OSError):  # the service reads no further requests
            for _ in range(100):
                client.sendall(sent)
        wait_for(lambda: metric(running, 'connections_dropped_total{reason="unread"}') == 1)
        wait_for(lambda: client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
    assert running.post("/invocations", {"data": TEXT}).status_code == 200


def given_up_at(unsent: list[int]) -> int | None:
    """Return at which of the looks, one a second, a client is given up that has left so many bytes each time."""
    connection = Connection.__new__(Connection)
    connection._unsent, connection._unsent_since, connection._taken_at = 0, 0.0, 0.0
    for second, size in enumerate(unsent):
        connection.transport = SimpleNamespace(get_write_buffer_size=lambda size=size: size)
        if connection.is_given_up(100.0 + second, PATIENCE):
            return second
    return None


def test_a_client_has_time_as_long_as_it_takes_something():
    assert given_up_at([0] * 9) is None
    assert given_up_at([7] * 9) == PATIENCE.more
    assert given_up_at([0, 0, 7, 7, 7, 7]) == 2 + PATIENCE.more
    assert given_up_at([9, 9, 8, 8, 7, 7]) == PATIENCE.everything
    assert given_up_at([9, 9, 8, 8, 7, 0, 7, 7, 0]) is None
    assert given_up_at([9, 8, 9, 9]) == 3


def test_many_at_once_are_all_answered(start, title):
    """More connections than are taken in one turn of the event loop."""
    running = start(max_connections=200)
    with concurrent.futures.ThreadPoolExecutor(40) as pool, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connected(running)) for _ in range(40)]

        def ask(client) -> bytes:
            client.sendall(request("一丁七万"))
            return client.recv(100)

        assert all(answer.startswith(b"HTTP/1.1 200 ") for answer in pool.map(ask, clients))
