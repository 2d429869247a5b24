"""Our own API: /v1/titles, whole or as a stream of server-sent events, and /v1/model."""

import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import FastAPI, Request, Response

from ..config import GenerationConfig
from ..title import Answer, Hypothesis
from . import openapi
from .answers import EVENT_STREAM, WAITING, Answerer, as_list, event_stream, title_of, to_json
from .bodies import Bodies, media_type, parse_json
from .errors import ServiceError
from .options import MEDIA_TYPES, Service
from .schemas import ModelAnswer, Result, Schemas, TitlesAnswer, inline_schema, validate

JSON = MEDIA_TYPES[0]


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
                200: {"model": TitlesAnswer, "content": {EVENT_STREAM: openapi.EVENT}},
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
        """Return the model's name and prompt, the service's limits and the generation options."""
        serving, prompt = self._service.serving, self._answerer.batcher.prompt()
        return ModelAnswer(
            model=self._service.model.name,
            max_source_length=self._service.data.max_source_length,
            source_prefix=None if prompt is None else prompt.source_prefix,
            source_suffix=None if prompt is None else prompt.source_suffix,
            max_chars=serving.max_chars,
            max_texts=serving.max_texts,
            timeout=serving.timeout,
            adapters=list(self._answerer.batcher.adapters()),
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
            return self._stream(request, texts[0], config, start, deadline, given.adapter)
        answers = await self._answerer.answer(
            request, texts, [config] * len(texts), deadline, [given.adapter] * len(texts)
        )
        return Response(to_json(_titles_answer(answers, start)), media_type=JSON)

    def _stream(
        self,
        request: Request,
        text: str,
        config: GenerationConfig,
        start: float,
        deadline: float,
        adapter: str | None,
    ) -> Response:
        found = self._answerer.stream(request, text, config, deadline, adapter)

        async def body() -> AsyncIterator[str]:
            try:
                async with contextlib.aclosing(found):
                    async for each in found:
                        if isinstance(each, Hypothesis):
                            yield _event("title", title_of(each).model_dump())
                        else:
                            yield WAITING if each is None else _event("done", _titles_answer([each], start))
            except ServiceError as error:
                yield _event("error", error.to_dict())

        return event_stream(body())


def _event(name: str, value: Any) -> str:
    return f"event: {name}\ndata: {to_json(value)}\n\n"


def _titles_answer(answers: Sequence[Answer], start: float) -> dict[str, Any]:
    results = [
        Result(titles=list(map(title_of, each.titles)), source_tokens=each.source_tokens, truncated=each.truncated)
        for each in answers
    ]
    return TitlesAnswer(results=results, seconds=round(time.perf_counter() - start, 4)).model_dump()
