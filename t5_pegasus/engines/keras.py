"""The decoder with caches, in TensorFlow, on the very weights of a model in memory: right after every training step.

A step computes one token a beam. Keys and values of the tokens before are kept, those of the source are computed once,
and beams of one source share them by standing together in the query axis. It computes in the model's compute type,
norms and softmax in float32, and gives what `t5.decoder` gives for the whole prefix.
"""

from typing import Any, NamedTuple

import numpy as np

from ..decoding.inputs import divide
from ..decoding.logits import ALMOST_CERTAIN, Edits
from ..networks.backend import tf
from ..networks.checkpoints import named_variables
from .activations import approximates_gelu

_EPSILON = 1e-6  # of T5's norm


class State(NamedTuple):
    """Where a batch stands, with L layers and H heads of size D.

    caches: 2 L tensors [rows, H, tokens so far, D], keys and values by turns.
    cross: 2 L tensors [sources, H, source_len, D], keys and values of the source by turns.
    mask: float32 [sources, source_len], 0 where there is a token and -inf at padding.
    """

    caches: list[tf.Tensor]
    cross: list[tf.Tensor]
    mask: tf.Tensor


class KerasEngine:
    """Runs a bert4keras T5 in memory; see `decoding.search.Engine` for its methods.

    Args:
        t5: ours or stock. Its weights are read for each batch anew, so that training between two titles counts.
    """

    def __init__(self, t5: Any) -> None:
        self._weights = named_variables(t5)
        self._type = tf.as_dtype(t5.layers["Embedding-Token"].compute_dtype)
        # In half precision the matrices are cast once a batch, not at each step.
        self._halves = {
            name: tf.Variable(tf.zeros(weight.shape, self._type), trainable=False)
            for name, weight in self._weights.items()
            if self._type != tf.float32 and name.startswith("decoder/") and len(weight.shape) == 2
        }
        decoder = t5._decoder
        self._layers = range(decoder.num_hidden_layers)
        self._heads, self._head_size = decoder.num_attention_heads, decoder.attention_head_size
        self._tanh = approximates_gelu(decoder.hidden_act)
        self._cross_position_bias = decoder.cross_position_bias
        # Row `reach` of the layer's buckets has all offsets from -reach to reach; beyond, buckets stay the same.
        layer = t5.layers["Decoder-Embedding-Relative-Position"]
        reach = self._reach = layer.max_distance
        self._buckets = layer.compute_position_ids([tf.zeros((1, reach + 1)), tf.zeros((1, 2 * reach + 1))])[reach]
        self._encoder = tf.function(lambda ids: t5.encoder(ids, training=False), reduce_retracing=True)
        self._start = tf.function(self._start_graph, reduce_retracing=True)
        self._step = tf.function(self._step_graph, reduce_retracing=True)

    def start(self, sources: list[list[int]], window: int | None = None) -> State:
        """Encode the sources and compute their keys and values in every layer."""
        ids, joined = map(tf.constant, divide(sources, window))
        cross, mask = self._start(self._encoder(ids), ids, joined)
        empty = tf.zeros((len(sources), self._heads, 0, self._head_size), self._type)
        return State([empty] * len(cross), cross, mask)

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
        caches, cross, mask = state
        if len(sources) < len(mask):
            cross, mask = [tf.gather(each, sources) for each in cross], tf.gather(mask, sources)
        rows = parents.ravel()
        if len(rows) != caches[0].shape[0] or (rows != np.arange(len(rows))).any():
            caches = [tf.gather(cache, rows) for cache in caches]
        position = tf.constant(caches[0].shape[2], tf.int32)
        caches, log_probs, best = self._step(
            tf.constant(tokens), position, caches, cross, mask, *map(tf.constant, edits), tf.constant(top)
        )
        shape = (*tokens.shape, -1)
        return State(caches, cross, mask), best.numpy().reshape(shape), log_probs.numpy().reshape(shape)

    def _start_graph(self, context: tf.Tensor, ids: tf.Tensor, joined: tf.Tensor) -> tuple[list[tf.Tensor], tf.Tensor]:
        for name, half in self._halves.items():
            half.assign(tf.cast(self._weights[name], self._type))
        # Each source from here on is one sequence, whatever windows it was encoded in.
        places = tf.maximum(joined, 0)
        context = tf.gather(tf.reshape(context, (-1, context.shape[-1])), tf.reshape(places, (-1,)))
        by_head = tf.stack([*tf.unstack(tf.shape(places)), self._heads, self._head_size])
        tokens = tf.where(joined < 0, 0, tf.gather(tf.reshape(ids, (-1,)), places))
        cross = []
        for layer in self._layers:
            for name in ("k", "v"):
                projected = self._project(context, f"decoder/block_{layer:03d}/layer_001/EncDecAttention/{name}")
                cross.append(tf.transpose(tf.reshape(projected, by_head), (0, 2, 1, 3)))
        # The first position is visible whatever it holds, as in bert4keras: no row is -inf throughout.
        visible = tf.logical_or(tf.not_equal(tokens, 0), tf.equal(tf.range(tf.shape(tokens)[1]), 0)[None])
        return cross, tf.where(visible, 0.0, -float("inf"))

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
    ) -> tuple[list[tf.Tensor], tf.Tensor, tf.Tensor]:
        sources, beams = tf.unstack(tf.shape(tokens))
        # Looked up in the variable, since reading all of it is a copy: Keras looks up in it as well.
        x = tf.nn.embedding_lookup(self._weights["shared/embedding"], tf.reshape(tokens, (-1,)))
        x = tf.cast(x, self._type)  # [rows, hidden]
        self_bias = self._position_bias(position, position + 1)[None, :, None, :]
        cross_bias = mask[:, None, None, :]  # [sources, 1, 1, source_len]
        if self._cross_position_bias:
            cross_bias += self._position_bias(position, tf.shape(mask)[1])[None, :, None, :]
        one_token = (-1, self._heads, 1, self._head_size)
        by_source = tf.stack([sources, beams, self._heads, self._head_size])
        joined_heads = (-1, self._heads * self._head_size)
        new_caches = []
        for layer in self._layers:
            block = f"decoder/block_{layer:03d}"
            y = self._norm(x, f"{block}/layer_000/rms_norm/scale")
            # One token: to split its heads, or join them, moves nothing.
            query, key, value = (
                tf.reshape(self._project(y, f"{block}/layer_000/SelfAttention/{name}"), one_token) for name in "qkv"
            )
            keys = tf.concat([caches[2 * layer], key], axis=2)
            values = tf.concat([caches[2 * layer + 1], value], axis=2)
            new_caches += [keys, values]
            attended = tf.reshape(self._attend(query, keys, values, self_bias), joined_heads)
            x += self._project(attended, f"{block}/layer_000/SelfAttention/o")

            y = self._norm(x, f"{block}/layer_001/rms_norm/scale")
            query = self._project(y, f"{block}/layer_001/EncDecAttention/q")
            query = tf.transpose(tf.reshape(query, by_source), (0, 2, 1, 3))
            attended = self._attend(query, cross[2 * layer], cross[2 * layer + 1], cross_bias)
            attended = tf.reshape(tf.transpose(attended, (0, 2, 1, 3)), joined_heads)
            x += self._project(attended, f"{block}/layer_001/EncDecAttention/o")

            y = self._norm(x, f"{block}/layer_002/rms_norm/scale")
            gate, linear = (self._project(y, f"{block}/layer_002/DenseReluDense/wi_{n}/kernel") for n in (0, 1))
            x += self._project(tf.nn.gelu(gate, self._tanh) * linear, f"{block}/layer_002/DenseReluDense/wo/kernel")

        x = self._norm(x, "decoder/rms_norm/scale") * x.shape[-1] ** -0.5  # the scale is bert4keras's
        logits = self._project(x, "decoder/logits/kernel")  # [rows, vocab_size]
        log_probs = tf.nn.log_softmax(tf.cast(logits, tf.float32))
        changed = tf.minimum(tf.gather_nd(log_probs, pairs), ALMOST_CERTAIN) * factors
        log_probs = tf.tensor_scatter_nd_update(log_probs, pairs, changed)
        best_log_probs, best = tf.math.top_k(log_probs, tf.minimum(top, tf.shape(log_probs)[1]))
        return new_caches, best_log_probs, best

    def _project(self, x: tf.Tensor, name: str) -> tf.Tensor:
        """Multiply rows [n, inputs] by a weight matrix."""
        return x @ tf.convert_to_tensor(self._halves.get(name, self._weights[name]))

    def _attend(self, query: tf.Tensor, keys: tf.Tensor, values: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
        """Return [batch, H, queries, D]: queries of that shape over keys and values [batch, H, keys, D]."""
        scores = tf.cast(tf.matmul(query, keys, transpose_b=True), tf.float32) + bias
        return tf.cast(tf.nn.softmax(scores), self._type) @ values

    def _norm(self, x: tf.Tensor, name: str) -> tf.Tensor:
        x = tf.cast(x, tf.float32)
        x *= tf.math.rsqrt(tf.reduce_mean(tf.square(x), axis=-1, keepdims=True) + _EPSILON) * self._weights[name]
        return tf.cast(x, self._type)

    def _position_bias(self, position: tf.Tensor, length: tf.Tensor) -> tf.Tensor:
        """Return float32 [H, length], the bias of a query at `position` for each key."""
        offsets = tf.clip_by_value(tf.range(length) - position, -self._reach, self._reach)
        table = self._weights["decoder/block_000/layer_000/SelfAttention/relative_attention_bias"]  # [buckets, H]
        return tf.transpose(tf.gather(table, tf.gather(self._buckets, offsets + self._reach)))
