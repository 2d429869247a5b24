"""T5-PEGASUS, T5, mT5, PEGASUS as bert4keras models: built from config.json, exact under padding, in mixed precision.

The network is bert4keras's own T5 (its layers, its weight names); the changes are listed in `_LAYERS` and in the
classes below it, each with its reason. Layers are in the order of stock bert4keras: Keras's `load_weights` goes by that
order, and is to load the weights of one into the other.
"""

from pathlib import Path
from typing import Any

from ..config import PEGASUS, ModelConfig
from ..errors import CheckpointError, OptionError
from ..locations import TO_BUILD, Weights, locate_weights, pretrained_weights
from ..text.folder import load_tokenizer
from .architectures import describe
from .backend import bert4keras, keras, tf
from .checkpoints import load_weights, name_variables, named_variables
from .description import Network
from .hugging_face import settle_head
from .layers import Attention, Dropout, EncoderOutputNorm, RMSNorm
from .pegasus import PegasusBlocks, pegasus_mapping
from .pegasus_description import positions_of, sinusoids
from .t5_description import EMBEDDING, HEAD, branch_names

# Rows by which a vocabulary's size is rounded up, at most; an eighth of the tokens in larger ones.
_PADDING_ROWS = 128

# bert4keras's layers and their replacements. The weights and their names are the same.
_LAYERS = {
    keras.layers.Dropout: Dropout,
    bert4keras.layers.LayerNormalization: RMSNorm,
    bert4keras.layers.MultiHeadAttention: Attention,
}


class _PegasusMixin:
    """What encoder and decoder have in common: which layers are built, and from which settings."""

    def __init__(self, config: ModelConfig, **kwargs: Any) -> None:
        self.config = config
        super().__init__(**kwargs)

    @property
    def initializer(self) -> Any:
        """Return zeros: every weight is loaded, or set by `initialize`, once the network is built."""
        return keras.initializers.Zeros()

    def apply(self, inputs: Any = None, layer: Any = None, arguments: Any = None, **kwargs: Any) -> Any:
        if layer is keras.layers.Input and len(kwargs["shape"]) == 1:
            # bert4keras's token inputs are float32, and any layer on them, such as a loss, rounds them in mixed
            # precision: float16 has all integers to 2048 only.
            kwargs["dtype"] = "int32"
        elif layer is bert4keras.layers.RelativePositionEmbeddingT5:
            # bert4keras's code has 32 and 128, whatever config.json says.
            kwargs["input_dim"] = self.config.relative_attention_num_buckets
            kwargs["max_distance"] = self.config.relative_attention_max_distance
        elif layer is bert4keras.layers.LayerNormalization:
            kwargs["epsilon"] = self.config.layer_norm_epsilon
            if kwargs["name"] == "Encoder-Output-Norm":
                layer = EncoderOutputNorm
        elif layer is bert4keras.layers.ScaleOffset and not self.config.scale_output:
            kwargs["scale"] = 1.0  # bert4keras scales every decoder's output
        return super().apply(inputs, _LAYERS.get(layer, layer), arguments, **kwargs)  # type: ignore[misc]


class PegasusEncoder(_PegasusMixin, bert4keras.models.T5_Encoder):  # type: ignore[misc]
    """bert4keras's T5 encoder whose output is 0 at padding."""


class PegasusDecoder(_PegasusMixin, bert4keras.models.T5_Decoder):  # type: ignore[misc]
    """bert4keras's T5 decoder that ends in float32."""

    with_lm: bool | str

    def apply_final_layers(self, inputs: Any) -> Any:
        """Return probabilities or logits, always float32, [batch, target_len, vocab_size]."""
        activation = self.with_lm
        self.with_lm = activation and "linear"  # the product in the compute type, what follows in float32
        x = super().apply_final_layers(inputs)
        self.with_lm = activation
        if activation:
            x = self.apply(
                x,
                keras.layers.Activation,
                activation="softmax" if activation is True else activation,
                dtype="float32",
                name="Decoder-Output-LM-Activation",
            )
        return x


class Encoder(PegasusBlocks, PegasusEncoder):
    """PEGASUS's encoder."""


class Decoder(PegasusBlocks, PegasusDecoder):
    """PEGASUS's decoder."""


