"""An exported model: a folder of graphs, their weights as external data, vocab.txt and config.json."""

import dataclasses
import json
import shutil
import tempfile
from pathlib import Path

import onnx
from onnx import helper

from ..config import option
from ..errors import OptionError
from ..networks.t5 import PegasusT5
from .onnx import GRAPHS
from .onnx_graph import MICROSOFT, OPSET, decoder_graph, encoder_graph, gather_graph

ENCODER, DECODER, GATHER = "encoder.onnx", "decoder.onnx", "gather.onnx"


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """How a model is written."""

    quantize: str = option(
        "no", "int8 is a quarter of the size and faster; scores move a little", choices=("no", "int8")
    )

    def __post_init__(self) -> None:
        """Raise OptionError for an unknown precision."""
        if self.quantize not in ("no", "int8"):
            raise OptionError(f"quantize must be no or int8, got {self.quantize}")


def export_model(t5: PegasusT5, vocab_file: str | Path, output_dir: str | Path, quantize: str = "no") -> None:
    """Write the engine's directory, whole or not at all.

    Args:
        t5: the model, as `build_model` returns it.
        vocab_file: copied beside the graphs.
        output_dir: made; must not exist, or be empty.
        quantize: "no" for float32 or "int8".

    Raises OptionError for a directory that holds something.
    """
    ExportConfig(quantize)
    output_dir = Path(output_dir)
    check_output_dir(output_dir)
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output_dir.name}.", dir=output_dir.parent) as temporary:
        folder = Path(temporary) / "model"
        folder.mkdir()
        for name, make in ((ENCODER, encoder_graph), (DECODER, decoder_graph), (GATHER, gather_graph)):
            opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
            model = helper.make_model(make(t5, quantize), opset_imports=opsets, ir_version=12)
            # Beside the graph, since a protocol buffer holds no more than 2 GB.
            onnx.save_model(
                model, folder / name, save_as_external_data=True, location=f"{name}.data", size_threshold=1024
            )
            onnx.checker.check_model(folder / name)
        shutil.copyfile(vocab_file, folder / "vocab.txt")
        settings = {**t5.config.to_dict(), "quantize": quantize, "opset": OPSET, "graphs": GRAPHS}
        (folder / "config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        folder.replace(output_dir)


def check_output_dir(output_dir: Path) -> None:
    """Raise OptionError for a directory that holds something."""
    if output_dir.exists() and any(output_dir.iterdir()):
        raise OptionError(f"output_dir must be empty or not exist, got {output_dir}")
