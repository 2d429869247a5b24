"""What an encoder-decoder network is made of, as plain values: which engines interpret, whatever network it is.

A description names the weights, says how they are combined and holds none of them. It covers networks that normalise
before each layer (T5, PEGASUS): norms with or without centring, projections with or without biases, plain or gated
feed-forward layers, relative position biases or absolute position embeddings. A block of another kind is another
description; an engine changes only for an operation that no description had so far.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Generic, TypeVar

import numpy as np

from ..errors import CheckpointError


@dataclasses.dataclass(frozen=True)
class Norm:
    """A norm over the hidden axis, `x / sqrt(mean(x²) + epsilon) * scale + bias`, its statistics in float32.

    scale, bias: names of weights [hidden]; no bias where None.
    centered: subtract the mean first (LayerNorm, https://arxiv.org/abs/1607.06450); False is RMSNorm
        (https://arxiv.org/abs/1910.07467).
    """

    scale: str
    bias: str | None = None
    epsilon: float = 1e-6
    centered: bool = False


@dataclasses.dataclass(frozen=True)
class Linear:
    """A projection `x @ kernel + bias`.

    kernel: name of a weight [inputs, outputs]. bias: name of a weight [outputs]; no bias where None.
    transposed: the weight is [outputs, inputs], as a head's that is tied to the embedding.
    """

    kernel: str
    bias: str | None = None
    transposed: bool = False


@dataclasses.dataclass(frozen=True)
class RelativeBias:
    """T5's relative position bias, added to attention scores: a table of [buckets, heads] by the bucket of an offset.

    An offset is the key's position less the query's. Half the buckets are single offsets, the others get wider with the
    distance, up to `max_distance`, beyond which all offsets have one bucket. Where not bidirectional, keys after the
    query are in bucket 0. Source: https://arxiv.org/abs/1910.10683, section 2.1.
    """

    table: str
    num_buckets: int
    max_distance: int
    bidirectional: bool

    def buckets(self) -> np.ndarray:
        """Return the bucket of each offset from -max_distance to max_distance, int32 [2 * max_distance + 1]."""
        behind = np.arange(self.max_distance, -self.max_distance - 1, -1)  # how far a key is before the query
        num_buckets, first = self.num_buckets, np.zeros_like(behind)
        if self.bidirectional:
            num_buckets //= 2
            first = np.where(behind < 0, num_buckets, 0)
            behind = np.abs(behind)
        behind = np.maximum(behind, 0)
        exact = num_buckets // 2
        # In float32, as T5 itself: in float64 an offset on the border of two buckets may be in the other one.
        ratio = np.maximum(behind, 1).astype(np.float32) / np.float32(exact)
        share = np.log(ratio) / np.float32(np.log(self.max_distance / exact)) * np.float32(num_buckets - exact)
        far = np.minimum(exact + share.astype(np.int32), num_buckets - 1)
        return (first + np.where(behind < exact, behind, far)).astype(np.int32)


@dataclasses.dataclass(frozen=True)
class Attention:
    """Multi-head attention with the norm before it: queries of `norm(x)`, added to x after the output projection.

    Self-attention has its keys and values of `norm(x)` too, cross-attention of the encoder's output.

    scale: factor of the scores, such as head_size ** -0.5; T5 has none.
    position_bias: added to the scores; none where None. Layers may share one.
    """

    norm: Norm
    query: Linear
    key: Linear
    value: Linear
    output: Linear
    scale: float = 1.0
    position_bias: RelativeBias | None = None


@dataclasses.dataclass(frozen=True)
class Branch:
    """A projection of a feed-forward layer's input and its activation, a key of `engines.activations.OPERATIONS`."""

    linear: Linear
    activation: str


@dataclasses.dataclass(frozen=True)
class FeedForward:
    """A feed-forward layer with the norm before it: the product of the branches, projected, is added to x.

    branches: one where it is plain, two where it is gated (https://arxiv.org/abs/2002.05202).
    """

    norm: Norm
    branches: tuple[Branch, ...]
    output: Linear


@dataclasses.dataclass(frozen=True)
class EncoderBlock:
    """A layer of the encoder."""

    self_attention: Attention
    feed_forward: FeedForward

    @property
    def attentions(self) -> tuple[Attention, ...]:
        """Return the attention layers."""
        return (self.self_attention,)


@dataclasses.dataclass(frozen=True)
class DecoderBlock:
    """A layer of the decoder."""

    self_attention: Attention
    cross_attention: Attention
    feed_forward: FeedForward

    @property
    def attentions(self) -> tuple[Attention, ...]:
        """Return the attention layers."""
        return (self.self_attention, self.cross_attention)


_AnyBlock = TypeVar("_AnyBlock", EncoderBlock, DecoderBlock)


@dataclasses.dataclass(frozen=True)
class Embedding:
    """Token ids to rows: `table[id] * scale`, plus `positions[position]` where there are absolute positions.

    table: name of a weight [vocab_size, hidden]. positions: name of a weight [num_positions, hidden], counted from 0.
    """

    table: str
    scale: float = 1.0
    positions: str | None = None


@dataclasses.dataclass(frozen=True)
class Stack(Generic[_AnyBlock]):
    """The encoder or the decoder: embedding, blocks, last norm."""

    embedding: Embedding
    blocks: tuple[_AnyBlock, ...]
    norm: Norm


@dataclasses.dataclass(frozen=True)
class Head:
    """The decoder's output to logits: `(x * scale) @ kernel + bias`.

    A head that is tied to the embedding is a transposed linear over its table.
    """

    linear: Linear
    scale: float = 1.0


@dataclasses.dataclass(frozen=True)
class Description:
    """An encoder-decoder network. Attention masks padding, token id 0, and in the decoder what comes after.

    vocab_size, hidden_size, intermediate_size (of feed-forward layers), num_heads, head_size: its sizes.
    num_positions: rows of the tables of absolute positions; 0 where there are none.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    head_size: int
    encoder: Stack[EncoderBlock]
    decoder: Stack[DecoderBlock]
    head: Head
    num_positions: int = 0

    @property
    def blocks(self) -> tuple[EncoderBlock | DecoderBlock, ...]:
        """Return the encoder's and the decoder's blocks."""
        return (*self.encoder.blocks, *self.decoder.blocks)

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the name and shape of every weight, each once."""
        return dict(self._shapes())

    def _shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        hidden, inner = self.hidden_size, self.num_heads * self.head_size
        for stack in (self.encoder, self.decoder):
            yield stack.embedding.table, (self.vocab_size, hidden)
            if stack.embedding.positions is not None:
                yield stack.embedding.positions, (self.num_positions, hidden)
            yield from _norm_shapes(stack.norm, hidden)
            for block in stack.blocks:
                for attention in block.attentions:
                    yield from _norm_shapes(attention.norm, hidden)
                    for linear in (attention.query, attention.key, attention.value):
                        yield from _linear_shapes(linear, hidden, inner)
                    yield from _linear_shapes(attention.output, inner, hidden)
                    if (bias := attention.position_bias) is not None:
                        yield bias.table, (bias.num_buckets, self.num_heads)
                yield from _norm_shapes(block.feed_forward.norm, hidden)
                for branch in block.feed_forward.branches:
                    yield from _linear_shapes(branch.linear, hidden, self.intermediate_size)
                yield from _linear_shapes(block.feed_forward.output, self.intermediate_size, hidden)
        yield from _linear_shapes(self.head.linear, hidden, self.vocab_size)


def _norm_shapes(norm: Norm, hidden: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    for name in filter(None, (norm.scale, norm.bias)):
        yield name, (hidden,)


def _linear_shapes(linear: Linear, inputs: int, outputs: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield linear.kernel, (outputs, inputs) if linear.transposed else (inputs, outputs)
    if linear.bias is not None:
        yield linear.bias, (outputs,)


@dataclasses.dataclass(frozen=True)
class Network:
    """A described network with its weights: what an engine runs.

    weights: TensorFlow variables by the names of the description, in float32, or frozen matrices in half precision;
        others may be among them.
    compute_dtype: in which matrices are multiplied: float32, float16 or bfloat16.
    factors: `lora.Factors` of variables, by the names of the weights whose products they add to.

    Raises CheckpointError for a weight that is missing or has another shape than the description gives it.
    """

    description: Description
    weights: Mapping[str, Any]
    compute_dtype: str = "float32"
    factors: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the weights."""
        for name, shape in self.description.weight_shapes().items():
            if name not in self.weights:
                raise CheckpointError(f"the network lacks the weight {name}")
            if (found := tuple(self.weights[name].shape)) != shape:
                raise CheckpointError(f"the weight {name} must have the shape {shape}, got {found}")
