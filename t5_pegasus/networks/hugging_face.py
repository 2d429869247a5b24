"""The weights of Hugging Face's models: for each architecture a table of their names and ours.

Hugging Face stores matrices as [outputs, inputs], Keras as [inputs, outputs]; tables of embeddings, of tokens and of
position biases, are alike in both.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from ..config import PEGASUS, T5_PEGASUS, ModelConfig
from ..errors import CheckpointError
from ..locations import CHECKPOINT
from .architectures import describe
from .pegasus_description import LOGITS_BIAS, positions_of, sinusoids
from .t5_description import EMBEDDING, HEAD, branch_names
from .tensor_files import open_tensors

Weights = dict[str, np.ndarray]

LM_HEAD = "lm_head.weight"
_ALIKE = ("embedding", "positions", "relative_attention_bias")  # tables, which both have in the same orientation

_ROWS_AT_ONCE = 1024  # compared of two matrices, most of which differ in the first


def _t5_names(config: ModelConfig) -> Iterator[tuple[str, str]]:
    yield EMBEDDING, "shared.weight"
    yield HEAD, LM_HEAD
    for stack, layers in (("encoder", config.num_hidden_layers), ("decoder", config.decoder_layers)):
        attentions = ("SelfAttention", "EncDecAttention")[: 2 if stack == "decoder" else 1]
        bias = "SelfAttention/relative_attention_bias"
        yield f"{stack}/block_000/layer_000/{bias}", f"{stack}.block.0.layer.0.{bias.replace('/', '.')}.weight"
        yield f"{stack}/rms_norm/scale", f"{stack}.final_layer_norm.weight"
        for block in range(layers):
            for layer, kind in enumerate((*attentions, "DenseReluDense")):
                ours, theirs = f"{stack}/block_{block:03}/layer_{layer:03}", f"{stack}.block.{block}.layer.{layer}"
                yield f"{ours}/rms_norm/scale", f"{theirs}.layer_norm.weight"
                if kind == "DenseReluDense":
                    for name in (*branch_names(config), "wo"):
                        yield f"{ours}/{kind}/{name}/kernel", f"{theirs}.{kind}.{name}.weight"
                else:
                    for name in "qkvo":
                        yield f"{ours}/{kind}/{name}", f"{theirs}.{kind}.{name}.weight"


def _pegasus_names(config: ModelConfig) -> Iterator[tuple[str, str]]:
    yield EMBEDDING, "model.shared.weight"
    yield HEAD, LM_HEAD
    yield LOGITS_BIAS, "final_logits_bias"
    for stack, layers in (("encoder", config.num_hidden_layers), ("decoder", config.decoder_layers)):
        attentions = {"SelfAttention": "self_attn", "EncDecAttention": "encoder_attn"}
        if stack == "encoder":
            del attentions["EncDecAttention"]
        yield positions_of(stack), f"model.{stack}.embed_positions.weight"
        yield from _weight_and_bias(f"{stack}/norm", f"model.{stack}.layer_norm", "scale")
        for block in range(layers):
            theirs = f"model.{stack}.layers.{block}"
            for layer, (kind, name) in enumerate(attentions.items()):
                ours = f"{stack}/block_{block:03}/layer_{layer:03}"
                yield from _weight_and_bias(f"{ours}/norm", f"{theirs}.{name}_layer_norm", "scale")
                for part in ("q", "k", "v", "o"):
                    projection = f"{theirs}.{name}.{'out' if part == 'o' else part}_proj"
                    yield from _weight_and_bias(f"{ours}/{kind}/{part}", projection, "kernel")
            ours = f"{stack}/block_{block:03}/layer_{len(attentions):03}"
            yield from _weight_and_bias(f"{ours}/norm", f"{theirs}.final_layer_norm", "scale")
            yield from _weight_and_bias(f"{ours}/DenseReluDense/wi", f"{theirs}.fc1", "kernel")
            yield from _weight_and_bias(f"{ours}/DenseReluDense/wo", f"{theirs}.fc2", "kernel")


def _weight_and_bias(ours: str, theirs: str, weight: str) -> Iterator[tuple[str, str]]:
    yield f"{ours}/{weight}", f"{theirs}.weight"
    yield f"{ours}/bias", f"{theirs}.bias"


def _pegasus_defaults(config: ModelConfig) -> Weights:
    table = sinusoids(config.max_position_embeddings, config.hidden_size)
    return {
        LOGITS_BIAS: np.zeros(config.vocab_size, np.float32),
        positions_of("encoder"): table,
        positions_of("decoder"): table,
    }


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What the files of a kind of model hold.

    names: pairs of our name and Hugging Face's. same_as_shared: names that the table of embeddings may have besides.
    unused: what old files have and no model uses. defaults: weights, by our names, that a file may leave out.
    """

    names: Callable[[ModelConfig], Iterable[tuple[str, str]]]
    same_as_shared: tuple[str, ...]
    unused: tuple[str, ...] = ()
    defaults: Callable[[ModelConfig], Weights] = lambda config: {}


