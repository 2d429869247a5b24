"""What a client is told when something is wrong: a status, a code for programs, a sentence for people."""

from typing import Any


class ServiceError(Exception):
    """An answer other than the one asked for.

    Args:
        status: of HTTP.
        code: names the reason; clients may rely on it.
        message: says it, without the text of the request.
        field: what the request has wrong, such as "parameters.num_beams".
        headers: further headers of the answer.
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
