"""The prompt around a text, such as T5's "summarize: " before it, and the file in which a model keeps its own.

A prompt is part of a source's frame: where a text is too long, its own tokens are left out, never the prompt's.
"""

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..errors import DataError, OptionError
from ..files import atomic_text, read_json
from .protocol import Encoded, Frame, Tokenizer

PROMPT_FILE = "prompt.json"  # beside weights, in a model directory or in an exported model

_ESCAPES = {r"\n": "\n", r"\t": "\t", r"\\": "\\"}


def unescape(text: str) -> str:
    r"""Return what a flag means: `\n` is a line break, `\t` a tab and `\\` a backslash, which a shell leaves as is."""
    return re.sub(r"\\[nt\\]", lambda match: _ESCAPES[match[0]], text)


@dataclasses.dataclass(frozen=True)
class Prompt:
    """What stands before and after each text."""

    source_prefix: str = ""
    source_suffix: str = ""

    def __bool__(self) -> bool:
        """Return whether there is any text in it."""
        return bool(self.source_prefix or self.source_suffix)

    def over(self, source_prefix: str | None, source_suffix: str | None) -> "Prompt":
        """Return the prompt with another prefix, suffix or both; None keeps its own."""
        return Prompt(
            self.source_prefix if source_prefix is None else source_prefix,
            self.source_suffix if source_suffix is None else source_suffix,
        )


def read_prompt(*folders: str | Path) -> Prompt | None:
    """Return what prompt.json says in the first of some folders that has it; None if none has.

    Raises DataError if the file cannot be read or is malformed.
    """
    for folder in folders:
        path = Path(folder) / PROMPT_FILE
        try:
            values = read_json(path)
        except FileNotFoundError:
            continue
        names = [field.name for field in dataclasses.fields(Prompt)]
        texts = {name: values.get(name, "") for name in names}
        for name, text in texts.items():
            if not isinstance(text, str):
                raise DataError(f"{name} in {path} must be text, got {json.dumps(text, ensure_ascii=False)[:40]}")
        return Prompt(**texts)
    return None


def write_prompt(folder: str | Path, prompt: Prompt) -> None:
    """Write prompt.json in a folder."""
    with atomic_text(Path(folder) / PROMPT_FILE) as file:
        file.write(json.dumps(dataclasses.asdict(prompt), ensure_ascii=False, indent=2) + "\n")


def with_prompt(tokenizer: Tokenizer, prompt: Prompt) -> Tokenizer:
    """Return a tokenizer that reads every source with the prompt around it; without a prompt, the tokenizer itself."""
    return PromptedTokenizer(tokenizer, prompt) if prompt else tokenizer


class PromptedTokenizer:
    """A tokenizer whose sources have a prompt around their text.

    The ids of a source that fits are those that `tokenizer` gives to prefix, text and suffix as one text. Of a longer
    one the prefix and the beginning of the text are followed by the ids of the suffix alone. Targets have no prompt.

    Args:
        tokenizer: encodes, and has all attributes but the frame.
        prompt: what stands around each text.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Prompt) -> None:
        self._tokenizer, self._prompt = tokenizer, prompt
        self.vocab_file, self.vocab_size = tokenizer.vocab_file, tokenizer.vocab_size
        self.pad_id, self.unk_id, self.mask_id = tokenizer.pad_id, tokenizer.unk_id, tokenizer.mask_id
        self.start_id, self.end_id = tokenizer.start_id, tokenizer.end_id

    @functools.cached_property
    def frame(self) -> Frame:
        """Return the ids around a text: those of the prompt inside those of the tokenizer's own frame."""
        leading, trailing = self._tokenizer.frame
        encode = self._tokenizer.encode_prefix
        prefix, suffix = encode(self._prompt.source_prefix), encode(self._prompt.source_suffix)
        return Frame((*leading, *prefix), (*suffix, *trailing))

    @functools.cached_property
    def fingerprint(self) -> str:
        """Return a hash of the tokenizer's fingerprint and the prompt."""
        content = json.dumps([self._tokenizer.fingerprint, dataclasses.astuple(self._prompt)])
        return hashlib.sha256(content.encode()).hexdigest()

    def encode(self, text: str, max_length: int | None = None) -> list[int]:
        """Return the ids of `encode_source`."""
        return self.encode_source(text, max_length).ids

    def encode_batch(self, texts: Iterable[str], max_length: int | None = None) -> list[list[int]]:
        """Return the ids of each text; see `encode`."""
        return [self.encode(text, max_length) for text in texts]

    def encode_source(self, text: str, max_length: int | None = None, masked: bool = False) -> Encoded:
        """Return the ids of the text in its prompt, and whether the text was cut.

        Raises OptionError if `max_length` has no room for the prompt and a token of the text.
        """
        if max_length is not None and max_length <= self.frame.size:
            raise OptionError(
                f"max_source_length must be at least {self.frame.size + 1}, for the {self.frame.size} tokens of the "
                f"prompt around the text and one of the text, got {max_length}"
            )
        prefix, suffix = dataclasses.astuple(self._prompt)
        whole = self._tokenizer.encode_source(prefix + text + suffix, max_length, masked)
        if max_length is None or not whole.truncated:
            return whole
        own = self._tokenizer.frame.trailing
        added = self.frame.trailing[: len(self.frame.trailing) - len(own)]
        cut = self._tokenizer.encode_source(prefix + text, max_length - len(added), masked)
        return Encoded([*cut.ids[: len(cut.ids) - len(own)], *added, *own], cut.truncated)

    def encode_target(self, text: str, max_length: int | None = None) -> Encoded:
        """Return the ids that the tokenizer gives to a target."""
        return self._tokenizer.encode_target(text, max_length)

    def encode_prefix(self, text: str) -> list[int]:
        """Return the ids of the text alone, without frame and prompt."""
        return self._tokenizer.encode_prefix(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text that the tokenizer gives to ids."""
        return self._tokenizer.decode(ids)
