"""The models of requests and answers, behind both the checks and the OpenAPI document."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    create_model,
)

from ..config import GenerationConfig
from ..errors import OptionError
from .errors import ServiceError
from .options import LIMITS, ServingConfig

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

# What a request may set each generation option to: bounds of numbers, lengths of texts and lists. The service has flags
# for those in LIMITS. Some bounds are narrower than the library's, so that no request can overflow a number.
RANGES: dict[str, dict[str, Any]] = {
    "num_beams": {"ge": 1},
    "max_new_tokens": {"ge": 1},
    "num_return_sequences": {"ge": 1},
    "min_new_tokens": {"ge": 0},
    "length_penalty": {"ge": -10, "le": 10},
    "no_repeat_ngram_size": {"ge": 0, "le": 100},
    "repetition_penalty": {"gt": 0, "le": 100},
    "suppress_tokens": {"max_length": 1000},
    "forced_bos_token_id": {"ge": 0, "lt": 2**31},
    "forced_eos_token_id": {"ge": 0, "lt": 2**31},
    "title_prefix": {"max_length": 100},
    "num_beam_groups": {"ge": 1},
    "diversity_penalty": {"ge": 0, "le": 100},
    "temperature": {"ge": 0.01, "le": 100},
    "top_k": {"ge": 0, "le": 1_000_000},
    "top_p": {"gt": 0, "le": 1},
    "seed": {"ge": 0, "lt": 2**32},
}
# These cannot exceed another option, nor therefore its limit.
_LIMITED_AS = {"min_new_tokens": "max_new_tokens", "num_beam_groups": "num_beams"}
_NOT_OF_A_REQUEST = ("batch_tokens",)  # changes no title

# A character that `str.strip` leaves, written so that it means the same in JavaScript and Python, whose \s differ.
HAS_TEXT = r"[^\s\u001c-\u001f\u0085]"


def _has_text(text: str) -> str:
    if not text.strip():
        raise ValueError("blank")
    return text


def text_type(max_chars: int) -> Any:
    """Return pydantic's type of a text that the model can read: not blank, of at most so many characters."""
    return Annotated[
        str,
        Field(min_length=1, max_length=max_chars, json_schema_extra={"pattern": HAS_TEXT}),
        AfterValidator(_has_text),
    ]


TEXT, LIST = "<text>", "<list>"  # tags, see `_is_tag`


def one_or_list(one: Any, several: Any) -> Any:
    """Return pydantic's type of what may be a list, so that errors are of the one that was given."""
    return Annotated[
        Annotated[one, Tag(TEXT)] | Annotated[several, Tag(LIST)],
        Discriminator(lambda value: LIST if isinstance(value, list) else TEXT),
    ]


