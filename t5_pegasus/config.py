"""The options of model, data, decoding and training, as frozen dataclasses that check themselves.

`ModelConfig` is what `config.json` holds; the others become command-line flags (see `cli.add_flags`): a field is a
flag, its `option(...)` carries the help text and the short forms. Values are checked once, when an object is made.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Iterable
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Self, cast, get_args, get_origin, get_type_hints

from .errors import DataError, OptionError


def option(default: Any, help: str, aliases: tuple[str, ...] = (), choices: tuple[str, ...] = ()) -> Any:
    """Return a dataclass field which is also a command-line flag; `aliases` are further names of it, without dashes."""
    return dataclasses.field(default=default, metadata={"help": help, "aliases": aliases, "choices": choices})


def require(condition: object, rule: str, value: object) -> None:
    """Raise OptionError with the rule and the value that breaks it, where the condition is false."""
    if not condition:
        raise OptionError(f"{rule}, got {value}")


def check_choices(config: Any) -> None:
    """Raise OptionError for a field that is none of its `choices`."""
    for field in dataclasses.fields(config):
        choices = field.metadata["choices"]
        value = getattr(config, field.name)
        require(not choices or value in choices, f"{field.name} must be one of {', '.join(choices)}", value)


def require_only_with(config: Any, condition: object, rule: str, *names: str) -> None:
    """Refuse options that would have no effect, since who gives them expects one."""
    for field in dataclasses.fields(config):
        if field.name in names and not condition:
            value = getattr(config, field.name)
            require(value == field.default, f"{field.name} is only for {rule}", value)


def _at_least(config: Any, minimum: float, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        require(value is None or value >= minimum, f"{name} must be at least {minimum}", value)


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
    tie_word_embeddings: bool = False

    def __post_init__(self) -> None:
        """Raise OptionError for a size or a rate no network can have."""
        sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        _at_least(self, 1, *sizes, "attention_head_size")
        _at_least(self, 4, "relative_attention_num_buckets")
        # Half the buckets of one direction are exact; the log-spaced rest must reach beyond them.
        exact = self.relative_attention_num_buckets // 2
        require(
            self.relative_attention_max_distance > exact,
            f"relative_attention_max_distance must be above half of relative_attention_num_buckets ({exact})",
            self.relative_attention_max_distance,
        )
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            require(0 <= getattr(self, name) < 1, f"{name} must be at least 0 and below 1", getattr(self, name))
        # The feed-forward layers of T5 1.1 are gated: one activation for the gate, one for what it lets through.
        require(len(self.hidden_act) == 2, "hidden_act must be two activations", list(self.hidden_act))

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
            require(name in fields, f"config overrides must be among {', '.join(fields)}", name)
        values = {name: value for name, value in {**values, **overrides}.items() if name in fields}
        for name, field in fields.items():
            if name not in values:
                if field.default is dataclasses.MISSING:
                    raise DataError(f"{path} lacks {name!r}")
                continue
            value = values[name]
            if name == "hidden_act":
                names = isinstance(value, list | tuple) and all(isinstance(each, str) for each in value)
                require(names, f"{name} in {path} must be a list of names", repr(value))
                values[name] = tuple(value)
            elif field.type is float:
                require(type(value) in (int, float), f"{name} in {path} must be a number", repr(value))
            else:
                kind = cast(type, field.type)
                require(type(value) is kind, f"{name} in {path} must be {kind.__name__}", repr(value))
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return the values as they stand in `config.json`."""
        return {**dataclasses.asdict(self), "hidden_act": list(self.hidden_act)}


