"""The errors of the API: a status, a code for programs, a sentence for people."""

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