class Schemas:
    """The models of requests, as the limits of a service make them.

    Args:
        serving: the limits of the service.
        generation: the defaults of the service.
        vocab_size: of the model; token ids are below it.

    Attributes:
        Invocation: `{"data": …, "parameters": {…}}`, SageMaker's.
        TitlesRequest: the request of /v1/titles.
        Parameters: generation options, all of them optional.
    """

    def __init__(self, serving: ServingConfig, generation: GenerationConfig, vocab_size: int) -> None:
        self._generation = generation
        self._names: dict[str, str] = {}
        self._fields = {
            field.name: field for field in dataclasses.fields(GenerationConfig) if field.name not in _NOT_OF_A_REQUEST
        }
        text = text_type(serving.max_chars)
        texts = Annotated[list[text], Field(min_length=1, max_length=serving.max_texts)]  # type: ignore[valid-type]
        both = one_or_list(text, texts)
        hints = typing.get_type_hints(GenerationConfig)
        options: dict[str, Any] = {}
        for name, field in self._fields.items():
            limits = dict(RANGES.get(name, {}))
            if (limited := _LIMITED_AS.get(name, name)) in LIMITS:
                limits["le"] = getattr(serving, LIMITS[limited])
            hint = _json_type(hints[name], limits, vocab_size)
            default = getattr(generation, name)
            self._names[name] = name
            options[name] = (hint, Field(default=default, description=field.metadata["help"]))
            for alias in field.metadata["aliases"]:
                self._names[alias] = name
                about = f"the same as {name}"
                options[alias] = (hint, Field(default=default, description=about, deprecated=True))
        # An option by two of its names is refused, as the schema says.
        twice: list[Any] = [
            {"not": {"required": [name, alias]}} for alias, name in self._names.items() if alias != name
        ]
        config = ConfigDict(**STRICT, json_schema_extra={"allOf": twice})
        self.Parameters: type[BaseModel] = create_model("Parameters", __config__=config, **options)
        # Any name has the right type: which ones there are changes while the service runs.
        named = "adapter to write with, of those that /v1/model lists now; any other is answered 422, unknown_adapter"
        adapter: Any = (str | None, Field(default=None, max_length=200, description=named))
        parameters = (self.Parameters, Field(default_factory=self.Parameters, description="generation options"))
        self.Invocation: type[BaseModel] = create_model(
            "Invocation",
            __config__=STRICT,
            data=(both, Field(description="a text, or a list of texts")),
            adapter=adapter,
            parameters=parameters,
        )
        self.TitlesRequest: type[BaseModel] = create_model(
            "TitlesRequest",
            __config__=STRICT,
            text=(both, Field(description="a text, or a list of texts")),
            adapter=adapter,
            parameters=parameters,
            stream=(bool, Field(default=False, description="answer a text by server-sent events, as the title grows")),
            timeout=(
                float,
                Field(default=serving.timeout, gt=0, le=serving.timeout, description="seconds the answer may take"),
            ),
        )

    def config(self, parameters: BaseModel) -> GenerationConfig:
        """Return the service's options with those of a request. Raises ServiceError if they exclude each other."""
        return self.config_over(parameters.model_dump(exclude_unset=True), "parameters")

    def config_over(self, options: Mapping[str, Any], field: str | None) -> GenerationConfig:
        """Return the service's options with these over them, under any of their names; errors name the field."""
        values: dict[str, Any] = {}
        for given, value in options.items():
            name = self._names[given]
            if name in values:
                raise ServiceError(422, "invalid_options", f"{name} is given twice, also as {given}", field)
            values[name] = tuple(value) if isinstance(value, list) else value
        try:
            return GenerationConfig.over(dataclasses.asdict(self._generation), **values)
        except OptionError as error:
            raise ServiceError(422, "invalid_options", str(error), field) from None

    def describe(self) -> dict[str, dict[str, Any]]:
        """Return the default, bounds and meaning of every generation option, as a JSON schema."""
        properties = self.Parameters.model_json_schema()["properties"]
        found = {}
        for name in self._fields:
            schema = {key: value for key, value in properties[name].items() if key not in ("default", "title")}
            found[name] = {**schema, "default": getattr(self._generation, name)}
        return found


def _json_type(hint: Any, limits: dict[str, Any], vocab_size: int) -> Any:
    """Return pydantic's type for a field's: lists for tuples, and token ids within the vocabulary."""
    if isinstance(hint, types.UnionType):
        return _json_type(typing.get_args(hint)[0], limits, vocab_size) | None
    if typing.get_origin(hint) is tuple:
        item = _json_type(int, {"ge": 0, "lt": vocab_size}, vocab_size)
        return Annotated[list[item], Field(**limits)]  # type: ignore[valid-type]
    if hint is int:
        return Annotated[int, Field(**limits), BeforeValidator(whole)]
    return Annotated[hint, Field(**limits)]


