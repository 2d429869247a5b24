"""What a training leaves on disk: the state to go on from, and the log of its curve."""

import contextlib
import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..backend import tf
from ..config import LearningConfig
from ..errors import CheckpointError, PegasusError
from ..files import atomic_text
from .distribution import is_chief

Row = dict[str, float]


class _Progress(tf.train.experimental.PythonState):  # type: ignore[misc]
    """Plain values inside a TensorFlow checkpoint, as JSON."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def serialize(self) -> str:
        """Return the values as text."""
        return json.dumps(self.values)

    def deserialize(self, string_value: bytes) -> None:
        """Set the values from text."""
        self.values = json.loads(string_value)


class TrainingState:
    """Weights, optimizer and progress in a folder of checkpoints, the last `keep` of them.

    A checkpoint is whole or not there. Only the chief of several processes writes; all read, from a folder they share.
    """

    def __init__(self, folder: Path, t5: Any, optimizer: Any, keep: int) -> None:
        self.folder = folder
        self._progress = _Progress()
        self._state = tf.train.Checkpoint(model=t5.model, optimizer=optimizer, progress=self._progress)
        # Made by all processes at once, as any variable must be; the chief alone would make it when it first saves.
        _ = self._state.save_counter
        self._manager = tf.train.CheckpointManager(self._state, str(folder), max_to_keep=keep)

    @property
    def exists(self) -> bool:
        """Tell whether there is something to go on from."""
        return self._manager.latest_checkpoint is not None

    def save(self, number: int, progress: Mapping[str, Any]) -> None:
        """Save under a number, with the progress: any values that JSON has."""
        if is_chief():
            self._progress.values = dict(progress)
            self._manager.save(number)

    def restore(self) -> dict[str, Any]:
        """Set weights and optimizer to the last checkpoint and return its progress.

        Raises CheckpointError where it is not of this model and optimizer.
        """
        try:
            self._state.restore(self._manager.latest_checkpoint).assert_existing_objects_matched()
        except (AssertionError, LookupError, TypeError, ValueError, tf.errors.OpError) as error:
            raise CheckpointError(
                f"cannot resume from {self.folder}: its state is damaged, or of another model or precision; "
                "start without --resume"
            ) from error
        return self._progress.values


def write_log(path: Path, rows: Sequence[Row]) -> None:
    """Write the rows, which have the same names, as CSV."""
    with atomic_text(path) as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@contextlib.contextmanager
def one_line_errors(output_dir: Path, sizes: str) -> Iterator[None]:
    """Turn TensorFlow's errors inside the `with` into the user's; `sizes` names the options that decide the memory."""
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        raise PegasusError(f"out of memory; lower {sizes}") from error
    except tf.errors.OpError as error:
        raise CheckpointError(f"TensorFlow stopped in {output_dir}: {error.message}") from error


def check_finite(loss: float, where: str, config: LearningConfig) -> None:
    """Raise PegasusError where training has diverged."""
    if not math.isfinite(loss):
        other = ", or use --mixed_precision bfloat16" if config.mixed_precision == "float16" else ""
        raise PegasusError(f"the loss is {loss} at {where}; lower --learning_rate{other}")
