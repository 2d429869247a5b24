"""The options of fine-tuning and pretraining, and the learning rates they start from. Nothing here loads TensorFlow."""

import dataclasses
from typing import ClassVar, NamedTuple

from ..config import (
    MOST_SEED,
    check_choices,
    option,
    require,
    require_at_least,
    require_between,
    require_finite,
    require_only_with,
    require_positive,
    require_share,
)
from ..metrics import SCORE_NAMES, check_packages, score_names
from ..metrics.options import language_option
from ..networks.lora import ALL_LINEAR, LoraConfig
from .strategies import STRATEGIES

STATE_DIR = "training_state"  # of the folder that a training writes to: its checkpoints, and the lock of its run

# Compute types and their Keras policies; weights stay float32.
PRECISIONS = {"no": "float32", "float16": "mixed_float16", "bfloat16": "mixed_bfloat16"}


class Rates(NamedTuple):
    """Peak learning rates for a training that is given none."""

    from_weights: float
    from_scratch: float
    scaled: int  # times that with scale_parameter

    @property
    def help(self) -> str:
        """Return the help text of the flag."""
        start = f"{self.from_weights:g}"
        if self.from_scratch != self.from_weights:
            start += f" from weights, {self.from_scratch:g} from scratch"
        return f"peak rate; if not given {start}; {self.scaled} times that with scale_parameter"


FINE_TUNING = Rates(from_weights=2e-4, from_scratch=1e-3, scaled=10)
LORA_RATE = 1e-3  # of an adapter that is given none
PRETRAINING = Rates(from_weights=1e-4, from_scratch=1e-4, scaled=100)


@dataclasses.dataclass(frozen=True)
class LearningConfig:
    """What fine-tuning and pretraining have in common: the optimizer, and how a step is computed."""

    rates: ClassVar[Rates] = FINE_TUNING

    learning_rate: float | None = option(None, FINE_TUNING.help)
    scale_parameter: bool = option(
        False,
        "multiply the rate by each weight's root mean square, as Adafactor: for models that start at random",
    )
    weight_decay: float = option(0.01, "AdamW's decay, of matrices only: norms are left alone")
    max_grad_norm: float = option(1.0, "gradients are scaled down to this global norm; 0 is off")
    label_smoothing_factor: float = option(0.0, "share of the target's probability spread over the vocabulary")
    dropout_rate: float | None = option(None, "dropout everywhere in the model; config.json's if not given")
    gradient_accumulation_steps: int = option(1, "batches whose gradients are summed for one step")
    pad_to_multiple_of: int = option(1, "lengths of batches are rounded up to a multiple of it: few shapes, for xla")
    gradient_checkpointing: bool = option(False, "compute activations again instead of keeping them: less memory")
    mixed_precision: str = option("no", "compute type; weights stay float32", choices=PRECISIONS)
    xla: bool = option(False, "compile with XLA, anew for every shape of a batch: pad to few of them")
    distribute: str = option("none", "devices of this machine, or machines as TF_CONFIG says", choices=STRATEGIES)
    seed: int = option(42, "fixes initial weights, order and dropout: two runs on a CPU are equal")

    def __post_init__(self) -> None:
        """Raise OptionError for a value that training cannot use."""
        require_at_least(self, 0, "weight_decay", "max_grad_norm")
        require_at_least(self, 1, "gradient_accumulation_steps", "pad_to_multiple_of")
        require_between(self, 0, MOST_SEED, "seed")
        require_finite(self, "learning_rate", "weight_decay", "max_grad_norm")
        require_positive(self, "learning_rate")
        require_share(self, "label_smoothing_factor", "dropout_rate")
        check_choices(self)

    def peak_rate(self, from_scratch: bool = False) -> float:
        """Return `learning_rate`, or if it is None the usual one; `from_scratch` is for weights that start random."""
        if self.learning_rate is not None:
            return self.learning_rate
        rate = self.rates.from_scratch if from_scratch else self.rates.from_weights
        return rate * (self.rates.scaled if self.scale_parameter else 1)


