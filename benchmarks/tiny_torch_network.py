"""The network that `tiny_torch.py` trains: T5 of a config in PyTorch, its weights by their official names.

It is the shipped model's: gated gelu, the head tied to the embedding, no position bias in cross-attention. Products are
computed in bfloat16; weights, norms, scores and softmax are float32.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from t5_pegasus.config import ModelConfig
from t5_pegasus.errors import OptionError
from t5_pegasus.networks.description import DecoderBlock, EncoderBlock, RelativeBias, Stack
from t5_pegasus.networks.t5_description import describe_t5

COMPUTE = torch.bfloat16  # type of the products
EPSILON, FAR_BELOW = 1e-6, -1e9
# What the network has, whatever the sizes are.
CONFIG = {
    "hidden_act": ("gelu", "linear"),
    "tie_word_embeddings": True,
    "cross_position_bias": False,
    "scale_output": True,
    "layer_norm_epsilon": EPSILON,
}


def normalize(x: Tensor, scale: Tensor) -> Tensor:
    """T5's norm with float32 statistics, [..., hidden], in the type to compute in."""
    return (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPSILON) * scale).to(COMPUTE)


def attend(
    x: Tensor,
    context: Tensor | None,
    bias: Tensor | None,
    mask: Tensor,
    dropout: float,
    heads: int,
    weights: Sequence[Tensor],
) -> Tensor:
    """Return x, float32 [batch, queries, hidden], with attention added.

    Args:
        x: see above.
        context: the encoder's output [batch, keys, hidden]; None attends to x itself.
        bias: float32 [heads, queries, keys], or None.
        mask: float32 [batch, 1, 1, keys], 0 or far below any score.
        dropout: share of the output that is set to 0.
        heads: attention heads.
        weights: norm [hidden], and of q, k, v, o; q is kept times the square root of the head's size.
    """
    scale, *kernels = weights
    h = normalize(x, scale)
    wq, wk, wv, wo = (kernel.to(COMPUTE) for kernel in kernels)
    keys = h if context is None else context
    query, key, value = (
        (inputs @ kernel).unflatten(-1, (heads, -1)).transpose(1, 2)
        for inputs, kernel in ((h, wq), (keys, wk), (keys, wv))
    )
    scores = (query @ key.mT).float() * query.shape[-1] ** -0.5 + mask
    if bias is not None:
        scores = scores + bias
    out = (torch.softmax(scores, -1).to(COMPUTE) @ value).transpose(1, 2).flatten(2) @ wo
    return x + functional.dropout(out, dropout, dropout > 0).float()


def feed_forward(x: Tensor, dropout: float, weights: Sequence[Tensor]) -> Tensor:
    """Return x, float32 [batch, length, hidden], with the gated layer added; weights: norm, wi_0, wi_1, wo."""
    scale, *kernels = weights
    h = normalize(x, scale)
    wi, gate, wo = (kernel.to(COMPUTE) for kernel in kernels)
    out = (functional.gelu(h @ wi) * (h @ gate)) @ wo
    return x + functional.dropout(out, dropout, dropout > 0).float()


def encoder_block(
    x: Tensor, bias: Tensor, mask: Tensor, dropout: float, heads: int, own: Sequence[Tensor], forward: Sequence[Tensor]
) -> Tensor:
    """A layer of the encoder; see `attend`."""
    return feed_forward(attend(x, None, bias, mask, dropout, heads, own), dropout, forward)


def decoder_block(
    x: Tensor,
    context: Tensor,
    bias: Tensor,
    mask: Tensor,
    dropout: float,
    heads: int,
    own: Sequence[Tensor],
    cross: Sequence[Tensor],
    forward: Sequence[Tensor],
) -> Tensor:
    """A layer of the decoder; `bias` also hides what comes after, `mask` is the context's."""
    x = attend(x, None, bias, torch.zeros((), device=x.device), dropout, heads, own)
    return feed_forward(attend(x, context, None, mask, dropout, heads, cross), dropout, forward)


