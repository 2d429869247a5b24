"""Products of low rank inside the graphs of an exported model: inputs for the adapters of a batch, beside its weights.

The graphs are those of `onnx_graph`, float32 or int8, whose weights stay where they are, in the files of the export.
Of a product of several matrices side by side (`q+k+v`), adapters add to the columns of those that they have: one x @ a
for all of them, and each its own b.
"""

import importlib.util
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import CheckpointError, PegasusError
from .low_rank import Joined

_FOLLOWS = {"MatMul": (), "MatMulInteger": ("Cast", "Mul", "Mul"), "MatMulIntegerToFloat": ("Mul",)}


class Part(NamedTuple):
    """A matrix of a product: its name, first column, number of columns, and the factor that it was exported with."""

    weight: str
    start: int
    width: int
    factor: float


class Product(NamedTuple):
    """A product of the graph that takes adapters: its name, all its columns and the parts that adapters add to.

    Its inputs are `a/NAME` float [inputs, parts * K] and for each part `b/WEIGHT` float [K, width].
    """

    name: str
    inputs: int
    outputs: int
    parts: tuple[Part, ...]


class Graph(NamedTuple):
    """A graph with inputs for adapters.

    data: the model, without its weights. columns: for the name of each input that says which columns are a row's, the
    number of parts. products: all that take adapters.
    """

    data: bytes
    columns: Mapping[str, int]
    products: tuple[Product, ...]


def add_products(
    path: Path,
    shapes: Mapping[str, tuple[int, int]],
    factors: Mapping[str, float],
    targets: Collection[str],
    of_sources: Collection[str] = (),
) -> Graph:
    """Return a graph of an export with inputs for adapters.

    Args:
        path: of the graph.
        shapes: inputs and outputs of matrices, by name.
        factors: that a matrix was multiplied by in the export, where it is not 1.
        targets: names of matrices that adapters add to.
        of_sources: those of them whose rows are the tokens of sources; the rows of all others are those of `columns_N`.

    Raises PegasusError if the package onnx is missing, CheckpointError for a graph that is not of this version.
    """
    if importlib.util.find_spec("onnx") is None:
        raise PegasusError("adapters of an exported model need the package onnx: install it with `pip install onnx`")
    import onnx

    model = onnx.load(path, load_external_data=False)
    editor = _Editor(onnx, model.graph)
    for node in list(model.graph.node):
        name = editor.matrix_of(node)
        weights = name.split("+")
        if not any(weight in targets for weight in weights):
            continue
        starts = np.cumsum([0, *(shapes[weight][1] for weight in weights)]).tolist()
        parts = tuple(
            Part(weight, start, shapes[weight][1], factors.get(weight, 1.0))
            for weight, start in zip(weights, starts, strict=False)
            if weight in targets
        )
        space = "sources" if weights[0] in of_sources else "rows"
        editor.add(node, Product(name, shapes[weights[0]][0], starts[-1], parts), space)
    found = {part.weight for product in editor.products for part in product.parts}
    editor.finish()
    return (
        Graph(model.SerializeToString(), editor.columns, tuple(editor.products))
        if found or not targets
        else _none(path)
    )


def _none(path: Path) -> Graph:
    raise CheckpointError(f"{path} has none of the projections of the adapters; export the model again")


