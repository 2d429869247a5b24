"""Ask a service for titles: `python deploy/client.py "正文……"`, of a file with `--input_file`, or of standard input.

The service is one of `serve.py`, on this machine if no `--url` is given; or a SageMaker endpoint, by
`--endpoint_name`.
"""

import contextlib
import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from t5_pegasus import cli
from t5_pegasus.config import GenerationConfig
from t5_pegasus.data.examples import read_texts
from t5_pegasus.errors import DataError, OptionError, PegasusError
from t5_pegasus.systems.http_client import LOCAL, LONGEST_TIMEOUT, Send, over_http, parse_answer, refusal


def main(argv: Sequence[str] | None = None) -> int:
    """Read texts and print their titles in the same order, a line each."""
    parser = cli.make_parser("Ask a service for titles. Generation options that are not given are the service's own.")
    parser.add_argument("text", nargs="?", help="a text; without it --input_file or standard input is read")
    parser.add_argument("--input_file", help="texts to read: .txt, .tsv, .csv, .json, .jsonl, .xlsx, also .gz")
    parser.add_argument("--text_column", help="column of the text; found by its usual names if not given")
    parser.add_argument("--url", help=f"address of a service; {LOCAL} if neither it nor --endpoint_name is given")
    parser.add_argument("--api_key_file", help="file with the key that the service at --url asks for")
    parser.add_argument("--endpoint_name", help="SageMaker endpoint to ask instead")
    parser.add_argument("--region", help="region of the endpoint; that of `aws configure` if not given")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds to wait for an answer")
    parser.add_argument("--texts_per_request", type=int, default=16, help="texts of a file that are sent together")
    options = [field.name for field in dataclasses.fields(GenerationConfig) if field.name != "batch_tokens"]
    cli.add_flags(parser, GenerationConfig, only=options)
    parser.set_defaults(**dict.fromkeys(options))
    flags = parser.parse_args(argv)
    cli.require_stdout()
    if flags.endpoint_name and (flags.url or flags.api_key_file):
        raise OptionError("--endpoint_name goes with neither --url nor --api_key_file")
    if flags.texts_per_request < 1:
        raise OptionError(f"texts_per_request must be at least 1, got {flags.texts_per_request}")
    if not 0 < flags.timeout <= LONGEST_TIMEOUT:
        raise OptionError(f"timeout must be above 0 and at most {LONGEST_TIMEOUT:g} seconds, got {flags.timeout:g}")
    if flags.endpoint_name:
        send = over_sagemaker(flags.endpoint_name, flags.region, flags.timeout)
    else:
        send = over_http(flags.url or LOCAL, flags.api_key_file, flags.timeout)
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
            said = error.response.get("OriginalMessage")
            reason = refusal(said.encode()) if said else str(error)
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
        return parse_answer(content)

    return send


if __name__ == "__main__":
    cli.run(main)
