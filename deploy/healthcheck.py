#!/usr/bin/env python
"""Ask /ping of the service in this container, where it listens; exit code 0 if it answers that it is ready.

The port is that of the command, of SERVE_FLAGS or of SageMaker's variable, as `serve` and `serve.py` have it.
"""

import argparse
import http.client
import os
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path


def address(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """Return the URL of /ping for a command line and the environment of a container."""
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    parser.add_argument("--port", default=environment.get("SAGEMAKER_BIND_TO_PORT") or "8080")
    parser.add_argument("--host", default="0.0.0.0")  # noqa: S104  nothing is bound here
    flags, _ = parser.parse_known_args([*environment.get("SERVE_FLAGS", "").split(), *command])
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(flags.host, flags.host)  # noqa: S104
    return f"http://{host}:{flags.port}/ping"


def main() -> int:
    """Ask; return the exit code."""
    # Process 1 is serve.py itself, or what `docker run --init` puts before it.
    command = Path("/proc/1/cmdline").read_bytes().decode(errors="replace").split("\0")
    url = address(command, os.environ)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=4):
            return 0
    except (OSError, ValueError, http.client.HTTPException) as error:  # the last two for an address that is none
        print(f"{url}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
