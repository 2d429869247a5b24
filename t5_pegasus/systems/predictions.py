"""Titles that someone else has written, in a file: JSON Lines with a "title", or plain text, one a line."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..data.predictions import read_predictions
from ..errors import DataError, OptionError
from .ours import files_hash
from .protocol import LocalSystem, Text, Written
from .spec import Spec, check_known


@dataclasses.dataclass(frozen=True)
class PredictionsConfig:
    """The options of `predictions`: none."""


class Predictions(LocalSystem):
    """The titles of a file, in the order of the texts; neither time nor memory is known of them."""

    runs_here = False

    def __init__(self, spec: Spec) -> None:
        check_known(spec.options, PredictionsConfig)
        if not spec.target:
            raise OptionError("predictions need a file: predictions:titles.jsonl")
        self._path = spec.target
        self.titles = read_predictions(spec.target)

    def check_count(self, texts: int, test_file: str) -> None:
        """Raise DataError unless there is a title for each text."""
        if len(self.titles) != texts:
            raise DataError(
                f"{self._path} has titles for {len(self.titles)} texts, {test_file} has {texts}: predict that very file"
            )

    def identity(self) -> dict[str, Any]:
        """Return the hash of the file."""
        return {"kind": "predictions", "files": [files_hash(Path(self._path))]}

    def write(self, texts: Sequence[Text], start: int) -> list[Written]:
        """Return the titles of these texts."""
        return [Written(" ".join(title.split())) for title in self.titles[start : start + len(texts)]]
