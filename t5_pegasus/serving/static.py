"""The page and what it loads: a fixed set of files, so that no request chooses a path on the disk."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.responses import Response

_DIR = Path(__file__).parent / "page"

FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
    "/samples.json": ("samples.json", "application/json"),
}

# Nothing from other hosts, nothing inline, not inside a frame.
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def handler(path: str) -> Callable[[], Awaitable[Response]]:
    """Return the handler for a path of FILES."""
    name, media_type = FILES[path]
    content = (_DIR / name).read_bytes()

    async def answer() -> Response:
        return Response(content, headers={**_HEADERS, "Content-Type": media_type})

    return answer
