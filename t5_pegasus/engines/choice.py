"""Which engine runs a model: a decoder for each name, and the default of this machine."""

import functools
import importlib.util
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..config import ModelConfig
from ..decoding.search import BatchDecoder, Decoder
from ..errors import OptionError
from ..locations import TO_GENERATE, Weights, find_weights, locate_weights, weights_hash
from ..networks.adapter_files import check_base, read_adapter
from ..text.protocol import Tokenizer
from .exported import base_sha256, check_export, is_exported, shipped_export


def _reference(t5: Any, tokenizer: Tokenizer) -> Decoder:
    from .reference import ReferenceDecoder

    unused_ids = _unused_ids(tokenizer, _rows(t5))
    return ReferenceDecoder(t5, tokenizer.start_id, tokenizer.end_id, unused_ids=unused_ids)


def _keras(t5: Any, tokenizer: Tokenizer) -> BatchDecoder:
    from ..networks.t5 import network_of
    from .keras import KerasEngine

    unused_ids = _unused_ids(tokenizer, _rows(t5))
    return BatchDecoder(KerasEngine(network_of(t5)), tokenizer.start_id, tokenizer.end_id, unused_ids)


def _onnx(t5: Any, tokenizer: Tokenizer) -> BatchDecoder:
    from .onnx_export import export_model

    with tempfile.TemporaryDirectory() as folder:
        export_model(t5, tokenizer.vocab_file, Path(folder) / "model")
        return _exported(Path(folder) / "model", tokenizer)


def _exported(model_dir: Path, tokenizer: Tokenizer) -> BatchDecoder:
    from .onnx import OnnxEngine

    engine = OnnxEngine(model_dir)
    unused_ids = _unused_ids(tokenizer, ModelConfig.load(model_dir).vocab_size)
    return BatchDecoder(engine, tokenizer.start_id, tokenizer.end_id, unused_ids)


def _rows(t5: Any) -> int:
    rows: int = t5.decoder.output_shape[-1]
    return rows


def _unused_ids(tokenizer: Tokenizer, rows: int) -> range:
    """Return the ids of the rows that a model has beyond the tokens of its tokenizer."""
    return range(tokenizer.vocab_size, rows)


# A decoder for a model in memory. The packages behind a row are imported when it is chosen: an exported model needs no
# TensorFlow.
ENGINES: dict[str, Callable[[Any, Tokenizer], Decoder]] = {
    "keras": _keras,
    "onnx": _onnx,
    "reference": _reference,
}


def check_engine(engine: str) -> None:
    """Raise OptionError unless `engine` is "auto" or a row of ENGINES."""
    if engine not in ("auto", *ENGINES):
        raise OptionError(f"engine must be one of auto, {', '.join(ENGINES)}, got {engine}")


def make_decoder(t5: Any, tokenizer: Tokenizer, engine: str = "auto") -> Decoder:
    """Return a decoder for a model in memory; "auto" is keras."""
    check_engine(engine)
    return ENGINES["keras" if engine == "auto" else engine](t5, tokenizer)


def check_model(
    model_dir: Path, weights: str | Path | Weights | None, engine: str, output_dir: str | Path = "."
) -> None:
    """Raise what `load_decoder` raises if files are missing or damaged or the engine cannot run them.

    Takes a second, since no model is built; arguments are those of `AutoTitle.load`.
    """
    check_engine(engine)
    if is_exported(model_dir):
        _check_exported(model_dir, weights, engine)
        check_export(model_dir)
    else:
        locate_weights(model_dir, weights, TO_GENERATE, output_dir)


def _check_exported(model_dir: Path, weights: str | Path | Weights | None, engine: str) -> None:
    if weights is not None or engine not in ("auto", "onnx"):
        raise OptionError(f"{model_dir} is an exported model: give no weights, and engine auto or onnx")


def load_decoder(
    model_dir: Path,
    weights: str | Path | Weights | None,
    engine: str,
    tokenizer: Tokenizer,
    output_dir: str | Path,
) -> Decoder:
    """Return a decoder for a model directory; arguments and errors are those of `AutoTitle.load`."""
    if is_exported(model_dir):
        _check_exported(model_dir, weights, engine)
        decoder: Decoder = _exported(model_dir, tokenizer)
        known: Callable[[], str | None] = functools.partial(base_sha256, model_dir)
    else:
        found = find_weights(model_dir, weights, output_dir)
        decoder = _from_weights(model_dir, found, engine, tokenizer)
        known = functools.partial(weights_hash, found)
    if isinstance(decoder, BatchDecoder):
        decoder.base_sha256 = known
    return decoder


def _from_weights(model_dir: Path, weights: Path, engine: str, tokenizer: Tokenizer) -> Decoder:
    chosen = choose_engine() if engine == "auto" else engine
    if chosen == "onnx":
        from .onnx_cache import cached_export

        exported = shipped_export(model_dir, weights) or cached_export(model_dir, weights)
        if exported is not None:
            return _exported(exported, tokenizer)
        chosen = "keras" if engine == "auto" else engine
        print(f"using engine {chosen} on the model in memory", file=sys.stderr)
    from ..networks.t5 import build_model

    return make_decoder(build_model(model_dir, weights), tokenizer, chosen)


def load_adapter(decoder: Decoder, name: str, folder: str | Path, ignore_base_hash: bool = False) -> None:
    """Add the adapter of a folder to a decoder, in place of one of that name.

    Raises CheckpointError for one of other weights (by their hash, unless it is ignored) or of another network, and
    what `read_adapter` and the engine's `add_adapter` raise.
    """
    engine = _adapted(decoder)
    if not ignore_base_hash:
        check_base(folder, decoder.base_sha256() if isinstance(decoder, BatchDecoder) else None)
    engine.add_adapter(name, read_adapter(folder, engine.description))


def remove_adapter(decoder: Decoder, name: str) -> None:
    """Remove an adapter from a decoder; raises OptionError if there is none of that name."""
    _adapted(decoder).adapters.remove(name)


def adapter_names(decoder: Decoder) -> tuple[str, ...]:
    """Return the names of a decoder's adapters."""
    names: tuple[str, ...] = _adapted(decoder).adapters.names if _takes_adapters(decoder) else ()
    return names


def _takes_adapters(decoder: Decoder) -> bool:
    return isinstance(decoder, BatchDecoder) and hasattr(decoder.engine, "adapters")


def _adapted(decoder: Decoder) -> Any:
    if not isinstance(decoder, BatchDecoder) or not _takes_adapters(decoder):
        raise OptionError("adapters are for engines keras and onnx, got reference; or merge them into the weights")
    return decoder.engine


def choose_engine() -> str:
    """Return "keras" if TensorFlow has a GPU, else "onnx"."""
    if shutil.which("nvidia-smi") is None or importlib.util.find_spec("tensorflow") is None:
        return "onnx"  # without TensorFlow, which takes seconds to import
    from ..networks.backend import tf

    return "keras" if tf.config.list_physical_devices("GPU") else "onnx"
