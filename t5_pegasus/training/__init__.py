"""Fine-tuning and pretraining: batches, the step, the loss, the optimizer, the loops and what they leave on disk.

A new loop, optimizer or way to distribute the work comes in here.
"""

from .distribution import distributed
from .finetuning import Trainer
from .optimizer import usual_rate
from .pairs import EncodedPairs, encode_pairs, open_pairs
from .pretraining import Pretrainer
from .start import build_for_training, precision, seed_everything

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
    "usual_rate",
]
