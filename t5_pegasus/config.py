"""Options as frozen dataclasses that check themselves, and those of the model and of generation.

`ModelConfig` is what `config.json` holds; other configs become command-line flags (see `cli.add_flags`): a field is a
flag, its `option(...)` has the help text, further names and choices. A config is defined beside the table that it
chooses from, so that a new row there is a new choice. Values are checked once, when an object is made.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Self, cast, get_args, get_origin, get_type_hints

from . import hugging_face_config
from .errors import DataError, OptionError
from .files import read_json


def option(
    default: Any,
    help: str,
    aliases: tuple[str, ...] = (),
    choices: Iterable[str] = (),
    parse: Callable[[str], Any] | None = None,
) -> Any:
    """Return a dataclass field that is also a command-line flag.

    `aliases` are further names of the flag, without dashes; `choices` the values it can have, such as a table's keys;
    `parse` makes the value of what is written on the command line, if its type alone does not.
    """
    metadata = {"help": help, "aliases": aliases, "choices": tuple(choices), "parse": parse}
    return dataclasses.field(default=default, metadata=metadata)


def require(condition: object, rule: str, value: object) -> None:
    """Raise OptionError with the rule and the value that breaks it if the condition is false."""
    if not condition:
        raise OptionError(f"{rule}, got {value}")


def check_choices(config: Any) -> None:
    """Raise OptionError for a field whose value is not among its `choices`."""
    for field in dataclasses.fields(config):
        choices = field.metadata["choices"]
        value = getattr(config, field.name)
        require(not choices or value in choices, f"{field.name} must be one of {', '.join(choices)}", value)


def require_only_with(config: Any, condition: object, rule: str, *names: str) -> None:
    """Raise OptionError for a named option that would have no effect unless the condition is true."""
    for field in dataclasses.fields(config):
        if field.name in names and not condition:
            value = getattr(config, field.name)
            require(value == field.default, f"{field.name} is only for {rule}", value)


def require_at_least(config: Any, minimum: float, *names: str) -> None:
    """Raise OptionError for a named option that is below the minimum; None is allowed."""
    for name in names:
        value = getattr(config, name)
        require(value is None or value >= minimum, f"{name} must be at least {minimum}", value)


def require_between(config: Any, minimum: float, maximum: float, *names: str) -> None:
    """Raise OptionError for a named option that is not from minimum to maximum; None is allowed."""
    for name in names:
        value = getattr(config, name)
        require(value is None or minimum <= value <= maximum, f"{name} must be from {minimum} to {maximum}", value)


def require_share(config: Any, *names: str) -> None:
    """Raise OptionError for a named option that is not a share of less than all; None is allowed."""
    for name in names:
        value = getattr(config, name)
        require(value is None or 0 <= value < 1, f"{name} must be at least 0 and below 1", value)


def require_finite(config: Any, *names: str) -> None:
    """Raise OptionError for a named option that is infinite or not a number; None is allowed."""
    for name in names:
        value = getattr(config, name)
        require(value is None or math.isfinite(value), f"{name} must be a finite number", value)


def require_positive(config: Any, *names: str) -> None:
    """Raise OptionError for a named option that is not above 0; None is allowed."""
    for name in names:
        value = getattr(config, name)
        require(value is None or value > 0, f"{name} must be above 0", value)


MOST_SEED = 2**32 - 1  # what numpy and Keras take
MOST_WORKERS = 1024  # processes: more than any machine has cores for, and than the system lets one user start


_LARGEST_SIZE = 2**24  # of a network: what is beyond is a mistake, and would not be a number in other libraries


T5_PEGASUS, PEGASUS = "t5_pegasus", "pegasus"
MODEL_TYPES = (T5_PEGASUS, *hugging_face_config.READERS)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The shape of a network, under bert4keras's names: what `config.json` in a model directory holds.

    A Hugging Face `config.json` is read too (see `hugging_face_config`). Unknown keys in the file are ignored, since
    configs in the wild carry notes of other tools.

    Attributes:
        num_decoder_layers: 0 is as many as the encoder has, `num_hidden_layers`.
        hidden_act: activations of the feed-forward layers, two where they are gated.
        scale_output: multiply the decoder's output by hidden_size ** -0.5 before the head.
        max_position_embeddings: absolute positions, of PEGASUS; 0 where there are none.
        scale_embedding: multiply embeddings by hidden_size ** 0.5.
        model_type: the blocks of the network, one of MODEL_TYPES.
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
    num_decoder_layers: int = 0
    scale_output: bool = True
    layer_norm_epsilon: float = 1e-6
    max_position_embeddings: int = 0
    scale_embedding: bool = False
    model_type: str = T5_PEGASUS

    def __post_init__(self) -> None:
        """Raise OptionError for a size or a rate that no network can have."""
        require(self.model_type in MODEL_TYPES, f"model_type must be one of {', '.join(MODEL_TYPES)}", self.model_type)
        sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        others = ("relative_attention_num_buckets", "relative_attention_max_distance")
        require_at_least(self, 1, *sizes, "attention_head_size")
        require_at_least(self, 0, "num_decoder_layers")
        require_at_least(self, 1 if self.model_type == PEGASUS else 0, "max_position_embeddings")
        require_positive(self, "layer_norm_epsilon")
        require_at_least(self, 4, "relative_attention_num_buckets")
        require_between(self, 1, _LARGEST_SIZE, *sizes, "attention_head_size", *others)
        # Half the buckets of one direction are exact; the log-spaced rest must reach beyond them.
        exact = self.relative_attention_num_buckets // 2
        require(
            self.relative_attention_max_distance > exact,
            f"relative_attention_max_distance must be above half of relative_attention_num_buckets ({exact})",
            self.relative_attention_max_distance,
        )
        require_share(self, "hidden_dropout_prob", "attention_probs_dropout_prob")
        # Gated feed-forward layers have one activation for the gate, one for what it lets through.
        is_gated = self.model_type == T5_PEGASUS
        rule = f"hidden_act must be {'two activations' if is_gated else 'one or two activations'}"
        require(len(self.hidden_act) in ((2,) if is_gated else (1, 2)), rule, list(self.hidden_act))

    @classmethod
    def load(cls, model_dir: str | Path, **overrides: Any) -> Self:
        """Read `config.json` of a model directory; keyword arguments replace what it says.

        Raises DataError if the file is missing, is not JSON or lacks a key, OptionError for a value of the wrong type
        or size and for an unknown override.
        """
        path = Path(model_dir) / "config.json"
        try:
            values = read_json(path)
        except FileNotFoundError as error:
            raise DataError(f"cannot read {path}: {error.strerror}; a model directory holds config.json") from error
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for name in overrides:
            require(name in fields, f"config overrides must be among {', '.join(fields)}", name)
        if hugging_face_config.is_hugging_face(values):
            values = hugging_face_config.model_values(values, path)
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

    @property
    def decoder_layers(self) -> int:
        """Layers of the decoder."""
        return self.num_decoder_layers or self.num_hidden_layers

    @property
    def embedding_scale(self) -> float:
        """Factor of the embeddings."""
        return self.hidden_size**0.5 if self.scale_embedding else 1.0

    def to_dict(self) -> dict[str, Any]:
        """Return the values as `config.json` has them."""
        return {**dataclasses.asdict(self), "hidden_act": list(self.hidden_act)}


@functools.cache
def _hints_of(config_class: type) -> dict[str, Any]:
    """Return the types of a class's fields, whose names take longer to look up than all the rest of making one."""
    return get_type_hints(config_class)


