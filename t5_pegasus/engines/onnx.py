"""The decoder with caches in ONNX Runtime, on the graphs of `onnx_graph`. It needs no TensorFlow."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
from onnxruntime import OrtValue

from ..decoding.inputs import Inputs
from ..decoding.logits import Edits
from ..errors import CheckpointError
from ..networks.architectures import describe
from ..networks.lora import Adapter, list_modules
from .exported import DECODER, ENCODER, GATHER, check_export
from .low_rank import Adapters, Joined
from .onnx_low_rank import Graph, add_products, columns_of, feeds

_STEPS = 16  # for which caches get free slots, and after which they lose the tokens that no beam has in its past
_MULTIPLE = 8  # of which the tokens of sources and the slots of caches are padded to one
_SHARED = 8  # beams of a source that may share its cache; of more, each gets its own: a beam reads all that is in one
_KEPT = 8  # sets of adapters whose matrices are kept as the runtime's tensors
# The runtime's names of options.
_WEIGHTS_AT = "session.model_external_initializers_file_folder_path"
_STOP_SPINNING = "session.force_spinning_stop"
# What the runtime is not to make of a graph. A bias that is part of a product is copied to every row of the result
# before, by one thread: added behind it, by all threads, it gives the same bits, sooner where there are many rows.
_NOT_MADE = {ENCODER: ["MatMulAddFusion"]}
_FOUND = ("best", "log_probs")  # outputs that are new in each step; caches are written in place


class Slots(NamedTuple):
    """What the slots of the caches hold: one token each, of any beam that reads the cache.

    Where a token lies depends on the beams of its own source alone: a row adds up its keys in their order, which
    decides the last bits, and those are to be the same in any batch.

    positions: int64 [caches, slots], of the tokens.
    past: bool [caches, beams of a cache, slots], True where the slot's token belongs to the beam.
    per_beam: whether a cache belongs to one beam; else to a source and all its beams.
    """

    positions: np.ndarray
    past: np.ndarray
    per_beam: bool


class Decoder(NamedTuple):
    """The decoder of a batch: its session, with the adapters of the batch as inputs if the session takes some.

    columns: float32 [sources, K], see `low_rank.Joined`.
    """

    session: Any
    graph: Graph | None
    factors: dict[str, OrtValue]
    columns: np.ndarray


class Bound(NamedTuple):
    """What the decoder's session reads and writes: the runtime's binding, and the arrays in it by inputs' names."""

    binding: Any
    arrays: dict[str, np.ndarray]

    def give(self, name: str, value: np.ndarray, dtype: type) -> None:
        """Let an input have a value. An array that is bound already is written to: binding one takes longer."""
        array = self.arrays.get(name)
        if array is not None and array.shape == value.shape:
            array[...] = value
        else:
            self.arrays[name] = np.array(value, dtype, order="C")
            self.binding.bind_cpu_input(name, self.arrays[name])

    def clear(self) -> None:
        """Let go of everything."""
        self.binding.clear_binding_inputs()
        self.binding.clear_binding_outputs()
        self.arrays.clear()


class State(NamedTuple):
    """What a batch has computed so far: the runtime's tensors by their names in `decoder.onnx` (see `onnx_graph`)."""

    position: int
    slots: Slots
    caches: dict[str, OrtValue]
    cross: dict[str, OrtValue]
    bound: Bound
    decoder: Decoder


