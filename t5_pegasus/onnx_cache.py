"""The exported form of weights, made once and kept beside them: what makes ONNX Runtime the default on a CPU."""

import hashlib
import json
import shutil
import sys
import tempfile
from pathlib import Path

from .engines.onnx import GRAPHS


def cached_export(model_dir: str | Path, weights: str | Path) -> Path:
    """Return the directory `WEIGHTS.onnx` with the weights as `export` writes them; make it if it is not there.

    It is made anew, saying so, when the weights, config.json or vocab.txt have changed since. Only then TensorFlow is
    loaded. Raises OSError where it cannot be written.
    """
    model_dir, weights = Path(model_dir), Path(weights)
    folder = weights.with_name(f"{weights.name}.onnx")
    key = _key(model_dir, weights)
    if _is_of(folder, key):
        return folder

    from .export import export_model
    from .model import build_model

    print(f"exporting {weights} to {folder} for ONNX Runtime, once", file=sys.stderr)
    t5 = build_model(model_dir, weights)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
        fresh = Path(temporary) / "model"
        export_model(t5, model_dir / "vocab.txt", fresh, key=key)
        if not _is_of(folder, key):  # someone else may have made it meanwhile
            # A directory cannot be replaced by another in one step: who looks in between exports for himself.
            shutil.rmtree(folder, ignore_errors=True)
            try:
                fresh.replace(folder)
            except OSError:
                if not _is_of(folder, key):
                    raise
    return folder


def _key(model_dir: Path, weights: Path) -> str:
    """Return a hash of everything that the exported form is made from."""
    digest = hashlib.sha256(str(GRAPHS).encode())
    beside = (
        path
        for path in weights.parent.iterdir()
        if path.name.startswith((f"{weights.name}.index", f"{weights.name}.data-"))
    )
    parts = [weights] if weights.is_file() else sorted(beside)
    for path in (model_dir / "config.json", model_dir / "vocab.txt", *parts):
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _is_of(folder: Path, key: str) -> bool:
    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(settings, dict) and settings.get("key") == key
