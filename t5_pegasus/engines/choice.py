"""Which engine runs a model: its name to what finds titles, and the default of this machine."""

import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..decoding.search import BatchDecoder
from ..errors import OptionError
from ..locations import find_weights, is_exported
from ..text.tokenizer import PegasusTokenizer


def _reference(t5: Any, tokenizer: PegasusTokenizer) -> Any:
    from .reference import ReferenceDecoder

    return ReferenceDecoder(t5, tokenizer.start_id, tokenizer.end_id)


def _keras(t5: Any, tokenizer: PegasusTokenizer) -> BatchDecoder:
    from .keras import KerasEngine

    return BatchDecoder(KerasEngine(t5), tokenizer.start_id, tokenizer.end_id)


def _onnx(t5: Any, tokenizer: PegasusTokenizer) -> BatchDecoder:
    from .onnx_export import export_model

    with tempfile.TemporaryDirectory() as folder:
        export_model(t5, tokenizer.vocab_file, Path(folder) / "model")
        return _exported(Path(folder) / "model", tokenizer)


def _exported(model_dir: Path, tokenizer: PegasusTokenizer) -> BatchDecoder:
    from .onnx import OnnxEngine

    return BatchDecoder(OnnxEngine(model_dir), tokenizer.start_id, tokenizer.end_id)


# What finds the titles of a model in memory: something with `search_batch(sources, config)`. The packages behind a row
# are imported when it is chosen: an exported model needs no TensorFlow.
ENGINES: dict[str, Callable[[Any, PegasusTokenizer], Any]] = {
    "keras": _keras,
    "onnx": _onnx,
    "reference": _reference,
}


def check_engine(engine: str) -> None:
    """Raise OptionError unless `engine` is "auto" or a row of ENGINES."""
    if engine not in ("auto", *ENGINES):
        raise OptionError(f"engine must be one of auto, {', '.join(ENGINES)}, got {engine}")


def make_decoder(t5: Any, tokenizer: PegasusTokenizer, engine: str = "auto") -> Any:
    """Return what finds the titles of a model in memory; "auto" is keras."""
    check_engine(engine)
    return ENGINES["keras" if engine == "auto" else engine](t5, tokenizer)


def load_decoder(
    model_dir: Path,
    weights: str | Path | None,
    engine: str,
    tokenizer: PegasusTokenizer,
    output_dir: str | Path,
) -> Any:
    """Return what finds the titles of a model directory; the arguments and the errors are those of `AutoTitle.load`."""
    if is_exported(model_dir):
        if weights is not None or engine not in ("auto", "onnx"):
            raise OptionError(f"{model_dir} is an exported model: give no weights, and engine auto or onnx")
        return _exported(model_dir, tokenizer)
    weights = find_weights(model_dir, weights, output_dir)
    chosen = choose_engine() if engine == "auto" else engine
    if chosen == "onnx":
        from .onnx_cache import cached_export

        exported = cached_export(model_dir, weights)
        if exported is not None:
            return _exported(exported, tokenizer)
        chosen = "keras" if engine == "auto" else engine
        print(f"using engine {chosen} on the model in memory", file=sys.stderr)
    from ..networks.t5 import build_model

    return make_decoder(build_model(model_dir, weights), tokenizer, chosen)


def choose_engine() -> str:
    """Return "keras" where TensorFlow has a GPU, else "onnx"."""
    if shutil.which("nvidia-smi") is None:
        return "onnx"  # without waiting for TensorFlow, which takes seconds to import
    from ..networks.backend import tf

    return "keras" if tf.config.list_physical_devices("GPU") else "onnx"
