"""Where models, weights and the sample data are: the defaults that every script shares."""

import enum
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from .errors import CheckpointError, OptionError
from .weight_files import check_weights

PACKAGE = Path(__file__).resolve().parent
ROOT = PACKAGE.parent
DATA_DIR = ROOT / "data"
BASE_MODEL_DIR = ROOT / "chinese_t5_pegasus_base"
_TINY = "chinese_t5_pegasus_tiny"
TINY_MODEL_DIR = (ROOT if (ROOT / _TINY).is_dir() else PACKAGE) / _TINY  # in the wheel it is inside the package

# One of them is in every model directory; the first that is there defines the tokens (see `text.folder`).
VOCABULARY_FILES = ("spiece.model", "vocab.txt", "tokenizer.json")

FINE_TUNED = "best_model.weights"
BEST_ADAPTER = "best_adapter"  # what fine-tuning with LoRA leaves instead
CHECKPOINT = "model.ckpt"
# Hugging Face's files are read too, safetensors first, which can hold nothing but tensors.
PRETRAINED = (
    *(CHECKPOINT, "model.safetensors", "model.safetensors.index.json"),
    *("pytorch_model.bin", "pytorch_model.bin.index.json"),
)


class Weights(enum.Enum):
    """Weights of a model by what they are, for when no file is named (see `locate_weights`)."""

    FINE_TUNED = "fine-tuned"  # best_model.weights of a run's directory, else of the model's
    PRETRAINED = "pretrained"  # model.ckpt or model.safetensors of the model's directory
    RANDOM = "random"  # no file: T5's random start


# What `weights=None` means: the first of these that there is. To build or train a model, and to generate with it.
TO_BUILD = (Weights.PRETRAINED, Weights.RANDOM)
TO_GENERATE = (Weights.FINE_TUNED, Weights.PRETRAINED)


def locate_weights(
    model_dir: str | Path,
    weights: str | Path | Weights | None,
    usual: Sequence[Weights],
    run_dir: str | Path = ".",
) -> Path | Literal[Weights.RANDOM]:
    """Return what `choose_weights` does, and raise CheckpointError if it is damaged.

    That reads a TensorFlow checkpoint as a whole.
    """
    found = choose_weights(model_dir, weights, usual, run_dir)
    if isinstance(found, Path):
        check_weights(found)
    return found


def choose_weights(
    model_dir: str | Path,
    weights: str | Path | Weights | None,
    usual: Sequence[Weights],
    run_dir: str | Path = ".",
) -> Path | Literal[Weights.RANDOM]:
    """Return the file of the weights that are meant, or Weights.RANDOM.

    Args:
        model_dir: a model directory.
        weights: a file (the prefix of several, for a TensorFlow checkpoint), a kind of weights, or None for `usual`.
        usual: kinds of weights, the preferred one first.
        run_dir: where `finetune.py` wrote to.

    Raises CheckpointError if there are no such weights. Whether they are damaged is not looked at.
    """
    if weights is not None and not isinstance(weights, Weights):
        path = Path(weights)
        if not _is_weights(path):
            raise CheckpointError(f"no weights at {path}")
        return path
    kinds = usual if weights is None else (weights,)
    for kind in kinds:
        if kind is Weights.RANDOM:
            return kind
        found = fine_tuned_weights(model_dir, run_dir) if kind is Weights.FINE_TUNED else pretrained_weights(model_dir)
        if found is not None:
            return found
    if Weights.FINE_TUNED not in kinds:
        raise CheckpointError(f"no {' or '.join(PRETRAINED[:2])} in {model_dir}")
    raise CheckpointError(
        f"no {FINE_TUNED} in {run_dir} or {model_dir}: "
        f"make it with `python finetune.py --model_dir {model_dir} --output_dir {run_dir}`"
    )


def pretrained_weights(model_dir: str | Path) -> Path | None:
    """Return the pretrained weights of a model directory, or None; `model.ckpt` is the prefix of several files."""
    return next(filter(_is_weights, (Path(model_dir) / name for name in PRETRAINED)), None)


def fine_tuned_weights(model_dir: str | Path, run_dir: str | Path = ".") -> Path | None:
    """Return the fine-tuned weights of a run's directory, else of the model's, or None."""
    return next(filter(_is_weights, (Path(folder) / FINE_TUNED for folder in (run_dir, model_dir))), None)


def _is_weights(path: Path) -> bool:
    return path.is_file() or Path(f"{path}.index").exists()


def weight_files(weights: str | Path) -> list[Path]:
    """Return the files of weights: one, those of a TensorFlow checkpoint, or an index with all shards beside it."""
    weights = Path(weights)
    if weights.name.endswith(".index.json"):
        return [weights, *sorted(weights.parent.glob(f"{weights.name.partition('.')[0]}-*"))]
    if weights.is_file():
        return [weights]
    names = (f"{weights.name}.index", f"{weights.name}.data-")
    return sorted(path for path in weights.parent.iterdir() if path.name.startswith(names))


def weights_hash(weights: str | Path) -> str:
    """Return the SHA-256 of the file of weights, in hex; of several files, that of their hashes."""
    digests = []
    for path in weight_files(weights):
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256"))
    if len(digests) == 1:
        return digests[0].hexdigest()
    return hashlib.sha256(b"".join(digest.digest() for digest in digests)).hexdigest()


def choose_model_dir(model_dir: str | Path | None) -> Path:
    """Return `model_dir` as a path; for None the base model if its weights are there, else the tiny one, with a note.

    Raises OptionError if it is not a model directory.
    """
    if model_dir is None:
        if pretrained_weights(BASE_MODEL_DIR) or fine_tuned_weights(BASE_MODEL_DIR, BASE_MODEL_DIR):
            return BASE_MODEL_DIR
        print(f"no weights in {BASE_MODEL_DIR.name}/, using {TINY_MODEL_DIR.name}/", file=sys.stderr)
        return TINY_MODEL_DIR
    path = Path(model_dir)
    for names in (("config.json",), VOCABULARY_FILES):
        if not any((path / name).is_file() for name in names):
            hint = f"; {path / 'README.md'} says where to get it" if (path / "README.md").is_file() else ""
            raise OptionError(
                f"model_dir must be a directory with config.json and vocab.txt, got {path} without "
                f"{' or '.join(names)}{hint}"
            )
    return path


def find_weights(model_dir: str | Path, weights: str | Path | Weights | None = None, run_dir: str | Path = ".") -> Path:
    """Return the weights to generate with, and say on standard error which were found if no file is named.

    None is TO_GENERATE: the fine-tuned weights of `run_dir` or the model directory, else the pretrained ones. Nothing
    is said of those of the model that comes with this package, unless a run's weights were to be used.

    Raises CheckpointError if there are none, or if they are damaged, OptionError for random ones.
    """
    found = locate_weights(model_dir, weights, TO_GENERATE, run_dir)
    if found is Weights.RANDOM:
        raise OptionError("weights must be trained to generate with, got random ones")
    is_fallback = weights is None and found.name != FINE_TUNED
    is_shipped = is_fallback and Path(model_dir).resolve() == TINY_MODEL_DIR and str(run_dir) == "."
    if (weights is None or isinstance(weights, Weights)) and not is_shipped:
        note = f"no {FINE_TUNED} found, using the pretrained weights" if is_fallback else "using the weights"
        print(note, found, file=sys.stderr)
    return found
