"""OpenAI's API, as its clients speak it: /v1/chat/completions, whole or as a stream, and /v1/models."""

import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response

from ..config import GenerationConfig
from ..title import Answer, Hypothesis
from . import openapi
from .answers import EVENT_STREAM, WAITING, Answerer, event_stream, to_json
from .bodies import Bodies, media_type, parse_json
from .chat import (
    ChatCompletion,
    ChatSchemas,
    Choice,
    Message,
    ModelCard,
    ModelList,
    OpenAIErrorAnswer,
    Usage,
    cut,
)
from .errors import CHAT_PATH, MODELS_PATH, ServiceError, to_openai
from .options import MEDIA_TYPES, Service
from .schemas import Schemas, inline_schema, validate

JSON = MEDIA_TYPES[0]
_DONE = "data: [DONE]\n\n"


class OpenAI:
    """The routes of OpenAI's API."""

    def __init__(self, service: Service, schemas: Schemas, bodies: Bodies, answerer: Answerer) -> None:
        self._service, self._bodies, self._answerer = service, bodies, answerer
        self._chat = ChatSchemas(schemas, service.serving, service.generation)
        created = int((Path(service.model.model_dir) / "config.json").stat().st_mtime)
        self._card = ModelCard(id=service.model.name, created=created)

    def add_routes(self, api: FastAPI) -> None:
        """Add the routes, with what the OpenAPI document says of them."""
        errors = {
            status: {**about, "model": OpenAIErrorAnswer} for status, about in openapi.ERRORS.items() if status != 422
        }
        errors[400] |= {"description": "not JSON; or a field is missing, unknown, not supported or out of range"}
        errors[404] = {"model": OpenAIErrorAnswer, "description": "there is no such model"}
        api.add_api_route(
            CHAT_PATH,
            self.chat,
            methods=["POST"],
            response_class=Response,
            responses={200: {"model": ChatCompletion, "content": {EVENT_STREAM: openapi.STRING}}, **errors},
            openapi_extra=openapi.request_body({JSON: inline_schema(self._chat.Request)}),
            tags=["OpenAI"],
        )
        for path, handler, model in (
            (MODELS_PATH, self.models, ModelList),
            (MODELS_PATH + "/{model}", self.model, ModelCard),
        ):
            api.add_api_route(
                path,
                handler,
                methods=["GET"],
                response_model=model,
                responses={401: errors[401], 404: errors[404]},
                tags=["OpenAI"],
            )

    async def models(self) -> ModelList:
        """List the model that is served and its adapters, which are models to OpenAI's clients."""
        names = self._answerer.batcher.adapters()
        return ModelList(data=[self._card, *(self._card.model_copy(update={"id": name}) for name in names)])

    async def model(self, model: str) -> ModelCard:
        """Return the model that is served, or an adapter of it, by its id."""
        self._adapter_of(model)
        return self._card.model_copy(update={"id": model})

    async def chat(self, request: Request) -> Response:
        """Write titles of the last message of the user, as chat completions.

        With several beams the best title so far may be replaced, so that a stream has it in one piece at the end.
        """
        start = time.perf_counter()
        media_type(request, (JSON,), JSON)
        self._answerer.batcher.ready()  # before the body is read: that may take long
        given: Any = validate(self._chat.Request, parse_json(await self._bodies.read_text(request)))
        adapter = self._adapter_of(given.model)
        text, config = self._chat.text(given), self._chat.config(given)
        deadline = start + self._service.serving.timeout
        completion = _Completion(given.model, given.stop, self._answerer.batcher.ready().tokenizer.end_id)
        if not given.stream:
            (answer,) = await self._answerer.answer(request, [text], [config], deadline, [adapter])
            return Response(to_json(completion.whole(answer).model_dump()), media_type=JSON)
        found = self._answerer.stream(request, text, config, deadline, adapter)
        has_usage = given.stream_options is not None and given.stream_options.include_usage is True
        stream = _Stream(completion, config, has_usage)

        async def body() -> AsyncIterator[str]:
            yield stream.begin()
            try:
                async with contextlib.aclosing(found):
                    async for each in found:
                        if each is None:
                            yield WAITING
                        elif isinstance(each, Hypothesis):
                            for event in stream.grow(each):
                                yield event
                        else:
                            for event in stream.end(each):
                                yield event
                yield _DONE
            except ServiceError as error:
                yield _event(to_openai(error)[1])

        return event_stream(body())

    def _adapter_of(self, model: str) -> str | None:
        """Return the adapter that an id names; None for the model itself."""
        if model == self._card.id:
            return None
        if model not in self._answerer.batcher.adapters():
            raise ServiceError(404, "model_not_found", f"the model served here is {self._card.id}", "model")
        return model