class PegasusT5(bert4keras.models.T5):  # type: ignore[misc]
    """The whole network, T5's or PEGASUS's: `encoder`, `decoder` and `model` are Keras models.

    `encoder`: token ids int32 [batch, source_len] -> context float [batch, source_len, hidden], 0 at padding (id 0).
    `decoder`: [context, token ids int32 [batch, target_len]] -> float32 [batch, target_len, vocab_size].
    `model`: [source ids, target ids] -> the decoder's output.
    `named_variables`: its weights by their official names, whatever is added to a layer later.
    `from_scratch`: True if the weights are random, as `initialize` sets them.
    `lora`: what learns, if all else is frozen (see `lora_layers.attach`).

    Where `tie_word_embeddings`, the head's matrix is a copy of the embedding, transposed: loading, `initialize` and
    training keep it so.
    """

    named_variables: dict[str, tf.Variable]
    from_scratch = False
    lora: Any = None

    def __init__(self, config: ModelConfig, **kwargs: Any) -> None:
        # Past bert4keras's T5, which would build its own encoder and decoder, to its base.
        super(bert4keras.models.T5, self).__init__(**kwargs)
        self.config = config
        kwargs["layers"] = self.layers
        encoder, decoder = (Encoder, Decoder) if config.model_type == PEGASUS else (PegasusEncoder, PegasusDecoder)
        self._encoder = encoder(config, **{**kwargs, "name": f"{self.name}_Encoder"})
        kwargs["num_hidden_layers"] = config.decoder_layers
        self._decoder = decoder(config, **{**kwargs, "name": f"{self.name}_Decoder"})
        self.num_hidden_layers = max(config.num_hidden_layers, config.decoder_layers)  # that `variable_mapping` names

    def build(self, **kwargs: Any) -> None:
        """Build encoder, decoder and model."""
        super().build(**kwargs)
        self.named_variables = name_variables(self)

    def variable_mapping(self) -> dict[str, list[str]]:
        """Return the official names of each layer's weights; bert4keras has those of gated feed-forward layers only."""
        if self.config.model_type == PEGASUS:
            return pegasus_mapping(self.config)
        mapping: dict[str, list[str]] = super().variable_mapping()
        for layer, names in mapping.items():
            if layer.endswith("-FeedForward"):
                prefix = names[-1].removesuffix("/wo/kernel")
                mapping[layer] = [*(f"{prefix}/{name}/kernel" for name in branch_names(self.config)), names[-1]]
        return mapping

    @property
    def trainable(self) -> list[tf.Variable]:
        """Return the variables that training changes by their gradient, in the model's order.

        They are those of all layers that are not frozen (`layer.trainable = False`), but for the matrix of a tied head,
        which goes with the embedding. With LoRA they are its variables alone.
        """
        if self.lora is not None:
            return list(self.lora.learned)
        follower = self.named_variables[HEAD] if self.config.tie_word_embeddings else None
        return [variable for variable in self.model.trainable_variables if variable is not follower]


def recompute_activations(t5: PegasusT5) -> None:
    """Let training recompute the activations inside attention and feed-forward layers instead of keeping them.

    The gradients are the same: dropout draws the same numbers inside `dropout_seed`.
    """
    for layer in t5.layers.values():
        if isinstance(layer, bert4keras.layers.MultiHeadAttention | bert4keras.layers.FeedForward):
            layer.call = _recomputed(layer.call)


def _recomputed(call: Any) -> Any:
    def recomputing(inputs: Any, *args: Any, **kwargs: Any) -> Any:
        # Gradients go to arguments only; a causal mask, being bool, has none.
        tensors = [inputs] if tf.is_tensor(inputs) else list(inputs)
        indices = [index for index, tensor in enumerate(tensors) if tensor.dtype.is_floating]

        @tf.recompute_grad  # type: ignore[untyped-decorator]
        def run(*floats: tf.Tensor) -> tf.Tensor:
            filled = list(tensors)
            for index, tensor in zip(indices, floats, strict=True):
                filled[index] = tensor
            return call(filled[0] if tf.is_tensor(inputs) else filled, *args, **kwargs)

        return run(*(tensors[index] for index in indices))

    return recomputing


def build_model(
    model_dir: str | Path,
    weights: str | Path | Weights | None = None,
    with_lm: bool | str = True,
    **config_overrides: Any,
) -> PegasusT5:
    """Build T5-PEGASUS from a model directory and load its weights.

    Args:
        model_dir: holds config.json and vocab.txt.
        weights: a TensorFlow checkpoint, an HDF5 or a safetensors file (see `checkpoints.load_weights`), or a kind of
            Weights. None takes model.ckpt or model.safetensors of the directory, or random weights if there is neither.
        with_lm: True for probabilities, as in bert4keras; "linear" for logits.
        config_overrides: values that replace those of config.json, such as `cross_position_bias=False`.

    Returns: bert4keras's T5 object, with `encoder`, `decoder` and `model` (see `PegasusT5`).

    Raises DataError for a missing or malformed directory, OptionError for wrong values, CheckpointError where the
    vocabulary or the weights do not fit the config.
    """
    config = ModelConfig.load(model_dir, **config_overrides)
    check_vocabulary(model_dir, config)
    found = locate_weights(model_dir, weights, TO_BUILD)  # damaged ones are refused before a model is built
    t5 = build_from_config(settle_head(config, pretrained_weights(model_dir), found), with_lm)
    if found is Weights.RANDOM:
        initialize(t5)
    else:
        load_weights(t5, found)
    return t5


