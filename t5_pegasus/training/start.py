"""A model to train: seeded, in its precision, with or without weights to start from."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..locations import Weights
from ..networks.backend import keras
from ..networks.t5 import PegasusT5, build_model, recompute_activations
from .options import PRECISIONS, LearningConfig


def seed_everything(seed: int) -> None:
    """Fix Python's, numpy's and TensorFlow's random state: two runs on a CPU give the same weights."""
    keras.utils.set_random_seed(seed)


@contextlib.contextmanager
def precision(mixed_precision: str) -> Iterator[None]:
    """Build models inside the `with` that compute in a type of PRECISIONS; their weights stay float32."""
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy(PRECISIONS[mixed_precision])
    try:
        yield
    finally:
        keras.mixed_precision.set_global_policy(before)


def build_for_training(
    model_dir: str | Path, weights: str | Path | Weights | None, config: LearningConfig
) -> PegasusT5:
    """Build the network of a model directory as `config` says, giving logits; `weights` is that of `build_model`.

    Raises what `build_model` raises.
    """
    seed_everything(config.seed)
    names = ("hidden_dropout_prob", "attention_probs_dropout_prob")
    overrides: dict[str, Any] = {} if config.dropout_rate is None else dict.fromkeys(names, config.dropout_rate)
    with precision(config.mixed_precision):
        t5 = build_model(model_dir, weights, with_lm="linear", **overrides)
    if config.gradient_checkpointing:
        recompute_activations(t5)
    return t5
