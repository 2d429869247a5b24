"""The network as ONNX graphs: the encoder, a decoder step with caches, and the gathering of a cache's rows.

For each model three graphs of opset 24, which `onnx_export` writes and `engines/onnx.py` runs:

- `encoder.onnx`: `ids` int64 [windows, window_len] and `joined` int64 [sources, source_len], the places of a source's
  tokens in the flattened ids, -1 at padding -> `mask` float [sources, 1, 1, source_len] (0, or -inf at padding) and,
  for each layer, `cross_key_N`, `cross_value_N` float [sources, heads, source_len, head_size];
- `decoder.onnx`, one token a beam: `tokens` int64 [sources, beams], `position` int64 [1] of these tokens, `edited`
  int64 [edits, 2], (row, token) pairs whose log-probabilities are multiplied by `factors` float [edits], `top` int64
  [1], `mask`, `cross_*` of the encoder, and for each layer `key_N`, `value_N` float [caches, heads, slots, head_size],
  where a cache is of a source or of a beam, and each token of its beams has a slot -> `best` int64 and `log_probs`
  float [sources * beams, top], and the caches with these tokens from slot `write` int64 [caches] on, `new_key_N`,
  `new_value_N`, which may be the very memory of the old ones. `visible` float [caches, 1, beams of a cache, slots] is
  0 where a slot holds a beam's own past (or this token), else -inf; `offsets` int64 [caches, slots] are the positions
  of slots less `position`. So beams that go on from others move no cache, and their common past is there once;
- `gather.onnx`: `values` float [sources, heads, length, head_size] and `rows` int64 [new sources, heads, new length],
  places in the first three axes flattened -> `taken` float [new sources, heads, new length, head_size].

With int8 every matrix is rounded with a scale a column, and what it multiplies with a scale a row at run time, so that
no row depends on the others of its batch.
"""

from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from ..decoding.logits import ALMOST_CERTAIN
from ..networks.backend import tf
from ..networks.checkpoints import named_variables
from ..networks.t5 import PegasusT5
from .activations import approximates_gelu

OPSET = 24
MICROSOFT = "com.microsoft"  # operations that ONNX Runtime has beyond the standard

_FLOAT, _INT = TensorProto.FLOAT, TensorProto.INT64