class _Options:
    """Dataclasses of options that can be made from what a caller gives."""

    @classmethod
    def make(cls, **options: Any) -> Self:
        """Build from keyword arguments under any of a field's names, `topk=3` is `num_beams=3`.

        Raises OptionError for an unknown name and for a value of another type or out of range.
        """
        names = {}
        for field in dataclasses.fields(cast(Any, cls)):
            names.update(dict.fromkeys((field.name, *field.metadata["aliases"]), field.name))
        hints = get_type_hints(cls)
        values: dict[str, Any] = {}
        for name, value in options.items():
            require(name in names, f"options are {', '.join(names)}", name)
            require(names[name] not in values, f"{names[name]} is given twice, also as {name}", value)
            values[names[name]] = _converted(name, value, hints[names[name]])
        return cls(**values)


@dataclasses.dataclass(frozen=True)
class DataConfig(_Options):
    """How pairs are read from a file and cut to length. Lengths are in tokens and count [CLS] and [SEP]."""

    text_column: str | None = option(None, "column of the content; found by its usual names if not given")
    summary_column: str | None = option(None, "column of the title; found by its usual names if not given")
    skip_bad_lines: bool = option(False, "count lines that cannot be used and go on, instead of stopping at the first")
    max_source_length: int = option(256, "tokens of the content that the model reads")
    max_target_length: int = option(32, "tokens of the title that the model learns to write")
    long_text: str = option(
        "truncate",
        "what is read of a longer content for its title: the head, head and tail, or all in overlapping windows",
        choices=("truncate", "head_tail", "window"),
    )

    def __post_init__(self) -> None:
        """Raise OptionError where no token would be left between [CLS] and [SEP], or for an unknown way of reading."""
        _at_least(self, 3, "max_source_length", "max_target_length")
        check_choices(self)


# Titles that are drawn of a text at once: with all of a large vocabulary to draw from, each takes megabytes.
MOST_SAMPLES = 128


@dataclasses.dataclass(frozen=True)
class GenerationConfig(_Options):
    """How titles are decoded, under Hugging Face's names. Lengths are in generated tokens, the final [SEP] counted.

    A title's score is `sum(log_probs) / length ** length_penalty`, where the log-probabilities are the model's own but
    for what `repetition_penalty` and `diversity_penalty` take from them. Sampling draws from the distribution that
    `temperature`, `top_k` and `top_p` leave, in this order; the score is what the model gives to what was drawn.
    """

    num_beams: int = option(1, "beams; 1 is greedy decoding", aliases=("topk",))
    max_new_tokens: int = option(32, "longest title, in tokens", aliases=("maxlen",))
    min_new_tokens: int = option(0, "tokens before [SEP] is allowed", aliases=("minlen",))
    length_penalty: float = option(0.0, "above 0 favours long titles, below 0 short ones; 0 compares plain sums")
    no_repeat_ngram_size: int = option(0, "no sequence of this many tokens occurs twice; 0 is off")
    num_return_sequences: int = option(1, "titles per text, best first; at most num_beams, or so many are drawn")
    batch_tokens: int = option(8192, "tokens of texts, times beams, that are decoded together; changes no title")
    early_stopping: bool = option(False, "stop at the first finished titles, though a better one may be under way")
    repetition_penalty: float = option(
        1.0, "log-probabilities of tokens already written are multiplied by it; 1 is off"
    )
    suppress_tokens: tuple[int, ...] = option((), "ids of tokens that are never written, with commas between them")
    title_prefix: str = option("", "what every title begins with, in the spelling that the tokenizer gives it")
    num_beam_groups: int = option(1, "groups that the beams are divided into, each to find other titles")
    diversity_penalty: float = option(0.0, "taken off for each earlier group that writes the same token at that place")
    do_sample: bool = option(False, "draw titles at random instead of searching for the best")
    temperature: float = option(1.0, "sampling: below 1 keeps to likely tokens, above 1 evens out")
    top_k: int = option(50, "sampling: only so many of the likeliest tokens; 0 is all of them")
    top_p: float = option(1.0, "sampling: only the likeliest tokens that together reach this probability")
    seed: int | None = option(None, "sampling: the same seed draws the same titles of a text")

    def __post_init__(self) -> None:
        """Raise OptionError for a value out of range or a combination that cannot be met."""
        _at_least(self, 1, "num_beams", "max_new_tokens", "num_return_sequences", "batch_tokens", "num_beam_groups")
        _at_least(self, 0, "min_new_tokens", "no_repeat_ngram_size", "diversity_penalty", "top_k", "seed")
        for name in ("length_penalty", "repetition_penalty", "diversity_penalty", "temperature"):
            require(math.isfinite(getattr(self, name)), f"{name} must be a finite number", getattr(self, name))
        # Beyond, a length to this power is no longer a number.
        require(abs(self.length_penalty) <= 10, "length_penalty must be from -10 to 10", self.length_penalty)
        for name in ("repetition_penalty", "temperature"):
            require(getattr(self, name) > 0, f"{name} must be above 0", getattr(self, name))
        require(0 < self.top_p <= 1, "top_p must be above 0 and at most 1", self.top_p)
        require(all(token >= 0 for token in self.suppress_tokens), "suppress_tokens must be ids", self.suppress_tokens)
        limit, shortest = self.max_new_tokens, self.min_new_tokens
        require(shortest <= limit, f"min_new_tokens must be at most max_new_tokens ({limit})", shortest)
        if self.do_sample:
            require(self.num_beams == 1, "num_beams must be 1 with do_sample", self.num_beams)
            most = MOST_SAMPLES
            require(
                self.num_return_sequences <= most,
                f"num_return_sequences must be at most {most}",
                self.num_return_sequences,
            )
        else:
            titles = self.num_return_sequences
            require(
                titles <= self.num_beams, f"num_return_sequences must be at most num_beams ({self.num_beams})", titles
            )
        require_only_with(self, self.do_sample, "do_sample", "temperature", "top_k", "top_p", "seed")
        require_only_with(self, self.num_beams > 1, "num_beams above 1", "early_stopping", "num_beam_groups")
        require_only_with(self, self.num_beam_groups > 1, "num_beam_groups above 1", "diversity_penalty")
        groups = self.num_beam_groups
        require(
            self.num_beams % groups == 0, f"num_beams must be a multiple of num_beam_groups ({groups})", self.num_beams
        )
        if groups > 1:  # or all groups would find the same
            require(self.diversity_penalty > 0, "diversity_penalty must be above 0 with num_beam_groups", 0)

    @property
    def num_rows(self) -> int:
        """Titles of a text that are under way at once."""
        return self.num_return_sequences if self.do_sample else self.num_beams


