"""OpenAI's chat completions: the models of requests and answers, and what a request's fields mean for a title.

The fields are those of OpenAI's API reference ("Create chat completion"). One that has a meaning for a title is a field
of the request's model, one that changes no title is in IGNORED, and of the others UNSUPPORTED has the values that ask
for nothing. Generation options are fields, too: OpenAI's clients send such as `extra_body`.
"""

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    WithJsonSchema,
    create_model,
)
from pydantic_core import PydanticCustomError

from ..config import GenerationConfig
from .errors import ServiceError
from .options import LIMITS, ServingConfig
from .schemas import RANGES, STRICT, Schemas, one_or_list, text_type, whole

# They are for the provider and change no answer.
IGNORED = (
    *("metadata", "moderation", "parallel_tool_calls", "prompt_cache_key", "prompt_cache_options"),
    *("prompt_cache_retention", "safety_identifier", "service_tier", "store", "user"),
)

# Of each field that has no meaning here: the values that ask for nothing, and what to do instead.
UNSUPPORTED: dict[str, tuple[tuple[Any, ...], str]] = {
    "audio": ((None,), "titles are text"),
    "frequency_penalty": ((None, 0), "repetition_penalty is the option against repetition"),
    "function_call": ((None, "none", "auto"), "the model calls no functions"),
    "functions": ((None, []), "the model calls no functions"),
    "logit_bias": ((None, {}), "suppress_tokens takes ids of tokens that are not to be written"),
    "logprobs": ((None, False), "/v1/titles returns the score of each title"),
    "modalities": ((None, ["text"]), "titles are text"),
    "prediction": ((None,), "there are no predicted outputs"),
    "presence_penalty": ((None, 0), "repetition_penalty is the option against repetition"),
    "reasoning_effort": ((None, "none"), "the model does not reason"),
    "response_format": ((None, {"type": "text"}), "titles are plain text"),
    "tool_choice": ((None, "none", "auto"), "the model calls no tools"),
    "tools": ((None, []), "the model calls no tools"),
    "top_logprobs": ((None, 0), "/v1/titles returns the score of each title"),
    "verbosity": ((None, "low", "medium"), "max_tokens and length_penalty decide the length"),
    "web_search_options": ((None,), "the model searches nothing"),
}

_USER, _OTHER = "<user>", "<other>"
_MOST_STOPS = 4
_NO_DRAWS = 0.01  # a temperature below asks for the likeliest title, which search finds
_UNREAD = ConfigDict(extra="ignore", strict=True)  # of messages, where other fields are not for the reader of a text

_PARTS = "a text, or parts of it, between which there is a line feed"
_LIST_WITH_A_USER = {"contains": {"properties": {"role": {"const": "user"}}, "required": ["role"]}}


class ChatSchemas:
    """The model of a chat request, as a service makes it, and its translation.

    Args:
        schemas: with the generation options of the service.
        serving: its limits.
        generation: its defaults.

    Attributes:
        Request: the model.
    """

    def __init__(self, schemas: Schemas, serving: ServingConfig, generation: GenerationConfig) -> None:
        self._schemas, self._generation = schemas, generation
        self._most_beams = serving.limit_num_beams
        text = text_type(serving.max_chars)
        self._max_chars = serving.max_chars
        part: Any = _unread("TextPart", type=(Literal["text"], ...), text=(text, ...))
        content = one_or_list(text, Annotated[list[part], Field(min_length=1, fail_fast=True)])
        user = _unread("UserMessage", role=(Literal["user"], ...), content=(content, Field(description=_PARTS)))
        message: Any = Annotated[
            Annotated[user, Tag(_USER)] | Annotated[_OtherMessage, Tag(_OTHER)],
            Discriminator(lambda value: _USER if _role(value) == "user" else _OTHER),
        ]
        messages = Annotated[
            list[message],
            Field(min_length=1, fail_fast=True, json_schema_extra=_LIST_WITH_A_USER),
            AfterValidator(_with_user),
        ]
        stop = one_or_list(
            Annotated[str, Field(min_length=1)],
            Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=_MOST_STOPS)],
        )
        tokens = _whole_number(RANGES["max_new_tokens"] | {"le": getattr(serving, LIMITS["max_new_tokens"])})
        counts = _whole_number({"ge": 1, "le": getattr(serving, LIMITS["num_return_sequences"])})
        seed = _whole_number(RANGES["seed"])
        share = Annotated[float, Field(ge=0, le=1)]
        fields: dict[str, Any] = {
            "model": (str, Field(description="the id that /v1/models lists")),
            "messages": (messages, Field(description="the text is the last message of the user; others are not read")),
            "n": (counts | None, Field(default=None, description="titles; without sampling, of a search with n beams")),
            "max_completion_tokens": (tokens | None, Field(default=None, description="the same as max_new_tokens")),
            "max_tokens": (tokens | None, Field(default=None, description="the same, by its old name")),
            "temperature": (
                Annotated[float, Field(ge=0, le=2)] | None,
                Field(default=None, description="0 searches for the best title, above 0 draws one"),
            ),
            "top_p": (share | None, Field(default=None, description="below 1 draws a title, also without temperature")),
            "seed": (seed | None, Field(default=None, description="draws the same titles of a text again")),
            "stop": (stop | None, Field(default=None, description="a title ends before the first of these")),
            "stream": (bool | None, Field(default=None, description="answer by server-sent events")),
            "stream_options": (StreamOptions | None, Field(default=None)),
            **{name: (Any, Field(default=None, description="changes no title")) for name in IGNORED},
            **{name: _unsupported(*about) for name, about in UNSUPPORTED.items()},
        }
        self.Request: type[BaseModel] = create_model("ChatRequest", __base__=schemas.Parameters, **fields)

    def text(self, request: Any) -> str:
        """Return the text to read. Raises ServiceError if its parts are too long together."""
        content = next(each.content for each in reversed(request.messages) if each.role == "user")
        text = content if isinstance(content, str) else "\n".join(part.text for part in content)
        if len(text) > self._max_chars:
            message = f"a text should have at most {self._max_chars} characters"
            raise ServiceError(422, "text_too_long", message, "messages")
        return text

    def config(self, request: Any) -> GenerationConfig:
        """Return the generation options of a request. Raises ServiceError for fields that exclude each other."""
        fields = request.model_dump(exclude={"messages"}, exclude_unset=True)
        given = {name: value for name, value in fields.items() if value is not None}
        if "stream_options" in given and not given.get("stream"):
            raise _clash("stream_options goes with stream only", "stream_options")
        options = {name: given[name] for name in self._schemas.Parameters.model_fields if name in given}
        lengths = [name for name in ("max_completion_tokens", "max_tokens") if name in given]
        if len(lengths) > 1:
            raise _clash("max_tokens and max_completion_tokens are one option", "max_tokens")
        for name in lengths:
            options["max_new_tokens"] = given[name]
        options |= self._sampling(options)
        if "n" in given or "num_return_sequences" not in options:
            options["num_return_sequences"] = given.get("n", 1)
        n = options["num_return_sequences"]
        if not options["do_sample"] and n > 1 and not _beams(options):
            options["num_beams"] = max(self._generation.num_beams, n)
            if options["num_beams"] > self._most_beams:
                raise _clash(f"n must be at most {self._most_beams} unless a temperature draws the titles", "n")
        return self._schemas.config_over(options, None)

    def _sampling(self, options: dict[str, Any]) -> dict[str, Any]:
        """Take what draws titles out of the options; return it again if they are drawn, under our names."""
        temperature, top_p, seed = (options.pop(name, None) for name in ("temperature", "top_p", "seed"))
        is_sure = (temperature is not None and temperature < _NO_DRAWS) or top_p == 0
        asks = temperature is not None or (top_p is not None and top_p < 1)
        by_default = self._generation.do_sample and (_beams(options) or 1) == 1
        draws = options.get("do_sample", not is_sure if asks else by_default)
        if draws and is_sure:
            raise _clash("do_sample needs a temperature and top_p above 0", "do_sample")
        if not draws:  # which a seed does not change, nor does any share of the likeliest
            return {"do_sample": False}
        drawing = {"temperature": temperature, "top_p": top_p, "seed": seed}
        return {"do_sample": True} | {name: value for name, value in drawing.items() if value is not None}


