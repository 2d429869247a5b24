"""Time decoding with many adapters in one batch beside the same batch without any, in ONNX Runtime.

    python benchmarks/many_adapters.py --output benchmarks/results/many_adapters.json

A model of base size with random weights writes a batch of as many texts as there are adapters, each text by an adapter
of its own, of rank 8 on queries and values. In `none` the engine has no adapter; in `unused` it has them and the batch
asks for none. Everything is measured in one process, in turn; of each the median counts.
"""

import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common
import numpy as np

from t5_pegasus import cli
from t5_pegasus.config import ModelConfig
from t5_pegasus.decoding.inputs import Source, make_inputs
from t5_pegasus.decoding.logits import NO_EDITS
from t5_pegasus.engines.onnx import OnnxEngine
from t5_pegasus.locations import BASE_MODEL_DIR
from t5_pegasus.networks.lora import Adapter, Factors, LoraConfig, plan
from t5_pegasus.networks.t5_description import describe_t5

WAYS = ("none", "unused", "all")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the encoder and a step of the decoder, float32 and int8."""
    parser = common.make_parser("Time many adapters in one batch.")
    parser.add_argument("--adapters", type=int, default=16, help="adapters, and texts of the batch")
    parser.add_argument("--rank", type=int, default=8, help="r of the adapters")
    parser.add_argument("--source_length", type=int, default=256, help="tokens of each text")
    parser.add_argument("--new_tokens", type=int, default=32, help="steps of the decoder")
    parser.add_argument("--layers", type=int, default=12, help="layers of encoder and decoder")
    flags = parser.parse_args(argv)
    config = ModelConfig.load(BASE_MODEL_DIR, num_hidden_layers=flags.layers)
    cells: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for quantize in ("no", "int8"):
            export(config, Path(folder) / quantize, quantize)
            cells["float32" if quantize == "no" else quantize] = measure(Path(folder) / quantize, config, flags)
            shutil.rmtree(Path(folder) / quantize)
    for name, cell in cells.items():
        for way in WAYS:
            encoder, step = cell[way]["encoder_ms"], cell[way]["step_ms"]
            print(f"{name + ', ' + way:20}{encoder:12.1f} ms encoder{step:10.2f} ms a step")
    settings = {name: getattr(flags, name) for name in ("adapters", "rank", "source_length", "new_tokens", "layers")}
    factors = random_adapter(config, flags.rank, 0).factors.values()
    settings["mb_each"] = round(sum(a.nbytes + b.nbytes for a, b, _ in factors) / 1e6, 2)
    common.report({"settings": settings, "cells": cells}, ("onnxruntime", "numpy"), flags.output)
    return 0


def export(config: ModelConfig, folder: Path, quantize: str) -> None:
    """Export a model with random weights."""
    from t5_pegasus.engines.onnx_export import export_model
    from t5_pegasus.networks.t5 import build_from_config, initialize

    t5 = build_from_config(config, with_lm="linear")
    initialize(t5)
    vocabulary = folder.with_name("vocab.txt")
    vocabulary.touch()
    export_model(t5, vocabulary, folder, quantize)


def random_adapter(config: ModelConfig, rank: int, seed: int) -> Adapter:
    """Return an adapter of queries and values."""
    random, planned = np.random.default_rng(seed), plan(describe_t5(config), LoraConfig(r=rank))
    factors = {
        module.weight: Factors(
            random.normal(size=(module.inputs, rank)).astype(np.float32),
            random.normal(scale=0.01, size=(rank, module.outputs)).astype(np.float32),
            1.0,
        )
        for module in planned.targets
    }
    return Adapter(planned, factors, {})


def measure(folder: Path, config: ModelConfig, flags: Any) -> dict[str, Any]:
    """Return the milliseconds of each way, and what adapters add."""
    engines = {"none": OnnxEngine(folder), "all": OnnxEngine(folder)}
    names = [f"adapter {number}" for number in range(flags.adapters)]
    for number, name in enumerate(names):
        engines["all"].add_adapter(name, random_adapter(config, flags.rank, number))
    engines["unused"] = engines["all"]
    random = np.random.default_rng(0)
    ids = random.integers(106, config.vocab_size, (flags.adapters, flags.source_length)).tolist()
    seconds: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for _ in range(flags.repeats + 1):
        for way in WAYS:
            asked = names if way == "all" else [None] * len(names)
            whole = Source.whole
            sources = [Source(whole(row).windows, adapter=name) for row, name in zip(ids, asked, strict=True)]
            seconds[way].append(run(engines[way], sources, flags.new_tokens))
    cell: dict[str, Any] = {}
    for way in WAYS:
        encoder, step = np.median(np.array(seconds[way][1:]) * 1e3, axis=0).round(3).tolist()
        cell[way] = {"encoder_ms": encoder, "step_ms": step}
    for way in WAYS[1:]:
        cell[f"{way}_to_none"] = {key: round(cell[way][key] / cell["none"][key], 3) for key in cell["none"]}
    return cell


def run(engine: OnnxEngine, sources: list[Source], steps: int) -> tuple[float, float]:
    """Return the seconds of the encoder and of a step, greedily decoded."""
    start = time.perf_counter()
    state = engine.start(make_inputs(sources))
    encoded = time.perf_counter()
    rows = np.arange(len(sources), dtype=np.int32)
    tokens = np.full((len(sources), 1), 101, np.int32)
    for _ in range(steps):
        state, best, _ = engine.step(state, tokens, rows[:, None], rows, NO_EDITS, 1)
        tokens = best[:, :, 0].astype(np.int32)
    return encoded - start, (time.perf_counter() - encoded) / steps


if __name__ == "__main__":
    cli.run(main)
