"""The service in one process: the model's life, the guards and the errors around the routes, health and metrics."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, cast

from fastapi import FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp

from .. import __version__
from ..config import ModelConfig
from ..title import AutoTitle
from . import bodies, metrics, middleware, openapi, static
from .adapters import AdapterFolder, check_folder
from .answers import Answerer
from .batcher import Batcher
from .errors import ServiceError
from .openai import OpenAI
from .options import Service
from .sagemaker import SageMaker
from .schemas import Ready, Schemas
from .titles import Titles

# Each adds its routes: what clients of one kind call.
SURFACES: tuple[type[SageMaker | Titles | OpenAI], ...] = (SageMaker, Titles, OpenAI)

_BATCH_GRACE = 30.0  # seconds beyond the timeout after which a batch is taken to hang


class App:
    """The service in one process.

    Args:
        service: its options.
        load: returns the model, in the thread that decodes; by default it loads `service.model`.
        on_loaded: called from the thread that decodes when the model is loaded, or with the error if it cannot be.

    Attributes:
        asgi: the application that a server runs.
        batcher: decodes.
    """

    def __init__(self, service: Service, load: Any = None, on_loaded: Any = lambda error: None) -> None:
        self.service, self.serving = service, service.serving
        self.metrics = metrics.Metrics()
        self.batcher = Batcher(
            load or (lambda: AutoTitle.load(**service.model._asdict())),
            service.data,
            self.serving.batch_wait_ms / 1000,
            self.serving.max_queue,
            self.metrics,
            on_loaded,
            AdapterFolder(check_folder(self.serving.adapters), service.model.ignore_base_hash),
        )
        vocab_size = ModelConfig.load(service.model.model_dir).vocab_size
        self.schemas = Schemas(self.serving, service.generation, vocab_size)
        seconds = min(self.serving.body_timeout, self.serving.timeout)
        self.bodies = bodies.Bodies(self.serving.max_body_bytes, seconds)
        self.is_draining = False
        api = FastAPI(
            title="T5-PEGASUS",
            version=__version__,
            description="Titles for Chinese texts.",
            docs_url=None,  # its pages load scripts from elsewhere
            redoc_url=None,
            redirect_slashes=False,
            lifespan=self._lifespan,
        )
        self._add_routes(api)
        api.add_exception_handler(ServiceError, _on_service_error)
        api.add_exception_handler(HTTPException, _on_http_error)
        api.add_exception_handler(bodies.ClientGoneError, _on_client_gone)
        api.add_exception_handler(Exception, _on_failure)
        self.asgi = middleware.Observe(self._guard(api), self.metrics)

    def drain(self) -> None:
        """Answer what is in progress and what still comes over open connections, and let these end."""
        self.is_draining = self.asgi.is_draining = True

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        self.batcher.start()
        yield
        await asyncio.to_thread(self.batcher.close)

    def _guard(self, api: FastAPI) -> ASGIApp:
        """Return the application behind the check of keys and, if an origin is allowed, CORS."""
        open_paths = frozenset({"/ping", "/openapi.json", *static.FILES})
        roomy = middleware.KeepRoom(api, frozenset({"/ping"}))
        guarded: ASGIApp = middleware.RequireKey(roomy, self.service.api_keys, open_paths)
        if self.serving.allow_origin is None:
            return guarded
        return CORSMiddleware(  # outside the check: a preflight has no key
            guarded,
            allow_origins=[self.serving.allow_origin],
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-Request-ID"],
            expose_headers=["Retry-After", "X-Request-ID"],
        )

    def _add_routes(self, api: FastAPI) -> None:
        answerer = Answerer(self.batcher, self.serving.log_text)
        api.add_api_route(
            "/ping",
            self.ping,
            methods=["GET"],
            response_model=Ready,
            responses={503: openapi.ERRORS[503]},
            tags=["SageMaker"],
        )
        for surface in SURFACES:
            surface(self.service, self.schemas, self.bodies, answerer).add_routes(api)
        api.add_api_route(
            "/metrics",
            self.show_metrics,
            methods=["GET"],
            response_class=PlainTextResponse,
            responses=openapi.NEEDS_KEY,
        )
        for path in static.FILES:
            api.add_api_route(path, static.handler(path), methods=["GET"], include_in_schema=False)

    async def ping(self) -> Ready:
        """Return 200 if the model answers, else 503."""
        if self.is_draining:
            raise ServiceError(503, "draining", "the service is being stopped")
        if self.batcher.is_stuck(self.serving.timeout + _BATCH_GRACE):
            raise ServiceError(503, "stuck", "the model has not answered for long")
        self.batcher.ready()
        return Ready()

    async def show_metrics(self) -> Response:
        """Return the metrics in Prometheus's text format."""
        return Response(self.metrics.render(), media_type=metrics.CONTENT_TYPE)


async def _on_service_error(request: Request, error: Exception) -> Response:
    error = cast(ServiceError, error)
    request.scope["state"]["log"]["code"] = error.code
    return middleware.error_response(error, request.scope["path"])


_HTTP_ERRORS = {404: ("not_found", "there is nothing here"), 405: ("method_not_allowed", "not by this method")}


async def _on_http_error(request: Request, error: Exception) -> Response:
    error = cast(HTTPException, error)
    code, message = _HTTP_ERRORS.get(error.status_code, ("http_error", "the request cannot be answered"))
    told = ServiceError(error.status_code, code, message, headers=dict(error.headers or {}))
    return middleware.error_response(told, request.scope["path"])


async def _on_client_gone(request: Request, error: Exception) -> Response:
    return Response(status_code=middleware.CLIENT_GONE)  # for the log: nobody reads it


async def _on_failure(request: Request, error: Exception) -> Response:
    return middleware.error_response(middleware.internal_error(), request.scope["path"])
