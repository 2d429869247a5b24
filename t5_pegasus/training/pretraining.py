"""Pretraining: the loop over steps, checkpoints on the way, and resuming from the last."""

import dataclasses
import functools
import itertools
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..config import GENERATION_FILE
from ..errors import DataError, OptionError
from ..files import atomic_path
from ..locations import pretrained_weights
from ..networks.backend import tf
from ..networks.checkpoints import save_weights
from ..text.folder import tokenizer_files
from .batches import Batch, bucket_batches
from .distribution import check_alike, is_chief
from .optimizer import WarmupLinearDecay, make_optimizer
from .options import STATE_DIR, PretrainingConfig
from .pairs import PairSource, count_targets, load_part
from .state import Row, TrainingState, check_finite, curve_writer, one_line_errors, only_run, plan_of, write_log
from .step import TrainStep

LOG_FILE = "pretraining_log.csv"
WEIGHTS = "model.ckpt"


def batch_stream(pairs: PairSource, config: PretrainingConfig, devices: int, start: int) -> Iterator[Batch]:
    """Yield the batches of epoch after epoch, without end, from number `start` on.

    The order depends on seed and epoch alone: all processes see the same, and so does a run that was resumed.
    """
    epoch, position = 0, start
    while True:
        random = np.random.default_rng((config.seed, epoch))
        batches = bucket_batches(pairs.lengths, config.batch_tokens, config.pad_to_multiple_of, random, devices)
        yield from batches[position:]
        epoch, position = epoch + 1, max(0, position - len(batches))


class Pretrainer:
    """Trains a model on pairs for a number of steps, and leaves a model directory that `finetune.py` takes.

    `model.ckpt` in the output directory has the weights under their official names, `pretraining_log.csv` and
    `tensorboard/` the curve, `training_state/` the last checkpoints.

    Args:
        t5: a model that gives logits (`build_model(..., with_lm="linear")`), built under `precision(...)`, and inside
            `distributed(...)`, as is everything else.
        config: options.
        output_dir: the folder to write to; made if missing.
        model_dir: its config.json and vocab.txt are copied there.
    """

    def __init__(self, t5: Any, config: PretrainingConfig, output_dir: str | Path, model_dir: str | Path) -> None:
        self.t5, self.config = t5, config
        self.output_dir, self.model_dir = Path(output_dir), Path(model_dir)

    def fit(self, pairs: PairSource, resume: bool = False) -> list[Row]:
        """Train and return the rows of the log, those before a resumed stop included.

        With `resume` training goes on after the last checkpoint, exactly as if it had never stopped, and starts from
        the beginning if there is none: a scheduler may give the same command again and again.

        Raises DataError for no pairs, OptionError if a run or a model would be overwritten, or resumed with other data
        or other batches, CheckpointError if its state is of another model or a file cannot be written, PegasusError if
        training runs out of memory or diverges, or its workers differ in what they have to do.
        """
        if not len(pairs):
            raise DataError("pretraining needs at least one pair, got 0")
        self.output_dir.mkdir(parents=True, exist_ok=True)
        with only_run(self.output_dir / STATE_DIR), one_line_errors(self.output_dir, "--batch_tokens"):
            return self._fit(pairs, resume)

    def _fit(self, pairs: PairSource, resume: bool) -> list[Row]:
        # The rate is part of the plan, to which a resumed training is compared.
        config = dataclasses.replace(self.config, learning_rate=self.config.peak_rate(self.t5.from_scratch))
        plan = plan_of(pairs, config)
        check_alike({**plan, "resume": resume})
        schedule = WarmupLinearDecay(config.peak_rate(), config.warmup_steps, config.max_steps)
        optimizer = make_optimizer(self.t5, config, schedule)
        step = TrainStep(self.t5, optimizer, config)
        state = TrainingState(self.output_dir / STATE_DIR, self.t5, optimizer, plan, config.save_total_limit)
        meter = _Meter(pairs)
        history: list[Row] = []
        done = 0
        if state.exists:
            if not resume:
                raise OptionError(
                    f"{state.folder} holds a training: go on with --resume, or choose another --output_dir"
                )
            progress = state.restore()
            done, history = progress["step"], progress["history"]
            meter.totals = progress["totals"]
            print(f"going on after step {done}", flush=True)
            self._save_weights()
        elif weights := pretrained_weights(self.output_dir):
            raise OptionError(f"{weights} is there, of no training to go on with; choose another --output_dir")
        elif is_chief():
            self._copy_model_files()
        stream = batch_stream(pairs, config, step.num_devices, done * config.gradient_accumulation_steps)
        with curve_writer(self.output_dir).as_default():
            for number in range(done + 1, config.max_steps + 1):
                batches = list(itertools.islice(stream, config.gradient_accumulation_steps))
                loads = [functools.partial(load_part, pairs, batch) for batch in batches]
                count = count_targets(pairs, batches)
                meter.add(batches, count, *step(number - 1, loads, count))
                last = number == config.max_steps
                if last or number % config.logging_steps == 0:
                    row = {"step": number, "learning_rate": float(schedule(number - 1)), **meter.read()}
                    check_finite(row["loss"], f"step {number}", config)
                    history.append(row)
                    self._log(row, history)
                if last or number % config.save_steps == 0:
                    check_finite(meter.flush(), f"step {number}", config)
                    # The weights last: a run that is killed in between writes them when it goes on.
                    state.save(number, {"step": number, "totals": meter.totals, "history": history})
                    self._save_weights()
        return history

    def _save_weights(self) -> None:
        if is_chief():
            save_weights(self.t5, self.output_dir / WEIGHTS)

    def _copy_model_files(self) -> None:
        for name in ("config.json", *tokenizer_files(self.model_dir), GENERATION_FILE):
            source, target = self.model_dir / name, self.output_dir / name
            if source.exists() and not (target.exists() and target.samefile(source)):
                with atomic_path(target) as temporary:
                    shutil.copyfile(source, temporary)

    def _log(self, row: Row, history: list[Row]) -> None:
        if not is_chief():
            return
        print(", ".join(f"{name} {value:.6g}" for name, value in row.items()), flush=True)
        for name, value in row.items():
            tf.summary.scalar(name, value, step=int(row["step"]))
        write_log(self.output_dir / LOG_FILE, history)