def _beams(options: dict[str, Any]) -> int | None:
    """Return the number of beams that a request asks for."""
    return options.get("num_beams", options.get("topk"))


class _OtherMessage(BaseModel):
    """A message whose text is not read."""

    model_config = _UNREAD

    role: Literal["system", "developer", "assistant", "tool", "function"]


def _unread(name: str, **fields: Any) -> Any:
    """Return a model of these fields that leaves others unread."""
    return create_model(name, __config__=_UNREAD, **fields)


def cut(text: str, stop: str | list[str] | None) -> str:
    """Return the title up to the first of the texts that end it."""
    stops = [stop] if isinstance(stop, str) else stop or []
    return text[: min((place for each in stops if (place := text.find(each)) >= 0), default=None)]


def _role(message: Any) -> Any:
    return message.get("role") if isinstance(message, dict) else None


def _with_user(messages: list[Any]) -> list[Any]:
    if not any(each.role == "user" for each in messages):
        raise PydanticCustomError("missing_user_message", "there is no message of the role user, whose text is read")
    return messages


def _whole_number(limits: dict[str, Any]) -> Any:
    return Annotated[int, Field(**limits), BeforeValidator(whole)]


def _unsupported(values: tuple[Any, ...], instead: str) -> tuple[Any, Any]:
    """Return a field that may have these values only, which ask for nothing."""

    def check(value: Any) -> Any:
        # False is equal to 0 in Python, but not in JSON.
        if not any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in values):
            raise PydanticCustomError("unsupported_value", "this is not supported: {instead}", {"instead": instead})
        return value

    hint = Annotated[Any, AfterValidator(check), WithJsonSchema({"enum": list(values)})]
    return hint, Field(default=None, description=f"not supported: {instead}")


def _clash(message: str, field: str) -> ServiceError:
    return ServiceError(422, "invalid_options", message, field)


class StreamOptions(BaseModel):
    """What a stream has beside the title."""

    model_config = STRICT

    include_usage: bool | None = Field(default=None, description="the last event counts tokens")
    include_obfuscation: bool | None = Field(default=None, description="changes nothing")


class Message(BaseModel):
    """A title as a message."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Choice(BaseModel):
    """One of the titles, best first."""

    index: int
    message: Message
    logprobs: None = None
    finish_reason: Literal["stop", "length"] = Field(description="length if the title was cut by max_tokens")


class Usage(BaseModel):
    """Tokens that the model has read and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatCompletion(BaseModel):
    """The answer of /v1/chat/completions."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int = Field(description="seconds since 1970")
    model: str
    choices: list[Choice]
    usage: Usage


class ModelCard(BaseModel):
    """A model, as /v1/models lists it."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="seconds since 1970, of its config.json")
    owned_by: str = "t5-pegasus"


class ModelList(BaseModel):
    """The answer of /v1/models."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class OpenAIErrorDetail(BaseModel):
    """The error."""

    message: str
    type: Literal["invalid_request_error", "server_error"]
    param: str | None = Field(description="the field that is wrong")
    code: str = Field(description="names the reason")


class OpenAIErrorAnswer(BaseModel):
    """The answer to OpenAI's clients if something is wrong."""

    error: OpenAIErrorDetail
