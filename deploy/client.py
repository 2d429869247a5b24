"""Ask a service for titles: `python deploy/client.py "正文……"`, of a file with `--input_file`, or of standard input.

The service is one of `serve.py`, on this machine if no `--url` is given; or a SageMaker endpoint, by
`--endpoint_name`.
"""

import contextlib
import dataclasses
import http.client
import json
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from t5_pegasus import cli
from t5_pegasus.config import GenerationConfig
from t5_pegasus.data.examples import read_texts
from t5_pegasus.errors import DataError, OptionError, PegasusError
from t5_pegasus.text.lines import read_lines

_LOCAL = "http://127.0.0.1:8080"
_TRIES = 5  # of a request that a busy service turns away
_LONGEST_PAUSE = 30.0  # seconds

Send = Callable[[dict[str, Any]], dict[str, Any]]


def main(argv: Sequence[str] | None = None) -> int:
    """Read texts and print their titles in the same order, a line each."""
    parser = cli.make_parser("Ask a service for titles. Generation options that are not given are the service's own.")
    parser.add_argument("text", nargs="?", help="a text; without it --input_file or standard input is read")
    parser.add_argument("--input_file", help="texts to read: .txt, .tsv, .csv, .json, .jsonl, .xlsx, also .gz")
    parser.add_argument("--text_column", help="column of the text; found by its usual names if not given")
    parser.add_argument("--url", help=f"address of a service; {_LOCAL} if neither it nor --endpoint_name is given")
    parser.add_argument("--api_key_file", help="file with the key that the service at --url asks for")
    parser.add_argument("--endpoint_name", help="SageMaker endpoint to ask instead")
    parser.add_argument("--region", help="region of the endpoint; that of `aws configure` if not given")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds to wait for an answer")
    parser.add_argument("--texts_per_request", type=int, default=16, help="texts of a file that are sent together")
    options = [field.name for field in dataclasses.fields(GenerationConfig) if field.name != "batch_tokens"]
    cli.add_flags(parser, GenerationConfig, only=options)
    parser.set_defaults(**dict.fromkeys(options))
    flags = parser.parse_args(argv)
    if flags.endpoint_name and (flags.url or flags.api_key_file):
        raise OptionError("--endpoint_name goes with neither --url nor --api_key_file")
    if flags.texts_per_request < 1:
        raise OptionError(f"texts_per_request must be at least 1, got {flags.texts_per_request}")
    if not 0 < flags.timeout < float("inf"):
        raise OptionError(f"timeout must be above 0, got {flags.timeout}")
    if flags.endpoint_name:
        send = over_sagemaker(flags.endpoint_name, flags.region, flags.timeout)
    else:
        send = over_http(flags.url or _LOCAL, flags.api_key_file, flags.timeout)
    parameters = {name: getattr(flags, name) for name in options if getattr(flags, name) is not None}
    texts = list(find_texts(flags.text, flags.input_file, flags.text_column))
    for start in range(0, len(texts), flags.texts_per_request):
        for titles in ask(send, texts[start : start + flags.texts_per_request], parameters):
            print(*titles, sep="\n", flush=True)
    return 0


def find_texts(text: str | None, input_file: str | None, text_column: str | None) -> Iterator[str]:
    """Yield the text given, else those of the file, else the lines of standard input.

    Raises OptionError where there are two sources or none, DataError for what cannot be read.
    """
    if text is not None and input_file is not None:
        raise OptionError("give a text or --input_file, not both")
    if text is not None:
        yield text
    elif input_file is not None:
        yield from (content for _, content in read_texts(input_file, text_column))
    elif sys.stdin is None or sys.stdin.isatty():
        raise OptionError("give a text, --input_file, or texts on standard input")
    else:
        for number, line in enumerate(sys.stdin.buffer, 1):
            try:
                yield line.decode("utf-8-sig").strip()
            except UnicodeDecodeError as error:
                raise DataError(f"standard input:{number}: not UTF-8, convert the text first") from error


