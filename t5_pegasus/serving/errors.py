"""The errors of the API: a status, a code for programs, a sentence for people; in the forms that clients know."""

import json
from typing import Any


class ServiceError(Exception):
    """An error that the client receives.

    Args:
        status: HTTP status.
        code: the reason; clients may rely on it.
        message: the reason in words, without the text of the request.
        field: the field of the request that is wrong, such as "parameters.num_beams".
        headers: more headers of the answer.
    """

    def __init__(
        self, status: int, code: str, message: str, field: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.field = status, code, message, field
        self.headers = headers or {}

    def to_dict(self) -> dict[str, Any]:
        """Return the body of the answer."""
        error = {"code": self.code, "message": self.message, "field": self.field}
        return {"error": {name: value for name, value in error.items() if value is not None}}


# Where errors are in OpenAI's form, since its clients call there.
CHAT_PATH, MODELS_PATH = "/v1/chat/completions", "/v1/models"

# Our codes for which OpenAI's clients know another.
_OPENAI_CODES = {"unauthorized": "invalid_api_key", "text_too_long": "context_length_exceeded"}


def to_openai(error: ServiceError) -> tuple[int, dict[str, Any]]:
    """Return the status and body by which OpenAI's API reports an error: what is wrong in a request is always 400."""
    detail = {
        "message": error.message,
        "type": "invalid_request_error" if error.status < 500 else "server_error",
        "param": error.field,
        "code": _OPENAI_CODES.get(error.code, error.code),
    }
    return 400 if error.status == 422 else error.status, {"error": detail}


ENDPOINTS_PATH = "/endpoints/"  # of SageMaker's runtime client, which looks for the message elsewhere


def to_sagemaker(error: ServiceError) -> dict[str, Any]:
    """Return the body by which SageMaker's runtime reports an error of a model, ours within it and beside it."""
    body = error.to_dict()
    message = error.message + (f" ({error.field})" if error.field else "")
    original = json.dumps(body, ensure_ascii=False)
    return {**body, "Message": message, "OriginalStatusCode": error.status, "OriginalMessage": original}
