"""The queue before the model: texts that arrive together are decoded together, by the one thread that owns the model.

A text is a job, and its answer a future. A client that no longer wants the answer cancels the future; the text then
leaves the queue before it is encoded or decoded, or the batch at the next step.
"""

import asyncio
import concurrent.futures
import dataclasses
import math
import threading
import time
from collections.abc import Callable, Sequence

from ..config import GenerationConfig
from ..decoding.inputs import NO_TEXT, Source
from ..decoding.options import PROMPT_OPTIONS, DataConfig
from ..errors import OptionError
from ..text.prompts import Prompt
from ..title import Answer, AutoTitle, Hypothesis
from .adapters import SECONDS_BETWEEN_LOOKS, AdapterFolder
from .errors import ServiceError
from .logs import logger
from .metrics import Metrics

_WARM_UP = "今天的会议讨论了服务的启动。"


@dataclasses.dataclass(eq=False)
class Job:
    """A text to decode.

    prefix: token ids that its title begins with. on_title: called with the best title so far, if given. adapter: its
    name, None for the model itself. source: what the model reads of the text; NO_TEXT until it has been encoded.
    """

    text: str
    config: GenerationConfig
    prefix: list[int]
    on_title: Callable[[Hypothesis], None] | None
    adapter: str | None = None
    source: Source = NO_TEXT
    future: concurrent.futures.Future[Answer] = dataclasses.field(default_factory=concurrent.futures.Future)
    arrived: float = dataclasses.field(default_factory=time.monotonic)

    @property
    def is_wanted(self) -> bool:
        """Return whether a client still waits for the answer."""
        return not self.future.done()

    def fail(self, error: Exception) -> None:
        """Set an error as the answer, if a client still waits for it."""
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


