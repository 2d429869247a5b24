"""Engines run whatever network is described: T5-PEGASUS, and one with other blocks that no code was written for.

Both are held against a forward pass in numpy, over one sequence at a time and without caches, that reads as a paper.
"""

import dataclasses
import math

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from t5_pegasus.config import ModelConfig
from t5_pegasus.decoding.inputs import Source, make_inputs
from t5_pegasus.decoding.logits import NO_EDITS
from t5_pegasus.engines.exported import write_config
from t5_pegasus.engines.keras import KerasEngine
from t5_pegasus.engines.onnx import OnnxEngine
from t5_pegasus.engines.onnx_export import write_graphs
from t5_pegasus.engines.onnx_graph import MICROSOFT, OPSET, decoder_graph
from t5_pegasus.networks.backend import tf
from t5_pegasus.networks.description import (
    Attention,
    Branch,
    DecoderBlock,
    Description,
    Embedding,
    EncoderBlock,
    FeedForward,
    Head,
    Linear,
    Network,
    Norm,
    RelativeBias,
    Stack,
)
from t5_pegasus.networks.t5 import network_of

ACTIVATIONS = {
    "linear": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2,
    "gelu_tanh": lambda x: x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
}


# The slow network, float64


class SlowNetwork:
    """A description and its weights, computed one sequence at a time."""

    def __init__(self, network):
        self.description = network.description
        self.weights = {
            name: network.weights[name].numpy().astype(np.float64) for name in self.description.weight_shapes()
        }

    def context(self, source):
        """Return the encoder's output [source_len, hidden]."""
        stack = self.description.encoder
        x = self.embed(stack.embedding, source)
        for block in stack.blocks:
            y = self.norm(x, block.self_attention.norm)
            x = x + self.attend(block.self_attention, y, y, causal=False)
            x = x + self.feed_forward(block.feed_forward, x)
        return self.norm(x, stack.norm)

    def log_probs(self, source, target):
        """Return log-probabilities [target_len, vocab_size] of what follows each prefix of the target."""
        stack, context = self.description.decoder, self.context(source)
        x = self.embed(stack.embedding, target)
        for block in stack.blocks:
            y = self.norm(x, block.self_attention.norm)
            x = x + self.attend(block.self_attention, y, y, causal=True)
            y = self.norm(x, block.cross_attention.norm)
            x = x + self.attend(block.cross_attention, y, context, causal=False)
            x = x + self.feed_forward(block.feed_forward, x)
        head = self.description.head
        logits = self.project(self.norm(x, stack.norm) * head.scale, head.linear)
        logits -= logits.max(axis=1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))

    def embed(self, embedding, ids):
        x = self.weights[embedding.table][ids] * embedding.scale
        return x if embedding.positions is None else x + self.weights[embedding.positions][: len(ids)]

    def norm(self, x, norm):
        if norm.centered:
            x = x - x.mean(axis=-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + norm.epsilon) * self.weights[norm.scale]
        return x if norm.bias is None else x + self.weights[norm.bias]

    def project(self, x, linear):
        kernel = self.weights[linear.kernel]
        x = x @ (kernel.T if linear.transposed else kernel)
        return x if linear.bias is None else x + self.weights[linear.bias]

    def attend(self, attention, x, y, causal):
        heads, size = self.description.num_heads, self.description.head_size
        query = self.project(x, attention.query).reshape(len(x), heads, size) * attention.scale
        key, value = (self.project(y, each).reshape(len(y), heads, size) for each in (attention.key, attention.value))
        scores = np.einsum("qhd,khd->hqk", query, key)
        for q in range(len(x)):
            for k in range(len(y)):
                if (bias := attention.position_bias) is not None:
                    scores[:, q, k] += self.weights[bias.table][slow_bucket(bias, k - q)]
                if causal and k > q:
                    scores[:, q, k] = -np.inf
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        attended = np.einsum("hqk,khd->qhd", shares, value).reshape(len(x), heads * size)
        return self.project(attended, attention.output)

    def feed_forward(self, layer, x):
        y, product = self.norm(x, layer.norm), 1
        for branch in layer.branches:
            product = product * ACTIVATIONS[branch.activation](self.project(y, branch.linear))
        return self.project(product, layer.output)


def slow_bucket(bias, offset):
    """Return the bucket of an offset, as the paper's appendix and its code have it."""
    num_buckets, first = bias.num_buckets, 0
    if bias.bidirectional:
        num_buckets //= 2
        first, offset = num_buckets if offset > 0 else 0, -abs(offset)
    distance, exact = max(-offset, 0), num_buckets // 2
    if distance < exact:
        return first + distance
    share = math.log(distance / exact) / math.log(bias.max_distance / exact)
    return first + min(exact + int(share * (num_buckets - exact) + 1e-6), num_buckets - 1)


# A network of the second kind: PEGASUS's blocks, under names of its own


def linear(name):
    return Linear(f"{name}.weight", f"{name}.bias")


def norm(name):
    return Norm(f"{name}.weight", f"{name}.bias", epsilon=1e-5, centered=True)


