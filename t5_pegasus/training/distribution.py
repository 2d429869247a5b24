"""On which devices a training runs, by `tf.distribute`."""

import contextlib
import json
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ..errors import OptionError, PegasusError
from ..networks.backend import tf


def _mirrored() -> Any:
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in devices])


def _multiworker() -> Any:
    try:
        config = json.loads(os.environ["TF_CONFIG"])
        _ = config["cluster"]["worker"], config["task"]["type"], config["task"]["index"]
        return tf.distribute.MultiWorkerMirroredStrategy()
    except (LookupError, TypeError, ValueError, tf.errors.OpError) as error:
        raise OptionError(
            "distribute multiworker needs the environment variable TF_CONFIG, such as "
            '{"cluster": {"worker": ["host1:12345", "host2:12345"]}, "task": {"type": "worker", "index": 0}}, '
            f"got {os.environ.get('TF_CONFIG')} ({type(error).__name__}: {error})"
        ) from error


STRATEGIES: dict[str, Callable[[], Any]] = {
    "none": tf.distribute.get_strategy,
    "mirrored": _mirrored,
    "multiworker": _multiworker,
}


@contextlib.contextmanager
def distributed(name: str) -> Iterator[None]:
    """Build and train inside the `with` on one device ("none"), on all of this machine or on all machines of TF_CONFIG.

    To be entered before TensorFlow has computed anything. Raises OptionError where TF_CONFIG is missing or malformed,
    or its port is taken.
    """
    with STRATEGIES[name]().scope():
        yield


def is_chief() -> bool:
    """Tell whether this process is the one that writes files."""
    resolver = tf.distribute.get_strategy().cluster_resolver
    if resolver is None or not resolver.task_type:
        return True
    chief = resolver.cluster_spec().as_dict().get("chief")
    return bool(resolver.task_type == "chief" or (not chief and resolver.task_id == 0))


def from_chief(names: Sequence[str], compute: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Return what `compute` returns on the chief: the same figures in all processes, so that they decide alike.

    All compute, since whatever makes a variable must be done by all.
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
    """Raise PegasusError, in all processes of a training, where they do not have the same values, which JSON has."""
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