class _Meter:
    """Means over the steps since they were last read.

    `totals` is what a checkpoint keeps, so that the log of a resumed run is that of one without a stop. The losses of
    steps stay on their device until they are needed.
    """

    def __init__(self, pairs: PairSource) -> None:
        self._pairs = pairs
        self.totals = {"pairs": 0.0, "loss": 0.0, "right": 0.0, "targets": 0.0}
        self._steps: list[tuple[int, Any, Any]] = []
        self._tokens, self._since = 0, time.perf_counter()

    def add(self, batches: Sequence[Batch], count: int, loss: Any, accuracy: Any) -> None:
        """Count a step: `count` target tokens, with their mean loss and accuracy."""
        self._steps.append((count, loss, accuracy))
        for batch in batches:
            self.totals["pairs"] += len(batch.rows)
            self._tokens += int(self._pairs.lengths[batch.rows].sum())

    def flush(self) -> float:
        """Add up the steps and return the summed loss."""
        for count, loss, accuracy in self._steps:
            self.totals["loss"] += count * float(loss)
            self.totals["right"] += count * float(accuracy)
            self.totals["targets"] += count
        self._steps.clear()
        return self.totals["loss"]

    def read(self) -> Row:
        """Return mean loss (nats) and accuracy of target tokens, epochs since the start, tokens per second."""
        self.flush()
        targets, seconds = self.totals["targets"], time.perf_counter() - self._since
        row = {
            "epoch": self.totals["pairs"] / len(self._pairs),
            "loss": self.totals["loss"] / targets,
            "accuracy": self.totals["right"] / targets,
            "tokens_per_second": self._tokens / seconds,
        }
        self.totals |= {"loss": 0.0, "right": 0.0, "targets": 0.0}
        self._tokens, self._since = 0, time.perf_counter()
        return row