class _Completion:
    """What all events of an answer have in common.

    Args:
        model: its id.
        stop: texts that end a title.
        end_id: token that ends a title by itself.
    """

    def __init__(self, model: str, stop: str | list[str] | None, end_id: int) -> None:
        self._stop, self._end_id = stop, end_id
        self.head: dict[str, Any] = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}

    def whole(self, answer: Answer) -> ChatCompletion:
        """Return the answer in one piece."""
        choices = [
            Choice(
                index=index, message=Message(content=self.content(each.text)), finish_reason=self.finish_reason(each)
            )
            for index, each in enumerate(answer.titles)
        ]
        return ChatCompletion(choices=choices, usage=self.usage(answer), **self.head)

    def content(self, text: str) -> str:
        """Return a title up to where it is to stop."""
        return cut(text, self._stop)

    def finish_reason(self, title: Hypothesis) -> Any:
        """Return why a title ends."""
        has_ended = title.ids[-1:] == (self._end_id,) or self.content(title.text) != title.text
        return "stop" if has_ended else "length"

    def usage(self, answer: Answer) -> Usage:
        """Count the tokens that the model has read and written."""
        read, written = answer.source_tokens, sum(len(title.ids) for title in answer.titles)
        return Usage(prompt_tokens=read, completion_tokens=written, total_tokens=read + written)

    @property
    def longest_stop(self) -> int:
        """Return the characters of the longest text that ends a title."""
        return max(map(len, [self._stop] if isinstance(self._stop, str) else self._stop or [""]), default=0)


class _Stream:
    """The events of one answer. A client adds up what it is sent, so that only what stays is sent."""

    def __init__(self, completion: _Completion, config: GenerationConfig, has_usage: bool) -> None:
        self._completion, self._has_usage = completion, has_usage
        self._grows = config.num_rows == 1
        self._sent = ""

    def begin(self) -> str:
        """Return the event before the first title."""
        return self._delta(0, {"role": "assistant", "content": ""})

    def grow(self, title: Hypothesis) -> Iterator[str]:
        """Yield what a title has grown by, if nothing can replace it."""
        if not self._grows:
            return
        # What may turn out to be the beginning of a stop, or of a character of several tokens, is not sent yet.
        known = len(title.text) - max(0, self._completion.longest_stop - 1)
        yield from self._add(self._completion.content(title.text)[: max(0, known)].rstrip("\ufffd"))

    def _add(self, text: str) -> Iterator[str]:
        if text.startswith(self._sent) and text != self._sent:
            added, self._sent = text[len(self._sent) :], text
            yield self._delta(0, {"content": added})

    def end(self, answer: Answer) -> Iterator[str]:
        """Yield the rest of the first title, the other titles, and the count of tokens if it is asked for."""
        for index, title in enumerate(answer.titles):
            content = self._completion.content(title.text)
            if index == 0:
                yield from self._add(content)
            else:
                yield self._delta(index, {"role": "assistant", "content": content})
            yield self._delta(index, {}, self._completion.finish_reason(title))
        if self._has_usage:
            yield self._chunk([], self._completion.usage(answer).model_dump())

    def _delta(self, index: int, delta: dict[str, str], finish_reason: str | None = None) -> str:
        return self._chunk([{"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}])

    def _chunk(self, choices: list[dict[str, Any]], usage: dict[str, int] | None = None) -> str:
        chunk = {**self._completion.head, "object": "chat.completion.chunk", "choices": choices}
        return _event({**chunk, "usage": usage} if self._has_usage else chunk)


def _event(value: Any) -> str:
    return f"data: {to_json(value)}\n\n"
