"""serve.py in processes of its own."""

import contextlib
import json
import re
import resource
import signal
import subprocess
import sys
import threading
import time

import httpx

from t5_pegasus.locations import ROOT


class Script:
    """`python serve.py`, listening on a free port.

    Args:
        flags: of serve.py.
        open_files: the limit of its file descriptors, if there is to be another than ours.

    Attributes:
        lines: what it has written to standard error; each is JSON, which is looked at when it is stopped.
    """

    def __init__(self, *flags: str, open_files: int | None = None) -> None:
        command = [sys.executable, "serve.py", "--host", "127.0.0.1", "--port", "0", "--max_new_tokens", "8", *flags]

        def limit() -> None:
            if open_files is not None:
                resource.setrlimit(resource.RLIMIT_NOFILE, (open_files, open_files))

        self.process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, preexec_fn=limit)
        self.lines: list[str] = []
        for line in self.process.stderr:
            self.lines.append(line)
            if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                break
        self.url, self.port = found[0], int(found[1])
        self._reader = threading.Thread(target=lambda: self.lines.extend(self.process.stderr), daemon=True)
        self._reader.start()

    def wait_until_ready(self) -> None:
        for _ in range(600):
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/ping").status_code == 200:
                    return
            time.sleep(0.05)
        raise AssertionError("".join(self.lines))

    def stop(self, seconds: float = 30) -> int:
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(seconds)
        self._reader.join(5)
        self.process.stderr.close()
        self.events()
        return code

    def events(self) -> list[dict]:
        """Return the lines of the log; fails if one is not JSON."""
        return [json.loads(line) for line in list(self.lines)]


def workers(running: Script) -> list[int]:
    return [event["worker"] for event in running.events() if event["event"] == "process started"]
