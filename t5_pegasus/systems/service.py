"""Our own service, by its address: `serve.py` here or anywhere."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from ..config import GenerationConfig, option, require, require_at_least
from ..errors import PegasusError
from .http_client import LOCAL, LONGEST_TIMEOUT, over_http
from .protocol import LocalSystem, Text, Written
from .spec import Spec, check_known, converted


@dataclasses.dataclass(frozen=True)
class ServiceConfig:
    """The options of `service` beside those of generation."""

    api_key_file: str | None = option(None, "file with the key that the service asks for")
    timeout: float = option(120.0, "seconds to wait for an answer")
    texts_per_request: int = option(16, "texts that are sent together")

    def __post_init__(self) -> None:
        """Raise OptionError for a time that is no time, and for requests without a text."""
        rule = f"timeout must be above 0 and at most {LONGEST_TIMEOUT:g} seconds"
        require(0 < self.timeout <= LONGEST_TIMEOUT, rule, self.timeout)
        require_at_least(self, 1, "texts_per_request")


class Service(LocalSystem):
    """Titles of a service; its time is what a client sees, and its memory is its own.

    Which model the service has is not known here: its titles are kept by its address. Give the system another name, or
    the comparison another output folder, if another model is served there.
    """

    runs_here = False

    def __init__(self, spec: Spec) -> None:
        check_known(spec.options, ServiceConfig, GenerationConfig)
        self._config = ServiceConfig(**converted(ServiceConfig, spec.options))
        self._parameters = converted(GenerationConfig, spec.options)
        self._url = spec.target or LOCAL
        self._name = spec.name
        self._send = over_http(self._url, self._config.api_key_file, self._config.timeout)
        self.chunk_size = self._config.texts_per_request

    def identity(self) -> dict[str, Any]:
        """Return the address, the name and the options sent."""
        return {"kind": "service", "url": self._url, "name": self._name, "parameters": self._parameters}

    def write(self, texts: Sequence[Text], start: int) -> list[Written]:
        """Return the titles that the service answers."""
        body: dict[str, Any] = {"data": [text.content for text in texts]}
        if self._parameters:
            body["parameters"] = self._parameters
        titles = self._send(body).get("result")
        if not isinstance(titles, list) or len(titles) != len(texts):
            raise PegasusError(
                f"{self._url} must answer a title for each of {len(texts)} texts, got {str(titles)[:80]}"
            )
        return [Written(" ".join(str(title).split())) for title in titles]
