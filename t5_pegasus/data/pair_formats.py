"""Pairs written to files: TSV, JSON Lines, and what OpenAI's fine-tuning takes."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from ..errors import OptionError
from ..files import atomic_text, check_target, file_suffix, is_gzip
from .examples import Example


def to_tsv(example: Example) -> str:
    """Return title, tab, content; tabs and line ends, which TSV cannot have, become spaces."""
    return f"{' '.join(example.title.split())}\t{' '.join(example.content.split())}"


def to_json_line(example: Example) -> str:
    """Return an object with "content" and "title"."""
    return _json({"content": example.content, "title": example.title})


def to_chat(example: Example) -> str:
    """Return a conversation: the user gives the content, the assistant answers with the title."""
    roles = (("user", example.content), ("assistant", example.title))
    return _json({"messages": [{"role": role, "content": text} for role, text in roles]})


def to_completion(example: Example) -> str:
    """Return an object with "prompt" and "completion", as the older models take it."""
    return _json({"prompt": example.content, "completion": example.title})


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


class Format(NamedTuple):
    """A way to write pairs: the suffix that a file's name must have, the first line, and the files with their lines.

    Of several files each has its own name: NAME.chat.jsonl for "chat".
    """

    suffix: str
    header: str
    files: dict[str, Callable[[Example], str]]


# A row a format.
FORMATS = {
    "tsv": Format(".tsv", "title\tcontent", {"": to_tsv}),
    "jsonl": Format(".jsonl", "", {"": to_json_line}),
    "openai": Format(".jsonl", "", {"chat": to_chat, "prompt": to_completion}),
}


def choose_format(path: str | Path, name: str | None) -> Format:
    """Return the format that is named, or the first that the file's name fits. Raises OptionError if it fits none."""
    suffix = file_suffix(path)
    fitting = [each for each in FORMATS.values() if each.suffix == suffix]
    found = FORMATS[name] if name is not None else next(iter(fitting), None)
    if found is None or found not in fitting:
        suffixes = [found.suffix] if found else sorted({each.suffix for each in FORMATS.values()})
        raise OptionError(f"the file to write must end in {' or '.join(suffixes)}, got {path}")
    return found


def targets(path: str | Path, chosen: Format) -> dict[str, Path]:
    """Return the files that a format writes, by the names it gives them."""
    end = chosen.suffix + (".gz" if is_gzip(path) else "")
    stem = str(path)[: -len(end)]
    return {name: Path(f"{stem}.{name}{end}" if name else path) for name in chosen.files}


@contextlib.contextmanager
def write_pairs(path: str | Path, chosen: Format) -> Iterator[Callable[[Example], None]]:
    """Yield a function that writes a pair; the files are there when the block has ended well, and not before."""
    paths = targets(path, chosen)
    for target in paths.values():
        check_target(target)
    with contextlib.ExitStack() as stack:
        files = {name: stack.enter_context(atomic_text(target)) for name, target in paths.items()}
        if chosen.header:
            for file in files.values():
                file.write(f"{chosen.header}\n")

        def write(example: Example) -> None:
            for name, file in files.items():
                file.write(f"{chosen.files[name](example)}\n")

        yield write