def whole(value: Any) -> Any:
    """Return 4 for 4.0, which is an integer in JSON, too."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def inline_schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return the JSON schema of a request without references, whose targets an OpenAPI document has elsewhere."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})

    def inlined(value: Any) -> Any:
        if isinstance(value, list):
            return list(map(inlined, value))
        if not isinstance(value, dict):
            return value
        referred = definitions[value["$ref"].rpartition("/")[2]] if "$ref" in value else {}
        rest = {key: each for key, each in value.items() if key != "$ref"}
        return {key: inlined(each) for key, each in {**referred, **rest}.items()}

    found: dict[str, Any] = inlined(schema)
    return found


def validate(model: type[BaseModel], value: Any) -> Any:
    """Return the model of a request. Raises ServiceError for the first thing that is wrong."""
    _refuse_many_keys(model, value)
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise _service_error(error) from None


def _refuse_many_keys(model: Any, value: Any, prefix: str = "") -> None:
    """Refuse more keys than there are fields: pydantic would take long to list all that are unknown."""
    if not isinstance(value, dict):
        return
    fields = model.model_fields
    if len(value) > len(fields):
        code = "unknown_option" if prefix else "unknown_field"
        key = next(key for key in value if key not in fields)[:100].encode("utf-8", "replace").decode()
        raise ServiceError(422, code, _MESSAGES[code], prefix + key)
    if "parameters" in fields:
        _refuse_many_keys(fields["parameters"].annotation, value.get("parameters"), "parameters.")


# pydantic's types of errors, and our codes. Any other is a wrong type.
_CODES = {
    "missing": "missing_field",
    "extra_forbidden": "unknown_field",
    "value_error": "empty_text",
    "string_too_short": "empty_text",
    "string_too_long": "text_too_long",
    "string_unicode": "invalid_unicode",
    "too_short": "empty_list",
    "too_long": "too_many_texts",
    "greater_than": "out_of_range",
    "greater_than_equal": "out_of_range",
    "less_than": "out_of_range",
    "less_than_equal": "out_of_range",
    "finite_number": "out_of_range",
    "unsupported_value": "unsupported_value",
    "missing_user_message": "missing_user_message",
    "int_parsing_size": "out_of_range",
}
_TEXT_FIELDS = ("data", "text", "messages")
_CODES_OF_OPTIONS = {  # of all other fields
    "text_too_long": "out_of_range",
    "too_many_texts": "out_of_range",
}
_MESSAGES = {
    "missing_field": "the field is missing",
    "unknown_field": "there is no such field",
    "unknown_option": "there is no such generation option",
    "empty_text": "the text is empty",
    "invalid_unicode": "the text has half of a surrogate pair",
    "empty_list": "the list of texts is empty",
}


def _service_error(error: ValidationError) -> ServiceError:
    first = error.errors(include_url=False, include_input=False)[0]
    path = [part for part in map(str, first["loc"]) if not _is_tag(part)]
    code = _CODES.get(first["type"], "wrong_type")
    if path and path[0] not in _TEXT_FIELDS:
        code = _CODES_OF_OPTIONS.get(code, code)
    if path[:1] == ["parameters"] and code == "unknown_field":
        code = "unknown_option"
    message = _MESSAGES.get(code, _sentence(first["msg"]))
    if first["type"] == "model_type":
        message = "it must be a JSON object"
    return ServiceError(422, code, message, ".".join(path)[:100] or None)


def _is_tag(part: str) -> bool:
    """Return whether a part of an error's path is the name of a union's member, and no field of the request."""
    return part.startswith("<") and part.endswith(">")


def _sentence(message: str) -> str:
    return message[0].lower() + message[1:]


class Title(BaseModel):
    """A title with its score; the best one is the highest."""

    title: str
    score: float | None = Field(
        description="sum(log_probs) / length ** length_penalty; null where no title was possible"
    )
    tokens: int = Field(description="tokens of the title")


class Result(BaseModel):
    """The titles of one text, best first."""

    titles: list[Title]
    source_tokens: int = Field(description="tokens of the text that the model read")
    truncated: bool = Field(description="whether the text was longer than the model reads")


class TitlesAnswer(BaseModel):
    """The answer of /v1/titles."""

    results: list[Result] = Field(description="of each text, in the order of the texts")
    seconds: float = Field(description="from the arrival of the request")


class InvocationAnswer(BaseModel):
    """SageMaker's answer."""

    result: str | list[str] = Field(description="the title of a text; of a list of texts, a list of titles")
    infer_time: str = Field(description="seconds, in a string")
    titles: list[list[Title]] | None = Field(
        default=None, description="all titles of each text, where num_return_sequences is above 1"
    )


class ModelAnswer(BaseModel):
    """The answer of /v1/model: the model and its prompt, the limits and the generation options."""

    model: str
    max_source_length: int = Field(description="tokens of a text that the model reads")
    source_prefix: str | None = Field(description="what stands before each text; null while the model is loading")
    source_suffix: str | None = Field(description="what stands after each text; null while the model is loading")
    max_chars: int
    max_texts: int
    timeout: float
    adapters: list[str] = Field(description="adapters that a request can name")
    parameters: dict[str, dict[str, Any]] = Field(description="generation options with their defaults and bounds")


class ErrorDetail(BaseModel):
    """The error."""

    code: str = Field(description="names the reason")
    message: str
    field: str | None = None


class ErrorAnswer(BaseModel):
    """The answer if something is wrong."""

    error: ErrorDetail


class Ready(BaseModel):
    """The answer of /ping."""

    status: Literal["ready"] = "ready"
