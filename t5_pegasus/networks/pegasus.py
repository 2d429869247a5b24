"""PEGASUS's blocks as layers of bert4keras, in the graph of bert4keras's T5, which has them in the same order.

A norm goes before each block and one ends each stack. Against T5 they have LayerNorm, biases, scaled scores, absolute
positions added to scaled embeddings, and a bias of the logits. As in Hugging Face's model, the table of positions and
that bias do not learn. Source: https://arxiv.org/abs/1912.08777.
"""

from typing import Any

from ..config import ModelConfig
from .backend import bert4keras, keras, tf
from .layers import EncoderOutputLayerNorm, LayerNorm
from .pegasus_description import LOGITS_BIAS, positions_of
from .t5_description import EMBEDDING, HEAD


class Positions(keras.layers.Layer):  # type: ignore[misc]
    """Scales embeddings and adds the row of each position, float [batch, length, hidden]; rows do not learn."""

    def __init__(self, num_positions: int, scale: float, **kwargs: Any) -> None:
        super().__init__(trainable=False, **kwargs)
        self.supports_masking = True
        self.num_positions, self.scale = num_positions, scale

    def build(self, input_shape: Any) -> None:
        """Make the table [num_positions, hidden]."""
        super().build(input_shape)
        self.table = self.add_weight(
            name="positions", shape=(self.num_positions, int(input_shape[-1])), initializer="zeros", trainable=False
        )

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Return the inputs scaled, with their positions, counted from 0."""
        return inputs * tf.cast(self.scale, inputs.dtype) + tf.cast(self.table[: tf.shape(inputs)[1]], inputs.dtype)


class LogitsBias(keras.layers.Layer):  # type: ignore[misc]
    """Adds to the logits [..., vocab_size] what does not learn: Hugging Face's `final_logits_bias`, in float32."""

    def build(self, input_shape: Any) -> None:
        """Make the bias [vocab_size]."""
        super().build(input_shape)
        self.bias = self.add_weight(
            name="bias", shape=(int(input_shape[-1]),), initializer="zeros", trainable=False, dtype="float32"
        )

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Return the sum, float32."""
        return tf.cast(inputs, tf.float32) + self.bias


class PegasusBlocks:
    """A mixin of bert4keras's T5 stacks that makes them PEGASUS's; to be put before `t5._PegasusMixin`."""

    config: ModelConfig

    def compute_position_bias(self, inputs: Any = None) -> Any:
        """Return no bias, in the form of the encoder's or the decoder's."""
        return (None, None) if isinstance(inputs, list) else None

    def apply(self, inputs: Any = None, layer: Any = None, arguments: Any = None, **kwargs: Any) -> Any:
        """Apply the layer that PEGASUS has in the place of T5's."""
        name = kwargs.get("name", "")
        if layer is bert4keras.layers.LayerNormalization:
            layer = EncoderOutputLayerNorm if name == "Encoder-Output-Norm" else LayerNorm
            kwargs |= {"zero_mean": True, "offset": True, "epsilon": self.config.layer_norm_epsilon}
        elif layer is bert4keras.layers.MultiHeadAttention:
            kwargs |= {"use_bias": True, "attention_scale": True}
            inputs = [each for each in inputs if each is not None]
            arguments = {**arguments, "p_bias": None}
        elif layer is bert4keras.layers.FeedForward:
            kwargs["use_bias"] = True
        elif name.endswith("-Embedding-Dropout"):
            inputs = self.apply(
                inputs,
                Positions,
                num_positions=self.config.max_position_embeddings,
                scale=self.config.embedding_scale,
                name=name.replace("Dropout", "Position"),
            )
        x = super().apply(inputs, layer, arguments, **kwargs)  # type: ignore[misc]
        if name == "Decoder-Output-LM":
            x = self.apply(x, LogitsBias, name="Decoder-Output-LM-Bias", dtype="float32")
        return x


def pegasus_mapping(config: ModelConfig) -> dict[str, list[str]]:
    """Return the names of each layer's weights, in Keras's order."""
    mapping = {
        "Embedding-Token": [EMBEDDING],
        "Decoder-Output-LM": [HEAD],
        "Decoder-Output-LM-Bias": [LOGITS_BIAS],
    }
    for stack, layers in (("Encoder", config.num_hidden_layers), ("Decoder", config.decoder_layers)):
        low = stack.lower()
        mapping[f"{stack}-Embedding-Position"] = [positions_of(low)]
        mapping[f"{stack}-Output-Norm"] = _norm(low)
        kinds = [("MultiHeadSelfAttention", "SelfAttention")]
        if stack == "Decoder":
            kinds.append(("MultiHeadCrossAttention", "EncDecAttention"))
        for block in range(layers):
            for layer, (theirs, kind) in enumerate([*kinds, ("FeedForward", "DenseReluDense")]):
                prefix = f"{low}/block_{block:03}/layer_{layer:03}"
                names = ("wi", "wo") if kind == "DenseReluDense" else ("q", "k", "v", "o")
                weights = [(f"{prefix}/{kind}/{name}/kernel", f"{prefix}/{kind}/{name}/bias") for name in names]
                mapping[f"{stack}-Transformer-{block}-{theirs}"] = [name for pair in weights for name in pair]
                mapping[f"{stack}-Transformer-{block}-{theirs}-Norm"] = _norm(prefix)
    return mapping


def _norm(prefix: str) -> list[str]:
    return [f"{prefix}/norm/bias", f"{prefix}/norm/scale"]  # in the order in which bert4keras makes them
