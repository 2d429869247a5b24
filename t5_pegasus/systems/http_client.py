"""Asks our own service over HTTP, with a bearer key where it wants one; of the standard library alone."""

import http.client
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Any

from ..errors import OptionError, PegasusError
from ..text.lines import read_lines

LOCAL = "http://127.0.0.1:8080"
LONGEST_TIMEOUT = 1e6  # seconds; the system has a limit of its own, and an error for it that names no flag
_TRIES = 5  # of a request that a busy service turns away
_LONGEST_PAUSE = 30.0  # seconds

Send = Callable[[dict[str, Any]], dict[str, Any]]


def over_http(url: str, api_key_file: str | None, timeout: float) -> Send:
    """Return a function that asks the service at an address. A busy service is asked again after the time it names.

    The function raises PegasusError where the service cannot be reached or refuses. OptionError is raised for an
    address that is none, and for a key that no header can have.
    """
    host = host_of(url)
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    if api_key_file:
        keys = [line.strip() for line in read_lines(api_key_file) if line.strip()]
        if not keys:
            raise OptionError(f"api_key_file must hold a key, got the empty file {api_key_file}")
        require_key(keys[0], f"api_key_file {api_key_file}")
        headers["Authorization"] = f"Bearer {keys[0]}"
    # A proxy is for other machines: this one is not to be looked for through it.
    local = host in ("127.0.0.1", "localhost", "::1")
    opener = urllib.request.build_opener(_NoRedirects, *([urllib.request.ProxyHandler({})] if local else []))

    def send(body: dict[str, Any]) -> dict[str, Any]:
        data = json.dumps(body).encode()
        request = urllib.request.Request(f"{url.rstrip('/')}/invocations", data, headers)  # noqa: S310  it is http(s)
        attempt = 0
        while True:
            attempt += 1
            try:
                with opener.open(request, timeout=timeout) as response:
                    return parse_answer(response.read())
            except urllib.error.HTTPError as error:
                pause = error.headers.get("Retry-After", "")
                if error.code != 503 or not pause.isdecimal() or attempt == _TRIES:
                    raise PegasusError(f"{url} answered {error.code}: {refusal(error.read())}") from error
                time.sleep(min(float(pause), _LONGEST_PAUSE))
            except (OSError, http.client.HTTPException) as error:
                reason = getattr(error, "reason", None) or error
                raise PegasusError(f"no answer from {url}: {reason}; is the service running?") from error

    return send


def host_of(url: str) -> str:
    """Return the host of an HTTP address; raises OptionError for what no request could be sent to."""
    try:
        address = urllib.parse.urlsplit(url)
        host, port = address.hostname, address.port
        (host or "").encode("idna")
    except ValueError:  # brackets, ports and names that cannot be
        host, port = None, None
    # Other characters stand in an address as %E6%96%87, and in its host as xn--….
    written = url.isascii() and url.isprintable() and " " not in url
    if not host or not written or address.scheme not in ("http", "https") or port == 0:
        raise OptionError(f"url must look like {LOCAL}, got {url}")
    return host


def require_key(key: str, where: str) -> None:
    """Raise OptionError, without the key, for one that no header can have."""
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise OptionError(f"{where} must hold a key of ASCII characters without spaces")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: the key is not for another address, and the texts would be left out."""

    def redirect_request(self, *redirect: Any) -> None:
        request, _, code, _, _, address = redirect
        raise PegasusError(f"{request.full_url} answered {code}: it is at {address} now, change --url")


def parse_answer(body: bytes) -> dict[str, Any]:
    """Return the JSON object of an answer; raises PegasusError if there is none."""
    try:
        return dict(json.loads(body))
    except (TypeError, ValueError) as error:
        raise PegasusError(f"the answer is not a JSON object: {body[:200]!r}") from error


def refusal(body: bytes) -> str:
    """Return what a refusal says, in the service's own words where it is the service's."""
    try:
        error = json.loads(body)["error"]
        field = f" ({error['field']})" if error.get("field") else ""
        return f"{error['message']}{field}"
    except (AttributeError, KeyError, TypeError, ValueError):
        return body[:200].decode(errors="replace") or "nothing"
