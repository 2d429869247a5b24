"""On which devices a training runs, by `tf.distribute`."""

import contextlib
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ..errors import PegasusError
from ..networks.backend import tf
from .strategies import STRATEGIES


@contextlib.contextmanager
def distributed(name: str) -> Iterator[None]:
    """Build and train inside the `with` on the devices of a row of STRATEGIES.

    To be entered before TensorFlow has computed anything. Raises OptionError if TF_CONFIG is missing or malformed, or
    its port is taken.
    """
    with STRATEGIES[name]().scope():
        yield


def is_chief() -> bool:
    """Return whether this process is the one that writes files."""
    resolver = tf.distribute.get_strategy().cluster_resolver
    if resolver is None or not resolver.task_type:
        return True
    chief = resolver.cluster_spec().as_dict().get("chief")
    return bool(resolver.task_type == "chief" or (not chief and resolver.task_id == 0))


def from_chief(names: Sequence[str], compute: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Return what `compute` returns on the chief: the same figures in all processes, so that all decide alike.

    All processes compute, since a variable must be made by all of them.
    """
    strategy, result = tf.distribute.get_strategy(), compute()
    if strategy.cluster_resolver is None:
        return result
    values = tf.constant([result[name] for name in names], tf.float64)

    def own() -> tf.Tensor:
        return values * tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group == 0, tf.float64)

    total = strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(own), axis=None)
    return dict(zip(names, total.numpy().tolist(), strict=True))


def check_alike(values: Mapping[str, Any]) -> None:
    """Raise PegasusError in all processes of a training if they do not have the same values, of types that JSON has."""
    strategy = tf.distribute.get_strategy()
    if strategy.cluster_resolver is None:
        return
    own = tf.constant([[zlib.crc32(json.dumps(value).encode()) for value in values.values()]], tf.float64)
    workers = strategy.gather(strategy.run(lambda: own), axis=0).numpy()
    unlike = [
        f"{name} (here {value})"
        for (name, value), column in zip(values.items(), workers.T, strict=True)
        if (column != column[0]).any()
    ]
    if unlike:
        raise PegasusError(
            f"the workers differ in {', '.join(unlike)}; give them the same flags and pairs, and an output_dir on "
            "storage that they share"
        )
