"""The options of scoring."""

import dataclasses
from typing import Any

from ..config import Options, check_choices, option
from . import LANGUAGES, check_packages


def language_option() -> Any:
    """Return the field of an options class that names the language of the scores."""
    return option("zh", "language of the scores: zh compares characters, en stemmed words", choices=LANGUAGES)


@dataclasses.dataclass(frozen=True)
class ScoringConfig(Options):
    """How titles are scored."""

    language: str = language_option()

    def __post_init__(self) -> None:
        """Raise OptionError for a language that is not a row of LANGUAGES, or whose packages are missing."""
        check_choices(self)
        check_packages(self.language)
