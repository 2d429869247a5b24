"""Any endpoint that speaks OpenAI's chat completions, through the official client.

The address and the key come from OPENAI_BASE_URL and OPENAI_API_KEY; the key is in no file and no message of ours. The
client repeats a request after 429, 5xx and lost connections, later each time, or when the endpoint says.
"""

import concurrent.futures
import dataclasses
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..config import option, require, require_at_least, require_finite, require_positive
from ..data.examples import read_examples
from ..errors import DataError, OptionError, PegasusError
from ..files import READ_ERRORS, open_text, read_error
from .http_client import host_of, require_key
from .protocol import LocalSystem, Text, Written
from .spec import Spec, make_config

PROMPTS_DIR = Path(__file__).resolve().parent / "prompts"
_PROMPTS = {"zh": "zh", "en": "english"}  # the template of a language
_MOST_TRIES = 20
_REASONING = re.compile(r"<think>.*?</think>", re.DOTALL)


def prompt_names() -> list[str]:
    """Return the names of the templates that come with this package."""
    return sorted(path.stem for path in PROMPTS_DIR.glob("*.txt"))


@dataclasses.dataclass(frozen=True)
class ChatConfig:
    """The options of `openai`. Prices are for a million tokens."""

    prompt: str | None = option(
        None, "a template of systems/prompts/ by its name, or a .txt file with {text} in it; that of the language"
    )
    length: int = option(20, "the {length} of the template: characters or words asked for")
    examples: str | None = option(None, "pairs to show before each text")
    shots: int = option(3, "how many of the examples are shown, the first ones")
    temperature: float = option(0.0, "0 is the likeliest title")
    max_tokens: int = option(256, "longest answer, in tokens")
    concurrency: int = option(4, "requests under way at once")
    timeout: float = option(60.0, "seconds to wait for an answer")
    tries: int = option(6, "of a request that fails for a reason that may pass")
    input_price: float | None = option(None, "of tokens read")
    output_price: float | None = option(None, "of tokens written")
    base_url: str | None = option(None, "address of the endpoint; else OPENAI_BASE_URL")

    def __post_init__(self) -> None:
        """Raise OptionError for a value out of range, and for half a price."""
        require_at_least(self, 1, "length", "shots", "max_tokens", "concurrency", "tries")
        require(self.tries <= _MOST_TRIES, f"tries must be at most {_MOST_TRIES}", self.tries)
        require_at_least(self, 0, "temperature", "input_price", "output_price")
        require_finite(self, "temperature", "input_price", "output_price")
        require_positive(self, "timeout")
        require(
            (self.input_price is None) == (self.output_price is None),
            "input_price and output_price go together",
            self.input_price or self.output_price,
        )


