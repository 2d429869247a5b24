"""SageMaker's contract: /invocations in three content types, and what its batch transform asks for."""

import dataclasses
import time
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.responses import PlainTextResponse

from ..config import GenerationConfig
from ..title import Answer
from . import openapi
from .answers import Answerer, as_list, title_of, to_json
from .bodies import Bodies, media_type, parse_json, preferred_type
from .errors import ENDPOINTS_PATH, ServiceError
from .options import MEDIA_TYPES, Service
from .schemas import HAS_TEXT, ErrorAnswer, InvocationAnswer, Schemas, inline_schema, validate

JSON, JSON_LINES, PLAIN = MEDIA_TYPES


@dataclasses.dataclass
class _Invocation:
    """What one object asks for: texts, each with its options; `is_list` if they came as a list; an adapter or None."""

    texts: list[str]
    configs: list[GenerationConfig]
    is_list: bool
    adapter: str | None


class SageMaker:
    """The routes that SageMaker calls, but for /ping."""

    def __init__(self, service: Service, schemas: Schemas, bodies: Bodies, answerer: Answerer) -> None:
        self._serving, self._schemas, self._bodies, self._answerer = service.serving, schemas, bodies, answerer

    def add_routes(self, api: FastAPI) -> None:
        """Add the routes, with what the OpenAPI document says of them."""
        invocation = inline_schema(self._schemas.Invocation)
        line = {**invocation, "description": "one such object a line"}
        text = {"type": "string", "minLength": 1, "maxLength": self._serving.max_chars, "pattern": HAS_TEXT}
        responses: openapi.Responses = {
            200: {"model": InvocationAnswer, "content": {JSON_LINES: openapi.STRING, PLAIN: openapi.STRING}},
            406: {"model": ErrorAnswer, "description": "an answer of that content type is not written"},
            **openapi.ERRORS,
        }
        api.add_api_route(
            "/invocations",
            self.invocations,
            methods=["POST"],
            response_class=Response,
            responses=responses,
            openapi_extra=openapi.request_body({JSON: invocation, JSON_LINES: line, PLAIN: text}),
            tags=["SageMaker"],
        )
        # The path of SageMaker's runtime client, which works unchanged with its endpoint_url set to this service.
        api.add_api_route(
            f"{ENDPOINTS_PATH}{{name}}/invocations", self.invocations, methods=["POST"], include_in_schema=False
        )
        api.add_api_route("/execution-parameters", self.execution_parameters, methods=["GET"], tags=["SageMaker"])

    async def execution_parameters(self) -> dict[str, Any]:
        """Tell SageMaker's batch transform how to call."""
        return {
            "MaxConcurrentTransforms": min(self._serving.max_texts, self._serving.max_queue),
            "BatchStrategy": "SINGLE_RECORD",
            "MaxPayloadInMB": max(1, self._serving.max_body_bytes // 2**20),
        }

    async def invocations(self, request: Request) -> Response:
        """Write a title for each text, under SageMaker's contract.

        `{"data": "正文", "parameters": {"num_beams": 4}}` or a list of texts; such an object on each line of
        application/jsonlines; or a text as text/plain.
        """
        start = time.perf_counter()
        content_type = media_type(request, MEDIA_TYPES, JSON)
        accept = self._accepted(request, content_type)
        self._answerer.batcher.ready()  # before the body is read: that may take long
        body = await self._bodies.read_text(request)
        invocations = self._read_lines(body) if content_type == JSON_LINES else [self._read_one(content_type, body)]
        texts = [text for each in invocations for text in each.texts]
        if len(texts) > self._serving.max_texts:
            raise self._too_many_texts()
        configs = [config for each in invocations for config in each.configs]
        adapters = [each.adapter for each in invocations for _ in each.texts]
        deadline = start + self._serving.timeout
        answers = iter(await self._answerer.answer(request, texts, configs, deadline, adapters))
        seconds = f"{time.perf_counter() - start:.4f}"
        results = [_result(each, [next(answers) for _ in each.texts], seconds) for each in invocations]
        if accept == PLAIN:
            titles = [title for result in results for title in as_list(result["result"])]
            return PlainTextResponse("\n".join(titles))
        if accept == JSON_LINES:
            return Response("".join(f"{to_json(result)}\n" for result in results), media_type=JSON_LINES)
        return Response(to_json(results[0] if content_type != JSON_LINES else _merge(results)), media_type=JSON)

    def _accepted(self, request: Request, content_type: str) -> str:
        """Return the content type to answer in. Raises ServiceError if the request accepts none that is written."""
        usual = content_type if content_type == JSON_LINES else self._serving.default_accept
        found = preferred_type(request.headers.get("accept", ""), (usual, *MEDIA_TYPES))
        if found is None:
            raise ServiceError(406, "not_acceptable", f"answers are written as {', '.join(MEDIA_TYPES)}")
        return found

    def _read_one(self, content_type: str, body: str) -> _Invocation:
        value = {"data": body} if content_type == PLAIN else parse_json(body)
        given = validate(self._schemas.Invocation, value)
        texts = as_list(given.data)
        config = self._schemas.config(given.parameters)
        return _Invocation(texts, [config] * len(texts), isinstance(given.data, list), given.adapter)

    def _read_lines(self, body: str) -> list[_Invocation]:
        invocations: list[_Invocation] = []
        for number, line in enumerate(body.split("\n"), 1):
            if not line.strip():
                continue
            if len(invocations) == self._serving.max_texts:
                raise self._too_many_texts()
            try:
                invocations.append(self._read_one(JSON_LINES, line))
            except ServiceError as error:
                field = f"line {number}" + (f": {error.field}" if error.field else "")
                raise ServiceError(error.status, error.code, error.message, field) from None
        if not invocations:
            raise ServiceError(422, "empty_list", "there is no line with a text")
        return invocations

    def _too_many_texts(self) -> ServiceError:
        return ServiceError(422, "too_many_texts", f"a request may have {self._serving.max_texts} texts")


def _result(invocation: _Invocation, answers: list[Answer], seconds: str) -> dict[str, Any]:
    best = [answer.titles[0].text for answer in answers]
    result: dict[str, Any] = {"result": best if invocation.is_list else best[0], "infer_time": seconds}
    if any(config.num_return_sequences > 1 for config in invocation.configs):
        result["titles"] = [[title_of(each).model_dump() for each in answer.titles] for answer in answers]
    return result


def _merge(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the results of several lines as one, as if the texts had come in a list."""
    merged: dict[str, Any] = {
        "result": [title for result in results for title in as_list(result["result"])],
        "infer_time": results[0]["infer_time"],
    }
    if any("titles" in result for result in results):
        merged["titles"] = [titles for result in results for titles in result.get("titles", [])]
    return merged
