"""What is in the folder of an exported model: the names of its files, and the check that they are those of one export.

`config.json` has the model's sizes, the version of the graphs, the SHA-256 of the graphs and the vocabulary, the bytes
of the files with the weights, and the SHA-256 of these values themselves. So a file that was altered, cut off or taken
from another export is found before a graph is loaded.
"""

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from ..config import ModelConfig, check_choices, option
from ..errors import CheckpointError, PegasusError
from ..files import read_json
from ..text.folder import tokenizer_files
from ..text.subwords import VOCABULARY_FILE

GRAPHS = 4  # version of the graphs' inputs and outputs and of this folder; raised when either changes

ENCODER, DECODER, GATHER = GRAPH_FILES = ("encoder.onnx", "decoder.onnx", "gather.onnx")
CONFIG = "config.json"


def data_file(graph: str) -> str:
    """Return the name of the file with a graph's weights, which is beside the graph."""
    return f"{graph}.data"


WEIGHT_FILES = (data_file(ENCODER), data_file(DECODER))  # the gather graph has no weights
FILES = (*GRAPH_FILES, *WEIGHT_FILES, VOCABULARY_FILE, CONFIG)  # of T5-PEGASUS; others have another tokenizer's

_EXPORT_AGAIN = "export it again with `python -m t5_pegasus.export`"


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """How a model is written."""

    quantize: str = option(
        "no", "int8 is a quarter of the size and faster; scores move a little", choices=("no", "int8")
    )

    def __post_init__(self) -> None:
        """Raise OptionError for an unknown precision."""
        check_choices(self)


SHIPPED = "exported"  # folder of a model directory with an export of its pretrained weights


def shipped_export(model_dir: str | Path, weights: str | Path) -> Path | None:
    """Return the export that a model directory came with if it is of these weights, config and vocabulary, else None.

    None also for one that is damaged or of another version: the weights are then exported to the cache.
    """
    folder, weights = Path(model_dir) / SHIPPED, Path(weights)
    if not (is_exported(folder) and weights.is_file()):
        return None
    try:
        is_same = check_export(folder) == ModelConfig.load(model_dir)
        values = read_json(folder / CONFIG)
        is_same &= values.get("weights_sha256") == file_hash(weights)
        is_same &= tokenizer_files(folder) == tokenizer_files(model_dir)
        is_same &= all(
            file_hash(folder / name) == file_hash(Path(model_dir) / name) for name in tokenizer_files(folder)
        )
    except (OSError, PegasusError):
        return None
    return folder if is_same else None


def is_exported(model_dir: str | Path) -> bool:
    """Return whether a directory was made by `t5_pegasus.export`: it has graphs instead of weights."""
    return os.path.isfile(Path(model_dir) / DECODER)  # unlike Path's, False where it may not look


def write_config(folder: Path, settings: dict[str, Any]) -> None:
    """Write config.json of a folder that has all other files; it begins with `settings`."""
    values = {
        **settings,
        "graphs": GRAPHS,
        "sha256": {name: file_hash(folder / name) for name in (*GRAPH_FILES, *tokenizer_files(folder))},
        "bytes": {name: (folder / name).stat().st_size for name in WEIGHT_FILES},
    }
    text = json.dumps({**values, "config_sha256": _hash_of(values)}, indent=2)
    (folder / CONFIG).write_text(f"{text}\n", encoding="utf-8")


def check_export(model_dir: str | Path) -> ModelConfig:
    """Return the sizes of an exported model, after comparing its files with what was exported.

    The weights are compared by their size alone, since they may be gigabytes.

    Raises CheckpointError if the directory is not an exported model, or one of another version, or if a file is
    missing, cannot be read or is not as it was exported.
    """
    model_dir = Path(model_dir)
    try:
        if not (model_dir / DECODER).is_file():
            raise CheckpointError(f"{model_dir} is not an exported model: it has no {DECODER}")
        values = read_json(model_dir / CONFIG)
        if values.get("graphs") != GRAPHS:
            raise CheckpointError(f"{model_dir} was exported by another version of t5_pegasus: {_EXPORT_AGAIN}")
        if values.pop("config_sha256", None) != _hash_of(values):
            raise CheckpointError(f"{model_dir / CONFIG} was altered after the export: {_EXPORT_AGAIN}")
        for name in (*GRAPH_FILES, *tokenizer_files(model_dir)):
            if file_hash(model_dir / name) != values["sha256"][name]:
                raise CheckpointError(f"{model_dir / name} is not the file that was exported: {_EXPORT_AGAIN}")
        for name in WEIGHT_FILES:
            with (model_dir / name).open("rb") as file:
                found = os.fstat(file.fileno()).st_size
            if found != (size := values["bytes"][name]):
                raise CheckpointError(f"{model_dir / name} must have {size} bytes, got {found}: {_EXPORT_AGAIN}")
        return ModelConfig.load(model_dir)
    except OSError as error:
        raise CheckpointError(f"cannot read {error.filename or model_dir}: {error.strerror}") from error
    except (LookupError, TypeError) as error:  # with a hash of its own, so somebody meant it
        raise CheckpointError(f"{model_dir / CONFIG} does not say what was exported: {_EXPORT_AGAIN}") from error
    except CheckpointError:
        raise
    except PegasusError as error:
        raise CheckpointError(f"{error}: {_EXPORT_AGAIN}") from error


def _hash_of(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def base_sha256(model_dir: str | Path) -> str | None:
    """Return the hash of the weights that an export was made of; None if it does not say."""
    value = json.loads((Path(model_dir) / CONFIG).read_bytes()).get("weights_sha256")
    return value if isinstance(value, str) else None


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
