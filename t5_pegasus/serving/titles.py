"""Our own API: /v1/titles, whole or as a stream of server-sent events, and /v1/model."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.responses import StreamingResponse

from ..config import GenerationConfig
from ..title import Answer, Hypothesis
from . import openapi
from .answers import Answerer, as_list, deadline_exceeded, title_of, to_json
from .bodies import Bodies, media_type, parse_json
from .errors import ServiceError
from .logs import logger
from .middleware import internal_error
from .options import MEDIA_TYPES, Service
from .schemas import ModelAnswer, Result, Schemas, TitlesAnswer, inline_schema, validate

JSON = MEDIA_TYPES[0]
_EVENT_STREAM = "text/event-stream"
_SECONDS_BETWEEN_COMMENTS = 10.0  # in a stream without events, so that no proxy takes the connection for dead


class Titles:
    """The routes of our API."""

    def __init__(self, service: Service, schemas: Schemas, bodies: Bodies, answerer: Answerer) -> None:
        self._service, self._schemas, self._bodies, self._answerer = service, schemas, bodies, answerer

    def add_routes(self, api: FastAPI) -> None:
        """Add the routes, with what the OpenAPI document says of them."""
        api.add_api_route(
            "/v1/titles",
            self.titles,
            methods=["POST"],
            response_class=Response,
            responses={
                200: {"model": TitlesAnswer, "content": {_EVENT_STREAM: openapi.EVENT}},
                **openapi.ERRORS,
            },
            openapi_extra=openapi.request_body({JSON: inline_schema(self._schemas.TitlesRequest)}),
            tags=["titles"],
        )
        api.add_api_route(
            "/v1/model",
            self.model,
            methods=["GET"],
            response_model=ModelAnswer,
            responses=openapi.NEEDS_KEY,
            tags=["titles"],
        )

    async def model(self) -> ModelAnswer:
        """Return the model's name, the service's limits and the generation options."""
        serving = self._service.serving
        return ModelAnswer(
            model=Path(self._service.model.model_dir).resolve().name,
            max_source_length=self._service.data.max_source_length,
            max_chars=serving.max_chars,
            max_texts=serving.max_texts,
            timeout=serving.timeout,
            parameters=self._schemas.describe(),
        )

    async def titles(self, request: Request) -> Response:
        """Write the best titles of each text, with their scores.

        With `stream` (for one text) the answer is a stream of server-sent events: `title`, the best title so far, which
        a later one may replace; at last `done` with the answer as it is without `stream`, or `error`.
        """
        start = time.perf_counter()
        media_type(request, (JSON,), JSON)
        self._answerer.batcher.ready()  # before the body is read: that may take long
        given = validate(self._schemas.TitlesRequest, parse_json(await self._bodies.read_text(request)))
        texts, config = as_list(given.text), self._schemas.config(given.parameters)
        deadline = start + given.timeout
        if given.stream:
            if len(texts) > 1:
                raise ServiceError(422, "not_streamable", "only one text can be streamed", "text")
            return self._stream(request, texts[0], config, start, deadline)
        answers = await self._answerer.answer(request, texts, [config] * len(texts), deadline)
        return Response(to_json(_titles_answer(answers, start)), media_type=JSON)

    def _stream(self, request: Request, text: str, config: GenerationConfig, start: float, deadline: float) -> Response:
        loop = asyncio.get_running_loop()
        titles: asyncio.Queue[Hypothesis | None] = asyncio.Queue()

        def on_title(title: Hypothesis | None) -> None:
            loop.call_soon_threadsafe(titles.put_nowait, title)

        request.scope["state"]["log"].update(texts=1, chars=len(text))
        (future,) = self._answerer.batcher.submit([text], [config], on_title)
        future.add_done_callback(lambda _: titles.put_nowait(None))

        async def body() -> AsyncIterator[str]:
            try:
                async for event in _title_events(titles, deadline):
                    yield event
                answer = future.result()
                self._answerer.log(request, [text], [answer])
                yield _event("done", _titles_answer([answer], start))
            except TimeoutError:
                yield _event("error", deadline_exceeded().to_dict())
            except Exception as error:
                logger.error("stream failed", exc_info=error)
                yield _event("error", internal_error().to_dict())
            finally:
                future.cancel()

        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(body(), media_type=_EVENT_STREAM, headers=headers)


async def _title_events(titles: "asyncio.Queue[Hypothesis | None]", deadline: float) -> AsyncIterator[str]:
    """Yield an event for each title until None comes, and a comment when nothing has come for long.

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
            yield ": waiting\n\n"
            continue
        if title is None:
            return
        yield _event("title", title_of(title).model_dump())


def _event(name: str, value: Any) -> str:
    return f"event: {name}\ndata: {to_json(value)}\n\n"


def _titles_answer(answers: Sequence[Answer], start: float) -> dict[str, Any]:
    results = [
        Result(titles=list(map(title_of, each.titles)), source_tokens=each.source_tokens, truncated=each.truncated)
        for each in answers
    ]
    return TitlesAnswer(results=results, seconds=round(time.perf_counter() - start, 4)).model_dump()