class OpenAIChat(LocalSystem):
    """A model behind an endpoint: a conversation for each text, with examples before it if any are given."""

    runs_here = False

    def __init__(self, spec: Spec) -> None:
        if not spec.target:
            raise OptionError("openai needs a model: openai:MODEL?prompt=zh")
        self._model = spec.target
        self._config = config = make_config(ChatConfig, spec.options)
        self._template = read_template(config.prompt or _PROMPTS[spec.language])
        self.asked_length = config.length if "{length}" in self._template else None
        self._examples: list[dict[str, str]] = []
        if config.examples is not None:
            pairs = list(read_examples(config.examples))
            require(len(pairs) >= config.shots, f"{config.examples} must have {config.shots} examples", len(pairs))
            for pair in pairs[: config.shots]:
                self._examples.append({"role": "user", "content": self._prompt(pair.content)})
                self._examples.append({"role": "assistant", "content": pair.title})
        self._client = _make_client(config)
        self.chunk_size = 2 * config.concurrency

    def identity(self) -> dict[str, Any]:
        """Return the model, the address and everything that is sent but the texts."""
        config = self._config
        return {
            "kind": "openai",
            "model": self._model,
            "base_url": str(self._client.base_url),
            "template": self._template,
            "length": config.length,
            "examples": self._examples,
            "temperature": config.temperature,
            "max_tokens": config.max_tokens,
        }

    def write(self, texts: Sequence[Text], start: int) -> list[Written]:
        """Return the answers, `concurrency` at a time; raises PegasusError for one that does not come."""
        with concurrent.futures.ThreadPoolExecutor(self._config.concurrency) as pool:
            return list(pool.map(lambda text: self._ask(text.content), texts))

    def cost(self, written: Sequence[Written]) -> float | None:
        """Return the price of all tokens read and written."""
        config = self._config
        if config.input_price is None or config.output_price is None:
            return None
        read, wrote = sum(each.input_tokens for each in written), sum(each.output_tokens for each in written)
        return (read * config.input_price + wrote * config.output_price) / 1e6

    def _prompt(self, content: str) -> str:
        # Not str.format: a text may have braces of its own.
        return self._template.replace("{length}", str(self._config.length)).replace("{text}", content)

    def _ask(self, content: str) -> Written:
        import openai

        try:
            answer = self._client.chat.completions.create(
                model=self._model,
                messages=[*self._examples, {"role": "user", "content": self._prompt(content)}],
                temperature=self._config.temperature,
                max_tokens=self._config.max_tokens,
            )
        except openai.OpenAIError as error:
            raise PegasusError(f"openai:{self._model} at {self._client.base_url}: {_reason(error)}") from None
        if not answer.choices:
            return Written("", refused=True)
        choice = answer.choices[0]
        text = _REASONING.sub("", choice.message.content or "")
        refused = bool(getattr(choice.message, "refusal", None)) or choice.finish_reason == "content_filter"
        usage = answer.usage
        return Written(
            "" if refused else clean_title(text),
            refused,
            usage.prompt_tokens if usage else 0,
            usage.completion_tokens if usage else 0,
        )


def clean_title(text: str) -> str:
    """Return an answer as a title: one line, without quotation marks around it and 标题： or Title: before it."""
    title = " ".join(text.split())
    title = re.sub(r"^(?:标题|总结|摘要|title|summary)\s*[:：]\s*", "", title, flags=re.IGNORECASE)
    match = re.fullmatch(r"[“\"「『《](?P<inner>[^“”\"「」『』《》]*)[”\"」』》]", title)
    return match["inner"] if match else title


def read_template(prompt: str) -> str:
    """Return the template of that name, or of a file; raises DataError for one that is missing or has no {text}."""
    path = Path(prompt) if prompt.endswith(".txt") else PROMPTS_DIR / f"{Path(prompt).name}.txt"
    if not path.is_file():
        raise DataError(f"prompt must be one of {', '.join(prompt_names())} or a .txt file, got {prompt}")
    try:
        with open_text(path) as file:
            template = file.read().strip()
    except READ_ERRORS as error:
        raise read_error(path, error) from error
    if "{text}" not in template:
        raise DataError(f"a prompt must have {{text}} where the text goes, got none in {path}")
    return template


def _make_client(config: ChatConfig) -> Any:
    """Return the official client; raises OptionError without it, without a key, and for an address that is none."""
    try:
        import openai
    except ImportError as error:
        raise OptionError("openai is not installed: `pip install '.[compare]'`") from error
    if not os.environ.get("OPENAI_API_KEY"):
        raise OptionError("OPENAI_API_KEY must hold the key of the endpoint (any word where none is asked for)")
    require_key(os.environ["OPENAI_API_KEY"], "OPENAI_API_KEY")
    address = config.base_url or os.environ.get("OPENAI_BASE_URL") or None
    if address:
        host_of(address)
    return openai.OpenAI(base_url=address, timeout=config.timeout, max_retries=config.tries - 1)


def _reason(error: Exception) -> str:
    """Return why a request failed, without the key, which some endpoints repeat."""
    body = getattr(error, "body", None)
    said = body.get("message") if isinstance(body, dict) else None
    reason = " ".join(str(said or error).split())[:200]
    return reason.replace(os.environ.get("OPENAI_API_KEY") or "\0", "***")
