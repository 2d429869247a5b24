"""The decoder with caches in ONNX Runtime, on the graphs that `t5_pegasus.export` writes. It needs no TensorFlow."""

import json
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime
from onnxruntime import OrtValue

from ..errors import CheckpointError
from ..logits import Edits
from ..long_text import divide

GRAPHS = 2  # the graphs' inputs and outputs, as `export` writes them; counted up when they change


class State(NamedTuple):
    """Where a batch stands: tensors of the runtime by their names in `decoder.onnx` (see `export`)."""

    caches: dict[str, OrtValue]
    cross: dict[str, OrtValue]


class OnnxEngine:
    """Runs an exported model; see `search.Engine` for its methods.

    Args:
        model_dir: made by `t5_pegasus.export`.
        num_threads: of one operation; 0 takes as many as there are cores for this process.

    Raises CheckpointError where the directory is not such a one.
    """

    def __init__(self, model_dir: str | Path, num_threads: int = 0) -> None:
        model_dir = Path(model_dir)
        options = onnxruntime.SessionOptions()
        # By itself the runtime counts the machine's cores, not those this process may run on (its CPU affinity).
        allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
        options.intra_op_num_threads = num_threads or (allowed if allowed < (os.cpu_count() or 1) else 0)
        options.log_severity_level = 3
        try:
            config = json.loads((model_dir / "config.json").read_text(encoding="utf-8"))
            if config.get("graphs") != GRAPHS:
                raise ValueError("it was made by another version, export it again")
            self._encoder, self._decoder = (
                onnxruntime.InferenceSession(str(model_dir / name), options, providers=["CPUExecutionProvider"])
                for name in ("encoder.onnx", "decoder.onnx")
            )
        except Exception as error:  # the runtime's own errors have no common base
            raise CheckpointError(f"{model_dir} is not an exported model, or damaged: {error}") from error
        self._heads, self._head_size = config["num_attention_heads"], config["attention_head_size"]
        self._vocab_size = config["vocab_size"]
        self._encoder_outputs = [output.name for output in self._encoder.get_outputs()]
        self._decoder_outputs = [output.name for output in self._decoder.get_outputs()]
        self._cache_names = [name.removeprefix("new_") for name in self._decoder_outputs if name.startswith("new_")]

    def start(self, sources: list[list[int]], window: int | None = None) -> State:
        """Encode the sources and compute their keys and values in every layer."""
        windows = divide(sources, window)._asdict()
        inputs = {name: OrtValue.ortvalue_from_numpy(value.astype(np.int64)) for name, value in windows.items()}
        outputs = self._encoder.run_with_ort_values(self._encoder_outputs, inputs)
        empty = OrtValue.ortvalue_from_numpy(np.zeros((len(sources), self._heads, 0, self._head_size), np.float32))
        return State(dict.fromkeys(self._cache_names, empty), dict(zip(self._encoder_outputs, outputs, strict=True)))

    def step(
        self,
        state: State,
        tokens: np.ndarray,
        parents: np.ndarray,
        sources: np.ndarray,
        edits: Edits,
        top: int,
    ) -> tuple[State, np.ndarray, np.ndarray]:
        """Advance every beam by one token; see `search.Engine`."""
        caches, cross = state
        if len(sources) < cross["mask"].shape()[0]:
            cross = {name: OrtValue.ortvalue_from_numpy(value.numpy()[sources]) for name, value in cross.items()}
        integers = {
            "tokens": tokens,
            "parents": parents.ravel(),
            "edited": edits.pairs,
            "top": np.array([min(top, self._vocab_size)]),
        }
        inputs = {name: OrtValue.ortvalue_from_numpy(value.astype(np.int64)) for name, value in integers.items()}
        inputs["factors"] = OrtValue.ortvalue_from_numpy(edits.factors)
        outputs = self._decoder.run_with_ort_values(self._decoder_outputs, {**inputs, **cross, **caches})
        by_name = dict(zip(self._decoder_outputs, outputs, strict=True))
        caches = {name: by_name[f"new_{name}"] for name in self._cache_names}
        shape = (*tokens.shape, -1)
        best, log_probs = (by_name[name].numpy().reshape(shape) for name in ("best", "log_probs"))
        return State(caches, cross), best, log_probs
