"""Load the service over loopback: throughput and latency with and without batches, and everything that may go wrong.

It starts serve.py itself, with random weights of a size (or with `--model_dir`), and is its only client. Parts are
added to what `--output` has already, so that a long measurement can be made in pieces:

    python benchmarks/serving.py --size base --part load --clients 64 --output benchmarks/results/serving_base.json
"""

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import common
import numpy as np
from chaos import chaos
from service import (
    HOST,
    SOURCE,
    TARGET,
    Connection,
    Options,
    Service,
    ask,
    expected_titles,
    request,
    serving,
    texts,
)

from t5_pegasus import cli
from t5_pegasus.engines.exported import check_export
from t5_pegasus.errors import CheckpointError, OptionError
from t5_pegasus.locations import ROOT, TINY_MODEL_DIR


def main(argv: Sequence[str] | None = None) -> int:
    """Run the parts asked for and print what they found."""
    parser = common.make_parser("Load the service.", repeated=False)
    parser.add_argument("--size", choices=("base", "small", "tiny"), default="tiny", help="which config.json")
    parser.add_argument("--quantize", choices=("no", "int8"), default="int8", help="precision of the model served")
    parser.add_argument("--model_dir", help="an exported model to serve instead of random weights")
    parser.add_argument("--part", choices=tuple(PARTS), nargs="*", default=tuple(PARTS), help="what to measure")
    parser.add_argument("--clients", type=int, nargs="*", default=(1, 8, 64), help="clients at a time, for part load")
    parser.add_argument("--seconds", type=float, default=20, help="of each measurement")
    parser.add_argument("--requests", type=int, default=10_000, help="of parts soak, faults and chaos")
    flags = parser.parse_args(argv)
    model_dir = Path(flags.model_dir) if flags.model_dir else random_model(flags.size, flags.quantize)
    result: dict[str, Any] = {"size": flags.size, "quantize": flags.quantize, "source": SOURCE, "target": TARGET}
    if flags.output and Path(flags.output).exists():
        result.update(json.loads(Path(flags.output).read_text(encoding="utf-8")))
    options = Options(model_dir, flags.clients, flags.seconds, flags.requests)
    for part in flags.part:
        found = PARTS[part](options, result)
        result[part] = {**result.get(part, {}), **found}
        print(part, json.dumps(found, indent=2))
    result = {name: value for name, value in result.items() if name not in ("versions", "cpu_count")}
    common.report(result, ("uvicorn", "fastapi", "onnxruntime"), flags.output)
    return 0


