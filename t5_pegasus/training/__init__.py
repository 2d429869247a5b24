"""Fine-tuning and pretraining: batches, the step, the loss, the optimizer, the loops and what they leave on disk.

A new loop, optimizer or way to distribute the work comes in here. The names below are loaded when they are first used:
`options` needs no TensorFlow.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .distribution import distributed
    from .finetuning import Trainer
    from .pairs import EncodedPairs, encode_pairs, open_pairs
    from .pretraining import Pretrainer
    from .start import build_for_training, precision, seed_everything

_MODULES = {
    "EncodedPairs": "pairs",
    "Pretrainer": "pretraining",
    "Trainer": "finetuning",
    "build_for_training": "start",
    "distributed": "distribution",
    "encode_pairs": "pairs",
    "open_pairs": "pairs",
    "precision": "start",
    "seed_everything": "start",
}
__all__ = [
    "EncodedPairs",
    "Pretrainer",
    "Trainer",
    "build_for_training",
    "distributed",
    "encode_pairs",
    "open_pairs",
    "precision",
    "seed_everything",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