def attention(name):
    return Attention(
        norm(f"{name}.norm"), *(linear(f"{name}.{part}") for part in ("q", "k", "v", "out")), scale=8**-0.5
    )


def feed_forward(name):
    return FeedForward(norm(f"{name}.norm"), (Branch(linear(f"{name}.fc1"), "relu"),), linear(f"{name}.fc2"))


def pegasus(tied):
    return Description(
        vocab_size=120,
        hidden_size=20,
        intermediate_size=28,
        num_heads=3,
        head_size=8,
        num_positions=40,
        encoder=Stack(
            Embedding("shared", scale=20**0.5, positions="encoder.positions"),
            tuple(EncoderBlock(attention(f"encoder.{n}"), feed_forward(f"encoder.{n}")) for n in range(2)),
            norm("encoder.norm"),
        ),
        decoder=Stack(
            Embedding("shared", scale=20**0.5, positions="decoder.positions"),
            tuple(
                DecoderBlock(attention(f"decoder.{n}"), attention(f"decoder.{n}.cross"), feed_forward(f"decoder.{n}"))
                for n in range(3)
            ),
            norm("decoder.norm"),
        ),
        head=Head(Linear("shared" if tied else "head", "logits_bias", transposed=tied)),
    )


def mixed():
    """Return what no known network is: position biases of each layer's own, biases here and there, three branches."""
    description = pegasus(tied=False)

    def own_bias(name, bidirectional):
        return RelativeBias(f"{name}.bias_table", 8, 12, bidirectional)

    def change(name, layer, **changes):
        changes = {"position_bias": own_bias(name, name.startswith("encoder")), **changes}
        return dataclasses.replace(layer, **changes)

    encoder = tuple(
        dataclasses.replace(block, self_attention=change(f"encoder.{n}", block.self_attention, scale=1.0))
        for n, block in enumerate(description.encoder.blocks)
    )
    decoder = tuple(
        DecoderBlock(
            change(f"decoder.{n}", block.self_attention, key=Linear(f"decoder.{n}.k")),
            change(f"decoder.{n}.cross", block.cross_attention, norm=Norm(f"decoder.{n}.scale", f"decoder.{n}.shift")),
            FeedForward(
                Norm(f"decoder.{n}.last", centered=True),
                tuple(Branch(Linear(f"decoder.{n}.{name}"), name) for name in ("gelu_tanh", "linear", "gelu")),
                Linear(f"decoder.{n}.fc2"),
            ),
        )
        for n, block in enumerate(description.decoder.blocks)
    )
    return dataclasses.replace(
        description,
        encoder=dataclasses.replace(description.encoder, blocks=encoder),
        decoder=dataclasses.replace(description.decoder, blocks=decoder, embedding=Embedding("other", scale=2.0)),
        head=Head(Linear("head"), scale=0.5),
    )


def with_random_weights(description):
    random = np.random.default_rng(5)
    weights = {}
    for name, shape in description.weight_shapes().items():
        values = random.normal(scale=0.3 if len(shape) == 2 else 0.2, size=shape)
        weights[name] = tf.Variable(values + (1 if name.endswith("norm.weight") else 0), dtype=tf.float32)
    return Network(description, weights)


@pytest.fixture(params=["t5", "pegasus", "untied", "mixed"])
def network(request, random_t5):
    if request.param == "t5":
        return network_of(random_t5)
    descriptions = {"pegasus": pegasus(tied=True), "untied": pegasus(tied=False), "mixed": mixed()}
    return with_random_weights(descriptions[request.param])


def export(network, folder, quantize="no"):
    """Write the graphs of a network and what else is in an export."""
    folder.mkdir()
    write_graphs(network, folder, quantize)
    (folder / "vocab.txt").touch()
    sizes = dataclasses.asdict(ModelConfig(network.description.vocab_size, 1, 1, 1, 1))
    write_config(folder, sizes)
    return OnnxEngine(folder)


@pytest.fixture(params=["keras", "onnx"])
def engine(request, network, tmp_path):
    return KerasEngine(network) if request.param == "keras" else export(network, tmp_path / "exported")


# Equal to the slow network


SOURCES = [
    [11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28],
    [31, 5, 31],
    [41, 42, 43, 44, 45, 46],
]


def start(engine, sources):
    return engine.start(make_inputs([Source.whole(ids) for ids in sources]))


def run(engine, sources, steps, vocab_size):
    """Yield for each step the prefixes [sources, beams, length] and what was found, [sources, beams, vocab_size]."""
    random = np.random.default_rng(11)
    state, indices = start(engine, sources), np.arange(len(sources), dtype=np.int32)
    prefixes, previous_width = np.empty((len(sources), 1, 0), int), 1
    for position in range(steps):
        # Beams go on from any beam of their source.
        width = 1 if position == 0 else 3
        parents = random.integers(0, previous_width, (len(sources), width))
        tokens = random.integers(1, vocab_size, parents.shape).astype(np.int32)
        prefixes = np.concatenate([np.take_along_axis(prefixes, parents[..., None], axis=1), tokens[..., None]], axis=2)
        parents += indices[:, None] * previous_width
        state, best, log_probs = engine.step(state, tokens, parents, indices, NO_EDITS, vocab_size)
        yield prefixes, np.take_along_axis(log_probs, np.argsort(best, axis=-1), axis=-1)
        previous_width = width


