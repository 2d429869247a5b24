"""What the OpenAPI document says beyond the models in `schemas`: errors, bodies by content type, streams of events."""

from typing import Any

from .schemas import ErrorAnswer

Responses = dict[int | str, dict[str, Any]]

ERRORS: Responses = {
    status: {"model": ErrorAnswer, "description": description}
    for status, description in (
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
NEEDS_KEY: Responses = {401: ERRORS[401]}

STRING = {"schema": {"type": "string"}}

EVENT = {  # of each event of the stream
    "schema": {
        "type": "object",
        "required": ["event", "data"],
        "properties": {
            "event": {"enum": ["title", "done", "error"]},
            "data": {"type": "string", "description": "JSON: a Title, a TitlesAnswer or an ErrorAnswer"},
        },
    }
}


def request_body(schemas: dict[str, Any]) -> dict[str, Any]:
    """Return the description of a request's body from the JSON schemas of its content types."""
    content = {media_type: {"schema": schema} for media_type, schema in schemas.items()}
    return {"requestBody": {"required": True, "content": content}}
