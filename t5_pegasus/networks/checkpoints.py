"""Weights in and out of files: TensorFlow checkpoints, Keras HDF5, safetensors, and in from Hugging Face's.

Every weight of the network has one name, that of a T5 checkpoint (`decoder/block_003/layer_001/…/q`). A format is a
reader into a dict of such names, a writer, and a row in `FORMATS`.
"""

import dataclasses
import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import safetensors
import safetensors.numpy

from ..errors import CheckpointError
from ..files import atomic_path, temporary_folder
from ..weight_files import starts_with
from .backend import keras, tf
from .hugging_face import is_hugging_face, with_our_names
from .t5_description import EMBEDDING, HEAD
from .tensor_files import INDEX_SUFFIX, is_pickled, open_tensors

Weights = dict[str, np.ndarray]

# What training leaves in a TensorFlow checkpoint besides the weights: of BERT's AdamW, of T5's Adafactor, of tf.train.
_OPTIMIZER_STATE = (
    *("adam_m", "adam_v", "_slot_m", "_slot_v", "_slot_vc", "_slot_vr"),
    *("/Adam", "/Adam_1", "beta1_power", "beta2_power", "global_step"),
)

# What the three libraries raise for a file that is cut off, damaged or of another kind.
_READ_ERRORS = (OSError, LookupError, ValueError, RuntimeError, tf.errors.OpError, safetensors.SafetensorError)

_SAVE_AGAIN = 'save the weights again with model.save_weights("best_model.weights", save_format="h5")'

_MOST_NAMED = 3  # variables listed in an error; the rest are counted


def load_weights(t5: Any, path: str | Path) -> None:
    """Load every weight of the network from a file, whichever format it has.

    Args:
        t5: bert4keras's T5 object, as `build_model` returns it.
        path: a TensorFlow checkpoint (its prefix, such as `model.ckpt`) with either kind of official names,
            `layer_norm` or `rms_norm`; an HDF5 file of Keras's `save_weights` (2.3.1 or later), whatever its name; a
            safetensors file of `save_weights`; Hugging Face's safetensors or pytorch_model.bin, or the index of their
            shards. Half precision is widened to float32.

    Where the head is tied to the embedding (`tie_word_embeddings`) a file need not have its matrix.

    Raises CheckpointError for a file that cannot be read, and naming what is missing, left over, of another shape (with
    both shapes) or not finite, and a tied head that is not the embedding; the network is then as it was.
    """
    path = Path(str(path).removesuffix(".index"))
    assign_weights(t5, read_weights(t5, path), path)


def read_weights(t5: Any, path: str | Path) -> Weights:
    """Return the arrays of a weights file by the names in it: those of `named_variables` in our own files.

    An HDF5 file has layer names only; `t5` maps them. Raises CheckpointError for a file that cannot be read.
    """
    path = Path(str(path).removesuffix(".index"))
    try:
        return _format_of(path).read(path, t5)
    except _READ_ERRORS as error:
        raise CheckpointError(f"{path} cannot be read, it may be damaged or cut off: {_one_line(error)}") from error


def assign_weights(t5: Any, found: Weights, path: str | Path) -> None:
    """Set every weight of the network; `path` is their file, for the errors of `load_weights`."""
    variables, tied = named_variables(t5), _is_tied(t5)
    if tied and EMBEDDING in found:
        found = {HEAD: found[EMBEDDING].T, **found}
    problems = [
        *_listed("lacks", [name for name in variables if name not in found]),
        *_listed("has, unknown to the model,", [name for name in found if name not in variables]),
        *_listed(
            "differs in shape:",
            [
                f"{name} {tuple(found[name].shape)} in the file, {tuple(variable.shape)} in the model"
                for name, variable in variables.items()
                if name in found and tuple(found[name].shape) != tuple(variable.shape)
            ],
        ),
        *_listed(
            "has values that are not finite in", [name for name, value in found.items() if not np.isfinite(value).all()]
        ),
    ]
    if tied and not problems and not np.array_equal(found[HEAD], found[EMBEDDING].T):
        problems = [f"has a {HEAD} that is not {EMBEDDING} transposed, but tie_word_embeddings is true in config.json"]
    if problems:
        raise CheckpointError(f"{path} does not fit the model: it {'; it '.join(problems)}")
    for name, variable in variables.items():
        variable.assign(found[name])
    t5.from_scratch = False


