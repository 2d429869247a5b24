"""Time a decoder step of every engine against stock bert4keras.

Random weights, so that any size can be timed; the end token is forbidden, so that every title has all its tokens. The
encoder is timed apart. Stock bert4keras takes one text at a time and computes the whole prefix anew for each token.
"""

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import common
import numpy as np

from t5_pegasus import cli
from t5_pegasus.backend import bert4keras
from t5_pegasus.config import GenerationConfig, ModelConfig
from t5_pegasus.engines.keras import KerasEngine
from t5_pegasus.engines.onnx import OnnxEngine
from t5_pegasus.export import export_model
from t5_pegasus.locations import ROOT
from t5_pegasus.model import build_from_config, initialize
from t5_pegasus.search import BatchDecoder

START, END = 101, 102
# source tokens, new tokens, texts at a time, beams
CELLS = [(256, 32, batch, beams) for batch in (1, 8) for beams in (1, 4)]


@dataclasses.dataclass(frozen=True)
class Timing:
    """Median seconds of the encoder for a batch, and of one decoder step."""

    encoder: float
    step: float


def main(argv: Sequence[str] | None = None) -> int:
    """Time every cell, each engine in turn, and print the milliseconds a step."""
    parser = common.make_parser("Time decoding.")
    parser.add_argument("--size", choices=("base", "small", "tiny"), default="base", help="which config.json")
    flags = parser.parse_args(argv)
    model_dir = ROOT / f"chinese_t5_pegasus_{flags.size}"
    t5 = build_from_config(ModelConfig.load(model_dir))
    initialize(t5)
    with tempfile.TemporaryDirectory() as folder:
        vocab_file = Path(folder) / "vocab.txt"
        vocab_file.write_text("".join(f"t{number}\n" for number in range(t5.config.vocab_size)))
        engines: dict[str, Any] = {"keras": KerasEngine(t5)}
        for name, quantize in (("onnx float32", "no"), ("onnx int8", "int8")):
            export_model(t5, vocab_file, Path(folder) / quantize, quantize)
            engines[name] = OnnxEngine(Path(folder) / quantize)
        rows = [time_cell(t5, engines, flags.repeats, *cell) for cell in CELLS]
    print_table(rows)
    result = {"size": flags.size, "cells": rows, "repeats": flags.repeats}
    common.report(result, ("tensorflow", "bert4keras", "onnxruntime", "numpy"), flags.output)
    return 0


def time_cell(
    t5: Any, engines: dict[str, Any], repeats: int, source_length: int, new_tokens: int, batch: int, beams: int
) -> dict[str, Any]:
    """Return the cell and the milliseconds of each side's encoder and step, medians over runs in turn."""
    random = np.random.default_rng(0)
    sources = random.integers(106, t5.config.vocab_size, (batch, source_length)).tolist()
    config = GenerationConfig(num_beams=beams, max_new_tokens=new_tokens, min_new_tokens=new_tokens)
    sides: dict[str, Callable[[], Timing]] = {}
    if batch == 1:
        sides["bert4keras"] = lambda: time_stock(t5, sources[0], new_tokens, beams)
    for name, engine in engines.items():
        sides[name] = lambda engine=engine: time_engine(engine, sources, config)  # type: ignore[misc]
    timings: dict[str, list[Timing]] = {name: [] for name in sides}
    for _ in range(repeats + 1):
        for name, run in sides.items():
            timings[name].append(run())
    cell = {"source_length": source_length, "new_tokens": new_tokens, "batch": batch, "beams": beams}
    for part in ("encoder", "step"):
        medians = {name: statistics.median(getattr(each, part) for each in runs[1:]) for name, runs in timings.items()}
        cell[f"{part}_ms"] = {name: round(seconds * 1e3, 2) for name, seconds in medians.items()}  # type: ignore[assignment]
    return cell


def time_engine(engine: Any, sources: list[list[int]], config: GenerationConfig) -> Timing:
    """Time a search from the encoder to the last token."""
    seconds = []

    class Timed:
        """The engine, its encoder on the clock."""

        step = staticmethod(engine.step)

        def start(self, batch: list[list[int]]) -> Any:
            start = time.perf_counter()
            state = engine.start(batch)
            seconds.append(time.perf_counter() - start)
            return state

    start = time.perf_counter()
    BatchDecoder(Timed(), START, END).search_batch(sources, config)
    total = time.perf_counter() - start
    return Timing(seconds[0], (total - seconds[0]) / config.max_new_tokens)


def time_stock(t5: Any, source: list[int], new_tokens: int, beams: int) -> Timing:
    """Time bert4keras's own beam search, the way its examples call a model: `predict` of the whole prefix."""

    class Decoder(bert4keras.snippets.AutoRegressiveDecoder):  # type: ignore[misc]
        @bert4keras.snippets.AutoRegressiveDecoder.wraps(default_rtype="probas")  # type: ignore[untyped-decorator]
        def predict(self, inputs: list[np.ndarray], output_ids: np.ndarray, states: Any) -> np.ndarray:
            context = np.repeat(inputs[0], len(output_ids) // len(inputs[0]), axis=0)
            probabilities = self.last_token(t5.decoder).predict([context, output_ids], verbose=0)
            probabilities[:, END] = 0
            return np.asarray(probabilities)

    decoder = _STOCK.setdefault((id(t5), new_tokens), Decoder(START, END, new_tokens))
    start = time.perf_counter()
    context = t5.encoder.predict(np.array([source]), verbose=0)[0]
    encoded = time.perf_counter()
    decoder.beam_search([context], beams)
    return Timing(encoded - start, (time.perf_counter() - encoded) / new_tokens)


_STOCK: dict[tuple[int, int], Any] = {}  # one decoder a model, since it builds a Keras model of its own


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print a line a cell: milliseconds a step of each side."""
    names = ["bert4keras", "keras", "onnx float32", "onnx int8"]
    print(f"{'ms a step':28}" + "".join(f"{name:>14}" for name in names))
    for row in rows:
        label = f"{row['source_length']} -> {row['new_tokens']}, batch {row['batch']}, beams {row['beams']}"
        print(f"{label:28}" + "".join(f"{row['step_ms'].get(name, '-'):>14}" for name in names))


if __name__ == "__main__":
    cli.run(main)