class _Graph:
    """A graph in the making: nodes and weights are added, names are made up."""

    def __init__(self, t5: PegasusT5, quantize: str, many_rows: bool) -> None:
        self.weights = named_variables(t5)
        self.config = t5.config
        self.quantize, self.many_rows = quantize == "int8", many_rows
        self.gelu = "tanh" if approximates_gelu(t5.config.hidden_act) else "none"
        self.width = t5.config.num_attention_heads * t5.config.attention_head_size
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []

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

    # What T5 is made of. Rows are float [rows, width].

    def rows(self, x: str, width: int) -> str:
        return str(self("Reshape", x, self.ints(-1, width)))

    def matmul(self, x: str, name: str) -> str:
        """Multiply rows by a weight matrix."""
        return self.matmuls(x, name)[0]

    def matmuls(self, x: str, *names: str) -> list[str]:
        """Multiply rows by several weight matrices of one shape.

        Few rows are multiplied by all at once, since then reading weights takes the time and not much is left of it for
        starting operations; for many rows, dividing the product costs more than that.
        """
        if self.many_rows or len(names) == 1:
            quantized = self.quantized(x) if self.quantize else ("", "")
            return [self.product(x, quantized, name, self.weights[name].numpy()) for name in names]
        return list(self("Split", self.joined(x, *names), outputs=len(names), axis=1, num_outputs=len(names)))

    def joined(self, x: str, *names: str) -> str:
        """Multiply rows by several weight matrices at once; the products stand one after the other in a row."""
        weight = np.concatenate([self.weights[name].numpy() for name in names], axis=1)
        quantized = self.quantized(x) if self.quantize else ("", "")
        return self.product(x, quantized, "+".join(names), weight)

    def quantized(self, x: str) -> tuple[str, str]:
        """Return rows rounded to uint8 round 128, each with a scale of its own; and the scales, float [rows, 1]."""
        largest = self("ReduceMax", self("Abs", x), self.ints(1), keepdims=0)  # [rows]
        scale = self(
            "Div", self("Max", largest, self.constant(np.float32(1e-12), "tiny")), self.constant(np.float32(127), "127")
        )
        zeros = self("Expand", self.constant(np.uint8(128), "zero_point"), self("Shape", scale))
        return self("QuantizeLinear", x, scale, zeros, axis=0), self("Unsqueeze", scale, self.ints(1))

    def product(self, x: str, quantized: tuple[str, str], name: str, weight: np.ndarray) -> str:
        if not self.quantize:
            return str(self("MatMul", x, self.constant(weight, name)))
        rows, row_scales = quantized
        scales = np.maximum(np.abs(weight).max(axis=0), 1e-12) / 127
        rounded = self.constant(np.rint(weight / scales).astype(np.int8), name)
        column_scales = self.constant(scales.astype(np.float32), f"{name}/scales")
        zero = self.constant(np.uint8(128), "zero_point")
        if self.many_rows:  # one operation that is slower to start, but goes through the product once, not three times
            one = self.constant(np.float32(1), "one")
            product = self("MatMulIntegerToFloat", rows, rounded, one, column_scales, zero, domain=MICROSOFT)
        else:
            product = self("Mul", self("Cast", self("MatMulInteger", rows, rounded, zero), to=_FLOAT), column_scales)
        return str(self("Mul", product, row_scales))

    def embed(self, ids: str) -> str:
        """Return the embeddings of ids [rows], float [rows, hidden]."""
        table = self.weights["shared/embedding"].numpy()
        if not self.quantize:
            return str(self("Gather", self.constant(table, "shared/embedding"), ids))
        scales = np.maximum(np.abs(table).max(axis=1, keepdims=True), 1e-12) / 127
        rounded = self.constant(np.rint(table / scales).astype(np.int8), "shared/embedding")
        values = self("Cast", self("Gather", rounded, ids), to=_FLOAT)
        return str(self("Mul", values, self("Gather", self.constant(scales.astype(np.float32), "shared/scales"), ids)))

    def norm(self, x: str, name: str) -> str:
        # In this very form ONNX Runtime makes one operation of it.
        square = self("Pow", x, self.constant(np.float32(2), "2"))
        mean = self("ReduceMean", square, self.ints(-1), keepdims=1)
        root = self("Sqrt", self("Add", mean, self.constant(np.float32(1e-6), "epsilon")))
        return str(self("Mul", self("Div", x, root), self.weight(name)))

    def heads(self, x: str, batch: str, parts: int = 1) -> str:
        """Split rows [batch * length, parts * heads * size] into [batch, parts * heads, length, size].

        `batch` is int64 [1].
        """
        config = self.config
        tail = self.ints(-1, parts * config.num_attention_heads, config.attention_head_size)
        split = self("Reshape", x, self("Concat", batch, tail, axis=0))
        return str(self("Transpose", split, perm=[0, 2, 1, 3]))

    def attend(self, query: str, key: str, value: str, bias: str) -> str:
        """Return [batch, heads, queries, size]; `bias` is added to the scores [batch, heads, queries, keys]."""
        scores = self("Add", self("MatMul", query, self("Transpose", key, perm=[0, 1, 3, 2])), bias)
        return str(self("MatMul", self("Softmax", scores, axis=-1), value))

    def merge(self, attended: str) -> str:
        """Turn [batch, heads, queries, size] into rows [batch * queries, heads * size]."""
        return self.rows(self("Transpose", attended, perm=[0, 2, 1, 3]), self.width)

    def feed_forward(self, x: str, block: str) -> str:
        gate, linear = self.matmuls(x, f"{block}/wi_0/kernel", f"{block}/wi_1/kernel")
        return self.matmul(self("Mul", self("Gelu", gate, approximate=self.gelu), linear), f"{block}/wo/kernel")

    def position_bias(self, layer: Any, name: str, offsets: str) -> str:
        """Return [heads, *offsets' shape], the biases of keys that lie so many tokens after their query."""
        reach = self.config.relative_attention_max_distance
        # Row `reach` of the layer's buckets has all offsets from -reach to reach; beyond, buckets stay the same.
        buckets = layer.compute_position_ids([tf.zeros((1, reach + 1)), tf.zeros((1, 2 * reach + 1))])[reach].numpy()
        table = self.constant(self.weights[name].numpy()[buckets].T, f"{name}/by_offset")
        clipped = self("Clip", offsets, *(self.constant(np.int64(limit)) for limit in (-reach, reach)))
        return str(self("Gather", table, self("Add", clipped, self.constant(np.int64(reach))), axis=1))

    def length(self, x: str, axis: int) -> str:
        """Return the length of an axis, int64 [1]."""
        return str(self("Shape", x, start=axis, end=axis + 1))

    def range(self, length: str) -> str:
        """Return int64 [length]; `length` is int64 [1]."""
        return str(
            self("Range", self.constant(np.int64(0), "0"), self("Squeeze", length), self.constant(np.int64(1), "1"))
        )