class Batcher:
    """Decodes texts in batches, each as if it were alone.

    Args:
        load: returns the model; called in the thread that then owns it.
        data: how much of a text is read, and what of a longer one.
        wait_seconds: how long a text waits for others, if others are expected.
        max_queue: texts that may wait.
        metrics: of the service; updated here.
        on_loaded: called once, from that thread: with None when the model is loaded, with the error if it cannot be.

        adapters: keeps the model's adapters those of a folder.

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
        on_loaded: Callable[[Exception | None], None] = lambda error: None,
        adapters: AdapterFolder | None = None,
    ) -> None:
        self.state = "loading"
        self._load, self._on_loaded, self._metrics = load, on_loaded, metrics
        self._data, self._wait_seconds, self._max_queue = data, wait_seconds, max_queue
        self._adapters = adapters or AdapterFolder(None)
        self._looked = 0.0  # when the folder of adapters was looked at last
        self._title: AutoTitle | None = None
        self._queue: list[Job] = []  # in the order of arrival, in which they are encoded
        self._free_since, self._expected = 0.0, 0  # when the last batch was done, and its texts and those queued then
        self._changed = threading.Condition()
        self._closing = False
        self._busy_since: float | None = None
        self._seconds_a_text = 0.1  # how long one took lately, for Retry-After
        # Encoding has one thread of its own: the tokenizer is not thread-safe, and a long text would block the event
        # loop.
        self._encoder = concurrent.futures.ThreadPoolExecutor(1, "encoder")
        self._thread = threading.Thread(target=self._run, name="decoder", daemon=True)

    def start(self) -> None:
        """Begin to load the model."""
        self._thread.start()

    def close(self) -> None:
        """Decode what is in the queue, then end; returns when that is done.

        While the model is loading it returns at once and the thread is left: loading cannot be interrupted.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._encoder.shutdown()
        if self.state != "loading":
            self._thread.join()
            self.state = "closed"

    @property
    def is_left(self) -> bool:
        """Return whether the thread still runs, as after `close` while the model was loading."""
        return self._thread.is_alive()

    def is_stuck(self, seconds: float) -> bool:
        """Return whether the present batch takes longer than `seconds`, or the thread has died."""
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
        adapters: Sequence[str | None] = (),
    ) -> list[asyncio.Future[Answer]]:
        """Put texts into the queue, all or none; cancel the futures to give them up.

        `adapters` has the name of each text's, None for the default; it may be empty.

        Raises ServiceError while the model is loading, if the queue has no room for them, for an adapter that there is
        not, and for options that do not fit the vocabulary.
        """
        title = self.ready()
        try:
            prefixes = [title.encode_prefix(config) for config in configs]
        except OptionError as error:
            raise ServiceError(422, "invalid_options", str(error), "parameters") from None
        names = [title.default_adapter if name is None else name for name in adapters or [None] * len(texts)]
        jobs = [
            Job(text, config, prefix, on_title, name)
            for text, config, prefix, name in zip(texts, configs, prefixes, names, strict=True)
        ]
        with self._changed:  # in which adapters are removed: of those that are asked for, none is
            self._check_adapters(title, names)
            self._check_room(len(jobs))
            self._set_queue(self._queue + jobs)
        self._encoder.submit(self._encode, title, jobs)
        return [asyncio.wrap_future(job.future) for job in jobs]

    def _check_adapters(self, title: AutoTitle, names: Sequence[str | None]) -> None:
        wanted = {name for name in names if name is not None}
        known = self._adapters.names(title) if wanted else ()
        if wanted - set(known):
            message = f"there is no such adapter; there are: {', '.join(known) or 'none'}"
            raise ServiceError(422, "unknown_adapter", message, "adapter")

    def _encode(self, title: AutoTitle, jobs: list[Job]) -> None:
        """Encode the texts of a request; they can be decoded once all are encoded, since they may go together."""
        sources = {}
        for job in filter(lambda job: job.is_wanted, jobs):
            try:
                sources[job] = title.encode(job.text, self._data, job.adapter)
            except Exception as error:
                logger.error("encoding failed", exc_info=error)
                job.fail(error)
        with self._changed:
            for job, source in sources.items():
                job.source = source
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
            # For what is done only once, such as loading jieba's dictionary. A prompt that leaves no room for a text
            # is an error now, not in every request.
            reads = {name: getattr(self._data, name) for name in ("max_source_length", *PROMPT_OPTIONS)}
            title.generate(_WARM_UP, max_new_tokens=2, **reads)
        except Exception as error:
            self.state = "failed"
            self._on_loaded(error)
            return
        self._update_adapters(title)
        self._title, self.state = title, "ready"
        logger.info("model loaded", extra={"fields": {"seconds": round(time.monotonic() - start, 2)}})
        self._on_loaded(None)
        while (jobs := self._next_batch()) is None or jobs:
            if jobs is None:
                self._update_adapters(title)
                continue
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

    def prompt(self) -> Prompt | None:
        """Return what stands around every text, the adapters' texts too; None while the model is loading."""
        return None if self._title is None else self._data.prompt(self._title.prompt)

    def adapters(self) -> tuple[str, ...]:
        """Return the adapters that can be asked for now; none while the model is loading."""
        return () if self._title is None else self._adapters.names(self._title)

    def _update_adapters(self, title: AutoTitle) -> None:
        self._adapters.load_new(title)
        with self._changed:
            self._adapters.remove_gone(title, {job.adapter for job in self._queue if job.adapter is not None})
        self._looked = time.monotonic()

    def _next_batch(self) -> list[Job] | None:
        """Wait for texts and take a batch out of the queue; return an empty one when it is time to end.

        Returns None when it is time to look at the folder of adapters.

        It waits for further texts while some are being encoded, or while there are fewer than there were with the last
        batch, since a client that has been answered may ask again. So a single client does not wait.
        """
        with self._changed:
            while True:
                seconds_to_look = self._looked + SECONDS_BETWEEN_LOOKS - time.monotonic()
                if self._adapters.is_watched and seconds_to_look <= 0 and not self._closing:
                    return None
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
                if self._adapters.is_watched:
                    patience = (
                        max(0.0, seconds_to_look) if patience is None else min(patience, max(0.0, seconds_to_look))
                    )
                self._changed.wait(patience)
            self._set_queue([job for job in self._queue if job not in batch])
        return batch

    def _decode(self, title: AutoTitle, jobs: list[Job]) -> None:
        """Answer the jobs. A batch that fails is tried text by text, so that no text spoils another's answer."""
        on_title = {index: job.on_title for index, job in enumerate(jobs) if job.on_title is not None}
        try:
            answers = title.decode_batch(
                [job.source for job in jobs],
                jobs[0].config,
                jobs[0].prefix,
                lambda index: jobs[index].is_wanted,
                on_title,
            )
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
                self._metrics.titles.labels(job.adapter or "").inc()
                job.future.set_result(answer)


def _first_batch(queue: Sequence[Job]) -> tuple[list[Job], bool]:
    """Return the first text and those behind it that have its options and fit into its batch; and whether it is full.

    Its size, rows times the longest text or title to come, is at most `batch_tokens`; it is full if no text of that
    length has room.
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