# What a value of an option may be, in a sentence, and how it is told and made.
_KINDS: dict[Any, tuple[str, Callable[[Any], bool], Callable[[Any], Any]]] = {
    bool: ("True or False", lambda value: isinstance(value, bool), bool),
    int: ("a whole number", lambda value: isinstance(value, Integral) and not isinstance(value, bool), int),
    float: ("a number", lambda value: isinstance(value, Real) and not isinstance(value, bool), float),
    str: ("a text", lambda value: isinstance(value, str), str),
}


def _converted(name: str, value: Any, hint: Any) -> Any:
    """Return the value as the type that a field has; raise OptionError where it is of another kind."""
    if type(None) in get_args(hint):
        return None if value is None else _converted(name, value, get_args(hint)[0])
    if get_origin(hint) is tuple:
        items = isinstance(value, Iterable) and not isinstance(value, str)
        require(items, f"{name} must be a list", repr(value))
        return tuple(_converted(name, item, get_args(hint)[0]) for item in value)
    rule, fits, convert = _KINDS[hint]
    require(fits(value), f"{name} must be {rule}", repr(value))
    return convert(value)


@dataclasses.dataclass(frozen=True)
class LearningConfig:
    """What fine-tuning and pretraining have in common: the optimizer, and how a step is computed."""

    learning_rate: float | None = option(
        None, "peak rate; if not given 2e-4 from weights, 1e-3 from scratch; 10 times that with scale_parameter"
    )
    scale_parameter: bool = option(
        False, "multiply the rate by each weight's root mean square, as Adafactor: for models begun at random weights"
    )
    weight_decay: float = option(0.01, "AdamW's decay, of matrices only: norms are left alone")
    max_grad_norm: float = option(1.0, "gradients are scaled down to this global norm; 0 is off")
    label_smoothing_factor: float = option(0.0, "share of the target's probability spread over the vocabulary")
    dropout_rate: float | None = option(None, "dropout everywhere in the model; config.json's if not given")
    gradient_accumulation_steps: int = option(1, "batches whose gradients are summed for one step")
    pad_to_multiple_of: int = option(1, "lengths of batches are rounded up to a multiple of it: few shapes, for xla")
    gradient_checkpointing: bool = option(False, "compute activations again instead of keeping them: less memory")
    mixed_precision: str = option("no", "compute type; weights stay float32", choices=("no", "float16", "bfloat16"))
    xla: bool = option(False, "compile with XLA, anew for every shape of a batch: pad to few of them")
    distribute: str = option(
        "none", "devices of this machine, or machines as TF_CONFIG says", choices=("none", "mirrored", "multiworker")
    )
    seed: int = option(42, "fixes initial weights, order and dropout: two runs on a CPU are equal")

    def __post_init__(self) -> None:
        """Raise OptionError for a value that training cannot use."""
        _at_least(self, 0, "weight_decay", "max_grad_norm", "seed")
        _at_least(self, 1, "gradient_accumulation_steps", "pad_to_multiple_of")
        require(self.seed < 2**32, "seed must be below 2 ** 32", self.seed)
        for name in ("learning_rate", "weight_decay", "max_grad_norm"):
            value = getattr(self, name)
            require(value is None or math.isfinite(value), f"{name} must be a finite number", value)
        rate = self.learning_rate
        require(rate is None or rate > 0, "learning_rate must be above 0", rate)
        for name in ("label_smoothing_factor", "dropout_rate"):
            value = getattr(self, name)
            require(value is None or 0 <= value < 1, f"{name} must be at least 0 and below 1", value)
        check_choices(self)