class T5(nn.Module):  # type: ignore[misc]
    """The network of a config, its weights by their official names; queries are kept times sqrt(head_size)."""

    def __init__(self, config: ModelConfig, dropout: float, compiled: bool = False) -> None:
        super().__init__()
        for name, value in CONFIG.items():
            if getattr(config, name) != value:
                raise OptionError(f"{name} in config.json must be {value}, got {getattr(config, name)}")
        self.description, self.config, self.dropout = describe_t5(config), config, dropout
        self.table = self.description.encoder.embedding.table
        inner, hidden = config.num_attention_heads * config.attention_head_size, config.hidden_size
        self.weights = nn.ParameterDict()
        add = self._add
        add(self.table, (config.vocab_size, hidden), 1.0)
        for stack in (self.description.encoder, self.description.decoder):
            for block in stack.blocks:
                for attention in block.attentions:
                    add(attention.norm.scale, (hidden,))
                    for kernel in (attention.query.kernel, attention.key.kernel, attention.value.kernel):
                        add(kernel, (hidden, inner), hidden**-0.5)
                    add(attention.output.kernel, (inner, hidden), inner**-0.5)
                    if attention.position_bias is not None and attention.position_bias.table not in self.weights:
                        bias = attention.position_bias
                        add(bias.table, (config.num_attention_heads, bias.num_buckets), hidden**-0.5)
                add(block.feed_forward.norm.scale, (hidden,))
                for branch in block.feed_forward.branches:
                    add(branch.linear.kernel, (hidden, config.intermediate_size), hidden**-0.5)
                wo = block.feed_forward.output.kernel
                add(wo, (config.intermediate_size, hidden), config.intermediate_size**-0.5)
            add(stack.norm.scale, (hidden,))
        torch._dynamo.config.recompile_limit = 64  # blocks are compiled for each shape
        self._encode = torch.compile(encoder_block, dynamic=False) if compiled else encoder_block
        self._decode = torch.compile(decoder_block, dynamic=False) if compiled else decoder_block

    def _add(self, name: str, shape: tuple[int, ...], deviation: float | None = None) -> None:
        values = torch.ones(shape) if deviation is None else torch.randn(shape) * deviation
        self.weights[name] = nn.Parameter(values)

    def _factor(self, name: str) -> float:
        return self.config.attention_head_size**0.5 if name.endswith("Attention/q") else 1.0

    def official(self) -> dict[str, Tensor]:
        """Return the weights as checkpoints have them."""
        return {name: (value.detach() / self._factor(name)).cpu() for name, value in self.weights.items()}

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def load(self, values: dict[str, Tensor]) -> None:
        """Take weights as checkpoints have them."""
        for name, parameter in self.weights.items():
            parameter.copy_(values[name].float() * self._factor(name))

    def _bias(self, stack: Stack[Any], length: int) -> Tensor:
        """Return the position bias of a stack for offsets within `length` tokens, float32 [heads, length, length]."""
        bias: RelativeBias = stack.blocks[0].self_attention.position_bias
        table = self.weights[bias.table]
        buckets = torch.from_numpy(bias.buckets()).long().to(table.device)
        positions = torch.arange(length, device=table.device)
        offsets = (positions[None] - positions[:, None]).clamp(-bias.max_distance, bias.max_distance)
        values = table[:, buckets[offsets + bias.max_distance]]
        return values if bias.bidirectional else values.masked_fill(offsets > 0, FAR_BELOW)

    def _block_weights(self, block: EncoderBlock | DecoderBlock) -> list[list[Tensor]]:
        names = [
            [each.norm.scale, *(linear.kernel for linear in (each.query, each.key, each.value, each.output))]
            for each in block.attentions
        ]
        forward = block.feed_forward
        names.append([forward.norm.scale, *(each.linear.kernel for each in forward.branches), forward.output.kernel])
        return [[self.weights[name] for name in each] for each in names]

    def encode(self, source: Tensor, training: bool = False) -> tuple[Tensor, Tensor]:
        """Token ids [batch, source_len] to the context [batch, source_len, hidden] and its mask; see `attend`."""
        dropout, heads = self.dropout if training else 0.0, self.config.num_attention_heads
        encoder = self.description.encoder
        mask = (source == 0)[:, None, None].float() * FAR_BELOW
        bias = self._bias(encoder, source.shape[1])
        x = functional.dropout(functional.embedding(source, self.weights[self.table]), dropout, training)
        for block in encoder.blocks:
            x = self._encode(x, bias, mask, dropout, heads, *self._block_weights(block))
        return functional.dropout(normalize(x, self.weights[encoder.norm.scale]), dropout, training), mask

    def decode(self, target: Tensor, context: Tensor, mask: Tensor, training: bool = False) -> Tensor:
        """Token ids [batch, target_len] to logits [batch, target_len, vocab_size]."""
        dropout, heads = self.dropout if training else 0.0, self.config.num_attention_heads
        decoder, table = self.description.decoder, self.weights[self.table]
        bias = self._bias(decoder, target.shape[1])
        x = functional.dropout(functional.embedding(target, table), dropout, training)
        for block in decoder.blocks:
            x = self._decode(x, context, bias, mask, dropout, heads, *self._block_weights(block))
        x = functional.dropout(normalize(x, self.weights[decoder.norm.scale]), dropout, training)
        return x * self.config.hidden_size**-0.5 @ table.to(COMPUTE).T

    def loss(self, source: Tensor, target: Tensor, smoothing: float = 0.0, training: bool = False) -> Tensor:
        """Return the mean cross-entropy of the target's tokens but the first, in nats."""
        logits = self.decode(target[:, :-1], *self.encode(source, training), training).flatten(0, 1).float()
        return functional.cross_entropy(logits, target[:, 1:].flatten(), ignore_index=0, label_smoothing=smoothing)

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def greedy(self, source: Tensor, start: int, length: int) -> Tensor:
        """Return the likeliest token at each step, ids [batch, length], the first `start`; nothing ends them."""
        context, mask = self.encode(source)
        ids = source.new_zeros((len(source), length))
        ids[:, 0] = start
        for step in range(length - 1):
            ids[:, step + 1] = self.decode(ids, context, mask)[:, step].argmax(-1)
        return ids