def network_of(t5: Any) -> Network:
    """Return the description and the weights of a bert4keras T5 1.1, ours or stock: what engines run."""
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    if isinstance(t5, PegasusT5):
        config = t5.config
    else:
        decoder, table = t5._decoder, t5.layers["Decoder-Embedding-Relative-Position"]
        config = ModelConfig(
            **{name: getattr(decoder, name) for name in (*names, "attention_head_size", "cross_position_bias")},
            hidden_act=tuple(decoder.hidden_act),
            relative_attention_num_buckets=table.input_dim,
            relative_attention_max_distance=table.max_distance,
        )
    lora = getattr(t5, "lora", None)  # stock models have none
    factors = {} if lora is None else lora.factors
    return Network(describe(config), named_variables(t5), t5.layers["Embedding-Token"].compute_dtype, factors)


def check_vocabulary(model_dir: str | Path, config: ModelConfig) -> None:
    """Raise CheckpointError if the vocabulary is of another model than config.json: every id would mean another word.

    The network may have some rows more than the vocabulary has tokens, to round its size up; no row may be missing.
    """
    tokenizer = load_tokenizer(model_dir)
    path, count = tokenizer.vocab_file, tokenizer.vocab_size
    if not 0 <= config.vocab_size - count <= max(_PADDING_ROWS, count // 8):
        raise CheckpointError(
            f"{path} has {count} tokens but vocab_size in config.json is {config.vocab_size}; "
            "use the vocabulary that belongs to these weights"
        )


def build_from_config(config: ModelConfig, with_lm: bool | str = True) -> PegasusT5:
    """Build the network of a config with all matrices 0; see `build_model`."""
    for name in config.hidden_act:
        try:
            keras.activations.get(name)
        except ValueError as error:
            raise OptionError(f"hidden_act must be activations that Keras knows, got {name}") from error
    t5: PegasusT5 = bert4keras.models.build_transformer_model(
        model=PegasusT5,
        return_keras_model=False,
        version="mt5.1.1",
        name="T5",
        with_lm=with_lm,
        config=config,
        **config.to_dict(),
    )
    return t5


def initialize(t5: PegasusT5) -> None:
    """Set random weights as T5 does for training from scratch: normal, scaled so that products keep the variance.

    bert4keras draws every matrix with a deviation of 0.02, which does for weights that are then loaded; a small model
    learns slowly from there. Source: the T5 of Mesh TensorFlow, https://github.com/google-research/text-to-text-transfer-transformer.
    """
    config = t5.config
    if config.model_type == PEGASUS:
        _initialize_pegasus(t5)
        return
    inner = config.num_attention_heads * config.attention_head_size
    stddevs = {
        "embedding": 1.0,
        "q": (config.hidden_size * config.attention_head_size) ** -0.5,
        "k": config.hidden_size**-0.5,
        "v": config.hidden_size**-0.5,
        "o": inner**-0.5,
        "wi/kernel": config.hidden_size**-0.5,
        "wi_0/kernel": config.hidden_size**-0.5,
        "wi_1/kernel": config.hidden_size**-0.5,
        "wo/kernel": config.intermediate_size**-0.5,
        "relative_attention_bias": config.hidden_size**-0.5,
    }
    variables = named_variables(t5)
    for name, variable in variables.items():
        for ending, stddev in stddevs.items():
            if name.endswith(f"/{ending}"):
                variable.assign(tf.random.normal(variable.shape, stddev=stddev))
    # The head starts as the embedding, as in the first T5, where they are one matrix: a model that has learned to find
    # a token of the source can then write it, even if no title in the training data has it. The factor of
    # hidden_size ** -0.5, before the head or in it, keeps the logits' variance at 1.
    scale = 1.0 if config.scale_output or config.tie_word_embeddings else config.hidden_size**-0.5
    variables[HEAD].assign(scale * tf.transpose(variables[EMBEDDING]))
    t5.from_scratch = True


def _initialize_pegasus(t5: PegasusT5) -> None:
    """Set random weights as Hugging Face does: normal with a deviation of 0.02, biases 0, fixed positions."""
    variables = named_variables(t5)
    for name, variable in variables.items():
        if name.endswith(("/kernel", "/embedding")):
            variable.assign(tf.random.normal(variable.shape, stddev=0.02))
    for stack in ("encoder", "decoder"):
        table = variables[positions_of(stack)]
        table.assign(sinusoids(*table.shape))
    variables[HEAD].assign(tf.transpose(variables[EMBEDDING]))
    t5.from_scratch = True