class _Editor:
    """A graph whose products are added to."""

    def __init__(self, onnx: Any, graph: Any) -> None:
        self._onnx, self._graph = onnx, graph
        self._initializers = {each.name for each in graph.initializer}
        self._producers = {name: node for node in graph.node for name in node.output}
        self._consumers: dict[str, list[Any]] = {}
        for node in graph.node:
            for name in node.input:
                self._consumers.setdefault(name, []).append(node)
        self._after: dict[str, list[Any]] = {}  # new nodes by the output that they come after
        self.columns: dict[str, int] = {}
        self.products: list[Product] = []

    def matrix_of(self, node: Any) -> str:
        """Return the name of the matrix that a node multiplies by or looks up in; "" for any other node."""
        if node.op_type == "Gather":
            return node.input[0] if node.input[0] in self._initializers else ""
        if node.op_type not in _FOLLOWS:
            return ""
        name = node.input[1]
        if name not in self._initializers:  # a tied head's: turned
            producer = self._producers.get(name)
            name = producer.input[0] if producer is not None and producer.op_type == "Transpose" else ""
        return name if name in self._initializers else ""

    def add(self, node: Any, product: Product, space: str) -> None:
        is_lookup = node.op_type == "Gather"
        follows = _FOLLOWS.get(node.op_type, ())
        x = node.input[1] if is_lookup else node.input[0]
        if node.op_type.startswith("MatMulInteger"):
            x = self._producers[x].input[0]  # before it was rounded
        elif is_lookup and self._consumers[node.output[0]][0].op_type == "Cast":
            follows = ("Cast", "Mul")
        result = node.output[0]
        for kind in follows:
            (following,) = (each for each in self._consumers[result] if each.op_type == kind)
            result = following.output[0]
        count = len(product.parts)
        columns = f"columns_{space}_{count}"
        self.columns[columns] = count
        self.products.append(product)
        low, own, changed = (f"{result}/{step}" for step in ("low", "own", "sum"))
        make = self._onnx.helper.make_node
        nodes = [
            make(
                "Gather" if is_lookup else "MatMul",
                [f"a/{product.name}", x] if is_lookup else [x, f"a/{product.name}"],
                [low],
            ),
            make("Mul", [low, columns], [own]),
        ]
        # The columns of the product, cut where a part begins or ends.
        ends = [(part.start, part.start + part.width) for part in product.parts]
        cuts = sorted({0, product.outputs, *(cut for each in ends for cut in each)})
        pieces = self._split(nodes, result, np.diff(cuts).tolist())
        lows = self._split(nodes, own, [0] * count)
        for part, its_low in zip(product.parts, lows, strict=True):
            index = cuts.index(part.start)
            piece, delta = pieces[index], f"{result}/{part.weight}"
            pieces[index] = f"{delta}/sum" if len(pieces) > 1 else changed
            nodes.append(make("MatMul", [its_low, f"b/{part.weight}"], [delta]))
            nodes.append(make("Add", [piece, delta], [pieces[index]]))
        if len(pieces) > 1:
            nodes.append(make("Concat", pieces, [changed], axis=-1))
        self._after[result] = nodes
        for consumer in self._consumers[result]:
            consumer.input[:] = [changed if name == result else name for name in consumer.input]

    def _split(self, nodes: list[Any], name: str, widths: list[int]) -> list[str]:
        """Add a node that cuts the columns of a tensor; return the names of its parts. Widths of 0: into equal ones."""
        if len(widths) == 1:
            return [name]
        parts = [f"{name}/{index}" for index in range(len(widths))]
        inputs, equal = [name], {"num_outputs": len(widths)}
        if any(widths):
            inputs, equal = [name, f"{name}/widths"], {}
            self._graph.initializer.append(self._onnx.numpy_helper.from_array(np.array(widths), inputs[1]))
        nodes.append(self._onnx.helper.make_node("Split", inputs, parts, axis=-1, **equal))
        return parts

    def finish(self) -> None:
        """Put the new nodes and inputs into the graph."""
        nodes = []
        for node in self._graph.node:
            nodes.append(node)
            for name in node.output:
                nodes += self._after.get(name, [])
        copies = [self._onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del self._graph.node[:]
        self._graph.node.extend(copies)
        info, kind = self._onnx.helper.make_tensor_value_info, self._onnx.TensorProto.FLOAT
        for name, count in self.columns.items():
            self._graph.input.append(info(name, kind, (None, f"ranks_{count}")))
        for product in self.products:
            ranks = f"ranks_{len(product.parts)}"
            self._graph.input.append(info(f"a/{product.name}", kind, (product.inputs, ranks)))
            for part in product.parts:
                self._graph.input.append(info(f"b/{part.weight}", kind, ("ranks_1", part.width)))


def feeds(graph: Graph, joined: Joined | None) -> dict[str, np.ndarray]:
    """Return the inputs of a graph for the adapters of a batch; for none, matrices of rank 1 that are zero."""
    ranks = 1 if joined is None else joined.columns.shape[1]
    factors = {} if joined is None else joined.factors
    found = {}
    for product in graph.products:
        a = np.zeros((product.inputs, len(product.parts), ranks), np.float32)
        for index, (weight, _, width, factor) in enumerate(product.parts):
            b = np.zeros((ranks, width), np.float32)
            if weight in factors:
                a[:, index], b = factors[weight]
                b = b if factor == 1 else b * np.float32(factor)
            found[f"b/{weight}"] = b
        found[f"a/{product.name}"] = a.reshape(product.inputs, -1)
    return found


def columns_of(graph: Graph, rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the inputs that say which columns are a row's, for float32 [rows, K] of "rows" and "sources"."""
    return {name: np.tile(rows[name.split("_")[1]], (1, parts)) for name, parts in graph.columns.items()}
