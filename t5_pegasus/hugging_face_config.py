"""config.json and generation_config.json of a Hugging Face folder under the names of `config`.

A row in `READERS` for each `model_type`. What a file leaves out has the default of transformers' own config class.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .errors import DataError

Values = Mapping[str, Any]

# The names of activations in Hugging Face's configs: those of bert4keras, as in `engines.activations.OPERATIONS`.
_ACTIVATIONS = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "silu": "swish",
    "swish": "swish",
}


def is_hugging_face(values: Values) -> bool:
    """Return whether the values of a config.json have Hugging Face's names."""
    return "model_type" in values and "hidden_act" not in values


def is_of_hugging_face(values: Values) -> bool:
    """Return whether a config.json is of a model with Hugging Face's options of generation, or of its export."""
    return values.get("model_type") in READERS


# Options that have the same name and meaning.
_GENERATION = (
    *("num_beams", "no_repeat_ngram_size", "repetition_penalty", "num_return_sequences", "length_penalty"),
    *("num_beam_groups", "diversity_penalty", "do_sample", "temperature", "top_k", "top_p", "suppress_tokens"),
    *("max_new_tokens", "min_new_tokens", "forced_bos_token_id", "forced_eos_token_id"),
)


# All that is read of a generation_config.json, but for ids of special tokens.
GENERATION_NAMES = (*_GENERATION, "max_length", "min_length", "early_stopping")


def generation_values(values: Values) -> dict[str, Any]:
    """Return the options of a generation_config.json under our names, with the defaults of transformers."""
    given = {name: value for name, value in values.items() if value is not None}
    options: dict[str, Any] = {"length_penalty": 1.0, "refill_beams": True}
    options |= {name: given[name] for name in _GENERATION if name in given}
    for name, length in (("max_new_tokens", "max_length"), ("min_new_tokens", "min_length")):
        # Theirs count the token that the decoder begins with.
        if name not in given and isinstance(given.get(length), int):
            options[name] = max(given[length] - 1, 0)
    if options.get("max_new_tokens") == 0:
        del options["max_new_tokens"]
    if isinstance(given.get("early_stopping"), bool):  # "never" is what we do otherwise
        options["early_stopping"] = given["early_stopping"]
    if isinstance(options.get("forced_eos_token_id"), list):
        options["forced_eos_token_id"] = options["forced_eos_token_id"][0]
    return options


def model_values(values: Values, path: Path) -> dict[str, Any]:
    """Return the values of a Hugging Face config.json as `ModelConfig` names them.

    Raises DataError for a model_type that is not in `READERS`, for a key that is missing and for a network that this
    project does not compute.
    """
    model_type = values["model_type"]
    if model_type not in READERS:
        raise DataError(f"model_type in {path} must be one of {', '.join(READERS)}, got {model_type}")
    if values.get("pad_token_id", 0) not in (0, None):
        raise DataError(f"pad_token_id in {path} must be 0, got {values['pad_token_id']}")
    return {"model_type": model_type, **READERS[model_type](values, path)}


def _t5(values: Values, path: Path) -> dict[str, Any]:
    """Return the values of T5 1.0, T5 1.1 or mT5, which differ in the feed-forward layers and the head."""
    projection = values.get("feed_forward_proj", "relu" if values["model_type"] == "t5" else "gated-gelu")
    kind, _, name = str(projection).rpartition("-")
    if kind not in ("", "gated"):
        raise DataError(f"feed_forward_proj in {path} must be an activation or gated-ACTIVATION, got {projection}")
    # By Hugging Face's own rule "gated-gelu" is the approximation, whatever is called gelu elsewhere.
    activation = "gelu_tanh" if projection == "gated-gelu" else _activation(name, "feed_forward_proj", path)
    tied = values.get("tie_word_embeddings", True)
    layers = _get(values, "num_layers", path)
    return {
        "vocab_size": _get(values, "vocab_size", path),
        "hidden_size": _get(values, "d_model", path),
        "num_hidden_layers": layers,
        "num_decoder_layers": layers if values.get("num_decoder_layers") is None else values["num_decoder_layers"],
        "num_attention_heads": _get(values, "num_heads", path),
        "attention_head_size": _get(values, "d_kv", path),
        "intermediate_size": _get(values, "d_ff", path),
        "hidden_act": [activation, "linear"] if kind else [activation],
        "hidden_dropout_prob": values.get("dropout_rate", 0.1),
        "attention_probs_dropout_prob": values.get("dropout_rate", 0.1),
        "relative_attention_num_buckets": values.get("relative_attention_num_buckets", 32),
        "relative_attention_max_distance": values.get("relative_attention_max_distance", 128),
        "layer_norm_epsilon": values.get("layer_norm_epsilon", 1e-6),
        "cross_position_bias": False,
        "tie_word_embeddings": tied,
        # transformers 5 writes tie_word_embeddings true for every model, and this beside it; mT5 is never scaled.
        "scale_output": values["model_type"] == "t5" and values.get("scale_decoder_outputs", tied is not False),
    }


def _pegasus(values: Values, path: Path) -> dict[str, Any]:
    hidden, heads = _get(values, "d_model", path), _get(values, "encoder_attention_heads", path)
    for name in ("attention_heads", "ffn_dim"):
        encoder, decoder = (_get(values, f"{stack}_{name}", path) for stack in ("encoder", "decoder"))
        if encoder != decoder:
            raise DataError(f"encoder_{name} and decoder_{name} in {path} must be equal, got {encoder} and {decoder}")
    if type(hidden) is not int or type(heads) is not int or heads < 1 or hidden % heads:
        raise DataError(f"d_model in {path} must be a multiple of encoder_attention_heads, got {hidden} and {heads}")
    return {
        "vocab_size": _get(values, "vocab_size", path),
        "hidden_size": hidden,
        "num_hidden_layers": _get(values, "encoder_layers", path),
        "num_decoder_layers": _get(values, "decoder_layers", path),
        "num_attention_heads": heads,
        "attention_head_size": hidden // heads,
        "intermediate_size": _get(values, "encoder_ffn_dim", path),
        "hidden_act": [_activation(values.get("activation_function", "gelu"), "activation_function", path)],
        "hidden_dropout_prob": values.get("dropout", 0.1),
        "attention_probs_dropout_prob": values.get("attention_dropout", 0.0),
        "layer_norm_epsilon": 1e-5,
        "max_position_embeddings": values.get("max_position_embeddings", 1024),
        "scale_embedding": values.get("scale_embedding", False),
        "cross_position_bias": False,
        "tie_word_embeddings": values.get("tie_word_embeddings", True),
        "scale_output": False,
    }


READERS: dict[str, Callable[[Values, Path], dict[str, Any]]] = {"t5": _t5, "mt5": _t5, "pegasus": _pegasus}


def _get(values: Values, name: str, path: Path) -> Any:
    if name not in values:
        raise DataError(f"{path} lacks {name!r}")
    return values[name]


def _activation(name: str, key: str, path: Path) -> str:
    if name not in _ACTIVATIONS:
        raise DataError(f"{key} in {path} must be of {', '.join(_ACTIVATIONS)}, got {name}")
    return _ACTIVATIONS[name]