def test_cached_steps_are_those_of_the_slow_network_at_every_position(network, engine):
    """A padded batch, beams that change: encoder, caches, masks and head of every description."""
    slow = SlowNetwork(network)
    for prefixes, found in run(engine, SOURCES, 8, network.description.vocab_size):
        for source, rows, log_probs in zip(SOURCES, prefixes, found, strict=True):
            expected = [slow.log_probs(source, prefix)[-1] for prefix in rows]
            np.testing.assert_allclose(log_probs, expected, atol=1e-4, err_msg=str(prefixes.shape))
            assert np.ptp(expected) > 2


def test_cross_attention_has_the_keys_and_values_of_the_slow_encoder(network, engine):
    slow, description = SlowNetwork(network), network.description
    state = start(engine, SOURCES)
    cross = state.cross if isinstance(engine, KerasEngine) else list(state.cross.values())[1:]  # after the mask
    for layer, block in enumerate(description.decoder.blocks):
        linears = (block.cross_attention.key, block.cross_attention.value)
        for linear, found in zip(linears, cross[2 * layer : 2 * layer + 2], strict=True):
            for source, heads in zip(SOURCES, found.numpy(), strict=True):
                expected = slow.project(slow.context(source), linear)
                rows = heads[:, : len(source)].transpose(1, 0, 2).reshape(expected.shape)
                np.testing.assert_allclose(rows, expected, atol=1e-4)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 0.05), ("bfloat16", 0.4)])
@pytest.mark.parametrize("network", ["pegasus", "mixed"], indirect=True)
def test_half_precision_is_near_float32(network, dtype, tolerance):
    slow, engine = SlowNetwork(network), KerasEngine(dataclasses.replace(network, compute_dtype=dtype))
    for prefixes, found in run(engine, SOURCES, 4, network.description.vocab_size):
        for source, rows, log_probs in zip(SOURCES, prefixes, found, strict=True):
            np.testing.assert_allclose(log_probs, [slow.log_probs(source, row)[-1] for row in rows], atol=tolerance)


def test_int8_is_near_float32_and_a_source_is_itself_in_any_batch(network, tmp_path):
    slow, engine = SlowNetwork(network), export(network, tmp_path / "int8", "int8")
    together = list(run(engine, SOURCES, 4, network.description.vocab_size))
    differences = [
        log_probs - slow.log_probs(source, prefix)[-1]
        for prefixes, found in together
        for source, rows, each in zip(SOURCES, prefixes, found, strict=True)
        for prefix, log_probs in zip(rows, each, strict=True)
    ]
    assert 0 < np.abs(differences).mean() < 0.1
    alone = start(engine, SOURCES[:1])
    zero = np.zeros((1, 1), np.int32)
    tokens = together[0][0][:1, :, 0].astype(np.int32)
    _, best, log_probs = engine.step(alone, tokens, zero, zero[0], NO_EDITS, network.description.vocab_size)
    found = np.take_along_axis(log_probs, np.argsort(best, axis=-1), axis=-1)
    np.testing.assert_allclose(found[0], together[0][1][0], atol=1e-5)


def test_int8_takes_rows_of_zeros(tmp_path):
    """They have no scale: a ReLU may leave nothing of a row."""
    network = with_random_weights(pegasus(tied=True))
    for block in network.description.blocks:
        (branch,) = block.feed_forward.branches
        network.weights[branch.linear.bias].assign(np.full(network.description.intermediate_size, -1e3, np.float32))
    slow, engine = SlowNetwork(network), export(network, tmp_path / "int8", "int8")
    for prefixes, found in run(engine, SOURCES, 2, network.description.vocab_size):
        for source, rows, log_probs in zip(SOURCES, prefixes, found, strict=True):
            np.testing.assert_allclose(log_probs, [slow.log_probs(source, row)[-1] for row in rows], atol=0.3)


@pytest.mark.parametrize("quantize", ["no", "int8"])
def test_a_tied_head_is_stored_once_and_costs_nothing_when_run(quantize, tmp_path):
    """Its matrix is the embedding's; ONNX Runtime turns it when it loads the graph."""
    tied = with_random_weights(pegasus(tied=True))
    sizes, nodes = [], []
    for network in (tied, with_random_weights(pegasus(tied=False))):
        graph = decoder_graph(network, quantize)
        sizes.append(sum(len(constant.raw_data) for constant in graph.initializer))
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)], ir_version=12
        )
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        options.log_severity_level = 3
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        optimized = onnx.load(tmp_path / "optimized.onnx")
        nodes.append(sorted(node.op_type for node in optimized.graph.node))
    assert sizes[1] - sizes[0] == 120 * 20 * (4 if quantize == "no" else 1)
    assert nodes[0] == nodes[1]