class OnnxEngine:
    """Runs an exported model; see `decoding.search.Engine` for its methods.

    Args:
        model_dir: made by `t5_pegasus.export`.
        num_threads: of one operation; 0 takes as many as this process may use cores.

    Attributes:
        adapters: by name; `add_adapter` adds one. The first that has to do with a projection makes the graphs anew.
        description: of the network.

    Raises CheckpointError for what `exported.check_export` refuses, and for graphs that cannot be loaded.
    """

    def __init__(self, model_dir: str | Path, num_threads: int = 0) -> None:
        model_dir, config = Path(model_dir), check_export(model_dir)
        options = onnxruntime.SessionOptions()
        # The runtime itself counts the machine's cores, not those this process may run on (its CPU affinity).
        allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
        options.intra_op_num_threads = num_threads or (allowed if allowed < (os.cpu_count() or 1) else 0)
        options.log_severity_level = 3
        options.add_session_config_entry(_WEIGHTS_AT, str(model_dir))
        # Each session has its own threads: those of one would go on waiting busily while another's compute.
        options.add_session_config_entry(_STOP_SPINNING, "1")
        self._model_dir, self._options = model_dir, options
        self.adapters, self.description = Adapters(), describe(config)
        self._graphs: dict[str, Graph | None] = {ENCODER: None, DECODER: None}
        self._feeds: dict[tuple[str, ...], dict[str, dict[str, OrtValue]]] = {}  # by adapters of a batch, and graph
        self._encoder, self._decoder, self._gather = map(self._load, (ENCODER, DECODER, GATHER))
        shapes = {value.name: value.shape for value in self._decoder.get_inputs()}
        _, self._heads, _, self._head_size = shapes["key_0"]
        self._vocab_size = config.vocab_size
        self._encoder_outputs = [output.name for output in self._encoder.get_outputs()]
        outputs = (output.name for output in self._decoder.get_outputs())
        self._cache_names = [name.removeprefix("new_") for name in outputs if name.startswith("new_")]

    def _load(self, name: str, graph: Graph | None = None) -> Any:
        """Return a session of a graph of the export, or of what was made of it."""
        path = str(self._model_dir / name)
        try:
            return onnxruntime.InferenceSession(
                path if graph is None else graph.data,
                self._options,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=_NOT_MADE.get(name, []),
            )
        except Exception as error:  # the runtime's own errors have no common base
            raise CheckpointError(f"{self._model_dir} is not an exported model, or damaged: {error}") from error

    def add_adapter(self, name: str, adapter: Adapter) -> None:
        """Add an adapter of this network; raises what `Adapters.add` and `add_products` raise."""
        self.adapters.add(name, adapter)
        self._feeds.clear()
        try:
            self._take_adapters()
        except Exception:
            self.adapters.remove(name)
            raise

    def _take_adapters(self) -> None:
        """Give the graphs inputs for all projections that adapters add to, if they lack some."""
        found = {
            part.weight for graph in self._graphs.values() if graph for each in graph.products for part in each.parts
        }
        targets = self.adapters.targets() | found
        if targets == found:
            return
        modules = [module for module in list_modules(self.description) if module.inputs]
        shapes = {module.weight: (module.inputs, module.outputs) for module in modules}
        factors = {module.weight: module.factor for module in modules}
        of_sources = {
            linear.kernel
            for block in self.description.decoder.blocks
            for linear in (block.cross_attention.key, block.cross_attention.value)
        }
        graphs = {
            name: add_products(self._model_dir / name, shapes, factors, targets, of_sources) for name in self._graphs
        }
        self._encoder, self._decoder = (self._load(name, graph) for name, graph in graphs.items())
        self._graphs.update(graphs)

    def _feeds_of(self, names: tuple[str | None, ...], joined: Joined | None) -> dict[str, dict[str, OrtValue]]:
        """Return the inputs for the adapters of a batch, by graph."""
        key = tuple(sorted({name for name in names if name is not None}))
        if key not in self._feeds:
            if len(self._feeds) >= _KEPT:
                del self._feeds[next(iter(self._feeds))]
            self._feeds[key] = {
                name: {key: OrtValue.ortvalue_from_numpy(value) for key, value in feeds(graph, joined).items()}
                for name, graph in self._graphs.items()
                if graph is not None
            }
        return self._feeds[key]

    def start(self, inputs: Inputs) -> State:
        """Encode the sources and compute their keys and values in every layer."""
        joined, columns = self.adapters.of_batch(inputs.adapters)
        if joined is None:
            columns = np.zeros((len(columns), 1), np.float32)
        factors = self._feeds_of(inputs.adapters, joined)
        # The runtime adds up the products of a single row in an order that goes by the remainder of their number:
        # without padding, the last bits of scores would go by the longest source of the batch.
        joined_ids = np.pad(inputs.joined, ((0, 0), (0, -inputs.joined.shape[1] % _MULTIPLE)), constant_values=-1)
        arrays = {"ids": inputs.ids.astype(np.int64), "joined": joined_ids.astype(np.int64)}
        if (graph := self._graphs[ENCODER]) is not None:
            lengths = {"rows": inputs.ids.shape[1], "sources": joined_ids.shape[1]}
            of_rows = {"rows": columns[inputs.owners], "sources": columns}
            arrays |= columns_of(graph, {name: np.repeat(of_rows[name], lengths[name], axis=0) for name in lengths})
        values = {name: OrtValue.ortvalue_from_numpy(value) for name, value in arrays.items()}
        outputs = self._encoder.run_with_ort_values(self._encoder_outputs, {**values, **factors.get(ENCODER, {})})
        cross = dict(zip(self._encoder_outputs, outputs, strict=True))
        count = len(inputs.joined)
        slots = Slots(np.zeros((count, _STEPS), np.int64), np.zeros((count, 1, _STEPS), bool), False)
        shape = (count, self._heads, _STEPS, self._head_size)
        caches = {name: OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float32)) for name in self._cache_names}
        decoder = Decoder(self._decoder, self._graphs[DECODER], factors.get(DECODER, {}), columns)
        return State(0, slots, caches, cross, self._bind(decoder, caches, cross), decoder)

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
        position, slots, caches, cross, bound, decoder = state
        rows, beams, num_slots = parents.ravel(), tokens.shape[1], slots.past.shape[2]
        per_beam = slots.per_beam or beams > _SHARED
        readers = np.arange(1 if per_beam else beams)  # beams of a cache
        # A beam takes over the past of its parent: the keys and values themselves are not moved.
        past = slots.past.reshape(-1, num_slots)[rows].reshape(-1, len(readers), num_slots)
        owners = (rows // slots.past.shape[1]).reshape(past.shape[:2])[:, 0]  # index of each cache in the last step's
        stay = np.array_equal(owners, np.arange(len(slots.past)))
        slots = Slots(slots.positions[owners], past, per_beam)
        write = _ends(past)
        is_time = position > 0 and position % _STEPS == 0  # the same in every batch
        if not stay or is_time or write.max() + len(readers) > num_slots:
            # Nothing else may hold the caches, so that each is freed as soon as it has been copied.
            bound.clear()
            if len(sources) < cross["mask"].shape()[0]:
                cross = self._keep(cross, sources)
                decoder = decoder._replace(columns=decoder.columns[sources])
            slots, order = _with_room(slots, tidy=is_time)
            caches, write = self._take(caches, owners, order), _ends(slots.past)
            bound = self._bind(decoder, caches, cross)
        of_cache, written = np.arange(len(owners))[:, None], write[:, None] + readers
        slots.positions[of_cache, written] = position
        slots.past[of_cache, readers, written] = True
        bound.give("tokens", tokens, np.int64)
        bound.give("position", np.array([position]), np.int64)
        bound.give("write", write, np.int64)
        bound.give("offsets", slots.positions - position, np.int64)
        bound.give("visible", np.where(slots.past, np.float32(0), np.float32(-np.inf))[:, None], np.float32)
        bound.give("edited", edits.pairs, np.int64)
        bound.give("factors", edits.factors, np.float32)
        bound.give("top", np.array([min(top, self._vocab_size)]), np.int64)
        if decoder.graph is not None:
            columns = columns_of(decoder.graph, {"rows": np.repeat(decoder.columns, beams, axis=0)})
            for name, value in columns.items():
                bound.give(name, value, np.float32)
        binding = bound.binding
        for name in _FOUND:
            binding.bind_output(name)
        decoder.session.run_with_iobinding(binding)
        found = binding.get_outputs_as_ortvaluevector()
        best, log_probs = (found[index].numpy().reshape(*tokens.shape, -1) for index in range(len(_FOUND)))
        return (
            State(position + 1, slots, caches, cross, bound, decoder),
            best,
            log_probs,
        )

    def _bind(self, decoder: Decoder, caches: dict[str, OrtValue], cross: dict[str, OrtValue]) -> Bound:
        """Return the decoder's inputs and outputs that stay from step to step; it writes the caches in place."""
        binding = decoder.session.io_binding()
        for name in _FOUND:  # the runtime's outputs are in this order of binding
            binding.bind_output(name)
        for name, value in {**cross, **caches, **decoder.factors}.items():
            binding.bind_ortvalue_input(name, value)
        for name, value in caches.items():
            binding.bind_ortvalue_output(f"new_{name}", value)
        return Bound(binding, {})

    def _keep(self, cross: dict[str, OrtValue], sources: np.ndarray) -> dict[str, OrtValue]:
        """Return the keys, values and mask of the sources that stay; `cross` is emptied."""
        old_mask = cross.pop("mask")  # must outlive `numpy`'s view of it
        mask = old_mask.numpy()[sources]
        everything = np.broadcast_to(np.arange(mask.shape[-1]), (len(sources), mask.shape[-1]))
        return {"mask": OrtValue.ortvalue_from_numpy(mask), **self._take(cross, sources, everything)}

    def _take(self, values: dict[str, OrtValue], owners: np.ndarray, indices: np.ndarray) -> dict[str, OrtValue]:
        """Return tensors [owners, heads, new length, head_size]: at `indices` int [owners, new length] of `owners`.

        `values`, tensors [all, heads, length, head_size], is emptied: at no time are two tensors there twice.
        """
        length = next(iter(values.values())).shape()[2]
        heads = owners[:, None] * self._heads + np.arange(self._heads)
        rows = OrtValue.ortvalue_from_numpy(
            heads[..., None].astype(np.int64) * length + indices[:, None]
        )  # [owners, heads, new length]
        taken = {}
        for name in list(values):
            # By the runtime, which reuses its memory: fresh pages cost more than what is written to them.
            taken[name] = self._gather.run_with_ort_values(None, {"values": values.pop(name), "rows": rows})[0]
        return taken


def _ends(past: np.ndarray) -> np.ndarray:
    """Return the slot behind the last one that a beam of each cache has in its past, int64 [caches]."""
    needed = np.asarray(past.any(axis=1))  # [caches, slots]
    return np.where(needed.any(axis=1), needed.shape[1] - needed[:, ::-1].argmax(axis=1), 0)


def _with_room(slots: Slots, tidy: bool) -> tuple[Slots, np.ndarray]:
    """Return slots with room for further steps, and which of the old ones each was, int64 [caches, slots].

    tidy: leave out, between those that are, tokens that are in no beam's past.
    """
    needed = np.asarray(slots.past.any(axis=1))  # [caches, slots]
    ends = _ends(slots.past)
    if tidy:
        order, ends = np.argsort(~needed, axis=1, kind="stable"), np.sum(needed, axis=1)
    else:
        order = np.tile(np.arange(needed.shape[1]), (len(needed), 1))
    # What free slots hold does not matter.
    kept = int(ends.max())
    order = np.pad(order[:, :kept], ((0, 0), (0, slots.past.shape[1] * _STEPS + -kept % _MULTIPLE)))
    past = np.take_along_axis(slots.past, order[:, None], axis=2)
    past &= np.arange(order.shape[1]) < ends[:, None, None]
    return Slots(np.take_along_axis(slots.positions, order, axis=1), past, slots.per_beam), order