def save_weights(t5: Any, path: str | Path) -> None:
    """Save every weight: safetensors for a name in `.safetensors`, a TensorFlow checkpoint for `.ckpt`, else HDF5.

    The file appears whole or not at all. Keras's own `load_weights` reads the HDF5 file, unless its name ends in
    `.weights.h5`, for which Keras expects its newer layout. Raises CheckpointError if the disk is full or read-only.
    """
    path = Path(path)
    write = next((row.write for row in FORMATS if row.write and path.suffix == row.suffix), _write_hdf5)
    try:
        write(path, t5)
    except (OSError, tf.errors.OpError) as error:
        raise CheckpointError(f"cannot write {path}: {_one_line(error)}") from error


def named_variables(t5: Any) -> dict[str, Any]:
    """Return the network's variables by their official (mT5) names, in bert4keras's order.

    Only these are loaded and saved: a variable that was added to a layer later, such as an adapter's, has no such name.
    """
    named = getattr(t5, "named_variables", None)  # a stock model keeps none
    return name_variables(t5) if named is None else dict(named)


def name_variables(t5: Any) -> dict[str, Any]:
    """Return what `named_variables` does, by the order of each layer's weights: right while all of them are trainable.

    Keras moves a weight that is frozen, or whose sublayer is, behind the others of its layer.
    """
    return {
        name: variable
        for layer, names in t5.variable_mapping().items()
        if layer in t5.layers
        for name, variable in zip(names, t5.layers[layer].weights, strict=False)
    }


def _is_tied(t5: Any) -> bool:
    config = getattr(t5, "config", None)  # stock models have none, and are not tied
    return config is not None and config.tie_word_embeddings


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _listed(verb: str, items: list[str]) -> list[str]:
    if not items:
        return []
    rest = f" and {len(items) - _MOST_NAMED} more" if len(items) > _MOST_NAMED else ""
    return [f"{verb} {', '.join(items[:_MOST_NAMED])}{rest}"]


def _transposed_on_disk(weights: Iterable[tuple[str, np.ndarray]]) -> Weights:
    """Transpose the position biases: T5 checkpoints have [heads, buckets], Keras has [buckets, heads]."""
    return {name: value.T if "relative_attention_bias" in name else value for name, value in weights}


def _named_values(t5: Any) -> Weights:
    """Return the values of the weights as a T5 checkpoint has them."""
    values = _transposed_on_disk((name, variable.numpy()) for name, variable in named_variables(t5).items())
    return {name: np.ascontiguousarray(value) for name, value in values.items()}


def _write_bytes(path: Path, data: bytes | memoryview) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


# TensorFlow checkpoints


def _read_checkpoint(path: Path, t5: Any) -> Weights:
    reader = tf.train.load_checkpoint(str(path))
    names = [name for name in reader.get_variable_to_shape_map() if not name.endswith(_OPTIMIZER_STATE)]
    if any(".ATTRIBUTES" in name for name in names):
        raise CheckpointError(f"{path} is a TensorFlow checkpoint of Keras objects, without layer names; {_SAVE_AGAIN}")
    # T5.1.1 checkpoints have layer_norm (and final_layer_norm for the last one), mT5's have rms_norm.
    return _transposed_on_disk(
        (name.replace("final_layer_norm", "rms_norm").replace("layer_norm", "rms_norm"), reader.get_tensor(name))
        for name in names
    )


def _write_checkpoint(path: Path, t5: Any) -> None:
    values = _named_values(t5)
    with temporary_folder(path) as folder:
        prefix = folder / path.name
        tf.raw_ops.SaveV2(
            prefix=str(prefix),
            tensor_names=list(values),
            shape_and_slices=[""] * len(values),
            tensors=list(values.values()),
        )
        # The old index is removed first and the new one comes last: an index must never be beside other data.
        path.with_name(f"{path.name}.index").unlink(missing_ok=True)
        for ending in (".data-00000-of-00001", ".index"):
            prefix.with_name(prefix.name + ending).replace(path.with_name(path.name + ending))


