"""A model to train: seeded, in its precision, with or without weights to start from."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..config import LearningConfig, ModelConfig
from ..networks.backend import keras
from ..networks.t5 import PegasusT5, build_from_config, build_model, check_vocabulary, initialize, recompute_activations


def seed_everything(seed: int) -> None:
    """Fix Python's, numpy's and TensorFlow's random state: two runs on a CPU give the same weights."""
    keras.utils.set_random_seed(seed)


@contextlib.contextmanager
def precision(mixed_precision: str) -> Iterator[None]:
    """Build models for "no", "float16" or "bfloat16" inside the `with`: the compute type; weights stay float32."""
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy("float32" if mixed_precision == "no" else f"mixed_{mixed_precision}")
    try:
        yield
    finally:
        keras.mixed_precision.set_global_policy(before)


def build_for_training(model_dir: str | Path, weights: str | Path | None, config: LearningConfig) -> PegasusT5:
    """Build the network of a model directory as `config` says, giving logits; random where `weights` is None.

    Raises what `build_model` raises.
    """
    seed_everything(config.seed)
    names = ("hidden_dropout_prob", "attention_probs_dropout_prob")
    overrides: dict[str, Any] = {} if config.dropout_rate is None else dict.fromkeys(names, config.dropout_rate)
    with precision(config.mixed_precision):
        if weights is not None:
            t5 = build_model(model_dir, weights, with_lm="linear", **overrides)
        else:
            model_config = ModelConfig.load(model_dir, **overrides)
            check_vocabulary(model_dir, model_config)
            t5 = build_from_config(model_config, with_lm="linear")
            initialize(t5)
    if config.gradient_checkpointing:
        recompute_activations(t5)
    return t5
