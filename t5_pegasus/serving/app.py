"""The HTTP surface over the batcher: SageMaker's contract, our own API, metrics and the page."""

import asyncio
import contextlib
import dataclasses
import json
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.types import ASGIApp, Receive

from .. import __version__
from ..config import GenerationConfig, ModelConfig
from ..serving import bodies, metrics, middleware, static
from ..title import AutoTitle, Hypothesis
from .batcher import Answer, Batcher
from .errors import ServiceError
from .logs import logger
from .options import MEDIA_TYPES, Service, Turn
from .schemas import (
    HAS_TEXT,
    ErrorAnswer,
    InvocationAnswer,
    ModelAnswer,
    Ready,
    Result,
    Schemas,
    Title,
    TitlesAnswer,
    inline_schema,
    validate,
)

JSON, JSON_LINES, PLAIN = MEDIA_TYPES
_EVENTS = "text/event-stream"
_SECONDS_BETWEEN_COMMENTS = 10.0  # in a stream that has nothing to say, so that no proxy takes it for dead
_GRACE_OF_A_BATCH = 30.0  # seconds over the timeout after which a batch is taken to hang


@dataclasses.dataclass
class _Asked:
    """What a request asks for: texts, each with its options."""

    texts: list[str]
    configs: list[GenerationConfig]
    is_list: bool


