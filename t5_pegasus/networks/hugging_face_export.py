"""A model as a Hugging Face folder: what transformers loads and computes the same logits with.

T5-PEGASUS becomes Hugging Face's T5 with the exact gelu ("gated-gelu_python"). Its output scale is T5's own where the
head is tied, and is folded into the head where it is not. The position bias of its cross-attention cannot be expressed
there: `leave_out_cross_position_bias` returns the model without it.
"""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from ..config import GENERATION_FILE, PEGASUS, T5_PEGASUS, ModelConfig, read_generation_file
from ..errors import CheckpointError
from ..text.folder import tokenizer_files, tokenizer_kind
from ..text.protocol import Tokenizer
from .checkpoints import named_variables
from .hugging_face import ARCHITECTURES, to_their_form
from .t5 import PegasusT5, build_from_config
from .t5_description import HEAD

_WEIGHTS = "model.safetensors"

# Names that transformers has for our activations; "gelu" in a gate is the approximation there.
_ACTIVATIONS = {
    "relu": "relu",
    "swish": "silu",
    "gelu_tanh": "gelu_new",
    "gelu": "gelu_python",
    "gelu_erf": "gelu_python",
    "linear": "linear",
}

# What generation_config.json of ours means in transformers; the rest has one name in both.
_NOT_OF_TRANSFORMERS = ("batch_tokens", "title_prefix", "seed", "refill_beams")


def leave_out_cross_position_bias(t5: PegasusT5) -> PegasusT5:
    """Return a copy of a model, giving logits, whose cross-attention has no position bias."""
    copy = build_from_config(dataclasses.replace(t5.config, cross_position_bias=False), with_lm="linear")
    values = named_variables(t5)
    for name, variable in named_variables(copy).items():
        variable.assign(values[name])
    copy.from_scratch = t5.from_scratch
    return copy


def write_folder(t5: PegasusT5, tokenizer: Tokenizer, model_dir: str | Path, folder: Path) -> None:
    """Write config.json, generation_config.json, model.safetensors and the tokenizer's files to an empty folder.

    Args:
        t5: the model.
        tokenizer: of its vocabulary.
        model_dir: where the tokenizer's files and the options of generation are.
        folder: to write to.

    Raises CheckpointError for a model that Hugging Face's classes cannot compute.
    """
    config = t5.config
    if config.cross_position_bias:
        raise CheckpointError(
            "transformers has no position bias in cross-attention, which this model was trained with: its titles would "
            "be others; --drop_cross_position_bias writes it without, and measures what that changes"
        )
    values = _config_values(config, tokenizer)
    _write_json(folder / "config.json", values)
    _write_json(folder / GENERATION_FILE, _generation_values(model_dir, config, tokenizer))
    safetensors.numpy.save_file(_tensors(t5), folder / _WEIGHTS, metadata={"format": "pt"})
    for name in tokenizer_files(model_dir):
        shutil.copyfile(Path(model_dir) / name, folder / name)
    if tokenizer_kind(model_dir) in ("words", "wordpiece") and not (folder / "tokenizer_config.json").exists():
        _write_json(folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "do_lower_case": True})


def _tensors(t5: PegasusT5) -> dict[str, np.ndarray]:
    config, variables = t5.config, named_variables(t5)
    tensors = {}
    for ours, theirs in ARCHITECTURES[config.model_type].names(config):
        if ours == HEAD and config.tie_word_embeddings:
            continue
        value = variables[ours].numpy()
        if ours == HEAD and config.scale_output and config.model_type == T5_PEGASUS:
            value = value * np.float32(config.hidden_size**-0.5)
        tensors[theirs] = np.ascontiguousarray(to_their_form(ours, value))
    return tensors


def _config_values(config: ModelConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    ids = {"pad_token_id": 0, "eos_token_id": tokenizer.end_id, "decoder_start_token_id": tokenizer.start_id}
    common = {
        "is_encoder_decoder": True,
        "vocab_size": config.vocab_size,
        "d_model": config.hidden_size,
        "tie_word_embeddings": config.tie_word_embeddings,
        **ids,
    }
    if config.model_type == PEGASUS:
        both = {"attention_heads": config.num_attention_heads, "ffn_dim": config.intermediate_size}
        return {
            "model_type": PEGASUS,
            "architectures": ["PegasusForConditionalGeneration"],
            **common,
            "encoder_layers": config.num_hidden_layers,
            "decoder_layers": config.decoder_layers,
            **{f"{stack}_{name}": value for stack in ("encoder", "decoder") for name, value in both.items()},
            "activation_function": _ACTIVATIONS[config.hidden_act[0]],
            "dropout": config.hidden_dropout_prob,
            "attention_dropout": config.attention_probs_dropout_prob,
            "max_position_embeddings": config.max_position_embeddings,
            "scale_embedding": config.scale_embedding,
            "forced_eos_token_id": None,
        }
    model_type = "t5" if config.model_type == T5_PEGASUS else config.model_type
    return {
        "model_type": model_type,
        "architectures": ["MT5ForConditionalGeneration" if model_type == "mt5" else "T5ForConditionalGeneration"],
        **common,
        "d_kv": config.attention_head_size,
        "d_ff": config.intermediate_size,
        "num_layers": config.num_hidden_layers,
        "num_decoder_layers": config.decoder_layers,
        "num_heads": config.num_attention_heads,
        "relative_attention_num_buckets": config.relative_attention_num_buckets,
        "relative_attention_max_distance": config.relative_attention_max_distance,
        "dropout_rate": config.hidden_dropout_prob,
        "layer_norm_epsilon": config.layer_norm_epsilon,
        "feed_forward_proj": _projection(config),
        "scale_decoder_outputs": config.scale_output
        and (config.model_type != T5_PEGASUS or config.tie_word_embeddings),
    }


def _projection(config: ModelConfig) -> str:
    """Return T5's name of the feed-forward layers."""
    first, *gate = config.hidden_act
    if gate not in ([], ["linear"]) or first not in _ACTIVATIONS:
        raise CheckpointError(
            f"transformers has no feed-forward layer of the activations {', '.join(config.hidden_act)}"
        )
    name = _ACTIVATIONS[first]
    if not gate:
        return name
    return "gated-gelu" if name == "gelu_new" else f"gated-{name}"


def _generation_values(model_dir: str | Path, config: ModelConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return a generation_config.json: the model's own options under Hugging Face's names, and its special ids."""
    values = {
        name: value for name, value in read_generation_file(model_dir).items() if name not in _NOT_OF_TRANSFORMERS
    }
    if config.model_type == T5_PEGASUS and values.get("num_beams", 1) > 1:
        values.setdefault("length_penalty", 0.0)  # theirs is 1
    ids = {"pad_token_id": 0, "eos_token_id": tokenizer.end_id, "decoder_start_token_id": tokenizer.start_id}
    return {**values, **ids}


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(f"{json.dumps(values, indent=2)}\n", encoding="utf-8")
