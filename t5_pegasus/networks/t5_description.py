"""The description of T5-PEGASUS, T5 and mT5: T5's blocks under the names of mT5's checkpoints."""

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
    RelativeBias,
    Stack,
)

EMBEDDING, HEAD = "shared/embedding", "decoder/logits/kernel"


def describe_t5(config: ModelConfig) -> Description:
    """Return the description of a model of this config; see `description.Description`."""
    encoder, decoder = range(config.num_hidden_layers), range(config.decoder_layers)
    return Description(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_heads=config.num_attention_heads,
        head_size=config.attention_head_size,
        encoder=Stack(
            Embedding(EMBEDDING), tuple(_encoder_block(layer, config) for layer in encoder), _norm("encoder", config)
        ),
        decoder=Stack(
            Embedding(EMBEDDING), tuple(_decoder_block(layer, config) for layer in decoder), _norm("decoder", config)
        ),
        head=Head(
            Linear(EMBEDDING, transposed=True) if config.tie_word_embeddings else Linear(HEAD),
            config.hidden_size**-0.5 if config.scale_output else 1.0,
        ),
    )


def _encoder_block(layer: int, config: ModelConfig) -> EncoderBlock:
    prefix = f"encoder/block_{layer:03d}"
    return EncoderBlock(
        _attention(f"{prefix}/layer_000", "SelfAttention", _position_bias("encoder", config), config),
        _feed_forward(f"{prefix}/layer_001", config),
    )


def _decoder_block(layer: int, config: ModelConfig) -> DecoderBlock:
    prefix, bias = f"decoder/block_{layer:03d}", _position_bias("decoder", config)
    return DecoderBlock(
        _attention(f"{prefix}/layer_000", "SelfAttention", bias, config),
        # bert4keras adds the bias here too, unless config.json says otherwise; T5 itself has none.
        _attention(f"{prefix}/layer_001", "EncDecAttention", bias if config.cross_position_bias else None, config),
        _feed_forward(f"{prefix}/layer_002", config),
    )


def _position_bias(stack: str, config: ModelConfig) -> RelativeBias:
    """Return the position bias of the encoder or the decoder, whose layers share the table of the first one."""
    return RelativeBias(
        f"{stack}/block_000/layer_000/SelfAttention/relative_attention_bias",
        config.relative_attention_num_buckets,
        config.relative_attention_max_distance,
        bidirectional=stack == "encoder",
    )


def _norm(layer: str, config: ModelConfig) -> Norm:
    return Norm(f"{layer}/rms_norm/scale", epsilon=config.layer_norm_epsilon)


def _attention(layer: str, kind: str, bias: RelativeBias | None, config: ModelConfig) -> Attention:
    query, key, value, output = (Linear(f"{layer}/{kind}/{name}") for name in "qkvo")
    return Attention(_norm(layer, config), query, key, value, output, position_bias=bias)


def branch_names(config: ModelConfig) -> tuple[str, ...]:
    """Return the names of the projections into a feed-forward layer: `wi_0` and `wi_1` where it is gated, else `wi`."""
    return ("wi_0", "wi_1") if len(config.hidden_act) == 2 else ("wi",)


def _feed_forward(layer: str, config: ModelConfig) -> FeedForward:
    branches = tuple(
        Branch(Linear(f"{layer}/DenseReluDense/{name}/kernel"), activation)
        for name, activation in zip(branch_names(config), config.hidden_act, strict=True)
    )
    return FeedForward(_norm(layer, config), branches, Linear(f"{layer}/DenseReluDense/wo/kernel"))
