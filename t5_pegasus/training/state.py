"""What a training leaves on disk: the state to go on from, and the log of its curve."""

import contextlib
import csv
import dataclasses
import hashlib
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError, OptionError, PegasusError
from ..files import atomic_text, only_writer
from ..networks.backend import tf
from .distribution import check_alike, is_chief
from .options import LearningConfig
from .pairs import PairSource

Row = dict[str, float]

# What decides which pairs a step sees, and the weights that LoRA is beside: a training that goes on must not change it.
_DECIDE_STEPS = (
    *("pairs", "digest of the pairs", "devices", "seed", "batch_tokens", "per_device_train_batch_size"),
    *("pad_to_multiple_of", "gradient_accumulation_steps", "base_sha256"),
)
_DIGESTED_PAIRS = 100


def plan_of(pairs: PairSource, config: LearningConfig) -> dict[str, Any]:
    """Return what decides a training, in types that JSON has: its pairs, devices and options."""
    digest = hashlib.sha256()
    size = 2**20  # lengths at a time: those of shards lie on disk
    for first in range(0, len(pairs), size):
        digest.update(pairs.lengths[first : first + size].astype("<i4").tobytes())
    # Reading all pairs would take long; their lengths, in order, differ almost surely.
    for row in np.linspace(0, len(pairs) - 1, min(len(pairs), _DIGESTED_PAIRS), dtype=int).tolist():
        for ids in pairs[row]:
            digest.update(ids.astype("<i4").tobytes())
    return {
        "pairs": len(pairs),
        "digest of the pairs": digest.hexdigest()[:16],
        "devices": tf.distribute.get_strategy().num_replicas_in_sync,
        **dataclasses.asdict(config),
    }


def _check_plan(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise OptionError if a training would go on with other batches; say which other options have changed."""
    changed = {
        name: f"{name} was {before.get(name)} and is {value}"
        for name, value in now.items()
        if before.get(name) != value
    }
    refused = [changed[name] for name in _DECIDE_STEPS if name in changed]
    if refused:
        what = "base weights" if "base_sha256" in changed else "batches"
        raise OptionError(f"cannot resume with other {what}: {', '.join(refused)}")
    if changed:
        print(f"going on with other options: {', '.join(changed.values())}", file=sys.stderr)


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
    """Weights, optimizer and progress in a folder of checkpoints, the last `keep` of them; with LoRA its weights alone.

    A checkpoint is whole or not there. Only the chief of several processes writes; all read, from a folder they share.
    It keeps the training's plan (see `plan_of`), to which a resumed one is compared. Raises CheckpointError if the
    folder's list of checkpoints is damaged, PegasusError if processes do not see the same last one.
    """

    def __init__(self, folder: Path, t5: Any, optimizer: Any, plan: Mapping[str, Any], keep: int) -> None:
        self.folder, self._plan = folder, plan
        self._progress = _Progress()
        learned = {"model": t5.model} if t5.lora is None else {"lora": t5.lora}
        self._state = tf.train.Checkpoint(**learned, optimizer=optimizer, progress=self._progress)
        # Made by all processes at once, as any variable must be; the chief alone would make it when it first saves.
        _ = self._state.save_counter
        try:
            self._manager = tf.train.CheckpointManager(self._state, str(folder), max_to_keep=keep)
        except ValueError as error:
            raise self._damaged() from error
        latest = self._manager.latest_checkpoint
        check_alike({"the last checkpoint": Path(latest).name if latest else None})

    @property
    def exists(self) -> bool:
        """Return whether there is something to go on from."""
        return (self.folder / "checkpoint").exists()

    def save(self, number: int, progress: Mapping[str, Any]) -> None:
        """Save under a number, with the progress: any values that JSON has."""
        if is_chief():
            self._progress.values = {**progress, "plan": self._plan}
            self._manager.save(number)

    def restore(self) -> dict[str, Any]:
        """Set weights and optimizer to the last checkpoint that can be read, and return its progress.

        Raises CheckpointError if none can, or none is of this model and optimizer; OptionError if it is of other pairs
        or batches.
        """
        unread: list[str] = []
        for path in reversed(self._manager.checkpoints):
            try:
                self._state.restore(path).assert_existing_objects_matched()
            except (AssertionError, LookupError, TypeError, ValueError, tf.errors.OpError):
                unread.append(path)
                continue
            if unread:
                print(f"{', '.join(unread)} cannot be read: going on from {path}", file=sys.stderr)
            _check_plan(self._progress.values.get("plan", {}), self._plan)
            return self._progress.values
        raise self._damaged()

    def _damaged(self) -> CheckpointError:
        return CheckpointError(
            f"cannot resume from {self.folder}: its state is damaged, or of another model or precision; "
            "choose another --output_dir, or remove it to start anew"
        )


def curve_writer(output_dir: Path) -> Any:
    """Return the writer of TensorBoard's curve; of several processes only the chief's writes."""
    return (
        tf.summary.create_file_writer(str(output_dir / "tensorboard"))
        if is_chief()
        else tf.summary.create_noop_writer()
    )


def write_log(path: Path, rows: Sequence[Row]) -> None:
    """Write the rows as CSV; those of an earlier version, which a run may go on from, have fewer names."""
    with atomic_text(path) as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)


def only_run(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Be the only run with a folder of checkpoints inside the `with`; of a run's processes the chief holds the lock.

    Raises OptionError if another run is writing it.
    """
    return only_writer(folder) if is_chief() else contextlib.nullcontext()


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
    """Raise PegasusError if training has diverged."""
    if not math.isfinite(loss):
        other = ", or use --mixed_precision bfloat16" if config.mixed_precision == "float16" else ""
        raise PegasusError(f"the loss is {loss} at {where}; lower --learning_rate{other}")
