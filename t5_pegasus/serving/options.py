"""The options of the service, SageMaker's environment variables among them, and where its model is."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..config import (
    MOST_WORKERS,
    GenerationConfig,
    check_choices,
    option,
    require,
    require_at_least,
    require_between,
    require_finite,
    require_positive,
)
from ..decoding.options import DataConfig
from ..engines.exported import is_exported
from ..errors import OptionError
from ..locations import FINE_TUNED, Weights, choose_model_dir, find_weights
from ..text.lines import read_lines

MEDIA_TYPES = ("application/json", "application/jsonlines", "text/plain")


@dataclasses.dataclass(frozen=True)
class ServingConfig:
    """How the service listens, what it admits and how it shares the model."""

    host: str = option("0.0.0.0", "address to listen on; 127.0.0.1 admits this machine only")  # noqa: S104  for images
    port: int = option(8080, "port to listen on; 0 takes a free one")
    workers: int = option(1, "processes, each with a model of its own")
    timeout: float = option(60.0, "seconds a request may take; then its work is given up")
    batch_wait_ms: float = option(5.0, "milliseconds a text waits for others to be decoded with")
    max_connections: int = option(
        1000, "connections a process keeps open; the longest idle is closed for a new one; less if `ulimit -n` is low"
    )
    max_queue: int = option(256, "texts that may wait; further ones are refused with 503")
    max_texts: int = option(64, "texts of one request")
    max_chars: int = option(20_000, "characters of a text")
    max_body_bytes: int = option(6 * 2**20, "bytes of a request")
    body_timeout: float = option(10.0, "seconds a client may take to send a request, or to take more of an answer")
    limit_num_beams: int = option(8, "most num_beams that a request may ask for")
    limit_num_return_sequences: int = option(8, "most num_return_sequences that a request may ask for")
    limit_max_new_tokens: int = option(128, "most max_new_tokens that a request may ask for")
    api_key_file: str | None = option(None, "file of keys, one a line; requests must then have one of them")
    adapters: str | None = option(None, "folder of LoRA adapters, a folder each, looked at every second")
    allow_origin: str | None = option(
        None, "origin whose pages may call the service (CORS), * for any; none if not given"
    )
    default_accept: str = option(
        "application/json", "answer of /invocations to a request without Accept", choices=MEDIA_TYPES
    )
    log_level: str = option("info", "least severe messages to log", choices=("debug", "info", "warning", "error"))
    log_text: bool = option(False, "log texts and titles too; they stay out of the log otherwise")

    def __post_init__(self) -> None:
        """Raise OptionError for a value the service cannot work with."""
        counts = ("workers", "max_connections", "max_queue", "max_texts", "max_chars", "max_body_bytes")
        require_at_least(self, 1, *counts, *LIMITS.values())
        require_finite(self, "timeout", "body_timeout")
        require_positive(self, "timeout", "body_timeout")
        require_between(self, 1, MOST_WORKERS, "workers")
        require_between(self, 0, 1000, "batch_wait_ms")
        require_between(self, 0, 65535, "port")
        queue = self.max_queue
        require(self.max_texts <= queue, f"max_texts must be at most max_queue ({queue})", self.max_texts)
        check_choices(self)


# The generation options that a flag of the service limits.
LIMITS = {name: f"limit_{name}" for name in ("num_beams", "num_return_sequences", "max_new_tokens")}


class Model(NamedTuple):
    """What `AutoTitle.load` is called with."""

    model_dir: Path
    weights: str | None
    engine: str
    user_dict: str | None
    adapter: str | None = None
    ignore_base_hash: bool = False

    @property
    def name(self) -> str:
        """Return the name by which clients know the model: that of its directory."""
        return Path(self.model_dir).resolve().name


class Service(NamedTuple):
    """Everything that a process of the service needs to start; it can be pickled."""

    serving: ServingConfig
    model: Model
    generation: GenerationConfig
    data: DataConfig
    api_keys: tuple[str, ...]


EXIT_FAILED = 2  # of a process whose model cannot be loaded: if none could be so far, trying again is no use


# Seconds beyond the timeout within which a service that is told to stop has ended, whatever its clients do.
GRACE = 10


def read_api_keys(path: str | None) -> tuple[str, ...]:
    """Return the keys of a file, one a line, empty lines left out; none for None.

    Raises DataError if it cannot be read, OptionError if it has no key or one that cannot be in a header.
    """
    if path is None:
        return ()
    keys = tuple(line.strip() for line in read_lines(path) if line.strip())
    if not keys:
        raise OptionError(f"api_key_file must hold a key, got the empty file {path}")
    if not all(key.isascii() and key.isprintable() and " " not in key for key in keys):
        raise OptionError(f"api_key_file must hold keys of ASCII characters without spaces, a line each: {path}")
    return keys


# A variable that SageMaker sets for its containers: the option it sets, and how its value is read. The service opens
# one port only, so it need not know SAGEMAKER_SAFE_PORT_RANGE, which is for more ports.
_VARIABLES: dict[str, tuple[str, Callable[[str], Any]]] = {
    "SAGEMAKER_BIND_TO_PORT": ("port", int),
    "SAGEMAKER_MODEL_SERVER_WORKERS": ("workers", int),
    "SAGEMAKER_MODEL_SERVER_TIMEOUT": ("timeout", float),
    "SAGEMAKER_MAX_PAYLOAD_IN_MB": ("max_body_bytes", lambda value: int(value) * 2**20),
    "SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT": ("default_accept", str),
    "SAGEMAKER_CONTAINER_LOG_LEVEL": (
        "log_level",
        lambda value: {10: "debug", 20: "info", 30: "warning", 40: "error", 50: "error"}[int(value)],
    ),
}


def options_from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the options that SageMaker's variables set, by name; flags override them.

    Raises OptionError for a value that cannot be read.
    """
    options = {}
    for variable, (name, read) in _VARIABLES.items():
        if environment.get(variable):
            try:
                options[name] = read(environment[variable])
            except (ValueError, KeyError) as error:
                raise OptionError(f"{variable} has a value that {name} cannot have: {environment[variable]}") from error
    return options