class App:
    """The service in one process.

    Args:
        service: its options.
        load: returns the model, in the thread that decodes; from `service.model` if not given.
        on_failure: told when the model cannot be loaded.
        turn: when to listen, of one of several processes; a process alone does at once.

    Attributes:
        asgi: the application that a server runs.
        batcher: decodes.
    """

    def __init__(
        self, service: Service, load: Any = None, on_failure: Any = lambda error: None, turn: Turn | None = None
    ) -> None:
        self.service, self.serving, self._turn = service, service.serving, turn
        self.metrics = metrics.Metrics()
        self.batcher = Batcher(
            load or (lambda: AutoTitle.load(**service.model._asdict())),
            service.data,
            self.serving.batch_wait_ms / 1000,
            self.serving.max_queue,
            self.metrics,
            on_failure,
        )
        vocab_size = ModelConfig.load(service.model.model_dir).vocab_size
        self.schemas = Schemas(self.serving, service.generation, vocab_size)
        self.bodies = bodies.Bodies(self.serving.max_body_bytes, self.serving.body_timeout)
        self.is_draining = False
        api = FastAPI(
            title="T5-PEGASUS",
            version=__version__,
            description="Titles for Chinese texts.",
            docs_url=None,  # they load scripts from elsewhere
            redoc_url=None,
            redirect_slashes=False,
            lifespan=self._lifespan,
        )
        self._add_routes(api)
        api.add_exception_handler(ServiceError, self._on_service_error)
        api.add_exception_handler(HTTPException, self._on_http_error)
        api.add_exception_handler(bodies.ClientGoneError, self._on_client_gone)
        api.add_exception_handler(Exception, self._on_failure)
        open_paths = frozenset({"/ping", "/openapi.json", *static.FILES})
        guarded: ASGIApp = middleware.RequireKey(api, service.api_keys, open_paths)
        if self.serving.allow_origin is not None:  # outside the guard: a preflight bears no key
            guarded = CORSMiddleware(
                guarded,
                allow_origins=[self.serving.allow_origin],
                allow_methods=["GET", "POST"],
                allow_headers=["Authorization", "Content-Type", "X-Request-ID"],
                expose_headers=["Retry-After", "X-Request-ID"],
            )
        self.asgi = middleware.Observe(guarded, self.metrics)

    def drain(self) -> None:
        """Answer what is under way and what still comes over open connections, and let these end."""
        self.is_draining = self.asgi.is_draining = True

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        self.batcher.start()
        opening = asyncio.create_task(self._take_turn())
        if self._turn is not None and not self._turn.is_first:
            await opening
        yield
        opening.cancel()
        await asyncio.to_thread(self.batcher.close)

    async def _take_turn(self) -> None:
        """Wait for the model, and for the first process to have its own: who listens then has something to say."""
        while self.batcher.state == "loading":
            await asyncio.sleep(0.02)
        if self._turn is None or self.batcher.state == "failed":
            return
        self._turn.loaded.set()
        if self._turn.is_first:
            self._turn.opened.set()
        while not self._turn.opened.is_set():
            await asyncio.sleep(0.02)

    def _add_routes(self, api: FastAPI) -> None:
        errors: dict[int | str, dict[str, Any]] = {
            status: {"model": ErrorAnswer, "description": about}
            for status, about in (
                (400, "not UTF-8 or not JSON"),
                (401, "no valid key, where keys are needed"),
                (408, "the body did not come in time"),
                (413, "the body is too large"),
                (415, "a content type that is not read"),
                (422, "a field is missing, unknown, of the wrong type or out of range"),
                (500, "the service failed"),
                (503, "the model is being loaded, or too many texts wait; Retry-After says for how long"),
                (504, "no answer in time"),
            )
        }
        invocation = inline_schema(self.schemas.Invocation)
        line = {**invocation, "description": "one such object a line"}
        text = {"type": "string", "minLength": 1, "maxLength": self.serving.max_chars, "pattern": HAS_TEXT}
        api.add_api_route(
            "/ping", self.ping, methods=["GET"], response_model=Ready, responses={503: errors[503]}, tags=["SageMaker"]
        )
        answer: dict[int | str, dict[str, Any]] = {
            200: {"model": InvocationAnswer, "content": {JSON_LINES: _STRING, PLAIN: _STRING}},
            406: {"model": ErrorAnswer, "description": "an answer of that content type is not written"},
            **errors,
        }
        api.add_api_route(
            "/invocations",
            self.invocations,
            methods=["POST"],
            response_class=Response,
            responses=answer,
            openapi_extra=_request_body({JSON: invocation, JSON_LINES: line, PLAIN: text}),
            tags=["SageMaker"],
        )
        # What SageMaker's runtime client asks for: with its endpoint_url set to this service it works unchanged.
        api.add_api_route("/endpoints/{name}/invocations", self.invocations, methods=["POST"], include_in_schema=False)
        api.add_api_route("/execution-parameters", self.execution_parameters, methods=["GET"], tags=["SageMaker"])
        api.add_api_route(
            "/v1/titles",
            self.titles,
            methods=["POST"],
            response_class=Response,
            responses={200: {"model": TitlesAnswer, "content": {_EVENTS: _EVENT}}, **errors},
            openapi_extra=_request_body({JSON: inline_schema(self.schemas.TitlesRequest)}),
            tags=["titles"],
        )
        needs_key: dict[int | str, dict[str, Any]] = {401: errors[401]}
        api.add_api_route(
            "/v1/model", self.model, methods=["GET"], response_model=ModelAnswer, responses=needs_key, tags=["titles"]
        )
        api.add_api_route(
            "/metrics", self.show_metrics, methods=["GET"], response_class=PlainTextResponse, responses=needs_key
        )
        for path in static.FILES:
            api.add_api_route(path, static.handler(path), methods=["GET"], include_in_schema=False)

    async def ping(self) -> Ready:
        """Tell whether the model answers."""
        if self.is_draining:
            raise ServiceError(503, "draining", "the service is being stopped")
        if self.batcher.is_stuck(self.serving.timeout + _GRACE_OF_A_BATCH):
            raise ServiceError(503, "stuck", "the model has not answered for long")
        self.batcher.ready()
        return Ready()

    async def execution_parameters(self) -> dict[str, Any]:
        """Tell SageMaker's batch transform how to call."""
        return {
            "MaxConcurrentTransforms": min(self.serving.max_texts, self.serving.max_queue),
            "BatchStrategy": "SINGLE_RECORD",
            "MaxPayloadInMB": max(1, self.serving.max_body_bytes // 2**20),
        }

    async def model(self) -> ModelAnswer:
        """Tell what the service has and admits."""
        return ModelAnswer(
            model=Path(self.service.model.model_dir).resolve().name,
            max_source_length=self.service.data.max_source_length,
            max_chars=self.serving.max_chars,
            max_texts=self.serving.max_texts,
            timeout=self.serving.timeout,
            parameters=self.schemas.describe(),
        )

    async def show_metrics(self) -> Response:
        """Return the metrics in Prometheus's text format."""
        return Response(self.metrics.render(), media_type=metrics.CONTENT_TYPE)

    async def invocations(self, request: Request) -> Response:
        """Write a title for each text, under SageMaker's contract.

        `{"data": "正文", "parameters": {"num_beams": 4}}` or a list of texts; such an object on each line of
        application/jsonlines; or a text as text/plain.
        """
        start = time.perf_counter()
        media_type = bodies.media_type(request, MEDIA_TYPES, JSON)
        accept = self._accept(request, media_type)
        self.batcher.ready()  # or a body is read in vain
        asked = self._read_asked(media_type, await self.bodies.read_text(request))
        texts = [each for one in asked for each in one.texts]
        if len(texts) > self.serving.max_texts:
            raise ServiceError(422, "too_many_texts", f"a request may have {self.serving.max_texts} texts")
        configs = [config for one in asked for config in one.configs]
        answers = iter(await self._answer(request, texts, configs, start + self.serving.timeout))
        seconds = f"{time.perf_counter() - start:.4f}"
        results = [_invocation_answer(one, [next(answers) for _ in one.texts], seconds) for one in asked]
        if accept == PLAIN:
            titles = [each for result in results for each in _as_list(result["result"])]
            return PlainTextResponse("\n".join(titles))
        if accept == JSON_LINES:
            return Response("".join(f"{_dump(result)}\n" for result in results), media_type=JSON_LINES)
        return Response(_dump(results[0] if media_type != JSON_LINES else _merge(results)), media_type=JSON)

    async def titles(self, request: Request) -> Response:
        """Write the best titles of each text, with their scores.

        With `stream` (for one text) the answer is a stream of server-sent events: `title`, the best title so far, which
        a later one may replace; at last `done` with the answer as it is without `stream`, or `error`.
        """
        start = time.perf_counter()
        bodies.media_type(request, (JSON,), JSON)
        self.batcher.ready()
        given = validate(self.schemas.TitlesRequest, bodies.parse_json(await self.bodies.read_text(request)))
        texts, config = _as_list(given.text), self.schemas.config(given.parameters)
        deadline = start + given.timeout
        if given.stream:
            if len(texts) > 1:
                raise ServiceError(422, "not_streamable", "only one text can be streamed", "text")
            return await self._stream(request, texts[0], config, start, deadline)
        answers = await self._answer(request, texts, [config] * len(texts), deadline)
        return Response(_dump(_titles_answer(answers, start)), media_type=JSON)

    async def _answer(
        self, request: Request, texts: Sequence[str], configs: Sequence[GenerationConfig], deadline: float
    ) -> list[Answer]:
        """Return the answers to texts. Where time is up or the client gone, what is left of the work is given up."""
        fields = request.scope["state"]["log"]
        fields.update(texts=len(texts), chars=sum(map(len, texts)))
        gone = asyncio.create_task(_until_gone(request.receive))
        futures: list[asyncio.Future[Answer]] = []
        try:
            futures = self.batcher.submit(texts, configs)
            together = asyncio.create_task(_all(futures))
            await asyncio.wait(
                {together, gone}, timeout=deadline - time.perf_counter(), return_when=asyncio.FIRST_COMPLETED
            )
            if not together.done():
                together.cancel()
                raise bodies.ClientGoneError if gone.done() else _deadline_exceeded()
            answers = together.result()
        finally:
            gone.cancel()
            for future in futures:
                future.cancel()
        self._log_answers(fields, texts, answers)
        return answers

    def _log_answers(self, fields: dict[str, Any], texts: Sequence[str], answers: Sequence[Answer]) -> None:
        fields["source_tokens"] = sum(answer.source_tokens for answer in answers)
        if self.serving.log_text:
            fields.update(texts=list(texts), titles=[answer.titles[0].text for answer in answers])

    async def _stream(
        self, request: Request, text: str, config: GenerationConfig, start: float, deadline: float
    ) -> Response:
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[Hypothesis | None] = asyncio.Queue()

        def tell(title: Hypothesis | None) -> None:
            loop.call_soon_threadsafe(events.put_nowait, title)

        fields = request.scope["state"]["log"]
        fields.update(texts=1, chars=len(text))
        (future,) = self.batcher.submit([text], [config], tell)
        future.add_done_callback(lambda _: events.put_nowait(None))

        async def body() -> AsyncIterator[str]:
            try:
                async for line in _told(events, deadline):
                    yield line
                answer = future.result()
                self._log_answers(fields, [text], [answer])
                yield _event("done", _titles_answer([answer], start))
            except TimeoutError:
                yield _event("error", _deadline_exceeded().to_dict())
            except Exception as error:
                logger.error("stream failed", exc_info=error)
                yield _event("error", middleware.internal_error().to_dict())
            finally:
                future.cancel()

        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(body(), media_type=_EVENTS, headers=headers)

    def _accept(self, request: Request, media_type: str) -> str:
        """Return the content type to answer in. Raises ServiceError where the request takes none that we write."""
        header = request.headers.get("accept", "").strip()
        if header in ("", "*/*"):
            return media_type if media_type == JSON_LINES else self.serving.default_accept
        ranges = [part.partition(";")[0].strip().lower() for part in header.split(",")]
        for wanted in ranges:
            if wanted in ("*/*", "application/*"):
                return media_type if media_type == JSON_LINES else JSON
            if wanted in MEDIA_TYPES:
                return wanted
            if wanted == "text/*":
                return PLAIN
        raise ServiceError(406, "not_acceptable", f"answers are written as {', '.join(MEDIA_TYPES)}")

    def _read_asked(self, media_type: str, text: str) -> list[_Asked]:
        return self._read_lines(text) if media_type == JSON_LINES else [self._read_invocation(media_type, text)]

    def _read_invocation(self, media_type: str, text: str) -> _Asked:
        value = {"data": text} if media_type == PLAIN else bodies.parse_json(text)
        given = validate(self.schemas.Invocation, value)
        texts = _as_list(given.data)
        return _Asked(texts, [self.schemas.config(given.parameters)] * len(texts), isinstance(given.data, list))

    def _read_lines(self, text: str) -> list[_Asked]:
        asked: list[_Asked] = []
        for number, line in enumerate(text.split("\n"), 1):
            if not line.strip():
                continue
            if len(asked) == self.serving.max_texts:
                raise ServiceError(422, "too_many_texts", f"a request may have {self.serving.max_texts} texts")
            try:
                asked.append(self._read_invocation(JSON_LINES, line))
            except ServiceError as error:
                field = f"line {number}" + (f": {error.field}" if error.field else "")
                raise ServiceError(error.status, error.code, error.message, field) from None
        if not asked:
            raise ServiceError(422, "empty_list", "there is no line with a text")
        return asked

    async def _on_service_error(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, ServiceError)
        request.scope["state"]["log"]["code"] = error.code
        return middleware.error_response(error)

    async def _on_http_error(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        codes = {404: ("not_found", "there is nothing here"), 405: ("method_not_allowed", "not by this method")}
        code, message = codes.get(error.status_code, ("http_error", "the request cannot be answered"))
        return middleware.error_response(
            ServiceError(error.status_code, code, message, headers=dict(error.headers or {}))
        )

    async def _on_client_gone(self, request: Request, error: Exception) -> Response:
        return Response(status_code=middleware.CLIENT_GONE)  # for the log: nobody reads it

    async def _on_failure(self, request: Request, error: Exception) -> Response:
        return middleware.error_response(middleware.internal_error())


_STRING = {"schema": {"type": "string"}}
_EVENT = {  # of each event of the stream
    "schema": {
        "type": "object",
        "required": ["event", "data"],
        "properties": {
            "event": {"enum": ["title", "done", "error"]},
            "data": {"type": "string", "description": "JSON: a Title, a TitlesAnswer or an ErrorAnswer"},
        },
    }
}


def _request_body(schemas: dict[str, Any]) -> dict[str, Any]:
    """Return what OpenAPI says of a request's body, by its content types."""
    content = {media_type: {"schema": schema} for media_type, schema in schemas.items()}
    return {"requestBody": {"required": True, "content": content}}


async def _all(futures: Sequence[asyncio.Future[Answer]]) -> list[Answer]:
    return [await future for future in futures]


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _told(events: "asyncio.Queue[Hypothesis | None]", deadline: float) -> AsyncIterator[str]:
    """Yield an event for each title, until None comes; and a comment where nothing has come for long.

    Raises TimeoutError where the deadline passes.
    """
    while True:
        left = deadline - time.perf_counter()
        try:
            async with asyncio.timeout(min(left, _SECONDS_BETWEEN_COMMENTS)):
                title = await events.get()
        except TimeoutError:
            if left <= _SECONDS_BETWEEN_COMMENTS:
                raise
            yield ": waiting\n\n"
            continue
        if title is None:
            return
        yield _event("title", _title(title).model_dump())


def _event(name: str, value: Any) -> str:
    return f"event: {name}\ndata: {_dump(value)}\n\n"


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _as_list(value: Any) -> list[str]:
    return list(value) if isinstance(value, list) else [value]


def _title(hypothesis: Hypothesis) -> Title:
    score = hypothesis.score if hypothesis.score > float("-inf") else None
    return Title(title=hypothesis.text, score=score, tokens=len(hypothesis.ids))


def _titles_answer(answers: Sequence[Answer], start: float) -> dict[str, Any]:
    results = [
        Result(titles=list(map(_title, each.titles)), source_tokens=each.source_tokens, truncated=each.truncated)
        for each in answers
    ]
    return TitlesAnswer(results=results, seconds=round(time.perf_counter() - start, 4)).model_dump()


def _invocation_answer(asked: _Asked, answers: list[Answer], seconds: str) -> dict[str, Any]:
    best = [answer.titles[0].text for answer in answers]
    result: dict[str, Any] = {"result": best if asked.is_list else best[0], "infer_time": seconds}
    if any(config.num_return_sequences > 1 for config in asked.configs):
        result["titles"] = [[_title(each).model_dump() for each in answer.titles] for answer in answers]
    return result


def _merge(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the answers to several lines as one, as if the texts had come in a list."""
    merged: dict[str, Any] = {
        "result": [title for result in results for title in _as_list(result["result"])],
        "infer_time": results[0]["infer_time"],
    }
    if any("titles" in result for result in results):
        merged["titles"] = [titles for result in results for titles in result.get("titles", [])]
    return merged


def _deadline_exceeded() -> ServiceError:
    return ServiceError(504, "deadline_exceeded", "there was no answer in time")
