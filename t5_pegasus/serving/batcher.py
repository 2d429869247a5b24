"""The queue before the model: texts that arrive together are decoded together, by the one thread that owns the model.

A text is a job, and its answer a future. Who no longer wants it cancels the future, and the text leaves the queue
before it is encoded or decoded, or the batch at the next step.
"""

import asyncio
import concurrent.futures
import dataclasses
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..config import DataConfig, GenerationConfig
from ..decoding.search import Candidate
from ..errors import OptionError
from ..title import AutoTitle, Hypothesis
from .errors import ServiceError
from .logs import logger
from .metrics import Metrics

_WARM_UP = "今天的会议讨论了服务的启动。"


class Answer(NamedTuple):
    """The titles of a text, best first, and what the model read of it."""

    titles: list[Hypothesis]
    source_tokens: int
    truncated: bool


@dataclasses.dataclass(eq=False)
class Job:
    """A text to decode, the tokens its title begins with, and who is told the best title so far, if anyone.

    source: its tokens, none until it has been encoded. truncated: whether they are not all of it.
    """

    text: str
    config: GenerationConfig
    prefix: list[int]
    on_title: Callable[[Hypothesis], None] | None
    source: list[int] = dataclasses.field(default_factory=list)
    truncated: bool = False
    future: concurrent.futures.Future[Answer] = dataclasses.field(default_factory=concurrent.futures.Future)
    arrived: float = dataclasses.field(default_factory=time.monotonic)

    @property
    def is_wanted(self) -> bool:
        """Tell whether someone still waits for the answer."""
        return not self.future.done()

    def fail(self, error: Exception) -> None:
        """Tell who still waits that there is no answer."""
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


