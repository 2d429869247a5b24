"""From texts to answers: queue them in the batcher, wait while the client is there and the time is not up, log."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

from fastapi import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive

from ..config import GenerationConfig
from ..title import Answer, Hypothesis
from .batcher import Batcher
from .bodies import ClientGoneError
from .errors import ServiceError
from .logs import logger
from .middleware import internal_error
from .schemas import Title

EVENT_STREAM = "text/event-stream"
_SECONDS_BETWEEN_COMMENTS = 10.0  # in a stream without events, so that no proxy takes the connection for dead
WAITING = ": waiting\n\n"  # such a comment


class Answerer:
    """Answers the texts of requests.

    Args:
        batcher: decodes.
        log_text: whether texts and titles are logged.
    """

    def __init__(self, batcher: Batcher, log_text: bool) -> None:
        self.batcher, self._log_text = batcher, log_text

    async def answer(
        self,
        request: Request,
        texts: Sequence[str],
        configs: Sequence[GenerationConfig],
        deadline: float,
        adapters: Sequence[str | None] = (),
    ) -> list[Answer]:
        """Return the answers to texts; `deadline` is a time of `time.perf_counter`.

        If the deadline passes or the client closes the connection, the texts that are left are given up. Raises
        ServiceError for the former and what `Batcher.submit` refuses, ClientGoneError for the latter.
        """
        log = request.scope["state"]["log"]
        log.update(texts=len(texts), chars=sum(map(len, texts)))
        gone = asyncio.create_task(_wait_until_gone(request.receive))
        futures: list[asyncio.Future[Answer]] = []
        try:
            futures = self.batcher.submit(texts, configs, adapters=adapters)
            together = asyncio.create_task(_gather(futures))
            await asyncio.wait(
                {together, gone}, timeout=deadline - time.perf_counter(), return_when=asyncio.FIRST_COMPLETED
            )
            if not together.done():
                together.cancel()
                raise ClientGoneError if gone.done() else deadline_exceeded()
            answers = together.result()
        finally:
            gone.cancel()
            for future in futures:
                future.cancel()
        self.log(request, texts, answers)
        return answers

    def stream(
        self,
        request: Request,
        text: str,
        config: GenerationConfig,
        deadline: float,
        adapter: str | None = None,
    ) -> AsyncGenerator[Hypothesis | Answer | None]:
        """Return an iterator over the best titles of a text so far, None when there is none for long; then its answer.

        Raises ServiceError for what `Batcher.submit` refuses. The iterator raises it if the deadline passes, a time of
        `time.perf_counter`, or if the service fails; the text is given up when the iterator ends, for whatever reason.
        """
        loop = asyncio.get_running_loop()
        titles: asyncio.Queue[Hypothesis | None] = asyncio.Queue()

        def on_title(title: Hypothesis) -> None:
            loop.call_soon_threadsafe(titles.put_nowait, title)

        request.scope["state"]["log"].update(texts=1, chars=len(text))
        (future,) = self.batcher.submit([text], [config], on_title, [adapter])
        future.add_done_callback(lambda _: titles.put_nowait(None))

        async def found() -> AsyncGenerator[Hypothesis | Answer | None]:
            try:
                async for title in _until_none(titles, deadline):
                    yield title
                answer = future.result()
                self.log(request, [text], [answer])
                yield answer
            except TimeoutError:
                raise deadline_exceeded() from None
            except Exception as error:
                logger.error("stream failed", exc_info=error)
                raise internal_error() from None
            finally:
                future.cancel()

        return found()

    def log(self, request: Request, texts: Sequence[str], answers: Sequence[Answer]) -> None:
        """Add fields about the answers to the request's line of the log."""
        log = request.scope["state"]["log"]
        log["source_tokens"] = sum(answer.source_tokens for answer in answers)
        if self._log_text:
            log.update(texts=list(texts), titles=[answer.titles[0].text for answer in answers])


async def _until_none(titles: "asyncio.Queue[Hypothesis | None]", deadline: float) -> AsyncIterator[Hypothesis | None]:
    """Yield the titles of a queue until None comes, and None itself when nothing has come for long.

    Raises TimeoutError when the deadline passes.
    """
    while True:
        seconds_left = deadline - time.perf_counter()
        try:
            async with asyncio.timeout(min(seconds_left, _SECONDS_BETWEEN_COMMENTS)):
                title = await titles.get()
        except TimeoutError:
            if seconds_left <= _SECONDS_BETWEEN_COMMENTS:
                raise
            yield None
            continue
        if title is None:
            return
        yield title


def event_stream(events: AsyncIterator[str]) -> StreamingResponse:
    """Return the response that sends events as they come."""
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(events, media_type=EVENT_STREAM, headers=headers)


async def _gather(futures: Sequence[asyncio.Future[Answer]]) -> list[Answer]:
    return [await future for future in futures]


async def _wait_until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def deadline_exceeded() -> ServiceError:
    """Return the error for a request whose time is up."""
    return ServiceError(504, "deadline_exceeded", "there was no answer in time")


def title_of(hypothesis: Hypothesis) -> Title:
    """Return a title as it is in an answer; JSON has no number for the score of an impossible one."""
    score = hypothesis.score if hypothesis.score > float("-inf") else None
    return Title(title=hypothesis.text, score=score, tokens=len(hypothesis.ids))


def to_json(value: Any) -> str:
    """Return compact JSON, Chinese as it is."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def as_list(value: Any) -> list[str]:
    """Return a list of texts for a text or a list of texts."""
    return list(value) if isinstance(value, list) else [value]
