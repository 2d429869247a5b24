"""serve.py in a process of its own, and the least that a client of it can be: what measures the service shares."""

import asyncio
import contextlib
import dataclasses
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from t5_pegasus import AutoTitle, read_examples
from t5_pegasus.locations import DATA_DIR, ROOT

SOURCE, TARGET = 128, 32  # tokens of a text and of its title, each of them exactly
HOST = "127.0.0.1"


@dataclasses.dataclass(frozen=True)
class Options:
    """What a part is run with."""

    model_dir: Path
    clients: Sequence[int]
    seconds: float
    requests: int


def texts(count: int) -> list[str]:
    """Return texts of more than SOURCE tokens, each another."""
    contents = [example.content for example in read_examples(DATA_DIR / "articles.jsonl")]
    return ["".join(contents[(number * 7 + part) % len(contents)] for part in range(3)) for number in range(count)]


class Service:
    """serve.py in a process of its own.

    Args:
        model_dir: an exported model.
        flags: of serve.py, which go before those that measurements have in common.
        open_files: the limit of its file descriptors, if there is to be another than ours.
    """

    def __init__(self, model_dir: Path, *flags: str, open_files: int | None = None) -> None:
        command = [sys.executable, str(ROOT / "serve.py"), "--model_dir", str(model_dir), "--host", HOST, "--port", "0"]
        fixed = ["--max_source_length", str(SOURCE), "--timeout", "600", "--max_queue", "1000", "--log_level", "error"]

        def limit() -> None:
            if open_files is not None:
                resource.setrlimit(resource.RLIMIT_NOFILE, (open_files, open_files))

        self._log = tempfile.TemporaryFile()
        self.process = subprocess.Popen([*command, *fixed, *flags], stderr=self._log, cwd=ROOT, preexec_fn=limit)
        while not (found := re.findall(rf"http://{HOST}:(\d+)", self.log())):
            assert self.process.poll() is None, self.log()
            time.sleep(0.05)
        self.port = int(found[0])

    def log(self) -> str:
        """Return what it has written to standard error so far."""
        return os.pread(self._log.fileno(), os.fstat(self._log.fileno()).st_size, 0).decode("utf-8")

    def wait_until_ready(self) -> None:
        """Wait for the model."""
        while asyncio.run(ask(self.port, None, "/ping"))[0] != 200:
            time.sleep(0.1)

    def resident_mib(self) -> float:
        """Return the memory of the process and those it has started."""
        pids = [str(self.process.pid), *children(self.process.pid)]
        sizes = [re.findall(r"VmRSS:\s*(\d+)", Path(f"/proc/{pid}/status").read_text()) for pid in pids]
        return sum(int(size) for (size,) in sizes) / 1024

    def workers(self) -> list[int]:
        """Return the ids of the processes that answer, where there are several."""
        command = b"from multiprocessing.spawn import"
        found = []
        for pid in children(self.process.pid):
            with contextlib.suppress(OSError):  # it has ended
                if command in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(int(pid))
        return found

    def stop(self) -> int:
        """Stop it as an orchestrator would, if it runs; return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(120)


def children(pid: int) -> list[str]:
    """Return the ids of the processes that a process has started."""
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


@contextlib.contextmanager
def serving(model_dir: Path, *flags: str, open_files: int | None = None) -> Iterator[Service]:
    """Serve a model; whatever happens, the process is gone afterwards."""
    service = Service(model_dir, *flags, open_files=open_files)
    try:
        service.wait_until_ready()
        yield service
        assert service.stop() == 0
    finally:
        service.process.kill()
        service.process.wait()


class Connection:
    """A connection kept open: the least that a client can be, since it has to share the cores with the service."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, body: bytes | None, path: str = "/invocations") -> tuple[int, bytes]:
        """Send a request (GET without a body) and return status and body of the answer.

        Raises OSError or EOFError where there is none: ConnectionRefusedError where nobody listened.
        """
        if self._streams is None:
            self._streams = await asyncio.open_connection(HOST, self._port)
        reader, writer = self._streams
        method = "GET" if body is None else "POST"
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(body or b'')}\r\n\r\n".encode() + (body or b""))
        await writer.drain()
        answer = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = re.search(rb"content-length: (\d+)", answer)
        content = await reader.readexactly(int(length[1]) if length else 0)
        if b"connection: close" in answer:
            self.close()
        return int(answer.split(b" ", 2)[1]), content

    def close(self) -> None:
        """Close it; the next request opens another."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def ask(port: int, body: bytes | None, path: str = "/invocations") -> tuple[int, bytes]:
    """Send one request over a connection of its own."""
    connection = Connection(port)
    try:
        return await connection.ask(body, path)
    finally:
        connection.close()


def request(text: str, **parameters: Any) -> bytes:
    """Return a request for one title of exactly TARGET tokens, unless told otherwise."""
    parameters = {"max_new_tokens": TARGET, "min_new_tokens": TARGET, **parameters}
    return json.dumps({"data": text, "parameters": parameters}, ensure_ascii=False).encode()


PARAMETERS: list[dict[str, Any]] = [{}, {"num_beams": 3}, {"no_repeat_ngram_size": 2, "max_new_tokens": 12}]


def expected_titles(
    model_dir: Path, count: int, longest: int = 215, target: int = TARGET
) -> tuple[list[bytes], list[str]]:
    """Return requests with their titles, each text decoded alone; texts of at most so many characters."""
    title = AutoTitle.load(model_dir)
    bodies, titles = [], []
    for number, text in enumerate(texts(count)):
        text = text[: 15 + 7 * number % (longest - 15)]
        parameters = {"max_new_tokens": target, **PARAMETERS[number % len(PARAMETERS)]}
        bodies.append(json.dumps({"data": text, "parameters": parameters}, ensure_ascii=False).encode())
        ((best, *_),) = title.generate_n_best([text], max_source_length=SOURCE, **parameters)
        titles.append(best.text)
    return bodies, titles
