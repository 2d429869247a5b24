"""What happens to every request: its key is checked, it is counted and logged, and answered even if the code fails."""

import asyncio
import hashlib
import hmac
import re
import time
import uuid
from collections.abc import Sequence
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import CHAT_PATH, ENDPOINTS_PATH, MODELS_PATH, ServiceError, to_openai, to_sagemaker
from .logs import logger
from .metrics import Metrics

CROWDED = "crowded"  # in the state of requests over a connection that is one too many
CLIENT_GONE = 499  # the status in logs and metrics of an answer that nobody waited for

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def error_response(error: ServiceError, path: str) -> JSONResponse:
    """Return the response that reports an error to who has asked for a path."""
    if path == CHAT_PATH or path.startswith(MODELS_PATH):
        status, body = to_openai(error)
    else:
        status, body = error.status, to_sagemaker(error) if path.startswith(ENDPOINTS_PATH) else error.to_dict()
    return JSONResponse(body, status, error.headers)


class Observe:
    """Logs and counts requests, gives each an id, and turns an exception that nobody caught into a plain 500.

    HEAD is answered as GET; the server leaves the body out. Handlers may add fields to the request's line of the log
    through `scope["state"]["log"]`.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics
        self.is_draining = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, method = time.perf_counter(), scope["method"]
        if method == "HEAD":
            scope = {**scope, "method": "GET"}
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        fields: dict[str, Any] = {}
        scope.setdefault("state", {})["log"] = fields
        status = 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                headers["X-Content-Type-Options"] = "nosniff"
                if self.is_draining or scope["state"].get(CROWDED):
                    headers["Connection"] = "close"
            await send(message)

        self._metrics.in_progress.inc()
        try:
            await self._app(scope, receive, watched)
        except asyncio.CancelledError:  # the service ends, and the client has not taken its answer
            status = CLIENT_GONE
        except Exception as error:
            logger.error("request failed", exc_info=error, extra={"fields": {"request_id": request_id}})
            if not status:
                await error_response(internal_error(), scope["path"])(scope, receive, watched)
            status = 500
        finally:
            seconds = time.perf_counter() - start
            route = getattr(scope.get("route"), "path", "unknown")
            self._metrics.in_progress.dec()
            self._metrics.requests.labels(route, status).inc()
            self._metrics.request_seconds.labels(route).observe(seconds)
            line = {
                "request_id": request_id,
                "method": method if route != "unknown" else None,
                "route": route,
                "status": status,
                "seconds": round(seconds, 4),
                **fields,
            }
            logger.info("request", extra={"fields": line})


def internal_error() -> ServiceError:
    """Return the error for a fault of ours; the response does not name its cause."""
    return ServiceError(500, "internal", "the service failed; its log says why")


class KeepRoom:
    """Refuses requests over connections that are too many, but for those for some paths.

    Args:
        app: the application behind.
        open_paths: are answered always.
    """

    def __init__(self, app: ASGIApp, open_paths: frozenset[str]) -> None:
        self._app, self._open_paths = app, open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http" or not scope["state"].get(CROWDED) or scope["path"] in self._open_paths:
            await self._app(scope, receive, send)
            return
        message = "there are too many connections; try again"
        error = ServiceError(503, "too_many_connections", message, headers={"Retry-After": "1"})
        await error_response(error, scope["path"])(scope, receive, send)


class RequireKey:
    """Lets requests pass that have one of the keys, and those for paths that are open to all.

    Args:
        app: the application behind.
        keys: one of them must be in `Authorization: Bearer …`; without keys every request passes.
        open_paths: need no key.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[str], open_paths: frozenset[str]) -> None:
        self._app, self._open_paths = app, open_paths
        # Digests, so that the time of a comparison does not depend on a key or its length.
        self._digests = [_digest(key.encode()) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http" or not self._digests or scope["path"] in self._open_paths or self._has_key(scope):
            await self._app(scope, receive, send)
            return
        message = "a key is needed: Authorization: Bearer …"
        error = ServiceError(401, "unauthorized", message, headers={"WWW-Authenticate": "Bearer"})
        await error_response(error, scope["path"])(scope, receive, send)

    def _has_key(self, scope: Scope) -> bool:
        header = dict(scope["headers"]).get(b"authorization", b"")
        scheme, _, key = header.partition(b" ")
        given = _digest(key.strip())
        # All keys are compared, so that the time does not depend on which one it was.
        found = [hmac.compare_digest(given, digest) for digest in self._digests]
        return scheme.lower() == b"bearer" and any(found)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
