"""A service in a thread, and a model that does as it is told: what the tests of several files share."""

import threading
import time
from typing import Any

import httpx

from t5_pegasus import AutoTitle
from t5_pegasus.decoding.inputs import Source
from t5_pegasus.decoding.options import DataConfig
from t5_pegasus.decoding.search import Candidate
from t5_pegasus.serving.app import App
from t5_pegasus.serving.server import Server
from t5_pegasus.serving.supervisor import listen

TEXT = "一丁七万丈三上下不与" * 3  # of the tokens of the random model


def text_of(number: int, length: int) -> str:
    return "".join(chr(0x4E00 + 110 + (number * 37 + place * 11) % 180) for place in range(length))


class Running:
    """A server in a thread of this process."""

    def __init__(self, app: App) -> None:
        self.app, self.server = app, Server(app)
        listener = listen("127.0.0.1", 0)
        self.port = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.thread = threading.Thread(target=self.server.run, args=([listener],))
        self.thread.start()
        self.client = httpx.Client(base_url=self.url, timeout=20)

    def wait_until_ready(self) -> None:
        for _ in range(400):
            if self.client.get("/ping").status_code == 200:
                return
            time.sleep(0.02)
        raise AssertionError("the model is not ready")

    def stop(self) -> None:
        self.client.close()
        self.server.should_exit = True
        self.thread.join(20)
        assert not self.thread.is_alive()

    def post(self, path: str, value: Any, **keywords: Any) -> Any:
        return self.client.post(path, json=value, **keywords)


class Fake:
    """A model that decodes when a gate is open, fails for one token, and remembers what it was asked."""

    default_adapter = None
    adapters = ()

    def __init__(self, title: AutoTitle) -> None:
        self.tokenizer, self.decoder = title.tokenizer, self
        self._encode, self.encode_prefix = title.encode, title.encode_prefix
        self.gate, self.entered, self.may_encode = threading.Event(), threading.Event(), threading.Event()
        self.may_encode.set()
        self.encoded: list[str] = []
        self.batches: list[int] = []
        self.given_up: list[int] = []
        self.poison: int | None = None

    def generate(self, text: str, **generation: Any) -> str:
        return ""

    def encode(self, text: str, data: DataConfig, adapter: str | None = None) -> Source:
        self.encoded.append(text)
        assert self.may_encode.wait(10)
        return self._encode(text, data)

    decode_batch = AutoTitle.decode_batch

    def search_batch(self, sources, config, prefix=(), is_wanted=None, on_title=None) -> list[list[Candidate]]:
        self.batches.append(len(sources))
        self.entered.set()
        wanted = set(range(len(sources)))
        while wanted and not self.gate.wait(0.01):
            for number in [number for number in wanted if not is_wanted(number)]:
                self.given_up.append(number)
                wanted.remove(number)
        if any(self.poison in source.ids for source in sources):
            raise RuntimeError(f"cannot decode {sources}")
        for number, tell in on_title.items():
            tell(Candidate(tuple(sources[number].ids[1:2]), -1.0))
        return [[Candidate(tuple(source.ids[1:-1]), -1.0)] for source in sources]


def wait_for(condition: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.01)
