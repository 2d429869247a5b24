"""T5-PEGASUS as a bert4keras model: built from config.json, exact under padding and in mixed precision.

The network is bert4keras's own T5 (its layers, its weight names); the changes are listed in `_LAYERS` and in the
classes below it, each with its reason. Layers are in the order of stock bert4keras: Keras's `load_weights` goes by that
order, and is to load the weights of one into the other.
"""

import contextlib
import contextvars
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..config import ModelConfig
from ..errors import CheckpointError, OptionError
from ..locations import TO_BUILD, Weights, locate_weights
from ..text.tokenizer import read_vocabulary
from .backend import bert4keras, keras, tf
from .checkpoints import load_weights, name_variables, named_variables
from .description import Network
from .t5_description import EMBEDDING, HEAD, describe_t5

# Rows by which a vocabulary's size is rounded up, at most; an eighth of the tokens in larger ones.
_PADDING_ROWS = 128

_dropout_seed: contextvars.ContextVar[tf.Tensor | None] = contextvars.ContextVar("dropout_seed", default=None)


@contextlib.contextmanager
def dropout_seed(seed: tf.Tensor) -> Iterator[None]:
    """Make dropout inside the `with` a pure function of `seed`, int32 [2], and of the layer.

    Training derives the seed from the step number, so there is no random state to save: a resumed run draws the same
    numbers, and so does a layer that is computed twice.
    """
    token = _dropout_seed.set(seed)
    try:
        yield
    finally:
        _dropout_seed.reset(token)


