"""The network as ONNX graphs: the encoder, a decoder step with caches, and the gathering of a cache's rows.

For each model three graphs of opset 24, which `onnx_export` writes and `engines/onnx.py` runs:

- `encoder.onnx`: `ids` int64 [windows, window_len] and `joined` int64 [sources, source_len], the indices of a source's
  tokens in the flattened ids, -1 at padding -> `mask` float [sources, 1, 1, source_len] (0, or -inf at padding) and,
  for each layer, `cross_key_N`, `cross_value_N` float [sources, heads, source_len, head_size];
- `decoder.onnx`, one token a beam: `tokens` int64 [sources, beams], `position` int64 [1] of these tokens, `edited`
  int64 [edits, 2], (row, token) pairs whose log-probabilities are multiplied by `factors` float [edits], `top` int64
  [1], `mask`, `cross_*` of the encoder, and for each layer `key_N`, `value_N` float [caches, heads, slots, head_size],
  where a cache belongs to a source or to a beam, and each token of its beams has a slot -> `best` int64 and `log_probs`
  float [sources * beams, top], and the caches with these tokens from slot `write` int64 [caches] on, `new_key_N`,
  `new_value_N`, which may be the very memory of the old ones. `visible` float [caches, 1, beams of a cache, slots] is
  0 where a slot holds a beam's own past (or this token), else -inf; `offsets` int64 [caches, slots] are the positions
  of slots less `position`. So beams that go on from others move no cache, and their common past is stored once;
- `gather.onnx`: `values` float [sources, heads, length, head_size] and `rows` int64 [new sources, heads, new length],
  indices into the first three axes flattened -> `taken` float [new sources, heads, new length, head_size].

With int8 every matrix is rounded with a scale for each column, and its input with a scale for each row at run time, so
that no row depends on the others of its batch.
"""

import functools
from typing import Any, NamedTuple

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from ..decoding.logits import ALMOST_CERTAIN
from ..networks.description import (
    Attention,
    Embedding,
    FeedForward,
    Linear,
    Network,
    Norm,
    RelativeBias,
)
from .activations import OPERATIONS, check_activations

OPSET = 24
MICROSOFT = "com.microsoft"  # operations that ONNX Runtime has beyond the standard

_FLOAT, _INT = TensorProto.FLOAT, TensorProto.INT64

# A row for each value of OPERATIONS: a node and its attributes, or None where nothing is to be computed.
_ACTIVATIONS: dict[str, tuple[str, dict[str, Any]] | None] = {
    "linear": None,
    "relu": ("Relu", {}),
    "swish": ("QuickGelu", {"alpha": 1.0, "domain": MICROSOFT}),
    "gelu": ("Gelu", {"approximate": "none"}),
    "gelu_tanh": ("Gelu", {"approximate": "tanh"}),
}


class _Projection(NamedTuple):
    """The values of a `Linear`, or of several side by side.

    kernel: float32 [inputs, outputs]. bias: float32 [outputs] or None. transposed: to be stored as [outputs, inputs].
    """

    name: str
    kernel: np.ndarray
    bias: np.ndarray | None
    transposed: bool


