"""The description of PEGASUS: LayerNorm, biases, absolute positions; named in the way of T5's checkpoints.

Source: https://arxiv.org/abs/1912.08777, as Hugging Face's PegasusForConditionalGeneration computes it.
"""

import numpy as np

from ..config import ModelConfig
from .description import (
    Attention,
    Branch,
    DecoderBlock,
    Description,
    Embedding,
    EncoderBlock,
    FeedForward,
    Head,
    Linear,
    Norm,
    Stack,
)
from .t5_description import EMBEDDING, HEAD

LOGITS_BIAS = "decoder/logits/bias"


def positions_of(stack: str) -> str:
    """Return the name of a stack's table of positions."""
    return f"{stack}/positions"


def describe_pegasus(config: ModelConfig) -> Description:
    """Return the description of a model of this config; see `description.Description`."""
    head = Linear(EMBEDDING, LOGITS_BIAS, transposed=True) if config.tie_word_embeddings else Linear(HEAD, LOGITS_BIAS)
    return Description(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_heads=config.num_attention_heads,
        head_size=config.attention_head_size,
        num_positions=config.max_position_embeddings,
        encoder=Stack(
            _embedding("encoder", config),
            tuple(_encoder_block(layer, config) for layer in range(config.num_hidden_layers)),
            _norm("encoder", config),
        ),
        decoder=Stack(
            _embedding("decoder", config),
            tuple(_decoder_block(layer, config) for layer in range(config.decoder_layers)),
            _norm("decoder", config),
        ),
        head=Head(head),
    )


def sinusoids(num_positions: int, hidden_size: int) -> np.ndarray:
    """Return Hugging Face's table of positions, float32 [num_positions, hidden_size]: first all sines, then cosines."""
    exponents = 2 * (np.arange(hidden_size) // 2) / hidden_size
    angles = np.arange(num_positions)[:, None] / 10000**exponents
    return np.concatenate([np.sin(angles[:, 0::2]), np.cos(angles[:, 1::2])], axis=1).astype(np.float32)


def _embedding(stack: str, config: ModelConfig) -> Embedding:
    return Embedding(EMBEDDING, config.embedding_scale, positions_of(stack))


def _encoder_block(layer: int, config: ModelConfig) -> EncoderBlock:
    prefix = f"encoder/block_{layer:03d}"
    return EncoderBlock(
        _attention(f"{prefix}/layer_000", "SelfAttention", config), _feed_forward(f"{prefix}/layer_001", config)
    )


def _decoder_block(layer: int, config: ModelConfig) -> DecoderBlock:
    prefix = f"decoder/block_{layer:03d}"
    return DecoderBlock(
        _attention(f"{prefix}/layer_000", "SelfAttention", config),
        _attention(f"{prefix}/layer_001", "EncDecAttention", config),
        _feed_forward(f"{prefix}/layer_002", config),
    )


def _linear(name: str) -> Linear:
    return Linear(f"{name}/kernel", f"{name}/bias")


def _norm(prefix: str, config: ModelConfig) -> Norm:
    return Norm(f"{prefix}/norm/scale", f"{prefix}/norm/bias", config.layer_norm_epsilon, centered=True)


def _attention(prefix: str, kind: str, config: ModelConfig) -> Attention:
    query, key, value, output = (_linear(f"{prefix}/{kind}/{name}") for name in "qkvo")
    return Attention(_norm(prefix, config), query, key, value, output, scale=config.attention_head_size**-0.5)


def _feed_forward(prefix: str, config: ModelConfig) -> FeedForward:
    (activation,) = config.hidden_act
    return FeedForward(
        _norm(prefix, config),
        (Branch(_linear(f"{prefix}/DenseReluDense/wi"), activation),),
        _linear(f"{prefix}/DenseReluDense/wo"),
    )
