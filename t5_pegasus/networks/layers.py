"""bert4keras's layers as they must be: exact under padding and in mixed precision, dropout without hidden state.

Each has the weights, and their names, of the layer of bert4keras or Keras that it replaces.
"""

import contextlib
import contextvars
import zlib
from collections.abc import Iterator
from typing import Any

from .backend import bert4keras, keras, tf

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


def seeded_dropout(x: tf.Tensor, rate: float, salt: int) -> tf.Tensor:
    """Set a share `rate` of the values to 0 and scale up the others, inside `dropout_seed`; outside change nothing.

    So it does not depend on what Keras takes for training, which it forgets where a layer is computed again.
    """
    seed = _dropout_seed.get()
    if seed is None or not rate:
        return x
    values = tf.random.stateless_uniform(tf.shape(x), tf.random.fold_in(seed, salt))
    return tf.where(values >= rate, x / (1 - rate), tf.zeros((), x.dtype))


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
            if _dropout_seed.get() is not None:
                return seeded_dropout(inputs, self.rate, self.salt)
            values = tf.random.uniform(tf.shape(inputs))
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


class LayerNorm(bert4keras.layers.LayerNormalization):  # type: ignore[misc]
    """PEGASUS's norm, that of the values less their mean, with a bias; the statistics are in float32."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Normalise the last axis: float [..., hidden] to the same shape and type."""
        x = tf.cast(inputs, tf.float32)
        x -= tf.reduce_mean(x, axis=-1, keepdims=True)
        x *= tf.math.rsqrt(tf.reduce_mean(tf.square(x), axis=-1, keepdims=True) + self.epsilon)
        return tf.cast(x * tf.cast(self.gamma, tf.float32) + tf.cast(self.beta, tf.float32), inputs.dtype)


class _ZeroAtPadding:
    """A norm that ends the encoder; its output at padding is exactly 0, by which `Attention` recognises it."""

    def call(self, inputs: tf.Tensor, mask: tf.Tensor | None = None) -> tf.Tensor:
        """Float [batch, source_len, hidden], mask bool [batch, source_len] to the same shape and type."""
        x = super().call(inputs)  # type: ignore[misc]
        return x if mask is None else x * tf.cast(mask, x.dtype)[:, :, None]


class EncoderOutputNorm(_ZeroAtPadding, RMSNorm):
    """T5's norm at the end of the encoder."""


class EncoderOutputLayerNorm(_ZeroAtPadding, LayerNorm):
    """PEGASUS's norm at the end of the encoder."""


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
        if self.attention_scale:
            query *= tf.cast(self.key_size**-0.5, query.dtype)
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