def ask(send: Send, texts: Sequence[str], parameters: dict[str, Any]) -> list[list[str]]:
    """Return the titles of each text, best first; an empty text, which a service refuses, has the title "".

    Raises PegasusError for an answer that is none.
    """
    asked = [text for text in texts if text.strip()]
    answer = send({"data": asked, **({"parameters": parameters} if parameters else {})}) if asked else {"result": []}
    try:
        # More than one title a text stand beside the best ones, with their scores.
        several = answer.get("titles") or [[{"title": title}] for title in answer["result"]]
        found = iter([[str(title["title"]) for title in titles] for titles in several])
        return [next(found) if text.strip() else [""] for text in texts]
    except (AttributeError, KeyError, TypeError, StopIteration) as error:
        raise PegasusError(f"the answer has no title for each text: {json.dumps(answer)[:200]}") from error


def over_http(url: str, api_key_file: str | None, timeout: float) -> Send:
    """Return a function that asks the service at an address. A busy service is asked again after the time it names.

    The function raises PegasusError where the service cannot be reached or refuses.
    """
    address = urllib.parse.urlsplit(url)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise OptionError(f"url must look like {_LOCAL}, got {url}")
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    if api_key_file:
        keys = [line.strip() for line in read_lines(api_key_file) if line.strip()]
        if not keys:
            raise OptionError(f"api_key_file must hold a key, got the empty file {api_key_file}")
        headers["Authorization"] = f"Bearer {keys[0]}"
    # A proxy is for other machines: this one is not to be looked for through it.
    local = address.hostname in ("127.0.0.1", "localhost", "::1")
    opener = urllib.request.build_opener(_NoRedirects, *([urllib.request.ProxyHandler({})] if local else []))

    def send(body: dict[str, Any]) -> dict[str, Any]:
        data = json.dumps(body).encode()
        request = urllib.request.Request(f"{url.rstrip('/')}/invocations", data, headers)  # noqa: S310  it is http(s)
        attempt = 0
        while True:
            attempt += 1
            try:
                with opener.open(request, timeout=timeout) as response:
                    return _parse(response.read())
            except urllib.error.HTTPError as error:
                pause = error.headers.get("Retry-After", "")
                if error.code != 503 or not pause.isdecimal() or attempt == _TRIES:
                    raise PegasusError(f"{url} answered {error.code}: {_message(error.read())}") from error
                time.sleep(min(float(pause), _LONGEST_PAUSE))
            except (OSError, http.client.HTTPException) as error:
                reason = getattr(error, "reason", None) or error
                raise PegasusError(f"no answer from {url}: {reason}; is the service running?") from error

    return send


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: the key is not for another address, and the texts would be left out."""

    def redirect_request(self, *redirect: Any) -> None:
        request, _, code, _, _, address = redirect
        raise PegasusError(f"{request.full_url} answered {code}: it is at {address} now, change --url")


def over_sagemaker(endpoint_name: str, region: str | None, timeout: float) -> Send:
    """Return a function that asks a SageMaker endpoint; it raises PegasusError where AWS or the service refuses."""
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError as error:
        raise PegasusError("boto3 is not installed: `pip install boto3`") from error

    @contextlib.contextmanager
    def one_line_errors() -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            refusal = error.response.get("OriginalMessage")
            reason = _message(refusal.encode()) if refusal else str(error)
            raise PegasusError(f"endpoint {endpoint_name} answered: {reason}") from error
        except BotoCoreError as error:
            raise PegasusError(f"AWS: {error}") from error

    with one_line_errors():
        runtime = boto3.client("sagemaker-runtime", region_name=region, config=Config(read_timeout=timeout))

    def send(body: dict[str, Any]) -> dict[str, Any]:
        with one_line_errors():
            answer = runtime.invoke_endpoint(
                EndpointName=endpoint_name,
                ContentType="application/json",
                Accept="application/json",
                Body=json.dumps(body).encode(),
            )
            content = answer["Body"].read()
        return _parse(content)

    return send


def _parse(body: bytes) -> dict[str, Any]:
    try:
        return dict(json.loads(body))
    except (TypeError, ValueError) as error:
        raise PegasusError(f"the answer is not a JSON object: {body[:200]!r}") from error


def _message(body: bytes) -> str:
    """Return what a refusal says, in the service's own words where it is the service's."""
    try:
        error = json.loads(body)["error"]
        field = f" ({error['field']})" if error.get("field") else ""
        return f"{error['message']}{field}"
    except (AttributeError, KeyError, TypeError, ValueError):
        return body[:200].decode(errors="replace") or "nothing"


if __name__ == "__main__":
    cli.run(main)