# HDF5, the layout of Keras's save_weights


def _read_hdf5(path: Path, t5: Any) -> Weights:
    mapping = t5.variable_mapping()
    weights: Weights = {}
    with h5py.File(path, "r") as file:
        root = file.get("model_weights", file)
        layers = _hdf5_names(root, "layer_names")
        if not layers:
            raise CheckpointError(f"{path} is an HDF5 file without layer names; {_SAVE_AGAIN}")
        for layer in layers:
            names = mapping.get(layer, [])
            for position, name in enumerate(_hdf5_names(root[layer], "weight_names")):
                # A weight that its layer does not have keeps its name in the file, and is reported as left over.
                official = names[position] if position < len(names) else f"{layer}/{name}"
                weights[official] = root[layer][name][()]
    return weights


def _hdf5_names(group: Any, attribute: str) -> list[str]:
    """Return a list of names; Keras splits one that is too long for an attribute into `name0`, `name1`, …."""
    chunks = [group.attrs[attribute]] if attribute in group.attrs else []
    while f"{attribute}{len(chunks)}" in group.attrs:
        chunks.append(group.attrs[f"{attribute}{len(chunks)}"])
    return [name.decode() if isinstance(name, bytes) else str(name) for chunk in chunks for name in chunk]


def _write_hdf5(path: Path, t5: Any) -> None:
    # Made in memory: HDF5 itself may crash the process when a write fails.
    image = io.BytesIO()
    variables, mapping = named_variables(t5), t5.variable_mapping()
    with h5py.File(image, "w") as file:
        file.attrs["layer_names"] = [layer.name.encode() for layer in t5.model.layers]
        file.attrs["backend"], file.attrs["keras_version"] = b"tensorflow", keras.__version__.encode()
        for layer in t5.model.layers:
            group = file.create_group(layer.name)
            weights = [variables[name] for name in mapping.get(layer.name, ())]
            group.attrs["weight_names"] = [variable.name.encode() for variable in weights]
            for variable in weights:
                group[variable.name] = variable.numpy()
    _write_bytes(path, image.getbuffer())


# safetensors


def _read_tensors(path: Path, t5: Any) -> Weights:
    tensors = open_tensors(path)
    if is_hugging_face(tensors):
        return with_our_names(tensors, t5.config)
    return _transposed_on_disk(tensors.items())


def _write_safetensors(path: Path, t5: Any) -> None:
    values = _named_values(t5)
    if _is_tied(t5):
        del values[HEAD]  # half of a small model; the other formats are read by bert4keras, which needs it
    _write_bytes(path, safetensors.numpy.save(values))


@dataclasses.dataclass(frozen=True)
class Format:
    """A kind of weights file: how to recognise, read and write it."""

    suffix: str
    recognises: Callable[[Path], bool]
    read: Callable[[Path, Any], Weights]
    write: Callable[[Path, Any], None] | None = None  # None where it is only read


CHECKPOINT = Format(
    ".ckpt", lambda path: path.with_name(f"{path.name}.index").exists(), _read_checkpoint, _write_checkpoint
)
HDF5 = Format(".h5", lambda path: starts_with(path, 0, b"\x89HDF\r\n\x1a\n"), _read_hdf5, _write_hdf5)
# A safetensors file begins with the length of its JSON header, in 8 bytes.
SAFETENSORS = Format(".safetensors", lambda path: starts_with(path, 8, b"{"), _read_tensors, _write_safetensors)
SHARDS = Format(INDEX_SUFFIX, lambda path: path.name.endswith(INDEX_SUFFIX) and path.is_file(), _read_tensors)
PYTORCH = Format(".bin", lambda path: path.is_file() and is_pickled(path), _read_tensors)
FORMATS = (HDF5, SAFETENSORS, CHECKPOINT, SHARDS, PYTORCH)


def _format_of(path: Path) -> Format:
    for format_ in FORMATS:
        if format_.recognises(path):
            return format_
    if path.exists():
        raise CheckpointError(f"{path} is neither HDF5 nor safetensors nor a TensorFlow checkpoint")
    raise CheckpointError(f"no weights at {path}")
