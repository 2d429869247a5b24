"""The options of what is read from data: columns, lengths, and what becomes of long texts."""

import dataclasses

from ..config import Options, check_choices, option, require_at_least
from ..text.prompts import Prompt, unescape
from .inputs import LONG_TEXT

PROMPT_OPTIONS = ("source_prefix", "source_suffix")


@dataclasses.dataclass(frozen=True)
class DataConfig(Options):
    """How pairs are read from a file and cut to length. Lengths are in tokens and count [CLS] and [SEP]."""

    text_column: str | None = option(None, "column of the content; found by its usual names if not given")
    summary_column: str | None = option(None, "column of the title; found by its usual names if not given")
    skip_bad_lines: bool = option(False, "count lines that cannot be used and go on, instead of stopping at the first")
    max_source_length: int = option(256, "tokens of the content that the model reads")
    max_target_length: int = option(32, "tokens of the title that the model learns to write")
    long_text: str = option(
        "truncate",
        "what is read of a longer content for its title: the head, head and tail, or all in overlapping windows",
        choices=LONG_TEXT,
    )
    source_prefix: str | None = option(
        None,
        r"what stands before each content, such as 'summarize: ', and is never cut; \n is a line break; "
        "the model's own if not given",
        parse=unescape,
    )
    source_suffix: str | None = option(
        None, r"what stands after each content, such as '\n\nSummary: '; as source_prefix", parse=unescape
    )

    def __post_init__(self) -> None:
        """Raise OptionError if no token would be left between [CLS] and [SEP], or for an unknown `long_text`."""
        require_at_least(self, 3, "max_source_length", "max_target_length")
        check_choices(self)

    def prompt(self, own: Prompt) -> Prompt:
        """Return what stands around each content; `own` is the model's, for what is not given."""
        return own.over(self.source_prefix, self.source_suffix)
