"""From texts to answers: queue them in the batcher, wait while the client is there and the time is not up, log."""

import asyncio
import json
import time
from collections.abc import Sequence
from typing import Any

from fastapi import Request
from starlette.types import Receive

from ..config import GenerationConfig
from ..title import Answer, Hypothesis
from .batcher import Batcher
from .bodies import ClientGoneError
from .errors import ServiceError
from .schemas import Title


class Answerer:
    """Answers the texts of requests.

    Args:
        batcher: decodes.
        log_text: whether texts and titles are logged.
    """

    def __init__(self, batcher: Batcher, log_text: bool) -> None:
        self.batcher, self._log_text = batcher, log_text

    async def answer(
        self, request: Request, texts: Sequence[str], configs: Sequence[GenerationConfig], deadline: float
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
            futures = self.batcher.submit(texts, configs)
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

    def log(self, request: Request, texts: Sequence[str], answers: Sequence[Answer]) -> None:
        """Add fields about the answers to the request's line of the log."""
        log = request.scope["state"]["log"]
        log["source_tokens"] = sum(answer.source_tokens for answer in answers)
        if self._log_text:
            log.update(texts=list(texts), titles=[answer.titles[0].text for answer in answers])


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