class Dropout(keras.layers.Layer):  # type: ignore[misc]
    """Dropout that draws from `dropout_seed`; outside of it, from TensorFlow's own random state."""

    def __init__(self, rate: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        self.rate = rate
        self.salt = zlib.crc32(self.name.encode()) % 2**31  # each layer draws its own numbers

    def call(self, inputs: tf.Tensor, training: Any = None) -> tf.Tensor:
        """Set a share `rate` of the values to 0 and scale up the others; change nothing in inference."""
        if not self.rate:
            return inputs

        def drop() -> tf.Tensor:
            seed = _dropout_seed.get()
            shape = tf.shape(inputs)
            if seed is None:
                values = tf.random.uniform(shape)
            else:
                values = tf.random.stateless_uniform(shape, tf.random.fold_in(seed, self.salt))
            return tf.where(values >= self.rate, inputs / (1 - self.rate), tf.zeros((), inputs.dtype))

        return keras.backend.in_train_phase(drop, inputs, training=training)


class RMSNorm(bert4keras.layers.LayerNormalization):  # type: ignore[misc]
    """T5's norm, `x / sqrt(mean(x²) + epsilon) * gamma`, with the statistics in float32.

    bert4keras squares in the compute type, which in float16 overflows above |x| = 256; trained T5 models go beyond.
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Normalise the last axis: float [..., hidden] to the same shape and type."""
        x = tf.cast(inputs, tf.float32)
        x *= tf.math.rsqrt(tf.reduce_mean(tf.square(x), axis=-1, keepdims=True) + self.epsilon)
        return tf.cast(x * tf.cast(self.gamma, tf.float32), inputs.dtype)


class EncoderOutputNorm(RMSNorm):
    """The encoder's last norm; its output at padding is exactly 0, by which `Attention` recognises it."""

    def call(self, inputs: tf.Tensor, mask: tf.Tensor | None = None) -> tf.Tensor:
        """Float [batch, source_len, hidden], mask bool [batch, source_len] to the same shape and type."""
        x = super().call(inputs)
        return x if mask is None else x * tf.cast(mask, x.dtype)[:, :, None]


class Attention(bert4keras.layers.MultiHeadAttention):  # type: ignore[misc]
    """bert4keras's attention that never sees padding, with biases and softmax in float32, whatever the compute type.

    In `t5.model` the context's mask comes with the encoder's output. `t5.decoder` alone takes an array, which has none:
    there a position whose values are all 0 is padding. No other position has that, since the encoder ends in a norm.
    """

    def call(self, inputs: list[tf.Tensor], mask: Any = None, **kwargs: Any) -> tf.Tensor:
        """Attend, [batch, queries, hidden]; the signature is bert4keras's.

        Args:
            inputs: float [batch, queries, hidden], twice [batch, keys, hidden], then what `pay_attention_to` takes.
            mask: of each input, bool [batch, length] or None.
            kwargs: see `pay_attention_to`.
        """
        masks = [None] * len(inputs) if mask is None else list(mask)
        if masks[2] is None:
            masks[2] = tf.reduce_any(tf.not_equal(inputs[2], 0), axis=-1)
        return super().call(inputs, mask=masks, **kwargs)

    def pay_attention_to(self, inputs: list[tf.Tensor], mask: Any = None, **kwargs: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Attend; the signature is bert4keras's.

        Args:
            inputs: queries [batch, queries, heads, head_size], keys and values [batch, keys, heads, head_size], then
                the causal mask (bool [queries, keys]) and the position bias [queries, keys, heads], if any.
            mask: (unused, bool [batch, keys]).
            kwargs: `a_bias` is true if there is a causal mask, `p_bias` if there is a position bias.

        Returns: attended values [batch, queries, heads, head_size], scores float32 [batch, heads, queries, keys].
        """
        query, key, value, *biases = inputs
        visible = mask[1][:, None, None]
        if kwargs.get("a_bias"):
            visible = tf.logical_and(visible, biases.pop(0))
        scores = tf.cast(tf.einsum("bqhd,bkhd->bhqk", query, key), tf.float32)
        if kwargs.get("p_bias"):
            scores += tf.cast(tf.transpose(biases.pop(0), (2, 0, 1)), tf.float32)
        # Far below any score, and finite: a row of nothing but -inf would give NaN.
        scores = tf.where(visible, scores, tf.float32.min)
        weights = tf.nn.softmax(scores, axis=-1)
        if self.attention_dropout:
            weights = self.weights_dropout(weights, training=kwargs.get("training"))
        return tf.einsum("bhqk,bkhd->bqhd", tf.cast(weights, value.dtype), value), scores

    def build(self, input_shape: Any) -> None:
        """Create the projections and the dropout; bert4keras creates a new dropout layer at each call."""
        super().build(input_shape)
        self.weights_dropout = Dropout(self.attention_dropout or 0, name=f"{self.name}-Weights-Dropout")


# bert4keras's layers and their replacements. The weights and their names are the same.
_LAYERS = {
    keras.layers.Dropout: Dropout,
    bert4keras.layers.LayerNormalization: RMSNorm,
    bert4keras.layers.MultiHeadAttention: Attention,
}


class _PegasusMixin:
    """What encoder and decoder have in common: which layers are built, and from which settings."""

    def __init__(
        self, relative_attention_num_buckets: int, relative_attention_max_distance: int, **kwargs: Any
    ) -> None:
        self.relative_attention_num_buckets = relative_attention_num_buckets
        self.relative_attention_max_distance = relative_attention_max_distance
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
            kwargs["input_dim"] = self.relative_attention_num_buckets
            kwargs["max_distance"] = self.relative_attention_max_distance
        elif kwargs.get("name") == "Encoder-Output-Norm":
            layer = EncoderOutputNorm
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


class PegasusT5(bert4keras.models.T5):  # type: ignore[misc]
    """The whole network: `encoder`, `decoder` and `model` are Keras models.

    `encoder`: token ids int32 [batch, source_len] -> context float [batch, source_len, hidden], 0 at padding (id 0).
    `decoder`: [context, token ids int32 [batch, target_len]] -> float32 [batch, target_len, vocab_size].
    `model`: [source ids, target ids] -> the decoder's output.
    `named_variables`: its weights by their official names, whatever is added to a layer later.
    `from_scratch`: True if the weights are random, as `initialize` sets them.

    Where `tie_word_embeddings`, the head's matrix is a copy of the embedding, transposed: loading, `initialize` and
    training keep it so.
    """

    named_variables: dict[str, tf.Variable]
    from_scratch = False

    def __init__(self, config: ModelConfig, **kwargs: Any) -> None:
        # Past bert4keras's T5, which would build its own encoder and decoder, to its base.
        super(bert4keras.models.T5, self).__init__(**kwargs)
        self.config = config
        kwargs["layers"] = self.layers
        self._encoder = PegasusEncoder(**{**kwargs, "name": f"{self.name}_Encoder"})
        self._decoder = PegasusDecoder(**{**kwargs, "name": f"{self.name}_Decoder"})

    def build(self, **kwargs: Any) -> None:
        """Build encoder, decoder and model."""
        super().build(**kwargs)
        self.named_variables = name_variables(self)

    @property
    def trainable(self) -> list[tf.Variable]:
        """Return the variables that training changes by their gradient, in the model's order.

        They are those of all layers that are not frozen (`layer.trainable = False`), but for the matrix of a tied head,
        which goes with the embedding.
        """
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
    t5 = build_from_config(config, with_lm)
    if found is Weights.RANDOM:
        initialize(t5)
    else:
        load_weights(t5, found)
    return t5


def network_of(t5: Any) -> Network:
    """Return the description and the weights of a bert4keras T5 1.1, ours or stock: what engines run."""
    decoder, table = t5._decoder, t5.layers["Decoder-Embedding-Relative-Position"]
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    config = (
        t5.config
        if isinstance(t5, PegasusT5)
        else ModelConfig(
            **{name: getattr(decoder, name) for name in (*names, "attention_head_size", "cross_position_bias")},
            hidden_act=tuple(decoder.hidden_act),
            relative_attention_num_buckets=table.input_dim,
            relative_attention_max_distance=table.max_distance,
        )
    )
    return Network(describe_t5(config), named_variables(t5), t5.layers["Embedding-Token"].compute_dtype)


def check_vocabulary(model_dir: str | Path, config: ModelConfig) -> None:
    """Raise CheckpointError if vocab.txt is of another model than config.json: every id would mean another word.

    The network may have some rows more than the vocabulary has tokens, to round its size up; no row may be missing.
    """
    path = Path(model_dir) / "vocab.txt"
    count = len(read_vocabulary(path))
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
    inner = config.num_attention_heads * config.attention_head_size
    stddevs = {
        "embedding": 1.0,
        "q": (config.hidden_size * config.attention_head_size) ** -0.5,
        "k": config.hidden_size**-0.5,
        "v": config.hidden_size**-0.5,
        "o": inner**-0.5,
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
    # a token of the source can then write it, even if no title in the training data has it. bert4keras's factor of
    # hidden_size ** -0.5 before the head keeps the logits' variance at 1.
    variables[HEAD].assign(tf.transpose(variables[EMBEDDING]))
    t5.from_scratch = True