def _cache_names(config: Any, prefix: str = "") -> list[str]:
    return [f"{prefix}{kind}_{layer}" for layer in range(config.num_hidden_layers) for kind in ("key", "value")]


def encoder_graph(t5: PegasusT5, quantize: str) -> Any:
    """Return the graph of `encoder.onnx`, with the weights in it."""
    g, config = _Graph(t5, quantize, many_rows=True), t5.config
    ids = g.input("ids", _INT, "windows", "window_len")
    joined = g.input("joined", _INT, "sources", "source_len")
    windows, positions = g.length(ids, 0), g.range(g.length(ids, 1))
    flat_ids = g("Reshape", ids, g.ints(-1))
    floats = [g.constant(np.float32(value)) for value in (0, -np.inf)]

    def mask_of(tokens: str) -> str:
        """Return [batch, 1, 1, length] for ids [batch, length]: 0, or -inf where there is none."""
        # The first position is visible whatever it holds, as in bert4keras: no row is -inf throughout.
        zero = g.constant(np.int64(0), "0")
        first = g("Unsqueeze", g("Equal", g.range(g.length(tokens, 1)), zero), g.ints(0))
        visible = g("Or", g("Greater", tokens, zero), first)
        return str(g("Unsqueeze", g("Where", visible, *floats), g.ints(1, 2)))

    offsets = g("Sub", g("Unsqueeze", positions, g.ints(0)), g("Unsqueeze", positions, g.ints(1)))
    layer = t5.layers["Encoder-Embedding-Relative-Position"]
    bias_name = "encoder/block_000/layer_000/SelfAttention/relative_attention_bias"
    bias = g("Add", g("Unsqueeze", g.position_bias(layer, bias_name, offsets), g.ints(0)), mask_of(ids))
    x = g.embed(flat_ids)
    for number in range(config.num_hidden_layers):
        block = f"encoder/block_{number:03d}"
        attention = f"{block}/layer_000/SelfAttention"
        y = g.norm(x, f"{block}/layer_000/rms_norm/scale")
        query, key, value = (g.heads(z, windows) for z in g.matmuls(y, *(f"{attention}/{name}" for name in "qkv")))
        x = g("Add", x, g.matmul(g.merge(g.attend(query, key, value, bias)), f"{attention}/o"))
        y = g.norm(x, f"{block}/layer_001/rms_norm/scale")
        x = g("Add", x, g.feed_forward(y, f"{block}/layer_001/DenseReluDense"))
    context = g.norm(x, "encoder/rms_norm/scale")
    # Each source from here on is one sequence, whatever windows it was encoded in.
    sources, places = g.length(joined, 0), g("Max", joined, g.constant(np.int64(0), "0"))
    context = g("Gather", context, g("Reshape", places, g.ints(-1)))
    padding = g("Less", joined, g.constant(np.int64(0), "0"))
    tokens = g("Where", padding, g.constant(np.int64(0), "0"), g("Gather", flat_ids, places))
    g.output(mask_of(tokens), "mask", _FLOAT, "sources", 1, 1, "source_len")
    shape = ("sources", config.num_attention_heads, "source_len", config.attention_head_size)
    for number in range(config.num_hidden_layers):
        attention = f"decoder/block_{number:03d}/layer_001/EncDecAttention"
        both = g.matmuls(context, f"{attention}/k", f"{attention}/v")
        for kind, part in zip(("key", "value"), both, strict=True):
            g.output(g.heads(part, sources), f"cross_{kind}_{number}", _FLOAT, *shape)
    return g.finish("encoder")


