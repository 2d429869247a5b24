"""Fine-tuning: loss, schedule, precision, the loop over epochs, and going on after a stop."""

import contextlib
import csv
import math
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tqdm

from .backend import keras, tf
from .batching import pad, shuffled_batches
from .checkpoints import named_variables, save_weights
from .config import DataConfig, TrainingConfig
from .errors import CheckpointError, DataError, OptionError, PegasusError
from .examples import Example
from .files import atomic_text
from .locations import FINE_TUNED
from .metrics import METRICS, score
from .title import AutoTitle
from .tokenizer import PegasusTokenizer

Pairs = list[tuple[list[int], list[int]]]
Scores = dict[str, float]

# Peak rates of AdamW where none is given, for a model with weights and for one that starts from nothing.
LEARNING_RATE, LEARNING_RATE_FROM_SCRATCH = 2e-4, 1e-3

LOG_FILE = "training_log.csv"
STATE_DIR = "training_state"


class WarmupLinearDecay(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """Learning rate from 0 up to `peak` over `warmup_steps`, then down to 0 at `total_steps`, in straight lines."""

    def __init__(self, peak: float, warmup_steps: int, total_steps: int) -> None:
        self.peak, self.warmup_steps, self.total_steps = peak, warmup_steps, total_steps

    def __call__(self, step: Any) -> tf.Tensor:
        """Return the rate of a step, counted from 0; the first step already learns."""
        done = tf.cast(step, tf.float32) + 1
        peak_step = max(1, self.warmup_steps)
        up = done / peak_step
        down = (self.total_steps + 1 - done) / max(1, self.total_steps + 1 - peak_step)
        return self.peak * tf.maximum(0.0, tf.minimum(1.0, tf.minimum(up, down)))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {"peak": self.peak, "warmup_steps": self.warmup_steps, "total_steps": self.total_steps}


def token_loss(
    logits: tf.Tensor, labels: tf.Tensor, label_smoothing: float = 0.0, pad_id: int = 0
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the mean cross entropy and the accuracy over the labels that are not padding.

    Args:
        logits: float [batch, target_len, vocab_size]; computed with in float32.
        labels: int32 [batch, target_len].
        label_smoothing: share of the target's probability spread evenly over the vocabulary.
        pad_id: label that does not count.

    Returns: two float32 scalars; the loss is in nats per token.
    """
    log_probs = tf.nn.log_softmax(tf.cast(logits, tf.float32))
    losses = -tf.gather(log_probs, labels, axis=-1, batch_dims=2)
    if label_smoothing:
        losses = (1 - label_smoothing) * losses - label_smoothing * tf.reduce_mean(log_probs, axis=-1)
    counts = tf.cast(tf.not_equal(labels, pad_id), tf.float32)
    right = tf.cast(tf.equal(tf.argmax(logits, axis=-1, output_type=tf.int32), labels), tf.float32)
    total = tf.maximum(tf.reduce_sum(counts), 1.0)
    return tf.reduce_sum(losses * counts) / total, tf.reduce_sum(right * counts) / total


def seed_everything(seed: int) -> None:
    """Fix Python's, numpy's and TensorFlow's random state: two runs on a CPU give the same weights."""
    keras.utils.set_random_seed(seed)


@contextlib.contextmanager
def precision(mixed_precision: str) -> Iterator[None]:
    """Build models for "no", "float16" or "bfloat16" inside the `with`: the compute type; weights stay float32."""
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy("float32" if mixed_precision == "no" else f"mixed_{mixed_precision}")
    try:
        yield
    finally:
        keras.mixed_precision.set_global_policy(before)


def make_optimizer(t5: Any, config: TrainingConfig, total_steps: int) -> Any:
    """Return AdamW with schedule, clipping and, for a float16 model, loss scaling; decay spares norms and biases."""
    optimizer = keras.optimizers.AdamW(
        WarmupLinearDecay(
            config.learning_rate or LEARNING_RATE, math.ceil(total_steps * config.warmup_ratio), total_steps
        ),
        weight_decay=config.weight_decay,
        global_clipnorm=config.max_grad_norm or None,
    )
    spared = ("scale", "relative_attention_bias")
    optimizer.exclude_from_weight_decay(
        [variable for name, variable in named_variables(t5).items() if name.endswith(spared)]
    )
    if config.mixed_precision == "float16":
        optimizer = keras.mixed_precision.LossScaleOptimizer(optimizer)
    return optimizer


def make_train_step(t5: Any, optimizer: Any, label_smoothing: float = 0.0) -> Any:
    """Return a compiled `step(sources, targets)` -> (loss, accuracy) which updates the weights.

    Sources are int32 [batch, source_len], targets int32 [batch, target_len] from [CLS] to [SEP]. `t5` gives logits.
    """
    shape = tf.TensorSpec((None, None), tf.int32)
    variables = t5.model.trainable_variables
    scales_loss = isinstance(optimizer, keras.mixed_precision.LossScaleOptimizer)

    @tf.function(input_signature=(shape, shape))  # type: ignore[untyped-decorator]
    def step(sources: tf.Tensor, targets: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            logits = t5.model([sources, targets[:, :-1]], training=True)
            loss, accuracy = token_loss(logits, targets[:, 1:], label_smoothing)
            scaled = optimizer.get_scaled_loss(loss) if scales_loss else loss
        gradients = tape.gradient(scaled, variables)
        if scales_loss:
            gradients = optimizer.get_unscaled_gradients(gradients)
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return loss, accuracy

    return step


def encode_pairs(tokenizer: PegasusTokenizer, examples: Sequence[Example], data: DataConfig) -> Pairs:
    """Return (source ids, target ids) of each example, cut to the lengths of `data`."""
    sources = tokenizer.encode_batch([example.content for example in examples], data.max_source_length)
    targets = tokenizer.encode_batch([example.title for example in examples], data.max_target_length)
    return list(zip(sources, targets, strict=True))


def epoch_batches(pairs: Pairs, batch_size: int, seed: int, epoch: int) -> tf.data.Dataset:
    """Return the (sources, targets) batches of an epoch, padded to the longest in each; see `make_train_step`.

    The order depends on seed and epoch alone, so that a resumed training sees what an uninterrupted one would.
    """
    lengths = [len(source) for source, _ in pairs]

    def generate() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for rows in shuffled_batches(lengths, batch_size, np.random.default_rng((seed, epoch))):
            sources, targets = zip(*(pairs[row] for row in rows), strict=True)
            yield pad(sources), pad(targets)

    shape = tf.TensorSpec((None, None), tf.int32)
    return tf.data.Dataset.from_generator(generate, output_signature=(shape, shape)).prefetch(2)


class Trainer:
    """Fine-tunes a model on pairs, scoring generated titles after each epoch.

    `best_model.weights` in the output directory has the best epoch's weights, `training_log.csv` and `tensorboard/` the
    curve, `training_state/` what `resume` needs: all written whole or not at all.

    Args:
        t5: a model that gives logits (`build_model(..., with_lm="linear")`), built under `precision(...)`.
        tokenizer: of its vocabulary.
        config, data: options.
        output_dir: where files go; made if missing.
    """

    def __init__(
        self, t5: Any, tokenizer: PegasusTokenizer, config: TrainingConfig, data: DataConfig, output_dir: str | Path
    ) -> None:
        self.t5, self.tokenizer, self.config, self.data = t5, tokenizer, config, data
        self.output_dir = Path(output_dir)
        self.title = AutoTitle(t5, tokenizer)

    def fit(self, train: Sequence[Example], valid: Sequence[Example], resume: bool = False) -> list[dict[str, float]]:
        """Train and return a row of figures for each epoch, those before a resumed stop included.

        Without `resume` what an earlier run left is put out of the way: its state and log are removed, its best weights
        are kept as `best_model.weights.previous` once there are new ones.

        Raises DataError for an empty data set, OptionError for an unknown metric or where there is nothing to resume,
        CheckpointError where the state is not of this model or a file cannot be written, PegasusError where training
        runs out of memory or diverges.
        """
        if not train or not valid:
            raise DataError(
                f"training needs at least one pair to train and one to validate, got {len(train)}, {len(valid)}"
            )
        metrics = [name for metric in METRICS.values() for name in metric.names]
        if self.config.metric_for_best_model not in metrics:
            raise OptionError(
                f"metric_for_best_model must be one of {', '.join(metrics)}, got {self.config.metric_for_best_model}"
            )
        self.output_dir.mkdir(parents=True, exist_ok=True)
        try:
            return self._fit(train, valid, resume)
        except tf.errors.ResourceExhaustedError as error:
            raise PegasusError(
                "out of memory; lower --batch_size, --max_source_length or --max_target_length"
            ) from error
        except tf.errors.OpError as error:
            raise CheckpointError(f"TensorFlow stopped in {self.output_dir}: {error.message}") from error

    def _fit(self, train: Sequence[Example], valid: Sequence[Example], resume: bool) -> list[dict[str, float]]:
        config = self.config
        before = self.tokenizer.num_truncated
        pairs = encode_pairs(self.tokenizer, train, self.data)
        if self.tokenizer.num_truncated > before:
            limits = (
                f"max_source_length {self.data.max_source_length} or max_target_length {self.data.max_target_length}"
            )
            print(f"{self.tokenizer.num_truncated - before} training texts were cut to {limits}", file=sys.stderr)
        steps = math.ceil(len(pairs) / config.per_device_train_batch_size)
        optimizer = make_optimizer(self.t5, config, steps * config.num_train_epochs)
        train_step = make_train_step(self.t5, optimizer, config.label_smoothing_factor)
        # Slots and loss scale exist only after build; a checkpoint restored into them later would miss them silently.
        optimizer.build(self.t5.model.trainable_variables)
        epochs_done = tf.Variable(0, dtype=tf.int64)
        state = tf.train.Checkpoint(model=self.t5.model, optimizer=optimizer, epochs_done=epochs_done)
        manager = tf.train.CheckpointManager(state, str(self.output_dir / STATE_DIR), max_to_keep=1)
        history = self._restore(state, manager, epochs_done) if resume else []
        if not resume:
            shutil.rmtree(self.output_dir / STATE_DIR, ignore_errors=True)
            (self.output_dir / LOG_FILE).unlink(missing_ok=True)
        with tf.summary.create_file_writer(str(self.output_dir / "tensorboard")).as_default():
            for epoch in range(int(epochs_done) + 1, config.num_train_epochs + 1):
                if self._should_stop(history):
                    print(
                        f"no better {config.metric_for_best_model} in {config.early_stopping_patience} epochs: stopping"
                    )
                    break
                batches = epoch_batches(pairs, config.per_device_train_batch_size, config.seed, epoch)
                row = {"epoch": epoch, **self._train_epoch(train_step, batches, steps, epoch)}
                row |= self._validate(valid)
                best_before = max((past[config.metric_for_best_model] for past in history), default=-1.0)
                history.append(row)
                print(", ".join(f"{name} {_shown(value)}" for name, value in row.items()), flush=True)
                for name, value in row.items():
                    tf.summary.scalar(name, value, step=epoch)
                if row[config.metric_for_best_model] > best_before:
                    if best_before < 0:
                        self._keep_previous()
                    save_weights(self.t5, self.output_dir / FINE_TUNED)
                _write_log(self.output_dir / LOG_FILE, history)
                epochs_done.assign(epoch)
                manager.save(epoch)
        return history

    def _restore(self, state: Any, manager: Any, epochs_done: tf.Variable) -> list[dict[str, float]]:
        if manager.latest_checkpoint is None:
            raise OptionError(f"nothing to resume in {self.output_dir / STATE_DIR}; start without --resume")
        try:
            state.restore(manager.latest_checkpoint).assert_existing_objects_matched()
            with (self.output_dir / LOG_FILE).open(encoding="utf-8", newline="") as file:
                rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
            history = [{**row, "epoch": int(row["epoch"])} for row in rows if row["epoch"] <= int(epochs_done)]
        except (AssertionError, LookupError, TypeError, ValueError, OSError, tf.errors.OpError) as error:
            raise CheckpointError(
                f"cannot resume from {self.output_dir}: its state is damaged, or of another model or precision; "
                "start without --resume"
            ) from error
        print(f"going on after epoch {int(epochs_done)}")
        return history

    def _keep_previous(self) -> None:
        best = self.output_dir / FINE_TUNED
        if best.exists():
            best.replace(best.with_name(f"{FINE_TUNED}.previous"))
            print(f"the {FINE_TUNED} of an earlier run is now {FINE_TUNED}.previous", file=sys.stderr)

    def _train_epoch(self, train_step: Any, batches: Any, steps: int, epoch: int) -> Scores:
        losses, accuracies = [], []
        with tqdm.tqdm(batches, total=steps, desc=f"epoch {epoch}", unit="step", dynamic_ncols=True) as bar:
            for sources, targets in bar:
                loss, accuracy = train_step(sources, targets)
                losses.append(float(loss))
                if not math.isfinite(losses[-1]):
                    raise PegasusError(
                        f"the loss is {losses[-1]} at step {len(losses)} of epoch {epoch}; lower --learning_rate"
                        + (", or use --mixed_precision bfloat16" if self.config.mixed_precision == "float16" else "")
                    )
                accuracies.append(float(accuracy))
                bar.set_postfix(loss=f"{np.mean(losses):.4f}", refresh=False)
        return {"loss": float(np.mean(losses)), "accuracy": float(np.mean(accuracies))}

    def _validate(self, valid: Sequence[Example]) -> Scores:
        chosen = valid[: self.config.max_eval_samples]
        titles = self.title.generate(
            [example.content for example in chosen],
            topk=self.config.eval_num_beams,
            max_new_tokens=self.data.max_target_length,
            max_source_length=self.data.max_source_length,
            progress=sys.stderr.isatty(),
        )
        return score(titles, [example.title for example in chosen])

    def _should_stop(self, history: list[dict[str, float]]) -> bool:
        patience = self.config.early_stopping_patience
        scores = [row[self.config.metric_for_best_model] for row in history]
        return 0 < patience <= len(scores) - 1 - int(np.argmax(scores)) if scores else False


def _shown(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.4f}"


def _write_log(path: Path, history: list[dict[str, float]]) -> None:
    with atomic_text(path) as file:
        writer = csv.DictWriter(file, list(history[0]))
        writer.writeheader()
        writer.writerows(history)