def find_model(
    model_dir: str | None,
    weights: str | None,
    engine: str,
    user_dict: str | None,
    output_dir: str,
    usual: Weights | None = None,
) -> Model:
    """Return the model to serve: that of the flags, else of /opt/ml/model if it exists, else the scripts' default.

    SageMaker unpacks a model to /opt/ml/model (SAGEMAKER_BASE_DIR names another /opt/ml): a model directory, or only
    `best_model.weights`, for the model directory of the image. Where no weights are named, `usual` are meant. Raises
    OptionError for a path that is not a model directory, CheckpointError if there are no weights.
    """
    mounted = Path(os.environ.get("SAGEMAKER_BASE_DIR", "/opt/ml")) / "model"
    if model_dir is None and weights is None:
        if (mounted / "config.json").is_file():
            model_dir, output_dir = str(mounted), str(mounted)
        elif (mounted / FINE_TUNED).is_file():
            weights = str(mounted / FINE_TUNED)
    path = choose_model_dir(model_dir)
    if not is_exported(path):  # now: missing weights are an error before any process starts
        weights = str(find_weights(path, weights or usual, output_dir))
    return Model(path, weights, engine, user_dict)


def make_service(serving: ServingConfig, model: Model, generation: GenerationConfig, data: DataConfig) -> Service:
    """Return what a process needs to start.

    Raises OptionError if the defaults exceed what a request may ask for, and what `read_api_keys` raises.
    """
    for name, limit in LIMITS.items():
        if getattr(generation, name) > getattr(serving, limit):
            raise OptionError(
                f"{name} must be at most {limit} ({getattr(serving, limit)}), got {getattr(generation, name)}"
            )
    return Service(serving, model, generation, data, read_api_keys(serving.api_key_file))
