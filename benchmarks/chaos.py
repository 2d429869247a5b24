"""Everything at once that may befall the service, while well-behaved clients compare every answer with the model alone.

Processes are killed and put to sleep, there are hardly any file descriptors, and other clients are slow, vanish, do not
read, idle or talk nonsense. What is counted is what the well-behaved notice.
"""

import asyncio
import collections
import contextlib
import json
import os
import random
import signal
import socket
import statistics
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

from service import HOST, Connection, Options, Service, ask, expected_titles, serving

from t5_pegasus.serving.options import GRACE

CLIENTS = 64
OPEN_FILES = 200  # of each process
KILLS = 5
ROUNDS = 30  # of each disturbance at most, while all requests are answered
TIMEOUT = 120  # seconds of a request
FLAGS = ("--workers", "2", "--log_level", "info", "--timeout", str(TIMEOUT), "--body_timeout", "5")
_SECONDS_BETWEEN_PINGS = 0.25


def chaos(options: Options, result: dict[str, Any]) -> dict[str, Any]:
    """Return what became of the requests, of /ping, of the log and of the memory, and how long the end took."""
    bodies, titles = expected_titles(options.model_dir, 40, longest=60, target=8)  # short: there are many of them
    with serving(options.model_dir, *FLAGS, open_files=OPEN_FILES) as service:
        while service.log().count('"model loaded"') < 2:
            time.sleep(0.1)
        quiet = asyncio.run(_ask_all(service, bodies, titles, CLIENTS * 4))
        shares = _shares(service.log())
        found = asyncio.run(_disturbed(service, bodies, titles, options.requests))
        found["resident_mib"] = round(service.resident_mib(), 1)
        found["seconds_to_end"] = {"at most": TIMEOUT + GRACE, "taken": asyncio.run(_end(service))}
        log = service.log()
    return {
        "clients": CLIENTS,
        "processes": 2,
        "open_files_of_a_process": OPEN_FILES,
        "undisturbed": {**quiet, "percent_of_the_texts_by_process": shares},
        **found,
        "log": _read_log(log),
    }


def _shares(log: str) -> list[float]:
    """Return which share of the texts each process has answered."""
    counts: collections.Counter[int] = collections.Counter()
    for line in map(json.loads, log.splitlines()):
        if line["event"] == "request" and line["route"] == "/invocations":
            counts[line["process"]] += line["texts"]
    return [round(100 * count / sum(counts.values()), 1) for count in counts.values()]


def _read_log(log: str) -> dict[str, Any]:
    """Return whether every line is JSON, and how many there were of what is no request."""
    others: collections.Counter[str] = collections.Counter()
    not_json = 0
    for text in log.splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            not_json += 1
            continue
        if line["event"] != "request":
            others[line["event"]] += 1
    return {"lines": len(log.splitlines()), "not_json": not_json, "of_what_is_no_request": dict(others)}


# --- clients that behave