def decoder_graph(t5: PegasusT5, quantize: str) -> Any:
    """Return the graph of `decoder.onnx`, with the weights in it."""
    g, config = _Graph(t5, quantize, many_rows=False), t5.config
    size = (config.num_attention_heads, config.attention_head_size)
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
        g.input(name, _FLOAT, "sources", size[0], "source_len", size[1]) for name in _cache_names(config, "cross_")
    ]
    caches = [g.input(name, _FLOAT, "caches", size[0], "slots", size[1]) for name in _cache_names(config)]

    sources, owners = g.length(tokens, 0), g.length(caches[0], 0)
    bias_name = "decoder/block_000/layer_000/SelfAttention/relative_attention_bias"
    layer = t5.layers["Decoder-Embedding-Relative-Position"]

    def bias(offsets: str) -> str:
        """Return the biases of keys so many tokens after their query, [caches or 1, heads, 1, keys]."""
        biases = g.position_bias(layer, bias_name, offsets)  # [heads, caches or 1, keys]
        return str(g("Unsqueeze", g("Transpose", biases, perm=[1, 0, 2]), g.ints(2)))

    self_bias = g("Add", bias(offsets), visible)
    cross_bias = mask
    if config.cross_position_bias:
        source_offsets = g("Sub", g.range(g.length(mask, 3)), position)
        cross_bias = g("Add", bias(g("Unsqueeze", source_offsets, g.ints(0))), mask)
    x = g.embed(g("Reshape", tokens, g.ints(-1)))
    new_caches = []
    for number in range(config.num_hidden_layers):
        block = f"decoder/block_{number:03d}"
        attention = f"{block}/layer_000/SelfAttention"
        y = g.norm(x, f"{block}/layer_000/rms_norm/scale")
        # Beams of a cache, below those of a source, stand in the query axis: its keys and values are there once.
        parts = g.heads(g.joined(y, *(f"{attention}/{name}" for name in "qkv")), owners, parts=3)
        query, *keys_and_values = g("Split", parts, outputs=3, axis=1, num_outputs=3)
        key, value = (
            g("TensorScatter", cache, new, write, axis=2)
            for cache, new in zip(caches[2 * number :], keys_and_values, strict=False)
        )
        new_caches += [key, value]
        x = g("Add", x, g.matmul(g.merge(g.attend(query, key, value, self_bias)), f"{attention}/o"))
        attention = f"{block}/layer_001/EncDecAttention"
        query = g.heads(g.matmul(g.norm(x, f"{block}/layer_001/rms_norm/scale"), f"{attention}/q"), sources)
        attended = g.merge(g.attend(query, cross[2 * number], cross[2 * number + 1], cross_bias))
        x = g("Add", x, g.matmul(attended, f"{attention}/o"))
        y = g.norm(x, f"{block}/layer_002/rms_norm/scale")
        x = g("Add", x, g.feed_forward(y, f"{block}/layer_002/DenseReluDense"))
    x = g.norm(x, "decoder/rms_norm/scale")
    x = g("Mul", x, g.constant(np.float32(config.hidden_size**-0.5), "output_scale"))  # bert4keras's
    logits = g.matmul(x, "decoder/logits/kernel")
    log_probs = g("LogSoftmax", logits, axis=1)
    certain = g.constant(np.float32(ALMOST_CERTAIN), "almost_certain")
    changed = g("Mul", g("Min", g("GatherND", log_probs, edited), certain), factors)
    best_log_probs, best = g("TopK", g("ScatterND", log_probs, edited, changed), top, outputs=2, axis=1)
    g.output(best_log_probs, "log_probs", _FLOAT, "rows", "top")
    g.output(best, "best", _INT, "rows", "top")
    for name, cache in zip(_cache_names(config, "new_"), new_caches, strict=True):
        g.output(cache, name, _FLOAT, "caches", size[0], "slots", size[1])
    return g.finish("decoder")


def gather_graph(t5: PegasusT5, quantize: str) -> Any:
    """Return the graph of `gather.onnx`."""
    g = _Graph(t5, quantize, many_rows=False)
    heads, size = t5.config.num_attention_heads, t5.config.attention_head_size
    values = g.input("values", _FLOAT, "sources", heads, "length", size)
    rows = g.input("rows", _INT, "new_sources", heads, "new_length")
    taken = g("Gather", g("Reshape", values, g.ints(-1, size)), rows)
    g.output(taken, "taken", _FLOAT, "new_sources", heads, "new_length", size)
    return g.finish("gather")
