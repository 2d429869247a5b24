"""The decoder with caches, in TensorFlow, on the weights of a model in memory: right after every training step.

A step computes one token a beam. Keys and values of earlier tokens are cached, those of the source are computed once,
and the beams of a source share them as the query axis of one product. Products are computed in the model's compute
type, norms and softmax in float32. The logits are those of the whole decoder over the whole prefix.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ..decoding.inputs import Inputs
from ..decoding.logits import ALMOST_CERTAIN, Edits
from ..networks.backend import tf
from ..networks.description import Attention, Embedding, FeedForward, Linear, Network, Norm, RelativeBias
from ..networks.lora import Adapter
from .activations import OPERATIONS, check_activations
from .low_rank import Adapters

# A row for each value of OPERATIONS.
_ACTIVATIONS: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "linear": tf.identity,
    "relu": tf.nn.relu,
    "swish": tf.nn.swish,
    "gelu": tf.nn.gelu,
    "gelu_tanh": functools.partial(tf.nn.gelu, approximate=True),
}


class LowRank(NamedTuple):
    """The adapters of a batch (see `low_rank.Joined`), for some of its rows.

    factors: by the name of a weight. columns: float [rows, K].
    """

    factors: dict[str, tuple[tf.Tensor, tf.Tensor]]
    columns: tf.Tensor

    def repeated(self, times: tf.Tensor) -> "LowRank":
        """Return them for so many rows in place of each."""
        return LowRank(self.factors, tf.repeat(self.columns, times, axis=0) if self.factors else self.columns)


class State(NamedTuple):
    """What a batch has computed so far, with L layers and H heads of size D.

    caches: 2 L tensors [rows, H, tokens so far, D], keys and values by turns.
    cross: 2 L tensors [sources, H, source_len, D], keys and values of the source by turns.
    mask: float32 [sources, source_len], 0 at a token and -inf at padding.
    adapters: of each source.
    """

    caches: list[tf.Tensor]
    cross: list[tf.Tensor]
    mask: tf.Tensor
    adapters: LowRank


class KerasEngine:
    """Runs a network in memory; see `decoding.search.Engine` for its methods.

    Args:
        network: such as `networks.t5.network_of` returns. Its weights are read for each batch anew, so that training
            between two titles counts.

    Attributes:
        adapters: by name; `add_adapter` adds one.
        description: of the network.

    Raises OptionError for an activation that it does not have.
    """

    def __init__(self, network: Network) -> None:
        self.description, self._weights, self._factors = network.description, network.weights, network.factors
        self.adapters = Adapters()
        self._type = tf.as_dtype(network.compute_dtype)
        self._heads, self._head_size = network.description.num_heads, network.description.head_size
        for block in network.description.blocks:
            check_activations(branch.activation for branch in block.feed_forward.branches)
        # In half precision the decoder's matrices are cast once a batch, not at each step.
        self._halves = {
            name: tf.Variable(tf.zeros(self._weights[name].shape, self._type), trainable=False)
            for name in _step_matrices(network)
            if self._weights[name].dtype != self._type
        }
        self._encoder = tf.function(self._encoder_graph, reduce_retracing=True)
        self._start = tf.function(self._start_graph, reduce_retracing=True)
        self._step = tf.function(self._step_graph, reduce_retracing=True)

    def start(self, inputs: Inputs) -> State:
        """Encode the sources and compute their keys and values in every layer."""
        ids, joined = tf.constant(inputs.ids), tf.constant(inputs.joined)
        adapters = self._of_batch(inputs.adapters)
        of_windows = adapters._replace(columns=tf.gather(adapters.columns, inputs.owners))
        cross, mask = self._start(self._encoder(ids, of_windows), ids, joined, adapters)
        empty = tf.zeros((len(joined), self._heads, 0, self._head_size), self._type)
        return State([empty] * len(cross), cross, mask, adapters)

    def add_adapter(self, name: str, adapter: Adapter) -> None:
        """Add an adapter of this network; raises what `Adapters.add` raises."""
        self.adapters.add(name, adapter)

    def _of_batch(self, names: Sequence[str | None]) -> LowRank:
        joined, columns = self.adapters.of_batch(names)
        factors = {} if joined is None else joined.factors
        return LowRank(
            {name: tuple(tf.constant(each, self._type) for each in pair) for name, pair in factors.items()},
            tf.constant(columns, self._type),
        )

    def step(
        self,
        state: State,
        tokens: np.ndarray,
        parents: np.ndarray,
        sources: np.ndarray,
        edits: Edits,
        top: int,
    ) -> tuple[State, np.ndarray, np.ndarray]:
        """Advance every beam by one token; see `decoding.search.Engine`."""
        caches, cross, mask, adapters = state
        if len(sources) < len(mask):
            cross, mask = [tf.gather(each, sources) for each in cross], tf.gather(mask, sources)
            adapters = adapters._replace(columns=tf.gather(adapters.columns, sources))
        rows = parents.ravel()
        if len(rows) != caches[0].shape[0] or (rows != np.arange(len(rows))).any():
            caches = [tf.gather(cache, rows) for cache in caches]
        position = tf.constant(caches[0].shape[2], tf.int32)
        caches, log_probs, best = self._step(
            tf.constant(tokens), position, caches, cross, mask, *map(tf.constant, edits), tf.constant(top), adapters
        )
        shape = (*tokens.shape, -1)
        return State(caches, cross, mask, adapters), best.numpy().reshape(shape), log_probs.numpy().reshape(shape)

    def _encoder_graph(self, ids: tf.Tensor, of_windows: LowRank) -> tf.Tensor:
        """Return the encoder's output [windows, window_len, hidden] for ids int32 [windows, window_len]."""
        stack, (windows, length) = self.description.encoder, tf.unstack(tf.shape(ids))
        positions = tf.tile(tf.range(length), [windows])
        low = of_windows.repeated(length)
        x = self._embed(stack.embedding, tf.reshape(ids, (-1,)), positions, low)  # [windows * window_len, hidden]
        mask = _padding_mask(ids)[:, None, None, :]  # [windows, 1, 1, window_len]
        biases: dict[RelativeBias | None, tf.Tensor] = {None: mask}
        by_head = tf.stack([windows, length, self._heads, self._head_size])
        for block in stack.blocks:
            attention = block.self_attention
            if (bias := attention.position_bias) is not None and bias not in biases:
                biases[bias] = mask + self._position_bias(bias, tf.range(length), length)
            y = self._norm(x, attention.norm)
            query, keys, values = (
                tf.transpose(
                    tf.reshape(self._project(y, linear, low), by_head), (0, 2, 1, 3)
                )  # [windows, H, window_len, D]
                for linear in (attention.query, attention.key, attention.value)
            )
            attended = self._attend(attention, query, keys, values, biases[bias])
            attended = tf.reshape(tf.transpose(attended, (0, 2, 1, 3)), (-1, self._heads * self._head_size))
            x += self._project(attended, attention.output, low)
            x += self._feed_forward(x, block.feed_forward, low)
        return tf.reshape(self._norm(x, stack.norm), tf.stack([windows, length, x.shape[-1]]))

    def _start_graph(
        self, context: tf.Tensor, ids: tf.Tensor, joined: tf.Tensor, adapters: LowRank
    ) -> tuple[list[tf.Tensor], tf.Tensor]:
        for name, half in self._halves.items():
            half.assign(tf.cast(self._weights[name], self._type))
        # From here on each source is one sequence, whatever windows it was encoded in.
        indices = tf.maximum(joined, 0)  # [sources, source_len]
        context = tf.gather(tf.reshape(context, (-1, context.shape[-1])), tf.reshape(indices, (-1,)))
        by_head = tf.stack([*tf.unstack(tf.shape(indices)), self._heads, self._head_size])
        tokens = tf.where(joined < 0, 0, tf.gather(tf.reshape(ids, (-1,)), indices))
        cross, low = [], adapters.repeated(tf.shape(joined)[1])
        for block in self.description.decoder.blocks:
            for linear in (block.cross_attention.key, block.cross_attention.value):
                projected = tf.reshape(self._project(context, linear, low), by_head)  # [sources, source_len, H, D]
                cross.append(tf.transpose(projected, (0, 2, 1, 3)))
        return cross, _padding_mask(tokens)

    def _step_graph(
        self,
        tokens: tf.Tensor,
        position: tf.Tensor,
        caches: list[tf.Tensor],
        cross: list[tf.Tensor],
        mask: tf.Tensor,
        pairs: tf.Tensor,
        factors: tf.Tensor,
        top: tf.Tensor,
        adapters: LowRank,
    ) -> tuple[list[tf.Tensor], tf.Tensor, tf.Tensor]:
        stack, (sources, beams) = self.description.decoder, tf.unstack(tf.shape(tokens))
        low = adapters.repeated(beams)
        x = self._embed(stack.embedding, tf.reshape(tokens, (-1,)), position[None], low)  # [rows, hidden]
        self_biases: dict[RelativeBias | None, tf.Tensor] = {None: tf.zeros(())}
        cross_mask = mask[:, None, None, :]  # [sources, 1, 1, source_len]
        cross_biases: dict[RelativeBias | None, tf.Tensor] = {None: cross_mask}
        one_token = (-1, self._heads, 1, self._head_size)
        by_source = tf.stack([sources, beams, self._heads, self._head_size])
        joined_heads = (-1, self._heads * self._head_size)
        new_caches = []
        for layer, block in enumerate(stack.blocks):
            attention = block.self_attention
            if (bias := attention.position_bias) is not None and bias not in self_biases:
                self_biases[bias] = self._position_bias(bias, position[None], position + 1)  # [H, 1, tokens so far]
            y = self._norm(x, attention.norm)
            # One token: splitting its heads, or joining them, moves nothing.
            query, key, value = (
                tf.reshape(self._project(y, linear, low), one_token)
                for linear in (attention.query, attention.key, attention.value)
            )
            keys = tf.concat([caches[2 * layer], key], axis=2)  # [rows, H, tokens so far, D]
            values = tf.concat([caches[2 * layer + 1], value], axis=2)
            new_caches += [keys, values]
            attended = self._attend(attention, query, keys, values, self_biases[bias])
            x += self._project(tf.reshape(attended, joined_heads), attention.output, low)

            attention = block.cross_attention
            if (bias := attention.position_bias) is not None and bias not in cross_biases:
                cross_biases[bias] = cross_mask + self._position_bias(bias, position[None], tf.shape(mask)[1])
            query = self._project(self._norm(x, attention.norm), attention.query, low)
            query = tf.transpose(tf.reshape(query, by_source), (0, 2, 1, 3))  # [sources, H, beams, D]
            attended = self._attend(attention, query, cross[2 * layer], cross[2 * layer + 1], cross_biases[bias])
            attended = tf.reshape(tf.transpose(attended, (0, 2, 1, 3)), joined_heads)
            x += self._project(attended, attention.output, low)

            x += self._feed_forward(x, block.feed_forward, low)

        head = self.description.head
        logits = self._project(_scaled(self._norm(x, stack.norm), head.scale), head.linear, low)  # [rows, vocab_size]
        log_probs = tf.nn.log_softmax(tf.cast(logits, tf.float32))
        changed = tf.minimum(tf.gather_nd(log_probs, pairs), ALMOST_CERTAIN) * factors
        log_probs = tf.tensor_scatter_nd_update(log_probs, pairs, changed)
        best_log_probs, best = tf.math.top_k(log_probs, tf.minimum(top, tf.shape(log_probs)[1]))
        return new_caches, best_log_probs, best

    def _embed(self, embedding: Embedding, ids: tf.Tensor, positions: tf.Tensor, low: LowRank) -> tf.Tensor:
        """Return [rows, hidden] for ids [rows] at positions [rows], or at one position [1]."""
        # Looked up in the variable, since reading all of it is a copy: Keras looks up in it as well.
        x = tf.cast(tf.nn.embedding_lookup(self._weights[embedding.table], ids), self._type)
        x = self._add_products(x, embedding.table, low, lambda a: tf.cast(tf.nn.embedding_lookup(a, ids), self._type))
        x = _scaled(x, embedding.scale)
        if embedding.positions is None:
            return x
        return x + tf.cast(tf.nn.embedding_lookup(self._weights[embedding.positions], positions), self._type)

    def _project(self, x: tf.Tensor, linear: Linear, low: LowRank) -> tf.Tensor:
        """Return [rows, outputs] for rows [rows, inputs]."""
        kernel = tf.cast(self._halves.get(linear.kernel, self._weights[linear.kernel]), self._type)
        product = tf.matmul(x, kernel, transpose_b=linear.transposed)
        y = self._add_products(product, linear.kernel, low, lambda a: tf.matmul(x, tf.cast(a, self._type)))
        return y if linear.bias is None else y + tf.cast(self._weights[linear.bias], self._type)

    def _add_products(
        self, x: tf.Tensor, weight: str, low: LowRank, times: Callable[[tf.Tensor], tf.Tensor]
    ) -> tf.Tensor:
        """Add to rows what LoRA in the network, and the batch's adapters, have for a weight.

        `times` multiplies the weight's input by a [inputs, r], or looks it up there.
        """
        if weight in self._factors:
            a, b, scale = self._factors[weight]
            x += tf.matmul(times(a), tf.cast(b, self._type)) * scale
        if weight in low.factors:
            a, b = low.factors[weight]
            x += tf.matmul(times(a) * low.columns, b)
        return x

    def _attend(
        self, attention: Attention, query: tf.Tensor, keys: tf.Tensor, values: tf.Tensor, bias: tf.Tensor
    ) -> tf.Tensor:
        """Return [batch, H, queries, D]: queries of that shape over keys and values [batch, H, keys, D]."""
        scores = tf.cast(tf.matmul(_scaled(query, attention.scale), keys, transpose_b=True), tf.float32) + bias
        return tf.cast(tf.nn.softmax(scores), self._type) @ values

    def _feed_forward(self, x: tf.Tensor, layer: FeedForward, low: LowRank) -> tf.Tensor:
        y = self._norm(x, layer.norm)
        branches = (
            _ACTIVATIONS[OPERATIONS[branch.activation]](self._project(y, branch.linear, low))
            for branch in layer.branches
        )
        return self._project(functools.reduce(tf.multiply, branches), layer.output, low)

    def _norm(self, x: tf.Tensor, norm: Norm) -> tf.Tensor:
        x = tf.cast(x, tf.float32)
        if norm.centered:
            x -= tf.reduce_mean(x, axis=-1, keepdims=True)
        root = tf.math.rsqrt(tf.reduce_mean(tf.square(x), axis=-1, keepdims=True) + norm.epsilon)
        x *= root * self._weights[norm.scale]
        return tf.cast(x if norm.bias is None else x + self._weights[norm.bias], self._type)

    def _position_bias(self, bias: RelativeBias, positions: tf.Tensor, length: tf.Tensor) -> tf.Tensor:
        """Return float32 [H, queries, length], the bias of queries at `positions` [queries] for each key."""
        offsets = tf.range(length)[None] - positions[:, None]  # [queries, length]
        reach = bias.max_distance
        buckets = tf.gather(bias.buckets(), tf.clip_by_value(offsets, -reach, reach) + reach)
        return tf.transpose(tf.gather(self._weights[bias.table], buckets), (2, 0, 1))


def _scaled(x: tf.Tensor, scale: float) -> tf.Tensor:
    return x if scale == 1 else x * scale


def _padding_mask(tokens: tf.Tensor) -> tf.Tensor:
    """Return float32 [batch, length], 0 at a token and -inf at padding, for ids [batch, length]."""
    # The first position is visible whatever it holds, as in bert4keras: no row is -inf throughout.
    visible = tf.logical_or(tf.not_equal(tokens, 0), tf.equal(tf.range(tf.shape(tokens)[1]), 0)[None])
    return tf.where(visible, 0.0, -float("inf"))


def _step_matrices(network: Network) -> set[str]:
    """Return the names of the matrices that every step multiplies by."""
    description = network.description
    linears = [description.head.linear]
    for block in description.decoder.blocks:
        for attention in block.attentions:
            linears += [attention.query, attention.key, attention.value, attention.output]
        linears += [*(branch.linear for branch in block.feed_forward.branches), block.feed_forward.output]
    return {linear.kernel for linear in linears}