async def _ask_all(
    service: Service,
    bodies: Sequence[bytes],
    titles: Sequence[str],
    requests: int,
    on_answer: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Ask so many times, each lost or refused request again, and compare the answers; return their kinds."""
    counts = {"requests": requests, "right": 0, "wrong": 0, "lost": 0, "refused": 0}
    todo = iter(range(requests))
    start = time.perf_counter()

    async def client() -> None:
        connection = Connection(service.port)
        for number in todo:
            row = number * 31 % len(bodies)
            while True:
                try:
                    status, content = await connection.ask(bodies[row])
                except (OSError, EOFError):
                    counts["lost"] += 1
                    connection.close()
                    continue
                if status != 503:
                    break
                counts["refused"] += 1
                await asyncio.sleep(0.2)
            right = status == 200 and json.loads(content)["result"] == titles[row]
            counts["right" if right else "wrong"] += 1
            on_answer(counts["right"] + counts["wrong"])
        connection.close()

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return {**counts, "seconds": round(time.perf_counter() - start, 1)}


async def _disturbed(service: Service, bodies: Sequence[bytes], titles: Sequence[str], requests: int) -> dict[str, Any]:
    tried: collections.Counter[str] = collections.Counter()
    pings: list[float] = []
    unanswered: list[str] = []
    done = 0

    def on_answer(count: int) -> None:
        nonlocal done
        done = count
        if count % max(1, requests // 10) == 0:
            print(f"{count} of {requests} answered", flush=True)

    async def ping() -> None:
        while True:
            start = time.perf_counter()
            try:
                async with asyncio.timeout(10):
                    status, _ = await ask(service.port, None, "/ping")
                assert status == 200
                pings.append(time.perf_counter() - start)
            except (OSError, EOFError, AssertionError) as error:
                unanswered.append(type(error).__name__)
            await asyncio.sleep(_SECONDS_BETWEEN_PINGS)

    async def kill() -> None:
        for number in range(KILLS):
            while done < requests * (number + 1) // (KILLS + 1):
                await asyncio.sleep(0.05)
            victim = service.workers()[number % 2]
            os.kill(victim, signal.SIGKILL)
            tried["processes killed"] += 1
            while len(alive := service.workers()) < 2 or victim in alive:
                await asyncio.sleep(0.05)

    async def disturb(name: str, trial: Callable[[Service, bytes], Coroutine[Any, Any, int]]) -> None:
        while True:
            start = done
            with contextlib.suppress(OSError, EOFError):
                tried[name] += await trial(service, bodies[tried[name] % len(bodies)])
            while done < start + requests / ROUNDS:  # so that a slow machine is disturbed as often
                await asyncio.sleep(0.1)

    beside = [asyncio.create_task(each) for each in (ping(), kill(), *(disturb(*row) for row in TRIALS.items()))]
    counts = await _ask_all(service, bodies, titles, requests, on_answer)
    for task in beside:
        task.cancel()
    outcomes = await asyncio.gather(*beside, return_exceptions=True)
    failures = [repr(each) for each in outcomes if isinstance(each, Exception)]
    return {
        **counts,
        "most_lost_of_a_kill": CLIENTS // 2,
        "tried": dict(tried),
        "ping": {
            "asked": len(pings) + len(unanswered),
            "unanswered": dict(collections.Counter(unanswered)),
            "median_ms": round(statistics.median(pings) * 1e3, 1),
            "slowest_ms": round(max(pings) * 1e3, 1),
        },
        "failures_of_this_script": failures,
    }


# --- those that do not: each returns how many there were


@contextlib.asynccontextmanager
async def _connected(service: Service, count: int) -> AsyncIterator[list[asyncio.StreamWriter]]:
    streams = [await asyncio.open_connection(HOST, service.port) for _ in range(count)]
    try:
        yield [writer for _, writer in streams]
    finally:
        for _, writer in streams:
            writer.transport.abort()


def _post(body: bytes) -> bytes:
    return b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


async def _idle(service: Service, body: bytes) -> int:
    async with _connected(service, 2 * OPEN_FILES + 60) as writers:
        await asyncio.sleep(10)
        return len(writers)


async def _vanish(service: Service, body: bytes) -> int:
    async with _connected(service, 6) as writers:
        for writer, part in zip(writers, (20, 60, len(body), 10_000, 10_000, 10_000), strict=True):
            writer.write(_post(body)[:part])
            await writer.drain()
        writers[-1].write_eof()
        await asyncio.sleep(random.random() * 0.2)
        return len(writers)


async def _slow(service: Service, body: bytes) -> int:
    async with _connected(service, 10) as writers:
        request = _post(body)
        for place in range(60):
            for writer in writers:
                if not writer.transport.is_closing():
                    writer.write(request[place : place + 1])
            await asyncio.sleep(0.1)
        return len(writers)


async def _never_read(service: Service, body: bytes) -> int:
    clients = []
    try:
        for _ in range(3):
            client = socket.socket()
            clients.append(client)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.connect((HOST, service.port))
        await asyncio.sleep(0.5)
        for client in clients:
            with contextlib.suppress(OSError):
                client.send(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 400)
        await asyncio.sleep(8)
        return len(clients)
    finally:
        for client in clients:
            client.close()


async def _nonsense(service: Service, body: bytes) -> int:
    generator = random.Random()
    async with _connected(service, 10) as writers:
        for writer in writers:
            start = generator.choice([b"", b"GET / HTTP/1.1\r\n", _post(body)[:-3], _post(body)])
            writer.write(start + generator.randbytes(generator.randrange(100)) + b"\r\n\r\n")
        await asyncio.sleep(0.2)
        return len(writers)


async def _sleep(service: Service, body: bytes) -> int:
    asleep = service.workers()[-1]
    with contextlib.suppress(ProcessLookupError):
        os.kill(asleep, signal.SIGSTOP)
        try:
            await asyncio.sleep(1)
        finally:
            os.kill(asleep, signal.SIGCONT)
    return 1


TRIALS: dict[str, Callable[[Service, bytes], Coroutine[Any, Any, int]]] = {
    "idle connections": _idle,
    "clients gone mid-request": _vanish,
    "clients that send a byte at a time": _slow,
    "clients that never read": _never_read,
    "clients that talk nonsense": _nonsense,
    "processes put to sleep for a second": _sleep,
}


async def _end(service: Service) -> float:
    """Stop the service while clients do their worst; return how many seconds that took."""
    tasks = [asyncio.create_task(trial(service, b'{"data": "x"}')) for trial in (_idle, _slow, _never_read)]
    await asyncio.sleep(1.5)
    start = time.perf_counter()
    service.process.send_signal(signal.SIGTERM)
    while service.process.poll() is None:
        await asyncio.sleep(0.02)
    seconds = time.perf_counter() - start
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return round(seconds, 2)
