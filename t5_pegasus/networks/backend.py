"""TensorFlow, tf-keras and bert4keras, imported in the one way in which they work together.

bert4keras 0.11.5 is made for Keras 2. With TensorFlow 2.21 it runs on tf-keras if two environment variables are set
before the first import. No other module imports these packages.
"""

import contextlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator

from ..errors import PegasusError

_SETTINGS = {"TF_KERAS": "1", "TF_USE_LEGACY_KERAS": "1"}

if "tensorflow" in sys.modules and any(os.environ.get(name) != value for name, value in _SETTINGS.items()):
    raise PegasusError(
        "tensorflow was imported before t5_pegasus: import t5_pegasus.networks.t5 first, or set "
        + " and ".join(f"{name}={value}" for name, value in _SETTINGS.items())
    )
os.environ.update(_SETTINGS)
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what C++ writes to standard error; show it if the import fails.

    TensorFlow prints a page about the machine before any of its log levels takes effect.
    """
    try:
        saved = os.dup(2)
    except OSError:  # it is closed
        yield
        return
    if sys.stderr is not None:
        sys.stderr.flush()
    with tempfile.TemporaryFile() as output:
        os.dup2(output.fileno(), 2)
        try:
            yield
        except BaseException:
            output.seek(0)
            os.write(saved, output.read())
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)


if importlib.util.find_spec("tensorflow") is None or importlib.util.find_spec("bert4keras") is None:
    raise PegasusError(
        "this needs TensorFlow and bert4keras, which `make install` installs; without them an exported model writes "
        "titles (python -m t5_pegasus.export makes one where they are installed)"
    )

with _quiet():
    import bert4keras.backend
    import bert4keras.layers
    import bert4keras.models
    import bert4keras.snippets
    import bert4keras.tokenizers
    import tensorflow as tf
    import tf_keras as keras

    for gpu in tf.config.list_physical_devices("GPU"):
        # Otherwise TensorFlow takes all of the GPU's memory at once, and none is left for a second process.
        tf.config.experimental.set_memory_growth(gpu, True)

tf.get_logger().setLevel("ERROR")

__all__ = ["bert4keras", "keras", "tf"]