_T5 = Architecture(
    _t5_names,
    ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"),
    ("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",),
)
_PEGASUS = Architecture(
    _pegasus_names, ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"), (), _pegasus_defaults
)
ARCHITECTURES = {T5_PEGASUS: _T5, "t5": _T5, "mt5": _T5, PEGASUS: _PEGASUS}


def is_hugging_face(names: Iterable[str]) -> bool:
    """Return whether the names of a file's tensors are Hugging Face's."""
    return any(name.endswith(".weight") for name in names)


def with_our_names(tensors: Mapping[str, np.ndarray], config: ModelConfig) -> Weights:
    """Return Hugging Face's tensors under our names and in our orientation, float32; unknown ones keep their name."""
    architecture = ARCHITECTURES[config.model_type]
    ours = {theirs: name for name, theirs in architecture.names(config)}
    shared = next(theirs for theirs, name in ours.items() if name == EMBEDDING)
    if shared not in tensors:
        ours |= {name: EMBEDDING for name in architecture.same_as_shared if name in tensors}
    left_out = {*architecture.same_as_shared, *architecture.unused} - ours.keys()
    found = {
        ours.get(name, name): _turned(ours.get(name, name), np.asarray(tensors[name], np.float32))
        for name in tensors
        if name not in left_out
    }
    return {**architecture.defaults(config), **found}


def check_tensors(path: Path, config: ModelConfig) -> None:
    """Raise CheckpointError unless a file has the tensors of a model, in their shapes; their values are not read.

    The errors have the names in the file, so that they can be looked up there.
    """
    architecture, tensors = ARCHITECTURES[config.model_type], open_tensors(path)
    names = dict(architecture.names(config))
    optional = {*architecture.defaults(config), *([HEAD] if config.tie_word_embeddings else [])}
    shapes = describe(config).weight_shapes()
    if tensors.keys().isdisjoint(names.values()):
        raise CheckpointError(f"{path} holds no tensors of a model of type {config.model_type}")
    for ours, theirs in names.items():
        shared = ours == EMBEDDING and any(name in tensors for name in architecture.same_as_shared)
        if theirs not in tensors:
            if ours in optional or shared:
                continue
            raise CheckpointError(f"{path} does not fit its config.json: it lacks the tensor {theirs}")
        found, expected = tensors.entries[theirs].shape, _turned_shape(ours, shapes.get(ours))
        if expected is not None and found != expected:
            raise CheckpointError(
                f"{path} does not fit its config.json: {theirs} must have the shape {expected}, got {found}"
            )
    unknown = tensors.keys() - names.values() - {*architecture.same_as_shared, *architecture.unused}
    if unknown:
        raise CheckpointError(f"{path} does not fit its config.json: it has {min(unknown)}, which the model has not")


def _turned_shape(name: str, shape: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """Return the shape in which Hugging Face has our weight; None of a tied head, which the description has not."""
    if shape is None or name == LOGITS_BIAS:
        return None if shape is None else (1, *shape)
    return shape if name.endswith(_ALIKE) else shape[::-1]


def to_their_form(name: str, value: np.ndarray) -> np.ndarray:
    """Return the value of our weight of that name in Hugging Face's orientation."""
    if name == LOGITS_BIAS:
        return value[None]
    return value if name.endswith(_ALIKE) else value.T


def _turned(name: str, value: np.ndarray) -> np.ndarray:
    """Return the value of our weight of that name from Hugging Face's orientation to ours."""
    if name == LOGITS_BIAS:
        return value.reshape(-1)
    return value if name.endswith(_ALIKE) else value.T


def settle_head(config: ModelConfig, pretrained: Path | None, used: object) -> ModelConfig:
    """Return the config of a Hugging Face folder as its weights say: whether the head is the embedding.

    transformers 5 writes `tie_word_embeddings` true for every T5, and leaves a head untied whose tensor is not the
    embedding's.

    Args:
        config: of any model directory; one of ours is returned as it is.
        pretrained: the folder's weights; None where it has none.
        used: the weights that are to be loaded. If they are these, what does not fit is found here, before a model is
            built.

    Raises CheckpointError as `check_tensors`.
    """
    if pretrained is None or config.model_type == T5_PEGASUS or pretrained.name == CHECKPOINT:
        return config
    tensors = open_tensors(pretrained)
    if is_hugging_face(tensors):
        if used == pretrained:
            check_tensors(pretrained, config)
        config = dataclasses.replace(config, tie_word_embeddings=_is_tied(tensors, config))
    return config


def _is_tied(tensors: Mapping[str, np.ndarray], config: ModelConfig) -> bool:
    shared = next(theirs for ours, theirs in ARCHITECTURES[config.model_type].names(config) if ours == EMBEDDING)
    if LM_HEAD not in tensors:
        return True
    if not config.tie_word_embeddings or shared not in tensors:
        return config.tie_word_embeddings
    head, embedding = tensors[LM_HEAD], tensors[shared]
    return head.shape == embedding.shape and all(
        np.array_equal(head[first : first + _ROWS_AT_ONCE], embedding[first : first + _ROWS_AT_ONCE])
        for first in range(0, len(head), _ROWS_AT_ONCE)
    )