class Options:
    """Base of the dataclasses of options that library users give by keyword."""

    @classmethod
    def make(cls, **options: Any) -> Self:
        """Build from keyword arguments under any of a field's names, `topk=3` is `num_beams=3`.

        Raises OptionError for an unknown name and for a value of another type or out of range.
        """
        return cls(**cls.names(**options))

    @classmethod
    def names(cls, **options: Any) -> dict[str, Any]:
        """Return options under their fields' names and in their types; raises OptionError as `make`."""
        names = {}
        for field in dataclasses.fields(cast(Any, cls)):
            names.update(dict.fromkeys((field.name, *field.metadata["aliases"]), field.name))
        hints = _hints_of(cast(Any, cls))
        values: dict[str, Any] = {}
        for name, value in options.items():
            require(name in names, f"options are {', '.join(names)}", name)
            require(names[name] not in values, f"{names[name]} is given twice, also as {name}", value)
            values[names[name]] = _converted(name, value, hints[names[name]])
        return values


# Titles that are drawn for a text at once: with all of a large vocabulary to draw from, each takes megabytes.
MOST_SAMPLES = 128


@dataclasses.dataclass(frozen=True)
class GenerationConfig(Options):
    """How titles are decoded, under Hugging Face's names. Lengths are in generated tokens, the final [SEP] counted.

    A title's score is `sum(log_probs) / length ** length_penalty`; the log-probabilities are the model's own, less
    what `repetition_penalty` and `diversity_penalty` take from them. Sampling draws from the distribution that
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
    refill_beams: bool = option(
        False, "search as transformers: a beam that ends is replaced by the next best (see docs/decoding.md)"
    )
    repetition_penalty: float = option(
        1.0, "log-probabilities of tokens already written are multiplied by it; 1 is off"
    )
    suppress_tokens: tuple[int, ...] = option((), "ids of tokens that are never written, with commas between them")
    forced_bos_token_id: int | None = option(None, "id of the token that every title begins with")
    forced_eos_token_id: int | None = option(None, "id of the token that a title of max_new_tokens ends with")
    title_prefix: str = option("", "what every title begins with, in the spelling that the tokenizer gives it")
    num_beam_groups: int = option(1, "groups that the beams are divided into, each to find other titles")
    diversity_penalty: float = option(0.0, "taken off for each earlier group that writes the same token there")
    do_sample: bool = option(False, "draw titles at random instead of searching for the best")
    temperature: float = option(1.0, "sampling: below 1 keeps to likely tokens, above 1 evens out")
    top_k: int = option(50, "sampling: only so many of the likeliest tokens; 0 is all of them")
    top_p: float = option(1.0, "sampling: only the likeliest tokens that together reach this probability")
    seed: int | None = option(None, "sampling: the same seed draws the same titles of a text")

    def __post_init__(self) -> None:
        """Raise OptionError for a value out of range or a combination that cannot be met."""
        require_at_least(
            self, 1, "num_beams", "max_new_tokens", "num_return_sequences", "batch_tokens", "num_beam_groups"
        )
        require_at_least(self, 0, "min_new_tokens", "no_repeat_ngram_size", "diversity_penalty", "top_k", "seed")
        require_at_least(self, 0, "forced_bos_token_id", "forced_eos_token_id")
        require_finite(self, "length_penalty", "repetition_penalty", "diversity_penalty", "temperature")
        # Beyond, a length to this power is no longer a number.
        require_between(self, -10, 10, "length_penalty")
        require_positive(self, "repetition_penalty", "temperature")
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
            require(not self.refill_beams, "refill_beams must be off with num_beam_groups", self.refill_beams)
            require(self.diversity_penalty > 0, "diversity_penalty must be above 0 with num_beam_groups", 0)

    @classmethod
    def of_model(cls, model_dir: str | Path, **options: Any) -> Self:
        """Build from the options given; those that are not given are as generation_config.json of the model says.

        Raises DataError for a file that is malformed, OptionError as `make`.
        """
        return cls.over(read_generation_defaults(model_dir), **options)

    @classmethod
    def over(cls, defaults: Mapping[str, Any], **options: Any) -> Self:
        """Build from the options given, over those defaults that go with them.

        Whoever asks for sampling does not want the defaults of beam search, nor the other way round; and a default does
        not forbid fewer beams or a shorter title.
        """
        given = cls.names(**options)
        values = {**defaults, **given}
        samples = given.get("do_sample", values.get("do_sample", False) and given.get("num_beams", 1) == 1)
        left_out = {"num_beams", *_BEAM_OPTIONS} if samples else {"do_sample", *_SAMPLING_OPTIONS}
        beams = values.get("num_beams", 1)
        if not samples and beams == 1:
            left_out.update(_BEAM_OPTIONS)
        if not samples and values.get("num_return_sequences", 1) > beams:
            left_out.add("num_return_sequences")
        groups = values.get("num_beam_groups", 1)
        if groups and beams % groups:
            left_out.update(("num_beam_groups", "diversity_penalty"))
        if groups > 1:
            left_out.add("refill_beams")
        if values.get("min_new_tokens", 0) > values.get("max_new_tokens", cls.max_new_tokens):
            left_out.add("min_new_tokens")
        return cls.make(**{name: value for name, value in values.items() if name in given or name not in left_out})

    @property
    def num_rows(self) -> int:
        """Titles of a text that are under way at once."""
        return self.num_return_sequences if self.do_sample else self.num_beams

    @property
    def refills(self) -> bool:
        """Whether there are beams that can be replaced."""
        return self.refill_beams and self.num_beams > 1


def read_json_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; {} if it is missing. Raises DataError for anything else."""
    try:
        return read_json(path)
    except FileNotFoundError:
        return {}


