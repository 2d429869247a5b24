"""LoRA inside a bert4keras model: the small matrices beside frozen layers, and adapters merged into its weights."""

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .backend import keras, tf
from .layers import seeded_dropout
from .lora import Adapter, Factors, LoraConfig, Module, Plan, plan
from .t5 import PegasusT5, network_of


class LoraLayers(tf.Module):  # type: ignore[misc]
    """What learns of a model with LoRA, as `attach` makes it; training saves this, and not the frozen weights.

    plan: which modules. factors: by the names of weights, with variables as a and b. learned: all variables that learn.
    """

    def __init__(self, plan: Plan, factors: Mapping[str, Factors], saved: Mapping[str, tf.Variable]) -> None:
        super().__init__(name="lora")
        self.plan = plan
        # Behind functions, since a tf.Module tracks dicts, whose keys would then be names in checkpoints.
        self._factors: Callable[[], Mapping[str, Factors]] = lambda: factors
        self._saved: Callable[[], Mapping[str, tf.Variable]] = lambda: saved
        self.learned = [*(each for a, b, _ in factors.values() for each in (a, b)), *saved.values()]

    @property
    def factors(self) -> Mapping[str, Factors]:
        """Return the factors with variables as a and b, by the names of weights."""
        return self._factors()

    def adapter(self) -> Adapter:
        """Return the adapter as it is now."""
        factors = {name: Factors(a.numpy(), b.numpy(), scale) for name, (a, b, scale) in self.factors.items()}
        saved = {name: variable.numpy() for name, variable in self._saved().items()}
        return Adapter(self.plan, factors, saved)

    def assign(self, adapter: Adapter) -> None:
        """Set the values of an adapter with the same plan."""
        for name, (a, b, _) in self.factors.items():
            a.assign(adapter.factors[name].a)
            b.assign(adapter.factors[name].b)
        for name, variable in self._saved().items():
            variable.assign(adapter.saved[name])


def attach(t5: PegasusT5, config: LoraConfig, adapter: Adapter | None = None) -> LoraLayers:
    """Freeze a model and give it LoRA layers, which start as the model itself: a is normal, b zero.

    With an adapter they start as it is, and have its settings instead of `config`.

    The model's `trainable` are then those of LoRA alone. In mixed precision the frozen matrices are kept in half
    precision, as which they are multiplied anyway: their float32 values are gone.

    To be called inside `distributed(...)`, before anything is traced. Raises what `lora.plan` raises.
    """
    network = network_of(t5)
    planned = plan(network.description, config) if adapter is None else adapter.plan
    saved = {
        name: t5.named_variables[name]
        for module in planned.saved
        for name in (module.weight, module.bias)
        if name is not None
    }
    owners = _owners(t5)
    factors = {}
    for module in planned.targets:
        rank = planned.config.rank(module.path)
        factors[module.weight] = pair = _start(module, rank, planned.config.scale(module.path, rank))
        add_product(owners[id(t5.named_variables[module.weight])], pair, module, planned.config.lora_dropout)
    if network.compute_dtype != "float32":
        _halve(t5, owners, network.compute_dtype, keep=saved)
    t5.lora = lora = LoraLayers(planned, factors, saved)
    if adapter is not None:
        lora.assign(adapter)
    return lora


def _owners(t5: PegasusT5) -> dict[int, Any]:
    """Return the layers that own matrices, by the id of the variable."""
    layers = (layer for layer in t5.model.submodules if isinstance(layer, keras.layers.Dense | keras.layers.Embedding))
    return {id(layer.kernel if isinstance(layer, keras.layers.Dense) else layer.embeddings): layer for layer in layers}


def _start(module: Module, rank: int, scale: float) -> Factors:
    # The factor that sees tokens starts at zero where the module is an embedding, as in PEFT.
    a_stddev, b_stddev = (0.0, 1.0) if module.kind == "embedding" else (1 / rank, 0.0)
    a, b = (
        tf.Variable(tf.random.normal(shape, stddev=stddev), name=f"{module.path}.lora_{name}")
        for name, shape, stddev in (
            ("A", (module.inputs, rank), a_stddev),
            ("B", (rank, module.outputs), b_stddev),
        )
    )
    return Factors(a, b, scale)


def add_product(layer: Any, factors: Factors, module: Module, dropout: float = 0.0) -> None:
    """Let a layer add the product of low rank to its own, before bias and activation do anything with it."""
    salt = zlib.crc32(module.path.encode()) % 2**31
    a, b, scale = factors
    base: Callable[..., tf.Tensor] = layer.call

    def embed(inputs: tf.Tensor, mode: str = "embedding") -> tf.Tensor:
        x = base(inputs, mode=mode)
        rows = tf.nn.embedding_lookup(tf.cast(a, x.dtype), tf.cast(inputs, tf.int32))  # [batch, length, r]
        return x + _flat_product(rows, tf.cast(b, x.dtype)) * scale

    if module.kind == "embedding":
        layer.call = embed
        return
    activation, layer.activation = layer.activation, keras.activations.linear

    def project(inputs: tf.Tensor) -> tf.Tensor:
        x = tf.cast(inputs, layer.compute_dtype)
        low = _flat_product(seeded_dropout(x, dropout, salt), tf.cast(a, x.dtype))
        return activation(base(x) + _flat_product(low, tf.cast(b, x.dtype)) * scale)

    layer.call = project


def _flat_product(x: tf.Tensor, matrix: tf.Tensor) -> tf.Tensor:
    """Return `x @ matrix` as one product of rows: float [..., inputs] to [..., outputs]."""
    rows = tf.reshape(x, (-1, matrix.shape[0])) @ matrix
    result = tf.reshape(rows, tf.concat([tf.shape(x)[:-1], [matrix.shape[1]]], axis=0))
    result.set_shape([*x.shape[:-1], matrix.shape[1]])
    return result


def _halve(t5: PegasusT5, owners: Mapping[int, Any], dtype: str, keep: Mapping[str, Any]) -> None:
    """Replace the frozen matrices by their values in half precision; norms, biases and tables of positions stay."""
    for name, variable in t5.named_variables.items():
        layer = owners.get(id(variable))
        if layer is None or name in keep:
            continue
        half = tf.Variable(tf.cast(variable, dtype), trainable=False, name=variable.name.partition(":")[0])
        attribute = "kernel" if isinstance(layer, keras.layers.Dense) else "embeddings"
        setattr(layer, attribute, half)
        t5.named_variables[name] = half


def merge(t5: Any, adapter: Adapter) -> dict[str, np.ndarray]:
    """Add an adapter to the weights of a model; return the values that it had, with which `unmerge` restores them."""
    variables = t5.named_variables
    before = {name: variables[name].numpy() for name in (*adapter.factors, *adapter.saved)}
    unmerge(t5, adapter.merged(before))
    return before


def unmerge(t5: Any, before: Mapping[str, np.ndarray]) -> None:
    """Give a model back the values that `merge` returned: bit for bit those of before."""
    for name, value in before.items():
        t5.named_variables[name].assign(value)
