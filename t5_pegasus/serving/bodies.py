"""Read what a client sends: within limits of bytes and seconds, of a known content type, as UTF-8 text, as JSON.

And in which content type it is to be answered.
"""

import asyncio
import codecs
import json
from collections.abc import Collection, Sequence
from typing import Any

from starlette.requests import Request

from .errors import ServiceError

# Bytes of all bodies that are being read, and the least that one takes: the server's buffer for it.
_MOST_BYTES = 2**27
_BUFFER = 2**16


def media_type(request: Request, known: Collection[str], default: str) -> str:
    """Return the content type of a request, without parameters; `default` if it names none.

    Raises ServiceError for one that is not in `known`, for a character set other than UTF-8 and for a compressed body.
    """
    header = request.headers.get("content-type", "")
    name, *parameters = (part.strip().lower() for part in header.split(";"))
    name = name or default
    if name not in known:
        message = f"the content type must be {' or '.join(known)}"
        raise ServiceError(415, "unsupported_content_type", message)
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "charset" and not _is_utf8(value.strip(' "')):
            raise ServiceError(415, "unsupported_charset", "the text must be in UTF-8")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise ServiceError(415, "unsupported_content_encoding", "the body must not be compressed")
    return name


def _is_utf8(charset: str) -> bool:
    try:
        return codecs.lookup(charset).name in ("utf-8", "ascii")
    except (LookupError, ValueError):
        return False


def preferred_type(accept: str, offers: Sequence[str]) -> str | None:
    """Return the content type to answer in; None if a client accepts none of `offers`.

    By RFC 9110, 12.5.1: the most specific range says the quality of a type, and 0 excludes it. Of equal quality the one
    named first in the header is taken; where a range with * names several, the first in `offers`.
    """
    ranges: list[tuple[str, float]] = []
    for part in filter(str.strip, accept.split(",")):
        name, *parameters = (each.strip().lower() for each in part.split(";"))
        weights = [_quality(each.partition("=")[2]) for each in parameters if each.partition("=")[0].strip() == "q"]
        ranges.append((name, weights[0] if weights else 1.0))
    if not ranges:
        return offers[0]
    names = [name for name, _ in ranges]
    best, best_key = None, (0.0, -len(names))
    for offer in offers:
        patterns = (offer, f"{offer.partition('/')[0]}/*", "*/*")
        matching = [names.index(pattern) for pattern in patterns if pattern in names]
        if matching and ranges[matching[0]][1] > 0:
            key = (ranges[matching[0]][1], -matching[0])
            if key > best_key:
                best, best_key = offer, key
    return best


def _quality(text: str) -> float:
    """Return the weight of a range; 0 if it is none."""
    try:
        return min(1.0, max(0.0, float(text)))
    except ValueError:
        return 0.0


class Bodies:
    """Reads the bodies of requests, as many at once as fit into a fixed amount of memory.

    Args:
        max_bytes: the most bytes of a body.
        seconds: the most seconds that a body may take.
    """

    def __init__(self, max_bytes: int, seconds: float) -> None:
        self._max_bytes, self._seconds = max_bytes, seconds
        self._room = max(_MOST_BYTES, 2 * max_bytes)

    async def read_text(self, request: Request) -> str:
        """Return the body of a request, with or without a byte order mark.

        Raises ServiceError for a body of more than `max_bytes`, as soon as that is known, for one that takes more than
        `seconds`, for which there is no room beside others, or that is not UTF-8; ClientGoneError if the connection is
        closed before its end.
        """
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length[:19]) > self._max_bytes:
            raise self._too_large()
        body, taken = bytearray(), 0
        try:
            async with asyncio.timeout(self._seconds):
                more = True
                while more:
                    self._room -= _BUFFER + len(body) - taken
                    taken = _BUFFER + len(body)
                    if self._room < 0:
                        reason = "too many requests are being read; try again"
                        raise ServiceError(503, "busy", reason, headers={"Retry-After": "1"})
                    message = await request.receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGoneError
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > self._max_bytes:
                        raise self._too_large()
        except TimeoutError:
            reason = f"the body did not come within {self._seconds:g} seconds"
            raise ServiceError(408, "body_timeout", reason, headers={"Connection": "close"}) from None
        finally:
            self._room += taken
        try:
            return body.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ServiceError(400, "invalid_utf8", f"the body is not UTF-8 at byte {error.start}") from None

    def _too_large(self) -> ServiceError:
        return ServiceError(413, "body_too_large", f"the body must be at most {self._max_bytes} bytes")


class ClientGoneError(Exception):
    """The client has closed the connection, and nobody waits for an answer."""


def parse_json(text: str) -> Any:
    """Return the value of a JSON text. Raises ServiceError if it is not JSON, and for NaN and Infinity."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        message = f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        raise ServiceError(400, "invalid_json", message) from None
    except ValueError:  # an integer of thousands of digits
        raise ServiceError(400, "invalid_json", "the body has a number that cannot be read") from None
    except RecursionError:
        raise ServiceError(400, "invalid_json", "the body is nested too deeply") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(name)
