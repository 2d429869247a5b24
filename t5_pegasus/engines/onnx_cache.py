"""The exported form of weights, made once and kept: what makes ONNX Runtime the default on a CPU."""

import contextlib
import hashlib
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..config import ModelConfig
from .activations import approximates_gelu
from .onnx import GRAPHS

# What an export has, and what only a finished one has.
_FILES = (
    "encoder.onnx",
    "encoder.onnx.data",
    "decoder.onnx",
    "decoder.onnx.data",
    "gather.onnx",
    "vocab.txt",
    "config.json",
)
_HOUR = 3600


def cached_export(model_dir: str | Path, weights: str | Path) -> Path | None:
    """Return a directory in `WEIGHTS.onnx` with the weights as `onnx_export` writes them; make it if it is not there.

    It lies beside the weights or, where nothing can be written there, in the user's cache. It is named by a hash of the
    weights and one of the model directory's files, so that a change makes another, and nothing that may be in use is
    ever written to. Those of earlier weights are removed. TensorFlow is loaded only for making one, which is said.

    Returns: None, saying why, where nothing can be written in either place.

    Raises OSError for files that cannot be read, OptionError for a model that ONNX Runtime's engine does not compute.
    """
    model_dir, weights = Path(model_dir), Path(weights)
    approximates_gelu(ModelConfig.load(model_dir).hidden_act)
    of_weights = _hash(_files(weights))
    of_model = _hash((model_dir / "config.json", model_dir / "vocab.txt"), str(GRAPHS))
    name = f"{of_weights}-{of_model}"
    folders = _folders(weights)
    for whole in (folder / name for folder in folders):
        if _is_whole(whole):
            return whole
    folder = _first_writable(folders)
    if folder is None:
        return None
    with _alone_in(folder):
        if _is_whole(folder / name):  # of a process that started at the same time, as the workers of a service do
            return folder / name
        print(f"exporting {weights} to {folder}/ for ONNX Runtime, once", file=sys.stderr)
        try:
            with tempfile.TemporaryDirectory(prefix="tmp-", dir=folder) as temporary:
                _export(model_dir, weights, Path(temporary), folder / name)
        except OSError as error:
            print(f"cannot export to {folder}: {error.strerror or error}", file=sys.stderr)
            return None
    _tidy(folder, of_weights)
    return folder / name


def _folders(weights: Path) -> list[Path]:
    """Return where exports of weights may lie: beside them, and in the user's cache, a folder for each path."""
    name = f"{weights.name}.onnx"
    beside = weights.with_name(name)
    # A path that is not absolute is to be ignored; it is also what is left of "~" where there is no home.
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    if not cache.is_absolute():
        return [beside]
    of_path = hashlib.sha256(os.fsencode(weights.absolute().parent)).hexdigest()[:16]
    return [beside, cache / "t5_pegasus" / of_path / name]


def _first_writable(folders: Iterable[Path]) -> Path | None:
    """Return the first folder that can be written to, made if missing; None, saying why, if there is none."""
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryDirectory(prefix="tmp-", dir=folder).cleanup()
            return folder
        except OSError as error:
            print(f"cannot export to {folder}: {error.strerror or error}", file=sys.stderr)
    return None


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Wait until no other process is in this `with` for the folder; where that cannot be had, several do the same."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems have no locks
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"waiting for another process, which exports to {folder}/", file=sys.stderr)
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _export(model_dir: Path, weights: Path, temporary: Path, target: Path) -> None:
    from ..networks.t5 import build_model
    from .onnx_export import export_model

    export_model(build_model(model_dir, weights), model_dir / "vocab.txt", temporary / "model")
    if target.exists() and not _is_whole(target):  # a part of it has been deleted
        target.rename(temporary / "damaged")
    try:
        (temporary / "model").rename(target)
    except OSError:
        if not _is_whole(target):  # else another process has made the same meanwhile
            raise


def _files(weights: Path) -> list[Path]:
    """Return the files of weights: one, or those of a TensorFlow checkpoint."""
    if weights.is_file():
        return [weights]
    names = (f"{weights.name}.index", f"{weights.name}.data-")
    return sorted(path for path in weights.parent.iterdir() if path.name.startswith(names))


def _hash(files: Iterable[Path], start: str = "") -> str:
    digest = hashlib.sha256(start.encode())
    for path in files:
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def _is_whole(folder: Path) -> bool:
    return all(os.path.isfile(folder / name) for name in _FILES)  # unlike Path's, False where it may not look


def _tidy(folder: Path, of_weights: str) -> None:
    """Remove the exports of other weights, and what runs that were killed have left."""
    for path in folder.iterdir():
        is_old_export = re.fullmatch("[0-9a-f]{16}-[0-9a-f]{16}", path.name) and not path.name.startswith(of_weights)
        is_left = path.name.startswith("tmp-") and time.time() - path.stat().st_mtime > _HOUR
        if is_old_export or is_left:
            shutil.rmtree(path, ignore_errors=True)
