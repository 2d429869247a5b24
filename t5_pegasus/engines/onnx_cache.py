"""The exported form of weights, made once and kept: what makes ONNX Runtime the default on a CPU."""

import contextlib
import hashlib
import os
import re
import shutil
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from ..config import ModelConfig
from ..errors import CheckpointError
from ..files import atomic_folder, only_writer, temporary_folder
from ..locations import VOCABULARY_FILES, weight_files
from ..text.folder import tokenizer_files
from .activations import check_activations
from .exported import CONFIG, FILES, GRAPHS, check_export

_HOUR = 3600
_HASHES = "[0-9a-f]{16}-[0-9a-f]{16}"  # the name of an export: a hash of the weights, one of the model


def cached_export(model_dir: str | Path, weights: str | Path) -> Path | None:
    """Return a folder in `WEIGHTS.onnx/` with the weights as `onnx_export` writes them; make it if it is missing.

    `WEIGHTS.onnx/` is beside the weights or, if that cannot be written, in the user's cache. So is an export that
    another user made and this one may not read. It is named by a hash of the weights and one of the model directory's
    files: a change of either makes another export, and one that may be in use is never written to. Exports of earlier
    weights are removed. TensorFlow is loaded only to make an export, and a line on standard error says so.

    Returns: None, after a line that says why, if neither folder can be written.

    Raises OSError for files that cannot be read, OptionError for a model that ONNX Runtime's engine does not compute.
    """
    model_dir, weights = Path(model_dir), Path(weights)
    check_activations(ModelConfig.load(model_dir).hidden_act)
    weights_hash = _hash(weight_files(weights))
    model_files = (model_dir / name for name in (CONFIG, *tokenizer_files(model_dir)))
    name = f"{weights_hash}-{_hash(model_files, str(GRAPHS))}"
    folders = _cache_folders(weights)
    for export in (folder / name for folder in folders):
        if _is_usable(export):
            return export
    folder = _first_writable(folders, name)
    if folder is None:
        return None
    try:
        with only_writer(folder / name, on_wait=lambda: _say(f"waiting for another process that exports to {folder}/")):
            if not _is_usable(folder / name):  # unless another worker of a service, started with this one, made it
                _say(f"exporting {weights} to {folder}/ for ONNX Runtime, once")
                _export(model_dir, weights, folder / name)
    except OSError as error:
        _say_unwritable(folder, error)
        return None
    finally:
        with contextlib.suppress(OSError):
            folder.rmdir()  # if nothing is in it, since the weights do not fit
    _tidy(folder, weights_hash)
    return folder / name


def _cache_folders(weights: Path) -> list[Path]:
    """Return the folders for exports of weights: beside them, and in the user's cache, there by the weights' path."""
    name = f"{weights.name}.onnx"
    beside = weights.with_name(name)
    # A relative path is to be ignored, by the XDG specification; "~" stays one if the user has no home.
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    if not cache.is_absolute():
        return [beside]
    path_hash = hashlib.sha256(os.fsencode(weights.absolute().parent)).hexdigest()[:16]
    return [beside, cache / "t5_pegasus" / path_hash / name]


def _first_writable(folders: Iterable[Path], name: str) -> Path | None:
    """Return the first folder that an export of this name can be written to; None if there is none."""
    for folder in folders:
        try:
            for path in (folder / name, *(folder / name / file for file in (*FILES, *VOCABULARY_FILES))):
                # Another user's, and perhaps whole: it is not ours to replace.
                if os.path.lexists(path) and not os.access(path, os.R_OK):
                    raise PermissionError(0, f"cannot read {path}")
            with temporary_folder(folder / "export"):
                return folder
        except OSError as error:
            _say_unwritable(folder, error)
    return None


def _export(model_dir: Path, weights: Path, target: Path) -> None:
    """Write the export, in place of one that was damaged."""
    from ..networks.t5 import build_model
    from .onnx_export import write_export

    try:
        with atomic_folder(target, check=_refuse_usable) as folder:
            write_export(build_model(model_dir, weights), model_dir / tokenizer_files(model_dir)[0], folder)
    except FileExistsError:
        if not _is_usable(target):
            raise


def _refuse_usable(target: Path) -> None:
    """Raise FileExistsError for an export that another process has made meanwhile, if the system has no locks."""
    if _is_usable(target):
        raise FileExistsError(0, "another process has made it", str(target))


def _hash(files: Iterable[Path], start: str = "") -> str:
    digest = hashlib.sha256(start.encode())
    for path in files:
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def _is_usable(export: Path) -> bool:
    """Return whether an export can be read and is as it was made."""
    try:
        check_export(export)
    except CheckpointError:
        return False
    return True


def _tidy(folder: Path, weights_hash: str) -> None:
    """Remove the exports of other weights, and what killed runs have left."""
    for path in folder.iterdir():
        is_old_export = re.fullmatch(_HASHES, path.name) and not path.name.startswith(weights_hash)
        is_left = re.fullmatch(rf"\.{_HASHES}\.(\d+\.tmp|lock)", path.name)
        if is_old_export or (is_left and time.time() - path.stat().st_mtime > _HOUR):
            shutil.rmtree(path, ignore_errors=True)


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _say_unwritable(folder: Path, error: OSError) -> None:
    _say(f"cannot export to {folder}: {error.strerror or error}")
