"""Where models, weights and the sample data lie: the defaults that every script shares."""

import sys
from pathlib import Path

from .errors import CheckpointError, OptionError

PACKAGE = Path(__file__).resolve().parent
ROOT = PACKAGE.parent
DATA_DIR = ROOT / "data"
BASE_MODEL_DIR = ROOT / "chinese_t5_pegasus_base"
TINY_MODEL_DIR = ROOT / "chinese_t5_pegasus_tiny"

FINE_TUNED = "best_model.weights"
PRETRAINED = ("model.ckpt", "model.safetensors")


def pretrained_weights(model_dir: str | Path) -> Path | None:
    """Return the pretrained weights of a model directory, or None; `model.ckpt` is the prefix of several files."""
    for name in PRETRAINED:
        path = Path(model_dir) / name
        if path.exists() or path.with_name(f"{name}.index").exists():
            return path
    return None


def is_exported(model_dir: str | Path) -> bool:
    """Tell whether a directory is one of `t5_pegasus.export`, which has graphs in place of weights."""
    return (Path(model_dir) / "decoder.onnx").is_file()


def choose_model_dir(model_dir: str | Path | None) -> Path:
    """Return `model_dir` as a path; for None the base model if its weights are there, else, saying so, the tiny one.

    Raises OptionError where it is not a model directory.
    """
    if model_dir is None:
        if pretrained_weights(BASE_MODEL_DIR) or (BASE_MODEL_DIR / FINE_TUNED).exists():
            return BASE_MODEL_DIR
        print(f"no weights in {BASE_MODEL_DIR.name}/, using {TINY_MODEL_DIR.name}/", file=sys.stderr)
        return TINY_MODEL_DIR
    path = Path(model_dir)
    for name in ("config.json", "vocab.txt"):
        if not (path / name).is_file():
            hint = f"; {path / 'README.md'} says where to get it" if (path / "README.md").is_file() else ""
            raise OptionError(
                f"model_dir must be a directory with config.json and vocab.txt, got {path} without {name}{hint}"
            )
    return path


def find_weights(model_dir: str | Path, weights: str | Path | None = None, output_dir: str | Path = ".") -> Path:
    """Return the weights to generate with: `weights` if given, else the first there is of the usual places.

    These are best_model.weights in `output_dir`, then in the model directory, then the pretrained weights there (which
    write summaries, if not as well as fine-tuned ones). Raises CheckpointError naming the command that makes some.
    """
    if weights is not None:
        path = Path(weights)
        if not (path.is_file() or path.with_name(f"{path.name}.index").exists()):
            raise CheckpointError(f"no weights at {path}")
        return path
    for directory in (Path(output_dir), Path(model_dir)):
        if (directory / FINE_TUNED).is_file():
            print(f"using the weights {directory / FINE_TUNED}", file=sys.stderr)
            return directory / FINE_TUNED
    found = pretrained_weights(model_dir)
    if found is None:
        raise CheckpointError(
            f"no {FINE_TUNED} in {output_dir} or {model_dir}: "
            f"make it with `python finetune.py --model_dir {model_dir} --output_dir {output_dir}`"
        )
    print(f"no {FINE_TUNED} found, using the pretrained weights {found}", file=sys.stderr)
    return found
