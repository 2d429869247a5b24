"""The devices that a training can run on: a strategy of `tf.distribute` a row.

TensorFlow is imported when a strategy is made, so that flags are parsed without it.
"""

import json
import os
from collections.abc import Callable
from typing import Any

from ..errors import OptionError


def _one_device() -> Any:
    from ..networks.backend import tf

    return tf.distribute.get_strategy()


def _mirrored() -> Any:
    from ..networks.backend import tf

    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in devices])


def _multiworker() -> Any:
    from ..networks.backend import tf

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


STRATEGIES: dict[str, Callable[[], Any]] = {"none": _one_device, "mirrored": _mirrored, "multiworker": _multiworker}
