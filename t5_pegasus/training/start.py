"""A model to train: seeded, in its precision, with or without weights to start from."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import OptionError
from ..locations import Weights
from ..networks.adapter_files import read_adapter
from ..networks.backend import keras
from ..networks.lora import LoraConfig
from ..networks.lora_layers import attach
from ..networks.t5 import PegasusT5, build_model, network_of, recompute_activations
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
    model_dir: str | Path,
    weights: str | Path | Weights | None,
    config: LearningConfig,
    lora: LoraConfig | None = None,
    adapter: str | Path | None = None,
) -> PegasusT5:
    """Build the network of a model directory as `config` says, giving logits; `weights` is that of `build_model`.

    With `lora` its weights are frozen and an adapter is to be trained (see `lora_layers.attach`): a new one, or that of
    the folder `adapter`, with its own settings.

    Raises what `build_model`, `attach` and `read_adapter` raise; OptionError for an adapter beside random weights, or
    with the option scale_parameter: half of an adapter starts at zero.
    """
    if lora is not None and config.scale_parameter:
        raise OptionError("scale_parameter is only for method full, got method lora")
    seed_everything(config.seed)
    names = ("hidden_dropout_prob", "attention_probs_dropout_prob")
    overrides: dict[str, Any] = {} if config.dropout_rate is None else dict.fromkeys(names, config.dropout_rate)
    with precision(config.mixed_precision):
        t5 = build_model(model_dir, weights, with_lm="linear", **overrides)
        if lora is not None:
            if t5.from_scratch:
                raise OptionError(f"method lora needs trained weights, got none in {model_dir}")
            attach(t5, lora, read_adapter(adapter, network_of(t5).description) if adapter else None)
    if config.gradient_checkpointing:
        recompute_activations(t5)
    return t5
