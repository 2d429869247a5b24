"""Fine-tuning and pretraining: the step, the optimizer, the loops and what they leave on disk."""

from .distribution import distributed
from .finetuning import LEARNING_RATE, LEARNING_RATE_FROM_SCRATCH, Trainer
from .pairs import EncodedPairs, encode_pairs, open_pairs
from .pretraining import Pretrainer
from .start import build_for_training, precision, seed_everything

__all__ = [
    "LEARNING_RATE",
    "LEARNING_RATE_FROM_SCRATCH",
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