def random_model(size: str, quantize: str) -> Path:
    """Return an exported model of random weights, made once under build/."""
    folder = ROOT / "build" / "serving" / f"{size}_{quantize}"
    try:
        check_export(folder)
        return folder
    except CheckpointError:  # not made yet, or by another version
        shutil.rmtree(folder, ignore_errors=True)
    from t5_pegasus.config import ModelConfig
    from t5_pegasus.engines.onnx_export import export_model
    from t5_pegasus.networks.t5 import build_from_config, initialize

    t5 = build_from_config(ModelConfig.load(ROOT / f"chinese_t5_pegasus_{size}"))
    initialize(t5)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # The tiny model's tokens, and others up to the size of the vocabulary: texts are cut into words as they would be.
    tokens = (TINY_MODEL_DIR / "vocab.txt").read_text(encoding="utf-8").splitlines()
    tokens += [f"t{number}" for number in range(len(tokens), t5.config.vocab_size)]
    vocab_file = folder.parent / f"{folder.name}.txt"
    vocab_file.write_text("\n".join(tokens), encoding="utf-8")
    export_model(t5, vocab_file, folder, quantize=quantize)
    vocab_file.unlink()
    return folder


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Return the latencies that are reported, in milliseconds."""
    return {f"p{percent}_ms": round(float(np.percentile(seconds, percent)) * 1e3, 1) for percent in (50, 95, 99)}


# --- throughput and latency -------------------------------------------------------------------------------------------

BATCHING = {"on": (), "off": ("--batch_tokens", "1", "--batch_wait_ms", "0")}


def load(options: Options, result: dict[str, Any]) -> dict[str, Any]:
    """Return titles a second and latencies of clients that ask again as soon as they are answered."""
    found: dict[str, Any] = {}
    for batching, flags in BATCHING.items():
        with serving(options.model_dir, *flags) as service:
            for clients in options.clients:
                measured = asyncio.run(closed_loop(service.port, clients, options.seconds))
                found.setdefault(f"{clients} clients", {})[f"batching {batching}"] = measured
    for cell in found.values():
        rates = [cell[f"batching {batching}"]["titles_per_second"] for batching in BATCHING]
        cell["speedup"] = round(rates[0] / rates[1], 2)
    return found


async def closed_loop(port: int, clients: int, seconds: float) -> dict[str, Any]:
    """Keep so many requests under way; at first a few that do not count."""
    bodies = [request(text) for text in texts(200)]
    latencies: list[float] = []
    ended: list[float] = []
    stop_at = float("inf")

    async def client(number: int) -> None:
        connection = Connection(port)
        turn = 0
        while time.perf_counter() < stop_at:
            start = time.perf_counter()
            status, _ = await connection.ask(bodies[(number + turn * clients) % len(bodies)])
            assert status == 200
            latencies.append(time.perf_counter() - start)
            ended.append(time.perf_counter())
            turn += 1
        connection.close()

    tasks = [asyncio.create_task(client(number)) for number in range(clients)]
    while len(ended) < min(clients, 8):  # until the service is at work, and its arrays have their sizes
        await asyncio.sleep(0.01)
    first, start = len(ended), time.perf_counter()
    stop_at = start + seconds
    await asyncio.sleep(seconds)
    counted = [latency for latency, end in zip(latencies[first:], ended[first:], strict=True) if end <= stop_at]
    stopped = time.perf_counter()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    rate = len(counted) / (stopped - start)
    return {"titles_per_second": round(rate, 2), "titles": len(counted), **percentiles(counted or [float("nan")])}


def half_load(options: Options, result: dict[str, Any]) -> dict[str, Any]:
    """Return latencies where requests come at random, on average half as often as 64 clients were answered."""
    cells = result.get("load", {})
    if "64 clients" not in cells:
        raise OptionError("part half_load needs part load with 64 clients first, got " + (", ".join(cells) or "none"))
    rate = cells["64 clients"]["batching on"]["titles_per_second"] / 2

    async def run(port: int) -> list[float]:
        bodies, generator = [request(text) for text in texts(200)], random.Random(0)
        latencies: list[float] = []

        async def one(body: bytes) -> None:
            start = time.perf_counter()
            status, _ = await ask(port, body)
            assert status == 200
            latencies.append(time.perf_counter() - start)

        tasks: list[asyncio.Task[None]] = []
        at = start = time.perf_counter()
        while (at := at + generator.expovariate(rate)) < start + options.seconds:
            await asyncio.sleep(max(0.0, at - time.perf_counter()))
            tasks.append(asyncio.create_task(one(bodies[len(tasks) % len(bodies)])))
        await asyncio.gather(*tasks)
        return latencies

    with serving(options.model_dir) as service:
        asyncio.run(closed_loop(service.port, 8, 1))
        latencies = asyncio.run(run(service.port))
    found = {"requests_per_second": round(rate, 2), "requests": len(latencies), **percentiles(latencies)}
    return {**found, "p99_over_p50": round(found["p99_ms"] / found["p50_ms"], 2)}


# --- faults -----------------------------------------------------------------------------------------------------------


def soak(options: Options, result: dict[str, Any]) -> dict[str, Any]:
    """Return how many of many answers are wrong or lost, and the memory of the service on the way."""
    bodies, titles = expected_titles(options.model_dir, 90)
    counts = {"right": 0, "wrong": 0, "lost": 0}
    memory: list[float] = []

    async def run(service: Service) -> None:
        todo = iter(range(options.requests))

        async def client() -> None:
            connection = Connection(service.port)
            for number in todo:
                row = number * 31 % len(bodies)
                try:
                    status, content = await connection.ask(bodies[row])
                    counts["right" if status == 200 and json.loads(content)["result"] == titles[row] else "wrong"] += 1
                except (OSError, EOFError):
                    counts["lost"] += 1
                    connection.close()
                if sum(counts.values()) % (options.requests // 10) == 0:
                    memory.append(round(service.resident_mib(), 1))
            connection.close()

        await asyncio.gather(*(client() for _ in range(64)))

    with serving(options.model_dir) as service:
        start = time.perf_counter()
        asyncio.run(run(service))
        seconds = time.perf_counter() - start
    return {**counts, "seconds": round(seconds, 1), "resident_mib": memory}


def stop_under_load(options: Options, result: dict[str, Any]) -> dict[str, Any]:
    """Return what became of the requests of 64 clients when the service was told to stop, five times over."""
    bodies, titles = expected_titles(options.model_dir, 64)
    counts = {"answered": 0, "wrong": 0, "lost": 0, "refused": 0}

    async def run(service: Service, keep_open: bool) -> None:
        async def client(row: int) -> None:
            connection = Connection(service.port)
            while True:
                try:
                    status, content = await connection.ask(bodies[row])
                    right = status == 200 and json.loads(content)["result"] == titles[row]
                    counts["answered" if right else "wrong"] += 1
                except ConnectionRefusedError:  # nobody listens any more: the request was never taken
                    counts["refused"] += 1
                    return
                except (OSError, EOFError):
                    counts["lost"] += 1
                    return
                if not keep_open:
                    connection.close()

        tasks = [asyncio.create_task(client(row)) for row in range(64)]
        await asyncio.sleep(1.5)
        service.process.send_signal(signal.SIGTERM)
        await asyncio.gather(*tasks)

    for turn in range(5):
        service = Service(options.model_dir)
        try:
            service.wait_until_ready()
            asyncio.run(run(service, keep_open=turn % 2 == 0))
            assert service.process.wait(60) == 0
        finally:
            service.process.kill()
            service.process.wait()
    return counts


def faults(options: Options, result: dict[str, Any]) -> dict[str, Any]:
    """Return what was tried on a service of two processes; after each it must answer rightly again."""
    bodies, titles = expected_titles(options.model_dir, 6)
    survived: dict[str, Any] = {}
    flags = ("--workers", "2", "--body_timeout", "2", "--max_body_bytes", str(2**20))
    with serving(options.model_dir, *flags) as service:
        trials: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
            "200 clients gone mid-request": lambda: _gone(service.port, bodies[0]),
            "100 slow bodies": lambda: _slow(service.port),
            f"{options.requests} malformed requests": lambda: _malformed(service.port, options.requests),
            "a body of 100 MB": lambda: _huge(service.port),
            "unicode of every plane": lambda: _planes(service.port),
            "a process killed": lambda: _kill(service),
        }
        for name, trial in trials.items():
            print(f"trying {name}", flush=True)
            survived[name] = asyncio.run(asyncio.wait_for(trial(), 100))
            for body, title in zip(bodies, titles, strict=True):
                status, content = asyncio.run(_insist(service.port, body))
                assert (status, json.loads(content)["result"]) == (200, title), name
        survived["resident_mib"] = round(service.resident_mib(), 1)
    return survived


async def _insist(port: int, body: bytes) -> tuple[int, bytes]:
    """Ask until the model is there: a new process loads it first."""
    while True:
        status, content = await ask(port, body)
        if status != 503:
            return status, content
        await asyncio.sleep(0.1)


async def _gone(port: int, body: bytes) -> str:
    for number in range(200):
        _, writer = await asyncio.open_connection(HOST, port)
        head = f"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        writer.write(head + (body if number % 2 else body[:20]))
        await writer.drain()
        if number % 4 == 0:
            await asyncio.sleep(0.005)
        writer.transport.abort()
    return "survived"


async def _slow(port: int) -> dict[str, int]:
    async def one() -> bytes:
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n")
        answer = asyncio.create_task(reader.read(100))
        while not answer.done():
            writer.write(b" ")
            await asyncio.sleep(0.25)
        writer.transport.abort()
        return answer.result()

    answers = await asyncio.gather(*(one() for _ in range(100)))
    return {"408": sum(answer.startswith(b"HTTP/1.1 408") for answer in answers)}


async def _malformed(port: int, count: int) -> dict[str, int]:
    generator = random.Random(0)
    statuses: dict[str, int] = {}

    async def some(part: int) -> None:
        connection = Connection(port)
        for number in range(part, count, 16):
            body = bytes(generator.randrange(256) for _ in range(generator.randrange(60)))
            if number % 3 == 0:  # not even HTTP
                reader, writer = await asyncio.open_connection(HOST, port)
                writer.write(b"\x00" + body + b"\r\n\r\n")
                status = (await reader.read(100)).split(b" ")[1].decode()
                writer.close()
            else:
                status = str((await connection.ask(body, ("/invocations", "/v1/titles")[number % 2]))[0])
            statuses[status] = statuses.get(status, 0) + 1
        connection.close()

    await asyncio.gather(*(some(part) for part in range(16)))
    return statuses


async def _huge(port: int) -> dict[str, Any]:
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(
        b"POST /v1/titles HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    sent = 0
    while sent < 100_000_000:
        writer.write(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
        await writer.drain()
        sent += 0x10000
        with contextlib.suppress(TimeoutError):
            answer = await asyncio.wait_for(reader.read(20), 0.001)
            writer.transport.abort()
            return {"status": int(answer.split(b" ")[1]), "sent_mib_before_the_answer": round(sent / 2**20, 1)}
    raise AssertionError("it was never refused")


async def _planes(port: int) -> dict[str, int]:
    statuses: dict[str, int] = {}
    for plane in range(17):
        for start in range(plane << 16, (plane + 1) << 16, 1 << 12):
            codes = [code for code in range(start, start + 0x1000, 37) if not 0xD800 <= code < 0xE000]
            text = "".join(map(chr, codes)) or "x"
            status, _ = await ask(port, request(f"字{text}", max_new_tokens=2, min_new_tokens=0))
            statuses[str(status)] = statuses.get(str(status), 0) + 1
    return statuses


async def _kill(service: Service) -> str:
    victim = service.workers()[0]
    os.kill(victim, signal.SIGKILL)
    while len(alive := service.workers()) < 2 or victim in alive:
        await asyncio.sleep(0.05)
    return "started again"


PARTS: dict[str, Callable[[Options, dict[str, Any]], dict[str, Any]]] = {
    "load": load,
    "half_load": half_load,
    "soak": soak,
    "stop_under_load": stop_under_load,
    "faults": faults,
    "chaos": chaos,
}

if __name__ == "__main__":
    cli.run(main)
