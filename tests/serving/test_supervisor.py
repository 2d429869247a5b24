"""Several processes under load: work is shared evenly, and what befalls one of them or its clients harms no other."""

import asyncio
import collections
import concurrent.futures
import contextlib
import json
import os
import resource
import signal
import socket
import time

import httpx
import pytest

from t5_pegasus.serving.options import GRACE
from tests.serving.processes import workers
from tests.serving.running import TEXT, text_of, wait_for

pytestmark = pytest.mark.slow

CLIENTS = 64


def request(text: str, **parameters) -> bytes:
    body = json.dumps({"data": text, "parameters": parameters}).encode()
    head = "POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def ask(reader, writer, text: str, **parameters) -> str:
    writer.write(request(text, **parameters))
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    assert head.startswith("http/1.1 200 "), head
    length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
    return json.loads(await reader.readexactly(length))["result"]


def start_two(script, exported_dir, *flags):
    running = script("--model_dir", str(exported_dir), "--workers", "2", *flags)
    wait_for(lambda: sum("model loaded" in line for line in list(running.lines)) == 2)
    return running


def texts_by_process(running) -> collections.Counter:
    counts = collections.Counter()
    for event in running.events():
        if event["event"] == "request" and event["route"] == "/invocations":
            counts[event["process"]] += event["texts"]
    return counts


@pytest.mark.parametrize("keeps_open", [True, False])
def test_two_processes_share_the_texts_of_many_clients(script, exported_dir, title, keeps_open):
    running = start_two(script, exported_dir)
    texts = [text_of(number, 10 + number % 20) for number in range(CLIENTS)]
    expected = title.generate(texts, max_new_tokens=8)

    async def client(number: int) -> None:
        streams = await asyncio.open_connection("127.0.0.1", running.port)
        for turn in range(5):
            if turn and not keeps_open:
                streams[1].close()
                streams = await asyncio.open_connection("127.0.0.1", running.port)
            assert await ask(*streams, texts[number]) == expected[number]
        streams[1].close()

    async def run() -> None:
        await asyncio.gather(*map(client, range(CLIENTS)))

    asyncio.run(run())
    assert running.stop() == 0
    counts = texts_by_process(running)
    assert sum(counts.values()) == 5 * CLIENTS
    assert all(0.4 <= counts[worker] / sum(counts.values()) <= 0.6 for worker in workers(running)), counts


def test_a_killed_process_loses_its_share_at_most(script, exported_dir, title):
    running = start_two(script, exported_dir, "--max_new_tokens", "32")
    texts = [text_of(number, 40) for number in range(CLIENTS)]
    expected = title.generate(texts, num_beams=4, max_new_tokens=32)
    outcomes: list[str] = []

    async def client(number: int) -> None:
        streams = await asyncio.open_connection("127.0.0.1", running.port)
        for _ in range(2):
            try:
                right = await ask(*streams, texts[number], num_beams=4) == expected[number]
            except (OSError, EOFError):
                outcomes.append("lost")
                streams = await asyncio.open_connection("127.0.0.1", running.port)
            else:
                outcomes.append("right" if right else "wrong")
        streams[1].close()

    async def run() -> None:
        clients = [asyncio.create_task(client(number)) for number in range(CLIENTS)]
        while not outcomes:
            await asyncio.sleep(0.01)
        os.kill(workers(running)[0], signal.SIGKILL)
        await asyncio.gather(*clients)

    asyncio.run(run())
    assert running.stop() == 0
    counts = collections.Counter(outcomes)
    assert counts["wrong"] == 0
    assert counts["right"] + counts["lost"] == 2 * CLIENTS
    assert counts["lost"] <= CLIENTS // 2


def test_what_a_stopped_process_does_not_take_waits_for_it_or_another(script, exported_dir):
    running = start_two(script, exported_dir)
    asleep, awake = workers(running)
    os.kill(asleep, signal.SIGSTOP)
    try:
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(socket.create_connection(("127.0.0.1", running.port))) for _ in range(6)]
            time.sleep(1.5)  # by then it is known that one of them does not take connections
            answers = [httpx.post(f"{running.url}/invocations", json={"data": TEXT}, timeout=10) for _ in range(4)]
            assert [answer.status_code for answer in answers] == [200] * 4
            os.kill(asleep, signal.SIGKILL)  # what it has not taken goes to the other
            for client in clients:
                client.settimeout(30)
                client.sendall(request(TEXT))
            assert all(client.recv(100).startswith(b"HTTP/1.1 200 ") for client in clients)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(asleep, signal.SIGKILL)
    assert running.stop() == 0
    assert texts_by_process(running)[awake] >= 10


@pytest.mark.parametrize("processes", ["1", "2"])
def test_few_descriptors_leave_room_for_ping(script, exported_dir, processes):
    running = script("--model_dir", str(exported_dir), "--workers", processes, open_files=200)
    running.wait_until_ready()
    # Twice as many as all processes have descriptors for.
    count = 260 * int(processes)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert soft > count + 100 or hard > count + 100
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(socket.create_connection(("127.0.0.1", running.port))) for _ in range(count)]
        for _ in range(10):
            assert httpx.get(f"{running.url}/ping", timeout=5).status_code == 200
            assert httpx.post(f"{running.url}/invocations", json={"data": TEXT}, timeout=20).status_code == 200
        for client in idle[-20:]:  # who came last is still there
            client.sendall(request(TEXT))
            client.settimeout(20)
            assert client.recv(100).startswith(b"HTTP/1.1 200 ")
    assert running.stop() == 0
    # 40 requests and /ping, and a line a second at most of connections.
    others = [event for event in running.events() if event["event"] != "request"]
    assert len(others) < 60, others
    assert not any("places" in event for event in others)


@pytest.mark.parametrize("processes", ["1", "2"])
def test_it_ends_in_time_whatever_its_clients_do(script, exported_dir, processes):
    timeout = 3
    flags = ("--timeout", str(timeout), "--body_timeout", "60", "--workers", processes)
    running = script("--model_dir", str(exported_dir), *flags)
    running.wait_until_ready()

    def connect(receive_buffer: int = 65536) -> socket.socket:
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.connect(("127.0.0.1", running.port))
        client.settimeout(0.2)
        return client

    with contextlib.ExitStack() as stack:
        idle, half, body, unread, pipelined = ([stack.enter_context(connect(4096)) for _ in range(4)] for _ in range(5))
        for client in half:
            client.sendall(b"POST /invocations HTTP/1.1\r\nHost")
        for client in body:
            client.sendall(b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
        for client in unread:  # the answers are more than the kernel keeps for them
            with contextlib.suppress(OSError):
                client.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 1500)
        for client in pipelined:
            client.sendall(request(TEXT) * 20)
        assert httpx.get(f"{running.url}/ping", timeout=20).status_code == 200
        running.process.send_signal(signal.SIGTERM)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:

            def drip() -> None:
                with contextlib.suppress(OSError):
                    while True:
                        body[0].sendall(b" ")
                        time.sleep(0.1)

            pool.submit(drip)
            assert running.process.wait(timeout + GRACE) == 0
        assert len(idle) == 4
    running.events()