class _Graph:
    """A graph in the making: nodes and weights are added, and get their names."""

    def __init__(self, network: Network, quantize: str, many_rows: bool) -> None:
        self.network, self.weights = network.description, network.weights
        for block in self.network.blocks:
            check_activations(branch.activation for branch in block.feed_forward.branches)
        self.quantize, self.many_rows = quantize == "int8", many_rows
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self.rows = "tokens"  # what the rows of products are, by which those of as many rows share their zero points
        self.zeros: dict[str, str] = {}

    def input(self, name: str, kind: int, *shape: int | str) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def output(self, value: str, name: str, kind: int, *shape: int | str) -> None:
        # The value gets the name: an Identity node would copy it.
        for node in self.nodes:
            for values in (node.input, node.output):
                values[:] = [name if each == value else each for each in values]
        self.outputs.append(helper.make_tensor_value_info(name, kind, shape))

    def constant(self, value: Any, name: str | None = None) -> str:
        name = name or f"constant_{len(self.constants)}"
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.asarray(value, order="C"), name)
        return name

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64), f"ints_{'_'.join(map(str, values))}")

    def weight(self, name: str) -> str:
        return self.constant(self.weights[name].numpy(), name)

    def __call__(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        names = [f"{kind.lower()}_{len(self.nodes)}_{number}" for number in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names[0] if outputs == 1 else names

    def finish(self, name: str) -> Any:
        return helper.make_graph(self.nodes, name, self.inputs, self.outputs, list(self.constants.values()))

    # Products. Rows are float [rows, width].

    def projection(self, linear: Linear, scale: float = 1.0) -> _Projection:
        """Return the values of a linear whose result is multiplied by `scale`."""
        kernel = self.weights[linear.kernel].numpy()
        bias = None if linear.bias is None else self.weights[linear.bias].numpy()
        if linear.transposed:
            kernel = kernel.T
        if scale != 1:
            kernel, bias = kernel * np.float32(scale), None if bias is None else bias * np.float32(scale)
        return _Projection(linear.kernel, kernel, bias, linear.transposed)

    def matmul(self, x: str, linear: Linear) -> str:
        return self.matmuls(x, self.projection(linear))[0]

    def matmuls(self, x: str, *projections: _Projection) -> list[str]:
        """Return several projections of rows, all of one width.

        Few rows are multiplied by all matrices at once: reading weights takes the time then, and each operation that
        needs no start of its own saves some. For many rows, splitting the product costs more than that.
        """
        if self.many_rows or len(projections) == 1:
            quantized = self.quantized(x, len(projections[0].kernel)) if self.quantize else ("", "")
            return [self.product(x, quantized, projection) for projection in projections]
        return list(
            self("Split", self.joined(x, *projections), outputs=len(projections), axis=1, num_outputs=len(projections))
        )

    def joined(self, x: str, *projections: _Projection) -> str:
        """Return several projections of rows as one product: one after the other in each row."""
        name = "+".join(each.name for each in projections)
        kernel, bias = np.concatenate([each.kernel for each in projections], axis=1), None
        if any(each.bias is not None for each in projections):
            zeros = (np.zeros(each.kernel.shape[1], np.float32) for each in projections)
            bias = np.concatenate(
                [zero if each.bias is None else each.bias for each, zero in zip(projections, zeros, strict=True)]
            )
        quantized = self.quantized(x, len(kernel)) if self.quantize else ("", "")
        return self.product(x, quantized, _Projection(name, kernel, bias, transposed=False))

    def quantized(self, x: str, width: int) -> tuple[str, str]:
        """Return rows rounded to uint8 around 128, each with its own scale, and the scales, float [rows, 1].

        A row of zeros has the scale 0, and whatever it is rounded to becomes 0 again.
        """
        largest = self("ReduceMax", self("Abs", x), self.ints(1), keepdims=1)
        scales = self("Div", largest, self.constant(np.float32(127), "127"))
        if self.rows not in self.zeros:  # in the first product of these rows
            self.zeros[self.rows] = self("Expand", self.constant(np.uint8(128), "zero_point"), self("Shape", scales))
        rounded = self("QuantizeLinear", x, scales, self.zeros[self.rows], axis=1, block_size=width)
        return rounded, scales

    def product(self, x: str, quantized: tuple[str, str], projection: _Projection) -> str:
        """Return the projection of rows [rows, inputs], of which `quantized` are the int8 ones, to [rows, outputs]."""
        name, kernel, bias, transposed = projection
        if self.quantize:
            rows, row_scales = quantized
            scales = _int8_scales(kernel, axis=0)  # [1, outputs]
            rounded = self.matrix(np.rint(kernel / scales).astype(np.int8), name, transposed)
            column_scales = self.constant(scales[0], f"{name}/scales")
            zero = self.constant(np.uint8(128), "zero_point")
            if self.many_rows:  # one operation, slower to start, that goes through the product once, not three times
                one = self.constant(np.float32(1), "one")
                product = self("MatMulIntegerToFloat", rows, rounded, one, column_scales, zero, domain=MICROSOFT)
            else:
                product = self(
                    "Mul", self("Cast", self("MatMulInteger", rows, rounded, zero), to=_FLOAT), column_scales
                )
            result = self("Mul", product, row_scales)
        else:
            result = self("MatMul", x, self.matrix(kernel, name, transposed))
        return str(result if bias is None else self("Add", result, self.constant(bias, f"{name}/bias")))

    def matrix(self, values: np.ndarray, name: str, transposed: bool) -> str:
        """Return the constant [inputs, outputs]; stored transposed it may be the embedding's too."""
        if not transposed:
            return self.constant(values, name)
        # Computed once, when ONNX Runtime loads the graph.
        return str(self("Transpose", self.constant(values.T, name), perm=[1, 0]))

    # What networks are made of

    def scaled(self, x: str, scale: float, name: str) -> str:
        return x if scale == 1 else str(self("Mul", x, self.constant(np.float32(scale), name)))

    def embed(self, embedding: Embedding, ids: str, positions: str) -> str:
        """Return the embeddings of ids [rows] at positions [rows], or at one position [1]: float [rows, hidden]."""
        table = self.weights[embedding.table].numpy()
        if self.quantize:
            scales = _int8_scales(table, axis=1)  # [vocab_size, 1]
            rounded = self.constant(np.rint(table / scales).astype(np.int8), embedding.table)
            values = self("Cast", self("Gather", rounded, ids), to=_FLOAT)
            x = self("Mul", values, self("Gather", self.constant(scales, f"{embedding.table}/row_scales"), ids))
        else:
            x = self("Gather", self.constant(table, embedding.table), ids)
        x = self.scaled(x, embedding.scale, "embedding_scale")
        if embedding.positions is None:
            return x
        return str(self("Add", x, self("Gather", self.weight(embedding.positions), positions)))

    def norm(self, x: str, norm: Norm) -> str:
        scale = self.weight(norm.scale)
        bias = [] if norm.bias is None else [self.weight(norm.bias)]
        if norm.centered:
            return str(self("LayerNormalization", x, scale, *bias, axis=-1, epsilon=norm.epsilon))
        # In this very form ONNX Runtime makes one operation of it.
        square = self("Pow", x, self.constant(np.float32(2), "2"))
        mean = self("ReduceMean", square, self.ints(-1), keepdims=1)
        epsilon = self.constant(np.float32(norm.epsilon), f"epsilon_{norm.epsilon}")
        normalized = self("Mul", self("Div", x, self("Sqrt", self("Add", mean, epsilon))), scale)
        return str(self("Add", normalized, *bias) if bias else normalized)

    def queries_keys_values(self, attention: Attention) -> tuple[_Projection, ...]:
        """Return the three projections, of which the queries' takes the scale of the scores: so it costs no node."""
        query = self.projection(attention.query, attention.scale)
        return query, self.projection(attention.key), self.projection(attention.value)

    def heads(self, x: str, batch: str, parts: int = 1) -> str:
        """Split rows [batch * length, parts * heads * size] into [batch, parts * heads, length, size].

        `batch` is int64 [1].
        """
        tail = self.ints(-1, parts * self.network.num_heads, self.network.head_size)
        split = self("Reshape", x, self("Concat", batch, tail, axis=0))  # [batch, length, parts * heads, size]
        return str(self("Transpose", split, perm=[0, 2, 1, 3]))

    def attend(self, query: str, key: str, value: str, bias: str) -> str:
        """Return rows [batch * queries, heads * size] for [batch, heads, queries or keys, size].

        `bias` is added to the scores [batch, heads, queries, keys].
        """
        scores = self("Add", self("MatMul", query, self("Transpose", key, perm=[0, 1, 3, 2])), bias)
        attended = self("MatMul", self("Softmax", scores, axis=-1), value)
        width = self.network.num_heads * self.network.head_size
        return str(self("Reshape", self("Transpose", attended, perm=[0, 2, 1, 3]), self.ints(-1, width)))

    def feed_forward(self, x: str, layer: FeedForward) -> str:
        """Return what the layer adds to rows x."""
        y = self.norm(x, layer.norm)
        products = self.matmuls(y, *(self.projection(branch.linear) for branch in layer.branches))
        activated = []
        for branch, product in zip(layer.branches, products, strict=True):
            row = _ACTIVATIONS[OPERATIONS[branch.activation]]
            activated.append(product if row is None else self(row[0], product, **row[1]))
        return self.matmul(functools.reduce(functools.partial(self, "Mul"), activated), layer.output)

    def position_bias(self, bias: RelativeBias, offsets: str) -> str:
        """Return [heads, *offsets' shape], the biases of keys that lie so many tokens after their query."""
        table = self.constant(self.weights[bias.table].numpy()[bias.buckets()].T, f"{bias.table}/by_offset")
        reach = bias.max_distance
        clipped = self("Clip", offsets, *(self.constant(np.int64(limit)) for limit in (-reach, reach)))
        return str(self("Gather", table, self("Add", clipped, self.constant(np.int64(reach))), axis=1))

    def every_offset(self, bias: RelativeBias, length: str) -> str:
        """Return [heads, length, length], the biases of all keys (last axis) for all queries; `length` is int64 [1].

        Each query has those of the query before it, moved on by one. So a line of them, end to end as often as there
        are queries, is cut into rows that are one shorter than the line: copying is faster than looking up each bias.
        """
        twice, zero = self("Add", length, length), self.ints(0)
        line = self("Sub", self.range(self("Add", twice, self.ints(1))), length)  # from -length to length
        lines = self("Tile", self.position_bias(bias, line), self("Concat", self.ints(1), length, axis=0))
        lines = self("Slice", lines, zero, self("Mul", twice, length), self.ints(1))
        shape = self("Concat", self.ints(self.network.num_heads), length, twice, axis=0)
        return str(self("Slice", self("Reshape", lines, shape), length, twice, self.ints(2)))

    def padding_mask(self, tokens: str) -> str:
        """Return [batch, 1, 1, length] for ids [batch, length]: 0 at a token, -inf at padding."""
        # The first position is visible whatever it holds, as in bert4keras: no row is -inf throughout.
        zero = self.constant(np.int64(0), "0")
        first = self("Unsqueeze", self("Equal", self.range(self.length(tokens, 1)), zero), self.ints(0))
        visible = self("Or", self("Greater", tokens, zero), first)  # [batch, length]
        floats = (self.constant(np.float32(0), "visible_bias"), self.constant(np.float32(-np.inf), "padding_bias"))
        return str(self("Unsqueeze", self("Where", visible, *floats), self.ints(1, 2)))

    def length(self, x: str, axis: int) -> str:
        """Return the length of an axis, int64 [1]."""
        return str(self("Shape", x, start=axis, end=axis + 1))

    def range(self, length: str) -> str:
        """Return int64 [length]; `length` is int64 [1]."""
        return str(
            self("Range", self.constant(np.int64(0), "0"), self("Squeeze", length), self.constant(np.int64(1), "1"))
        )


def _int8_scales(matrix: np.ndarray, axis: int) -> np.ndarray:
    """Return float32 scales, one for all values along the axis, which make the largest of them 127."""
    scales = np.maximum(np.abs(matrix).max(axis=axis, keepdims=True), 1e-12) / 127
    result: np.ndarray = scales.astype(np.float32)
    return result


def _cache_names(layers: int, prefix: str = "") -> list[str]:
    return [f"{prefix}{kind}_{layer}" for layer in range(layers) for kind in ("key", "value")]


def encoder_graph(network: Network, quantize: str) -> Any:
    """Return the graph of `encoder.onnx`, with the weights in it."""
    g, stack = _Graph(network, quantize, many_rows=True), network.description.encoder
    ids = g.input("ids", _INT, "windows", "window_len")
    joined = g.input("joined", _INT, "sources", "source_len")
    windows, positions = g.length(ids, 0), g.range(g.length(ids, 1))
    flat_ids = g("Reshape", ids, g.ints(-1))
    biases: dict[RelativeBias | None, str] = {None: g.padding_mask(ids)}  # [windows, 1 or heads, 1 or queries, keys]

    def bias_of(attention: Attention) -> str:
        if (bias := attention.position_bias) is not None and bias not in biases:
            biases[bias] = g("Add", g("Unsqueeze", g.every_offset(bias, g.length(ids, 1)), g.ints(0)), biases[None])
        return biases[bias]

    absolute = ""
    if stack.embedding.positions is not None:
        absolute = g("Reshape", g("Expand", positions, g("Shape", ids)), g.ints(-1))  # [windows * window_len]
    x = g.embed(stack.embedding, flat_ids, absolute)
    for block in stack.blocks:
        attention = block.self_attention
        products = g.matmuls(g.norm(x, attention.norm), *g.queries_keys_values(attention))
        query, key, value = (g.heads(product, windows) for product in products)
        x = g("Add", x, g.matmul(g.attend(query, key, value, bias_of(attention)), attention.output))
        x = g("Add", x, g.feed_forward(x, block.feed_forward))
    context = g.norm(x, stack.norm)
    # From here on each source is one sequence, whatever windows it was encoded in.
    g.rows = "tokens of sources"
    sources, indices = g.length(joined, 0), g("Max", joined, g.constant(np.int64(0), "0"))
    context = g("Gather", context, g("Reshape", indices, g.ints(-1)))  # [sources * source_len, hidden]
    padding = g("Less", joined, g.constant(np.int64(0), "0"))
    tokens = g("Where", padding, g.constant(np.int64(0), "0"), g("Gather", flat_ids, indices))
    g.output(g.padding_mask(tokens), "mask", _FLOAT, "sources", 1, 1, "source_len")
    shape = ("sources", network.description.num_heads, "source_len", network.description.head_size)
    for layer, decoder_block in enumerate(network.description.decoder.blocks):
        linears = (decoder_block.cross_attention.key, decoder_block.cross_attention.value)
        both = g.matmuls(context, *map(g.projection, linears))
        for kind, part in zip(("key", "value"), both, strict=True):
            g.output(g.heads(part, sources), f"cross_{kind}_{layer}", _FLOAT, *shape)
    return g.finish("encoder")


def decoder_graph(network: Network, quantize: str) -> Any:
    """Return the graph of `decoder.onnx`, with the weights in it."""
    g, stack = _Graph(network, quantize, many_rows=False), network.description.decoder
    size, layers = (network.description.num_heads, network.description.head_size), len(stack.blocks)
    tokens = g.input("tokens", _INT, "sources", "beams")
    position = g.input("position", _INT, 1)
    write = g.input("write", _INT, "caches")
    offsets = g.input("offsets", _INT, "caches", "slots")
    visible = g.input("visible", _FLOAT, "caches", 1, "cache_beams", "slots")
    edited = g.input("edited", _INT, "edits", 2)
    factors = g.input("factors", _FLOAT, "edits")
    top = g.input("top", _INT, 1)
    mask = g.input("mask", _FLOAT, "sources", 1, 1, "source_len")
    cross = [
        g.input(name, _FLOAT, "sources", size[0], "source_len", size[1]) for name in _cache_names(layers, "cross_")
    ]
    caches = [g.input(name, _FLOAT, "caches", size[0], "slots", size[1]) for name in _cache_names(layers)]
    sources, owners = g.length(tokens, 0), g.length(caches[0], 0)

    def position_bias(bias: RelativeBias, offsets: str) -> str:
        """Return the biases of keys so many tokens after their query, [caches or 1, heads, 1, keys]."""
        biases = g.position_bias(bias, offsets)  # [heads, caches or 1, keys]
        return str(g("Unsqueeze", g("Transpose", biases, perm=[1, 0, 2]), g.ints(2)))

    self_biases: dict[RelativeBias | None, str] = {None: visible}
    cross_biases: dict[RelativeBias | None, str] = {None: mask}

    def self_bias_of(attention: Attention) -> str:
        if (bias := attention.position_bias) is not None and bias not in self_biases:
            self_biases[bias] = g("Add", position_bias(bias, offsets), visible)
        return self_biases[bias]

    def cross_bias_of(attention: Attention) -> str:
        if (bias := attention.position_bias) is not None and bias not in cross_biases:
            source_offsets = g("Unsqueeze", g("Sub", g.range(g.length(mask, 3)), position), g.ints(0))
            cross_biases[bias] = g("Add", position_bias(bias, source_offsets), mask)
        return cross_biases[bias]

    x = g.embed(stack.embedding, g("Reshape", tokens, g.ints(-1)), position)
    new_caches = []
    for layer, block in enumerate(stack.blocks):
        attention = block.self_attention
        # Beams of a cache, and below those of a source, are the query axis: its keys and values are stored once.
        product = g.joined(g.norm(x, attention.norm), *g.queries_keys_values(attention))
        parts = g.heads(product, owners, parts=3)  # [caches, 3 * heads, beams of a cache, size]
        query, *keys_and_values = g("Split", parts, outputs=3, axis=1, num_outputs=3)
        key, value = (
            g("TensorScatter", cache, new, write, axis=2)  # [caches, heads, slots, size]
            for cache, new in zip(caches[2 * layer : 2 * layer + 2], keys_and_values, strict=True)
        )
        new_caches += [key, value]
        x = g("Add", x, g.matmul(g.attend(query, key, value, self_bias_of(attention)), attention.output))

        attention = block.cross_attention
        (product,) = g.matmuls(g.norm(x, attention.norm), g.projection(attention.query, attention.scale))
        query = g.heads(product, sources)  # [sources, heads, beams, size]
        attended = g.attend(query, cross[2 * layer], cross[2 * layer + 1], cross_bias_of(attention))
        x = g("Add", x, g.matmul(attended, attention.output))
        x = g("Add", x, g.feed_forward(x, block.feed_forward))

    head = network.description.head
    logits = g.matmul(g.scaled(g.norm(x, stack.norm), head.scale, "output_scale"), head.linear)  # [rows, vocab_size]
    log_probs = g("LogSoftmax", logits, axis=1)
    certain = g.constant(np.float32(ALMOST_CERTAIN), "almost_certain")
    changed = g("Mul", g("Min", g("GatherND", log_probs, edited), certain), factors)
    best_log_probs, best = g("TopK", g("ScatterND", log_probs, edited, changed), top, outputs=2, axis=1)
    g.output(best_log_probs, "log_probs", _FLOAT, "rows", "top")
    g.output(best, "best", _INT, "rows", "top")
    for name, cache in zip(_cache_names(layers, "new_"), new_caches, strict=True):
        g.output(cache, name, _FLOAT, "caches", size[0], "slots", size[1])
    return g.finish("decoder")


def gather_graph(network: Network, quantize: str) -> Any:
    """Return the graph of `gather.onnx`."""
    g = _Graph(network, quantize, many_rows=False)
    heads, size = network.description.num_heads, network.description.head_size
    values = g.input("values", _FLOAT, "sources", heads, "length", size)
    rows = g.input("rows", _INT, "new_sources", heads, "new_length")
    taken = g("Gather", g("Reshape", values, g.ints(-1, size)), rows)
    g.output(taken, "taken", _FLOAT, "new_sources", heads, "new_length", size)
    return g.finish("gather")