@dataclasses.dataclass(frozen=True)
class TrainingConfig(LearningConfig):
    """How a model is fine-tuned, epoch by epoch."""

    num_train_epochs: int = option(10, "passes over the training pairs", aliases=("epochs",))
    per_device_train_batch_size: int = option(16, "pairs in a batch", aliases=("batch_size",))
    warmup_ratio: float = option(0.1, "share of all steps in which the rate climbs to its peak; then it falls to 0")
    metric_for_best_model: str = option("bleu", "validation score that chooses best_model.weights", choices=SCORE_NAMES)
    max_eval_samples: int | None = option(None, "validation pairs to generate titles for; all if not given")
    eval_num_beams: int = option(1, "beams for the validation titles")
    early_stopping_patience: int = option(0, "epochs without a better score before training ends; 0 is off")
    save_total_limit: int = option(1, "checkpoints that are kept for --resume, the last ones; the best weights always")
    language: str = language_option()

    def __post_init__(self) -> None:
        """Raise OptionError for a value that training cannot use."""
        super().__post_init__()
        require_at_least(
            self,
            1,
            *("num_train_epochs", "per_device_train_batch_size", "max_eval_samples", "eval_num_beams"),
            "save_total_limit",
        )
        check_packages(self.language)
        names = score_names(self.language)
        require(
            self.metric_for_best_model in names,
            f"metric_for_best_model must be one of {', '.join(names)} for language {self.language}",
            self.metric_for_best_model,
        )
        require_at_least(self, 0, "early_stopping_patience")
        require_between(self, 0, 1, "warmup_ratio")


METHODS = ("full", "lora")


@dataclasses.dataclass(frozen=True)
class MethodConfig:
    """Which weights fine-tuning changes: all of them, or those of an adapter (see `networks.lora`)."""

    method: str = option("full", "what is trained: all weights, or a small adapter beside them", choices=METHODS)
    lora_r: int = option(8, "LoRA: rank of the products that are learned")
    lora_alpha: float = option(16.0, "LoRA: the products are multiplied by alpha / r")
    lora_dropout: float = option(0.0, "LoRA: dropout before the products")
    lora_target_modules: str = option(
        "q,v", "LoRA: projections that learn, such as q,k,v,o,wi_0,wi_1,wo,embedding,head, or all-linear"
    )
    lora_bias: str = option("none", "LoRA: biases that learn; none, since T5 has none", choices=("none",))
    use_rslora: bool = option(False, "LoRA: multiply by alpha / sqrt(r) instead")
    modules_to_save: str = option("", "LoRA: modules that are trained whole, such as lm_head, with commas between them")

    def __post_init__(self) -> None:
        """Raise OptionError for a value that training cannot use."""
        check_choices(self)
        names = [field.name for field in dataclasses.fields(self) if field.name != "method"]
        require_only_with(self, self.method == "lora", "method lora", *names)
        _ = self.lora

    @property
    def lora(self) -> LoraConfig | None:
        """Return the adapter's settings; None for method full."""
        if self.method != "lora":
            return None
        targets, saved = map(_split, (self.lora_target_modules, self.modules_to_save))
        require_at_least(self, 1, "lora_r")
        require_positive(self, "lora_alpha")
        require_finite(self, "lora_alpha")
        require_share(self, "lora_dropout")
        require(targets, "lora_target_modules must name a projection", repr(self.lora_target_modules))
        return LoraConfig(
            r=self.lora_r,
            lora_alpha=self.lora_alpha,
            lora_dropout=self.lora_dropout,
            target_modules=ALL_LINEAR if targets == (ALL_LINEAR,) else targets,
            modules_to_save=saved,
            use_rslora=self.use_rslora,
        )


def _split(names: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in names.split(",") if name.strip())


@dataclasses.dataclass(frozen=True)
class PretrainingConfig(LearningConfig):
    """How a model is pretrained, step by step; the defaults are the recipe of T5-PEGASUS base, on 6 devices."""

    rates: ClassVar[Rates] = PRETRAINING

    learning_rate: float | None = option(None, PRETRAINING.help)
    max_steps: int = option(1_000_000, "steps of the whole run; the rate falls to 0 at the last one")
    warmup_steps: int = option(10_000, "steps in which the rate climbs to its peak")
    batch_tokens: int = option(8192, "tokens of a batch on a device, sources, targets and padding together")
    pad_to_multiple_of: int = option(
        64, "lengths are rounded up to a multiple of it; pairs of like lengths go together"
    )
    logging_steps: int = option(100, "steps between two lines of the log")
    save_steps: int = option(1000, "steps between two checkpoints, which --resume goes on from")
    save_total_limit: int = option(2, "checkpoints that are kept")

    def __post_init__(self) -> None:
        """Raise OptionError for a value that training cannot use."""
        super().__post_init__()
        require_at_least(self, 0, "warmup_steps")
        require_at_least(self, 1, "max_steps", "batch_tokens", "logging_steps", "save_steps", "save_total_limit")
