"""The options of model, data, decoding and training, as frozen dataclasses that check themselves.

`ModelConfig` is what `config.json` holds; the others become command-line flags (see `cli.add_flags`): a field is a
flag, its `option(...)` carries the help text and the short forms. Values are checked once, when an object is made.
"""

import dataclasses
import json
import math
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Self, cast

from .errors import DataError, OptionError


def option(default: Any, help: str, aliases: tuple[str, ...] = (), choices: tuple[str, ...] = ()) -> Any:
    """Return a dataclass field which is also a command-line flag; `aliases` are further names of it, without dashes."""
    return dataclasses.field(default=default, metadata={"help": help, "aliases": aliases, "choices": choices})


def _require(condition: bool, rule: str, value: object) -> None:
    if not condition:
        raise OptionError(f"{rule}, got {value}")


def _at_least(config: Any, minimum: float, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _require(value is None or value >= minimum, f"{name} must be at least {minimum}", value)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The shape of a T5-PEGASUS network, under bert4keras's names: what `config.json` in a model directory holds.

    Unknown keys in the file are ignored, since configs in the wild carry notes of other tools.
    """

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    attention_head_size: int = 64
    hidden_act: tuple[str, ...] = ("gelu", "linear")
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    cross_position_bias: bool = True

    def __post_init__(self) -> None:
        """Raise OptionError for a size or a rate no network can have."""
        sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        _at_least(self, 1, *sizes, "attention_head_size")
        _at_least(self, 4, "relative_attention_num_buckets")
        # Half the buckets of one direction are exact; the log-spaced rest must reach beyond them.
        exact = self.relative_attention_num_buckets // 2
        _require(
            self.relative_attention_max_distance > exact,
            f"relative_attention_max_distance must be above half of relative_attention_num_buckets ({exact})",
            self.relative_attention_max_distance,
        )
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            _require(0 <= getattr(self, name) < 1, f"{name} must be at least 0 and below 1", getattr(self, name))
        # The feed-forward layers of T5 1.1 are gated: one activation for the gate, one for what it lets through.
        _require(len(self.hidden_act) == 2, "hidden_act must be two activations", list(self.hidden_act))

    @classmethod
    def load(cls, model_dir: str | Path, **overrides: Any) -> Self:
        """Read `config.json` of a model directory; keyword arguments replace what it says.

        Raises DataError where the file is missing, is not JSON or lacks a key, OptionError for a value of the wrong
        type or size and for an unknown override.
        """
        path = Path(model_dir) / "config.json"
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}; a model directory holds config.json") from error
        except ValueError as error:
            raise DataError(f"{path} is not valid JSON: {error}") from error
        if not isinstance(values, dict):
            raise DataError(f"{path} must hold a JSON object, got {type(values).__name__}")
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for name in overrides:
            _require(name in fields, f"config overrides must be among {', '.join(fields)}", name)
        values = {name: value for name, value in {**values, **overrides}.items() if name in fields}
        for name, field in fields.items():
            if name not in values:
                if field.default is dataclasses.MISSING:
                    raise DataError(f"{path} lacks {name!r}")
                continue
            value = values[name]
            if name == "hidden_act":
                names = isinstance(value, list | tuple) and all(isinstance(each, str) for each in value)
                _require(names, f"{name} in {path} must be a list of names", repr(value))
                values[name] = tuple(value)
            elif field.type is float:
                _require(type(value) in (int, float), f"{name} in {path} must be a number", repr(value))
            else:
                kind = cast(type, field.type)
                _require(type(value) is kind, f"{name} in {path} must be {kind.__name__}", repr(value))
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return the values as they stand in `config.json`."""
        return {**dataclasses.asdict(self), "hidden_act": list(self.hidden_act)}


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """How pairs are read from a file and cut to length. Lengths are in tokens and count [CLS] and [SEP]."""

    text_column: str | None = option(None, "column of the content; found by its usual names if not given")
    summary_column: str | None = option(None, "column of the title; found by its usual names if not given")
    skip_bad_lines: bool = option(False, "count lines that cannot be used and go on, instead of stopping at the first")
    max_source_length: int = option(256, "tokens of the content that the model reads")
    max_target_length: int = option(32, "tokens of the title that the model learns to write")

    def __post_init__(self) -> None:
        """Raise OptionError where no token would be left between [CLS] and [SEP]."""
        _at_least(self, 3, "max_source_length", "max_target_length")


@dataclasses.dataclass(frozen=True)
class GenerationConfig:
    """How titles are decoded, under Hugging Face's names. Lengths are in generated tokens, the final [SEP] counted.

    A title's score is `sum(log_probs) / length ** length_penalty`.
    """

    num_beams: int = option(1, "beams; 1 is greedy decoding", aliases=("topk",))
    max_new_tokens: int = option(32, "longest title, in tokens", aliases=("maxlen",))
    min_new_tokens: int = option(0, "tokens before [SEP] is allowed", aliases=("minlen",))
    length_penalty: float = option(0.0, "above 0 favours long titles, below 0 short ones; 0 compares plain sums")
    no_repeat_ngram_size: int = option(0, "no sequence of this many tokens occurs twice; 0 is off")
    num_return_sequences: int = option(1, "titles per text, best first; at most num_beams")
    batch_tokens: int = option(8192, "tokens of texts, times beams, that are decoded together; changes no title")

    def __post_init__(self) -> None:
        """Raise OptionError for a value out of range or a combination that cannot be met."""
        _at_least(self, 1, "num_beams", "max_new_tokens", "num_return_sequences", "batch_tokens")
        _at_least(self, 0, "min_new_tokens", "no_repeat_ngram_size")
        _require(math.isfinite(self.length_penalty), "length_penalty must be a finite number", self.length_penalty)
        for low, high in (("min_new_tokens", "max_new_tokens"), ("num_return_sequences", "num_beams")):
            limit = getattr(self, high)
            _require(getattr(self, low) <= limit, f"{low} must be at most {high} ({limit})", getattr(self, low))

    @classmethod
    def make(cls, **generation: Any) -> Self:
        """Build from keyword arguments under any of a field's names: `topk=3` is `num_beams=3`."""
        names = {}
        for field in dataclasses.fields(cls):
            names.update(dict.fromkeys((field.name, *field.metadata["aliases"]), field.name))
        values: dict[str, Any] = {}
        for name, value in generation.items():
            _require(name in names, f"generation options are {', '.join(names)}", name)
            _require(names[name] not in values, f"{names[name]} is given twice, also as {name}", value)
            kind, rule = (Real, "a number") if name == "length_penalty" else (Integral, "a whole number")
            _require(isinstance(value, kind) and not isinstance(value, bool), f"{name} must be {rule}", repr(value))
            values[names[name]] = float(value) if kind is Real else int(value)
        return cls(**values)


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How a model is fine-tuned."""

    num_train_epochs: int = option(10, "passes over the training pairs", aliases=("epochs",))
    per_device_train_batch_size: int = option(16, "pairs in a training step", aliases=("batch_size",))
    learning_rate: float | None = option(None, "peak rate of AdamW; 2e-4 from weights, 1e-3 from scratch if not given")
    weight_decay: float = option(0.01, "AdamW's decay, of matrices only: norms are left alone")
    warmup_ratio: float = option(0.1, "share of all steps in which the rate climbs to its peak; then it falls to 0")
    max_grad_norm: float = option(1.0, "gradients are scaled down to this global norm; 0 is off")
    label_smoothing_factor: float = option(0.0, "share of the target's probability spread over the vocabulary")
    mixed_precision: str = option("no", "compute type on a GPU", choices=("no", "float16", "bfloat16"))
    metric_for_best_model: str = option("bleu", "validation score that chooses best_model.weights, such as rouge-l")
    max_eval_samples: int | None = option(None, "validation pairs to generate titles for; all if not given")
    eval_num_beams: int = option(1, "beams for the validation titles")
    early_stopping_patience: int = option(0, "epochs without a better score before training ends; 0 is off")
    dropout_rate: float | None = option(None, "dropout everywhere in the model; config.json's if not given")
    seed: int = option(42, "fixes initial weights, order and dropout: two runs on a CPU are equal")

    def __post_init__(self) -> None:
        """Raise OptionError for a value that training cannot use."""
        _at_least(self, 1, "num_train_epochs", "per_device_train_batch_size", "max_eval_samples", "eval_num_beams")
        _at_least(self, 0, "weight_decay", "max_grad_norm", "early_stopping_patience", "seed")
        _require(self.seed < 2**32, "seed must be below 2 ** 32", self.seed)
        for name in ("learning_rate", "weight_decay", "max_grad_norm"):
            value = getattr(self, name)
            _require(value is None or math.isfinite(value), f"{name} must be a finite number", value)
        rate = self.learning_rate
        _require(rate is None or rate > 0, "learning_rate must be above 0", rate)
        _require(0 <= self.warmup_ratio <= 1, "warmup_ratio must be from 0 to 1", self.warmup_ratio)
        for name in ("label_smoothing_factor", "dropout_rate"):
            value = getattr(self, name)
            _require(value is None or 0 <= value < 1, f"{name} must be at least 0 and below 1", value)
        for field in dataclasses.fields(self):
            choices = field.metadata["choices"]
            value = getattr(self, field.name)
            _require(not choices or value in choices, f"{field.name} must be one of {', '.join(choices)}", value)
