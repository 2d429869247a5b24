"""Write an exported model (see `exported`): graphs, their weights as external data, vocabulary and config.json."""

import json
import shutil
from pathlib import Path

import onnx
from onnx import helper

from ..config import GENERATION_FILE, read_generation_file
from ..files import atomic_folder
from ..locations import VOCABULARY_FILES
from ..networks.description import Network
from ..networks.t5 import PegasusT5, network_of
from ..text.prompts import Prompt, write_prompt
from ..text.special_tokens import CONFIG_FILES
from ..text.subwords import VOCABULARY_FILE
from .exported import DECODER, ENCODER, GATHER, ExportConfig, data_file, file_hash, write_config
from .onnx_graph import MICROSOFT, OPSET, decoder_graph, encoder_graph, gather_graph

_GRAPHS = {ENCODER: encoder_graph, DECODER: decoder_graph, GATHER: gather_graph}


def export_model(
    t5: PegasusT5,
    vocab_file: str | Path,
    output_dir: str | Path,
    quantize: str = "no",
    weights: str | Path | None = None,
    prompt: Prompt | None = None,
) -> None:
    """Write the folder that `engines.onnx` runs, whole or not at all.

    Args:
        t5: the model, as `build_model` returns it.
        vocab_file: copied beside the graphs, with the tokenizer's configs and the options of generation beside it.
        output_dir: made; must not exist, or be empty.
        quantize: "no" for float32, or "int8".
        weights: the file of the model's weights, whose hash the export keeps (see `exported.shipped_export`).
        prompt: what stands around the model's texts, for prompt.json; none is written without one.

    Raises OptionError for a directory that is not empty.
    """
    ExportConfig(quantize)
    with atomic_folder(output_dir) as folder:
        write_export(t5, vocab_file, folder, quantize, weights)
        if prompt:
            write_prompt(folder, prompt)


def write_export(
    t5: PegasusT5, vocab_file: str | Path, folder: Path, quantize: str = "no", weights: str | Path | None = None
) -> None:
    """Write the files of an export to an empty folder; see `export_model`."""
    write_graphs(network_of(t5), folder, quantize)
    vocab_file = Path(vocab_file)
    is_usual = vocab_file.name in VOCABULARY_FILES
    shutil.copyfile(vocab_file, folder / (vocab_file.name if is_usual else VOCABULARY_FILE))
    for name in CONFIG_FILES:
        if vocab_file.with_name(name).is_file():
            shutil.copyfile(vocab_file.with_name(name), folder / name)
    generation = read_generation_file(vocab_file.parent)
    if generation:
        (folder / GENERATION_FILE).write_text(f"{json.dumps(generation, indent=2)}\n", encoding="utf-8")
    settings = {**t5.config.to_dict(), "quantize": quantize, "opset": OPSET}
    if weights is not None and Path(weights).is_file():
        settings["weights_sha256"] = file_hash(Path(weights))
    write_config(folder, settings)


def write_graphs(network: Network, folder: Path, quantize: str = "no") -> None:
    """Write the graphs of any described network, with its weights."""
    for name, make_graph in _GRAPHS.items():
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        model = helper.make_model(make_graph(network, quantize), opset_imports=opsets, ir_version=12)
        # Weights beside the graph, since a protocol buffer holds no more than 2 GB.
        onnx.save_model(model, folder / name, save_as_external_data=True, location=data_file(name), size_threshold=1024)
        onnx.checker.check_model(folder / name)