GENERATION_FILE = "generation_config.json"
_BEAM_OPTIONS = ("early_stopping", "num_beam_groups", "diversity_penalty")
_SAMPLING_OPTIONS = ("temperature", "top_k", "top_p", "seed")


def read_generation_file(model_dir: str | Path) -> dict[str, Any]:
    """Return what generation_config.json of a model directory holds; {} without it.

    Hugging Face's folders of before 2023 have none and the options of generation in config.json: these, without the
    ids of special tokens (see `text.special_tokens`). Raises DataError for a malformed file.
    """
    values = read_json_object(Path(model_dir) / GENERATION_FILE)
    model = read_json_object(Path(model_dir) / "config.json")
    if not values and hugging_face_config.is_hugging_face(model):
        values = {name: model[name] for name in hugging_face_config.GENERATION_NAMES if model.get(name) is not None}
    return values


def read_generation_defaults(model_dir: str | Path) -> dict[str, Any]:
    """Return the options in generation_config.json of a model directory, under Hugging Face's names; {} without it.

    Keys of other tools are ignored. What a Hugging Face folder says, and what it leaves out, means what it means to
    transformers. Raises DataError for a malformed file, OptionError for a value that is not allowed.
    """
    path, values = Path(model_dir) / GENERATION_FILE, read_generation_file(model_dir)
    if hugging_face_config.is_of_hugging_face(read_json_object(Path(model_dir) / "config.json")):
        values = hugging_face_config.generation_values(values)
    fields = {field.name for field in dataclasses.fields(GenerationConfig)}
    try:
        defaults = GenerationConfig.names(**{name: value for name, value in values.items() if name in fields})
        GenerationConfig.over(defaults)
    except OptionError as error:
        raise OptionError(f"{path}: {error}") from error
    return defaults


# By the type of an option: the rule for its values, a test of it, and what makes the value of the type.
_KINDS: dict[Any, tuple[str, Callable[[Any], bool], Callable[[Any], Any]]] = {
    bool: ("True or False", lambda value: isinstance(value, bool), bool),
    int: ("a whole number", lambda value: isinstance(value, Integral) and not isinstance(value, bool), int),
    float: ("a number", lambda value: isinstance(value, Real) and not isinstance(value, bool), float),
    str: ("a text", lambda value: isinstance(value, str), str),
}


def _converted(name: str, value: Any, hint: Any) -> Any:
    """Return the value in the type of a field; raises OptionError if it is of another kind."""
    if type(None) in get_args(hint):
        return None if value is None else _converted(name, value, get_args(hint)[0])
    if get_origin(hint) is tuple:
        items = isinstance(value, Iterable) and not isinstance(value, str)
        require(items, f"{name} must be a list", repr(value))
        return tuple(_converted(name, item, get_args(hint)[0]) for item in value)
    rule, fits, convert = _KINDS[hint]
    require(fits(value), f"{name} must be {rule}", repr(value))
    return convert(value)