@dataclasses.dataclass(frozen=True)
class TrainingConfig(LearningConfig):
    """How a model is fine-tuned, epoch by epoch."""

    num_train_epochs: int = option(10, "passes over the training pairs", aliases=("epochs",))
    per_device_train_batch_size: int = option(16, "pairs in a batch", aliases=("batch_size",))
    warmup_ratio: float = option(0.1, "share of all steps in which the rate climbs to its peak; then it falls to 0")
    metric_for_best_model: str = option("bleu", "validation score that chooses best_model.weights, such as rouge-l")
    max_eval_samples: int | None = option(None, "validation pairs to generate titles for; all if not given")
    eval_num_beams: int = option(1, "beams for the validation titles")
    early_stopping_patience: int = option(0, "epochs without a better score before training ends; 0 is off")

    def __post_init__(self) -> None:
        """Raise OptionError for a value that training cannot use."""
        super().__post_init__()
        _at_least(self, 1, "num_train_epochs", "per_device_train_batch_size", "max_eval_samples", "eval_num_beams")
        _at_least(self, 0, "early_stopping_patience")
        require(0 <= self.warmup_ratio <= 1, "warmup_ratio must be from 0 to 1", self.warmup_ratio)


@dataclasses.dataclass(frozen=True)
class PretrainingConfig(LearningConfig):
    """How a model is pretrained, step by step; the defaults are the recipe of T5-PEGASUS base, on 6 devices."""

    learning_rate: float | None = option(None, "peak rate; if not given 1e-4, with scale_parameter 1e-2")
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
        """Choose a rate where none is given; raise OptionError for a value that training cannot use."""
        if self.learning_rate is None:
            object.__setattr__(self, "learning_rate", 1e-2 if self.scale_parameter else 1e-4)
        super().__post_init__()
        _at_least(self, 0, "warmup_steps")
        _at_least(self, 1, "max_steps", "batch_tokens", "logging_steps", "save_steps", "save_total_limit")