class Batcher:
    """Decodes texts in batches, each as if it were alone.

    Args:
        load: returns the model; called in the thread that then owns it.
        data: how much of a text is read, and what of a longer one.
        wait_seconds: how long a text waits for others, where others are to be expected.
        max_queue: texts that may wait.
        metrics: are told what happens.
        on_failure: called once, from that thread, where the model cannot be loaded.

    Attributes:
        state: "loading", "ready", "failed" or "closed".
    """

    def __init__(
        self,
        load: Callable[[], AutoTitle],
        data: DataConfig,
        wait_seconds: float,
        max_queue: int,
        metrics: Metrics,
        on_failure: Callable[[Exception], None] = lambda error: None,
    ) -> None:
        self.state = "loading"
        self._load, self._on_failure, self._metrics = load, on_failure, metrics
        self._data, self._wait_seconds, self._max_queue = data, wait_seconds, max_queue
        self._title: AutoTitle | None = None
        self._queue: list[Job] = []  # in the order of arrival, which is that of encoding
        self._free_since, self._expected = 0.0, 0  # when the last batch was done, and texts under way by then
        self._changed = threading.Condition()
        self._closing = False
        self._busy_since: float | None = None
        self._seconds_a_text = 0.1  # how long one took of late, for Retry-After
        # Encoding has a thread of its own: the tokenizer is no more made for several than the engine is, and a long
        # text would hold up everything else in the event loop.
        self._encoder = concurrent.futures.ThreadPoolExecutor(1, "encoder")
        self._thread = threading.Thread(target=self._run, name="decoder", daemon=True)

    def start(self) -> None:
        """Begin to load the model."""
        self._thread.start()

    def close(self) -> None:
        """Decode what is in the queue and end; returns when that is done."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        self._encoder.shutdown()
        self.state = "closed"

    def is_stuck(self, seconds: float) -> bool:
        """Tell whether the present batch takes longer than any request may wait, or the thread has died."""
        since = self._busy_since
        has_died = self.state == "ready" and not self._thread.is_alive()
        return has_died or (since is not None and time.monotonic() - since > seconds)

    def ready(self) -> AutoTitle:
        """Return the model. Raises ServiceError while there is none."""
        if self._title is None:
            raise ServiceError(503, "loading", "the model is being loaded; try again", headers={"Retry-After": "5"})
        return self._title

    def submit(
        self,
        texts: Sequence[str],
        configs: Sequence[GenerationConfig],
        on_title: Callable[[Hypothesis], None] | None = None,
    ) -> list[asyncio.Future[Answer]]:
        """Put texts into the queue, all or none; cancel what is returned to give them up.

        Raises ServiceError while the model is loaded, where the queue has no room for them, and for options that do
        not go with the vocabulary.
        """
        title = self.ready()
        try:
            prefixes = [title.encode_prefix(config) for config in configs]
        except OptionError as error:
            raise ServiceError(422, "invalid_options", str(error), "parameters") from None
        jobs = [Job(*each, on_title) for each in zip(texts, configs, prefixes, strict=True)]
        with self._changed:
            self._check_room(len(jobs))
            self._set_queue(self._queue + jobs)
        self._encoder.submit(self._encode, title, jobs)
        return [asyncio.wrap_future(job.future) for job in jobs]

    def _encode(self, title: AutoTitle, jobs: list[Job]) -> None:
        """Encode the texts of a request, and let them be decoded when all are, since they may go together."""
        sources = {}
        for job in filter(lambda job: job.is_wanted, jobs):
            before = title.tokenizer.num_truncated
            try:
                source = title.encode(job.text, self._data)
            except Exception as error:
                logger.error("encoding failed", exc_info=error)
                job.fail(error)
            else:
                sources[job] = source, title.tokenizer.num_truncated > before
        with self._changed:
            for job, (source, truncated) in sources.items():
                job.source, job.truncated = source, truncated
            self._changed.notify_all()

    def _set_queue(self, jobs: list[Job]) -> None:
        self._queue = jobs
        self._metrics.queue_length.set(len(jobs))

    def _check_room(self, count: int) -> None:
        if len(self._queue) + count > self._max_queue:
            self._set_queue([job for job in self._queue if job.is_wanted])
        if len(self._queue) + count > self._max_queue:
            seconds = math.ceil(min(60, max(1, len(self._queue) * self._seconds_a_text)))
            message = f"{self._max_queue} texts may wait and there is no room for {count} more; try again"
            raise ServiceError(503, "queue_full", message, headers={"Retry-After": str(seconds)})

    def _run(self) -> None:
        start = time.monotonic()
        try:
            title = self._load()
            title.generate(_WARM_UP, max_new_tokens=2)  # what is done but once, such as loading jieba's dictionary
        except Exception as error:
            self._on_failure(error)
            self.state = "failed"
            return
        self._title, self.state = title, "ready"
        logger.info("model loaded", extra={"fields": {"seconds": round(time.monotonic() - start, 2)}})
        while jobs := self._next_batch():
            self._busy_since = start = time.monotonic()
            for job in jobs:
                self._metrics.queue_seconds.observe(start - job.arrived)
            self._decode(title, jobs)
            self._busy_since, seconds = None, time.monotonic() - start
            self._metrics.batch_seconds.observe(seconds)
            self._metrics.batch_size.observe(len(jobs))
            self._seconds_a_text += 0.2 * (seconds / len(jobs) - self._seconds_a_text)
            with self._changed:
                self._free_since, self._expected = time.monotonic(), len(jobs) + len(self._queue)

    def _next_batch(self) -> list[Job]:
        """Wait for texts and take those that are decoded together out of the queue; none when it is time to end.

        Others are waited for while some are being encoded, or fewer have come than were there before: whoever has been
        answered may ask again. So a client who is alone does not wait.
        """
        with self._changed:
            while True:
                self._set_queue([job for job in self._queue if job.is_wanted])
                encoded = [job for job in self._queue if job.source]
                patience = None
                if encoded:
                    batch, is_full = _first_batch(encoded)
                    is_full |= self._closing or len(encoded) >= max(self._expected, len(self._queue))
                    patience = max(encoded[0].arrived, self._free_since) + self._wait_seconds - time.monotonic()
                    if is_full or patience <= 0:
                        break
                elif self._closing and not self._queue:
                    return []
                self._changed.wait(patience)
            self._set_queue([job for job in self._queue if job not in batch])
        return batch

    def _decode(self, title: AutoTitle, jobs: list[Job]) -> None:
        """Answer the jobs. What fails for several is tried for each, so that no text spoils another's answer."""
        try:
            answers = self._search(title, jobs)
        except Exception as error:
            logger.error("decoding failed", exc_info=error, extra={"fields": {"texts": len(jobs)}})
            if len(jobs) > 1:
                for job in jobs:
                    if job.is_wanted:
                        self._decode(title, [job])
            else:
                jobs[0].fail(error)
            return
        for job, answer in zip(jobs, answers, strict=True):
            if job.future.set_running_or_notify_cancel():
                self._metrics.source_tokens.inc(answer.source_tokens)
                self._metrics.title_tokens.inc(len(answer.titles[0].ids))
                job.future.set_result(answer)

    def _search(self, title: AutoTitle, jobs: list[Job]) -> list[Answer]:
        found = title.decoder.search_batch(
            [job.source for job in jobs],
            jobs[0].config,
            jobs[0].prefix,
            self._data.window,
            lambda number: jobs[number].is_wanted,
            {number: _teller(title, job.on_title) for number, job in enumerate(jobs) if job.on_title is not None},
        )
        return [
            Answer([_hypothesis(title, candidate) for candidate in titles], len(job.source), job.truncated)
            for job, titles in zip(jobs, found, strict=True)
        ]


def _first_batch(queue: Sequence[Job]) -> tuple[list[Job], bool]:
    """Return the first text with those behind it that have its options and fit in with it; and whether it is full.

    A batch is within `batch_tokens`: rows times the longest, of texts or of titles to come.
    """
    first, *others = queue
    config = first.config
    budget = config.batch_tokens // config.num_rows
    batch, longest = [first], max(len(first.source), config.max_new_tokens)
    for job in others:
        if job.config == config:
            longest_with = max(longest, len(job.source))
            if (len(batch) + 1) * longest_with > budget:
                return batch, True
            batch.append(job)
            longest = longest_with
    return batch, (len(batch) + 1) * longest > budget


def _teller(title: AutoTitle, on_title: Callable[[Hypothesis], None]) -> Callable[[Candidate], None]:
    """Return what tells of each title that differs from the one before."""
    last: tuple[int, ...] | None = None

    def tell(candidate: Candidate) -> None:
        nonlocal last
        if candidate.ids != last:
            last = candidate.ids
            on_title(_hypothesis(title, candidate))

    return tell


def _hypothesis(title: AutoTitle, candidate: Candidate) -> Hypothesis:
    return Hypothesis(title.tokenizer.decode(candidate.ids), candidate.score, candidate.ids)
