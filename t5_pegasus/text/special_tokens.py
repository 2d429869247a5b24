"""The special tokens of a Hugging Face folder: what its files call them, and the ids that a title begins and ends with.

The ids are those of the folder's generation_config.json, else of its tokenizer. config.json does not count: that of
UER's PEGASUS names an `eos_token_id` that no title ends at.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from ..config import GENERATION_FILE, read_json_object
from ..errors import DataError

CONFIG_FILES = ("special_tokens_map.json", "tokenizer_config.json")

T5_NAMES = {"pad": "<pad>", "unk": "<unk>", "eos": "</s>", "mask": "<extra_id_0>"}
BERT_NAMES = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}


def read_settings(folder: Path) -> dict[str, Any]:
    """Return what the tokenizer's configs say, tokenizer_config.json before special_tokens_map.json."""
    return {name: value for file in CONFIG_FILES for name, value in read_json_object(folder / file).items()}


def special_names(settings: Mapping[str, Any], usual: Mapping[str, str]) -> dict[str, str]:
    """Return the special tokens by their roles, such as `sep`: those of the settings, else the usual ones."""
    names = dict(usual)
    for role in usual:
        token = settings.get(f"{role}_token")
        text = token.get("content") if isinstance(token, dict) else token
        if isinstance(text, str) and text:
            names[role] = text
    return names


@dataclasses.dataclass(frozen=True)
class SpecialIds:
    """The ids of the special tokens of a tokenizer; see `protocol.Tokenizer`."""

    pad_id: int
    unk_id: int
    start_id: int
    end_id: int
    mask_id: int | None

    @classmethod
    def of_folder(cls, folder: Path, ids: Mapping[str, int], special: set[int]) -> Self:
        """Return the ids of a folder.

        Args:
            folder: may hold generation_config.json.
            ids: of the tokenizer's special tokens by their roles: pad, unk, and cls and sep, or eos.
            special: all ids of special tokens. An end that is none of them is no end (see above).

        Raises DataError for an id that is no number.
        """
        generation = read_json_object(folder / GENERATION_FILE)
        start, ends = generation.get("decoder_start_token_id"), generation.get("eos_token_id")
        ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
        for value in (*ends, *([] if start is None else [start])):
            if type(value) is not int or value < 0:
                raise DataError(f"{folder / GENERATION_FILE} must have ids of tokens, got {value!r}")
        end = ids["sep"] if "sep" in ids else ids["eos"]
        known = [value for value in ends if value in special]
        return cls(
            pad_id=ids["pad"],
            unk_id=ids["unk"],
            start_id=ids.get("cls", ids["pad"]) if start is None else start,
            end_id=end if end in known or not known else known[0],
            mask_id=ids.get("mask"),
        )
